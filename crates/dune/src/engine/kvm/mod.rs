//! The KVM engine: stock Linux, no module of our own, no root.
//!
//! Set-up goes through `kvm-ioctls`. The way of a system call, [`KvmVcpu::run`], issues `KVM_RUN` raw, because it
//! runs where libc's `errno` belongs to the interrupted program.

mod descriptor;
pub(crate) mod probe;
mod registers;
mod snapshot;
mod statistics;
mod vcpu;

use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VmFd};

use crate::engine::{CpuLimits, Machine};
use crate::error::EngineError;
use crate::memory::Window;
use crate::sys::Errno;

use descriptor::{RaisedLimit, duplicate_high};
use snapshot::Snapshot;
use statistics::Statistics;
pub(crate) use vcpu::KvmVcpu;

/// A virtual machine of KVM's around this process.
#[derive(Debug)]
pub(crate) struct KvmMachine {
    /// Kept for the children, which may not be allowed to open it any more.
    kvm: Kvm,
    vm: VmFd,
    cpuid: kvm_bindings::CpuId,
    slots: AtomicU32,
    /// Where vCPUs count second-level faults, once there is one to ask.
    statistics: OnceLock<Option<Statistics>>,
}

impl KvmMachine {
    /// Opens `/dev/kvm` and makes a machine for the calling process.
    pub(crate) fn open() -> Result<KvmMachine, EngineError> {
        let kvm = Kvm::new().map_err(|e| EngineError::new("open /dev/kvm", e))?;
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(|e| EngineError::new("KVM_GET_SUPPORTED_CPUID", e))?;
        let high = duplicate_high(&kvm, &RaisedLimit::new())?;
        // SAFETY: `high` is a descriptor of /dev/kvm and nobody else's.
        let kvm = unsafe { Kvm::from_raw_fd(high) };
        let vm = new_vm(&kvm)?;
        Ok(KvmMachine { kvm, vm, cpuid, slots: AtomicU32::new(0), statistics: OnceLock::new() })
    }
}

/// A virtual machine of the calling process.
fn new_vm(kvm: &Kvm) -> Result<VmFd, EngineError> {
    let limit = RaisedLimit::new();
    let vm = loop {
        match kvm.create_vm() {
            Ok(vm) => break vm,
            // Registration of the MMU notifier is interruptible (peers.md P2).
            Err(e) if e.errno() == linux_raw_sys::errno::EINTR as i32 => continue,
            Err(e) => return Err(EngineError::new("KVM_CREATE_VM", e)),
        }
    };
    let high = duplicate_high(&vm, &limit)?;
    // SAFETY: `high` is a virtual machine's descriptor and nobody else's.
    unsafe { kvm.create_vmfd_from_rawfd(high) }.map_err(|e| EngineError::new("KVM_CREATE_VM", e))
}

impl Machine for KvmMachine {
    type Vcpu = KvmVcpu;

    fn cpu_limits(&self) -> CpuLimits {
        let leaf = |function, index| {
            self.cpuid.as_slice().iter().find(|leaf| leaf.function == function && leaf.index == index)
        };
        CpuLimits {
            xcr0: leaf(0xd, 0).map_or(0b11, |leaf| u64::from(leaf.edx) << 32 | u64::from(leaf.eax)),
            fsgsbase: leaf(7, 0).is_some_and(|leaf| leaf.ebx & 1 != 0),
            pcid: leaf(1, 0).is_some_and(|leaf| leaf.ecx & 1 << 17 != 0),
        }
    }

    fn add_window(&self, window: &Window) -> Result<(), EngineError> {
        let region = kvm_userspace_memory_region {
            slot: self.slots.fetch_add(1, Ordering::Relaxed),
            flags: 0,
            guest_phys_addr: window.gpa.as_u64(),
            memory_size: window.bytes(),
            userspace_addr: window.start().as_u64(),
        };
        // SAFETY: the region covers addresses of this very process, which Dune mode is going to use as itself;
        // KVM checks every access against the process's mappings.
        unsafe { self.vm.set_user_memory_region(region) }
            .map_err(|e| EngineError::new("KVM_SET_USER_MEMORY_REGION", e))
    }

    fn create_vcpu(&self, id: u32) -> Result<KvmVcpu, EngineError> {
        let vcpu = KvmVcpu::create(&self.vm, id, &self.cpuid)?;
        let statistics = *self.statistics.get_or_init(|| vcpu.find_statistics());
        Ok(vcpu.with_statistics(statistics))
    }

    fn descriptors(&self) -> [RawFd; 2] {
        [self.kvm.as_raw_fd(), self.vm.as_raw_fd()]
    }

    fn rebuild(
        &mut self,
        windows: impl Iterator<Item = Window>,
        parent: &KvmVcpu,
        state: &Snapshot,
    ) -> Result<KvmVcpu, EngineError> {
        // The old one pins the parent's memory until it is closed, which is here.
        self.vm = new_vm(&self.kvm)?;
        self.slots = AtomicU32::new(0);
        for window in windows {
            self.add_window(&window)?;
        }
        let mut vcpu = KvmVcpu::create(&self.vm, 0, &self.cpuid)?;
        vcpu.succeed(parent, state)?;
        Ok(vcpu)
    }
}

impl EngineError {
    fn new(operation: &'static str, error: kvm_ioctls::Error) -> EngineError {
        EngineError { operation, errno: Errno::from_raw(error.errno() as u32) }
    }
}
