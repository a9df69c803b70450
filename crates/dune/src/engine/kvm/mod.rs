//! The KVM engine: stock Linux, no module of our own, no root.
//!
//! All requests are made raw (`ioctl.rs`), because most are made where libc's `errno` belongs to somebody else. The types
//! are those of `kvm-bindings`.

mod cpuid;
mod flush;
mod ioctl;
pub(crate) mod probe;
mod registers;
mod snapshot;
mod statistics;
mod vcpu;

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use kvm_bindings::{KVM_CAP_NR_MEMSLOTS, kvm_userspace_memory_region};

use crate::engine::error::EngineError;
use crate::engine::window::Window;
use crate::engine::{CpuLimits, Machine, Vcpu};
use crate::linux::descriptor::{Descriptor, can_be_replaced, made_high};

use cpuid::CpuidList;
use snapshot::Snapshot;
use statistics::Statistics;
pub(crate) use vcpu::KvmVcpu;

/// A virtual machine of KVM's around this process.
#[derive(Debug)]
pub(crate) struct KvmMachine {
    /// Kept for the children, which may not be allowed to open it any more.
    device: Descriptor,
    vm: Descriptor,
    /// Boxed, as a machine is moved a few times: what moves write on the stack each fork copies. Closing a machine frees nothing.
    cpuid: Box<CpuidList>,
    slots: AtomicU32,
    /// Where vCPUs count second-level faults, once there is one to ask.
    statistics: OnceLock<Option<Statistics>>,
}

/// HLT ends KVM_RUN, and KVM emulates nothing of it. With the registers in memory it is the cheapest exit that KVM has.
macro_rules! exit_instruction {
    () => {
        "hlt"
    };
}
pub(crate) use exit_instruction;

impl KvmMachine {
    /// Opens `/dev/kvm` and makes a machine for the calling process.
    pub(crate) fn open() -> Result<KvmMachine, EngineError> {
        let device = made_high(ioctl::open_device)?;
        let cpuid = CpuidList::of(&device)?;
        let vm = new_vm(&device)?;
        Ok(KvmMachine { device, vm, cpuid, slots: AtomicU32::new(0), statistics: OnceLock::new() })
    }
}

/// A virtual machine of the calling process.
fn new_vm(device: &Descriptor) -> Result<Descriptor, EngineError> {
    made_high(|| ioctl::CREATE_VM.make(device, 0))
}

impl Machine for KvmMachine {
    type Vcpu = KvmVcpu;

    const DEVICE: &'static CStr = c"/dev/kvm";

    /// Below lie pages of KVM's own (TSS, identity map, APIC).
    const FIRST_GPA: u64 = 4 << 30;

    /// Linux's KVM_USER_MEM_SLOTS on x86.
    const MOST_WINDOWS: usize = 32764;

    /// Since Linux 6.13, and 6.12.117.
    const HAS_TASK: bool = true;

    /// It has Linux fetch a page for a read, and Linux does so only with PROT_READ (`check_vma_flags` in mm/gup.c).
    const READS_WHAT_IT_BACKS: bool = true;

    const DESCRIPTORS: usize = 2;

    fn cpu_limits(&self) -> CpuLimits {
        let leaf = |function, index| self.cpuid.find(function, index);
        CpuLimits {
            xcr0: leaf(0xd, 0).map_or(0b11, |leaf| u64::from(leaf.edx) << 32 | u64::from(leaf.eax)),
            fsgsbase: leaf(7, 0).is_some_and(|leaf| leaf.ebx & 1 != 0),
            pcid: leaf(1, 0).is_some_and(|leaf| leaf.ecx & 1 << 17 != 0),
            umip: leaf(7, 0).is_some_and(|leaf| leaf.ecx & 1 << 2 != 0),
            smep: leaf(7, 0).is_some_and(|leaf| leaf.ebx & 1 << 7 != 0),
        }
    }

    fn most_windows(&self) -> usize {
        ioctl::CHECK_EXTENSION.with(&self.device, KVM_CAP_NR_MEMSLOTS.into()).unwrap_or(0) as usize
    }

    fn add_window(&self, window: &Window) -> Result<(), EngineError> {
        let region = kvm_userspace_memory_region {
            slot: self.slots.fetch_add(1, Ordering::Relaxed),
            flags: 0,
            guest_phys_addr: window.gpa.as_u64(),
            memory_size: window.bytes(),
            userspace_addr: window.start().as_u64(),
        };
        // SAFETY: the region covers addresses of this very process, which Dune mode is going to use as itself; KVM checks every
        // access against the process's mappings.
        unsafe { ioctl::SET_USER_MEMORY_REGION.with(&self.vm, &region) }.map(drop)
    }

    fn create_vcpu(&self, id: u32) -> Result<KvmVcpu, EngineError> {
        let vcpu = KvmVcpu::create(&self.device, &self.vm, id, &self.cpuid)?;
        let statistics = *self.statistics.get_or_init(|| vcpu.find_statistics());
        Ok(vcpu.with_statistics(statistics))
    }

    fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        [self.device.number(), self.vm.number()].into_iter()
    }

    fn flush_others(page: u64) -> bool {
        flush::take_away(page)
    }

    fn is_of_this_memory(&self) -> bool {
        // KVM answers about a machine only who has its memory (EIO, `kvm_vm_ioctl` in virt/kvm/kvm_main.c).
        ioctl::CHECK_EXTENSION.with(&self.vm, KVM_CAP_NR_MEMSLOTS.into()).is_ok()
    }

    fn close(&mut self) {
        self.vm.close();
        self.device.close();
    }

    fn can_be_rebuilt(&self, parent: &KvmVcpu) -> bool {
        can_be_replaced([self.vm.number(), parent.descriptor()])
    }

    fn rebuild(
        &mut self,
        windows: impl Iterator<Item = Window>,
        parent: &mut KvmVcpu,
        state: &Snapshot,
    ) -> Result<KvmVcpu, EngineError> {
        // The old machine pins the parent's memory until it is closed; and RLIMIT_AS and RLIMIT_NOFILE may leave no room
        // for both.
        parent.close();
        self.vm.close();
        self.vm = new_vm(&self.device)?;
        self.slots = AtomicU32::new(0);
        for window in windows {
            self.add_window(&window)?;
        }
        let mut vcpu = KvmVcpu::create(&self.device, &self.vm, 0, &self.cpuid)?;
        vcpu.succeed(parent, state)?;
        vcpu.wake_machine()?;
        Ok(vcpu)
    }
}
