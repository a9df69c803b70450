//! A vCPU of KVM's: creating it, and the hot path that runs it.

use std::os::fd::{AsRawFd, RawFd};

use kvm_bindings::{
    CpuId, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR, KVM_EXIT_IO,
    KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_MMIO, KVM_EXIT_SHUTDOWN, kvm_interrupt, kvm_regs, kvm_run, kvm_sregs,
    kvm_vcpu_events,
};
use kvm_ioctls::{VcpuFd, VmFd};
use linux_raw_sys::errno::{EAGAIN, EFAULT, EINTR};
use linux_raw_sys::general::__NR_ioctl;

use super::descriptor::{RaisedLimit, duplicate_high};
use super::registers;
use super::snapshot::Snapshot;
use super::statistics::Statistics;
use crate::engine::{CpuState, Exit, RegisterDump, Vcpu};
use crate::error::EngineError;
use crate::sys;

// ioctl numbers of <linux/kvm.h>: _IO(0xAE, 0x80), _IOR(0xAE, 0x81, kvm_regs), _IOR(0xAE, 0x83, kvm_sregs),
// _IOW(0xAE, 0x86, kvm_interrupt).
const KVM_RUN: u64 = 0xae80;
const KVM_GET_REGS: u64 = 0x8000_ae81 | (size_of::<kvm_regs>() as u64) << 16;
const KVM_GET_SREGS: u64 = 0x8000_ae83 | (size_of::<kvm_sregs>() as u64) << 16;
const KVM_SET_SREGS: u64 = 0x4000_ae84 | (size_of::<kvm_sregs>() as u64) << 16;
const KVM_GET_VCPU_EVENTS: u64 = 0x8000_ae9f | (size_of::<kvm_vcpu_events>() as u64) << 16;
const KVM_SET_VCPU_EVENTS: u64 = 0x4000_aea0 | (size_of::<kvm_vcpu_events>() as u64) << 16;
const KVM_INTERRUPT: u64 = 0x4000_ae86 | (size_of::<kvm_interrupt>() as u64) << 16;

/// The vector of #PF.
const PAGE_FAULT: u8 = 14;

/// A vCPU of KVM's, bound to the thread that made it.
#[derive(Debug)]
pub(crate) struct KvmVcpu {
    // Owns the descriptor and the mapping behind `run`.
    vcpu: VcpuFd,
    has_xsave: bool,
    fd: RawFd,
    run: *mut kvm_run,
    statistics: Option<Statistics>,
}

impl KvmVcpu {
    pub(super) fn create(vm: &VmFd, id: u32, cpuid: &CpuId) -> Result<KvmVcpu, EngineError> {
        let limit = RaisedLimit::new();
        let low = vm.create_vcpu(id.into()).map_err(|e| EngineError::new("KVM_CREATE_VCPU", e))?;
        let high = duplicate_high(&low, &limit)?;
        // SAFETY: `high` is a vCPU's descriptor and nobody else's.
        let mut vcpu =
            unsafe { vm.create_vcpu_from_rawfd(high) }.map_err(|e| EngineError::new("KVM_CREATE_VCPU", e))?;
        // Unmodified: what the program chose at start-up by CPUID has to work (design.md §3.2).
        vcpu.set_cpuid2(cpuid).map_err(|e| EngineError::new("KVM_SET_CPUID2", e))?;
        let run = &raw mut *vcpu.get_kvm_run();
        Ok(KvmVcpu { fd: vcpu.as_raw_fd(), run, vcpu, has_xsave: false, statistics: None })
    }

    /// Where this kernel's vCPUs count second-level faults.
    pub(super) fn find_statistics(&self) -> Option<Statistics> {
        Statistics::find(&self.vcpu)
    }

    /// The vCPU, knowing that.
    pub(super) fn with_statistics(self, statistics: Option<Statistics>) -> KvmVcpu {
        KvmVcpu { statistics, ..self }
    }

    /// Takes the place of `parent`, the vCPU that this process inherited by a fork, in the state it had.
    pub(super) fn succeed(&mut self, parent: &KvmVcpu, state: &Snapshot) -> Result<(), EngineError> {
        state.load(&self.vcpu)?;
        self.has_xsave = parent.has_xsave;
        self.statistics = parent.statistics;
        Ok(())
    }

    fn control(&self) -> *mut kvm_run {
        self.run
    }
}

impl Vcpu for KvmVcpu {
    type Snapshot = Snapshot;

    fn descriptor(&self) -> RawFd {
        self.fd
    }

    fn snapshot(&self) -> Result<Snapshot, EngineError> {
        Snapshot::of(&self.vcpu, self.has_xsave)
    }

    fn load(&mut self, state: &CpuState) -> Result<(), EngineError> {
        self.has_xsave = state.xcr0.is_some();
        registers::load(&self.vcpu, state)
    }

    #[inline(always)]
    fn run(&mut self) -> Exit {
        // SAFETY: KVM_RUN takes no pointer. What Dune mode does to memory while it runs, the program does.
        let value = unsafe { sys::raw(__NR_ioctl, [self.fd as u64, KVM_RUN, 0, 0, 0, 0]) };
        let run = self.control();
        if value != 0 {
            return failed(value);
        }
        // SAFETY: `run` is the vCPU's shared page, mapped as long as `self.vcpu` lives; only this thread runs it.
        let reason = unsafe { (*run).exit_reason };
        if reason == KVM_EXIT_HLT { Exit::Request } else { other_exit(run, reason) }
    }

    fn try_interrupt(&mut self, vector: u8) -> bool {
        // SAFETY: as in `run`.
        let ready = unsafe { (*self.control()).ready_for_interrupt_injection != 0 };
        let request = kvm_interrupt { irq: vector.into() };
        // SAFETY: KVM reads `request` only.
        ready
            && unsafe {
                sys::call(__NR_ioctl, [self.fd as u64, KVM_INTERRUPT, (&raw const request) as u64, 0, 0, 0])
            }
            .is_ok()
    }

    fn request_interrupt_window(&mut self, wanted: bool) {
        // SAFETY: as in `run`; KVM reads the byte at the next KVM_RUN.
        unsafe { (*self.control()).request_interrupt_window = wanted.into() };
    }

    fn inject_page_fault(&mut self, address: u64, error_code: u32) -> bool {
        let mut sregs = kvm_sregs::default();
        let mut events = kvm_vcpu_events::default();
        // SAFETY: each call reads or writes exactly the structure it is given.
        unsafe {
            let call =
                |request, argument| sys::call(__NR_ioctl, [self.fd as u64, request, argument, 0, 0, 0]);
            if call(KVM_GET_SREGS, (&raw mut sregs) as u64).is_err()
                || call(KVM_GET_VCPU_EVENTS, (&raw mut events) as u64).is_err()
            {
                return false;
            }
            sregs.cr2 = address;
            (events.exception.injected, events.exception.nr) = (1, PAGE_FAULT);
            (events.exception.has_error_code, events.exception.error_code) = (1, error_code);
            call(KVM_SET_SREGS, (&raw const sregs) as u64).is_ok()
                && call(KVM_SET_VCPU_EVENTS, (&raw const events) as u64).is_ok()
        }
    }

    fn request_stop(&self) {
        // SAFETY: as in `run`; the byte is KVM's to read and this thread's to write.
        unsafe { (&raw mut (*self.control()).immediate_exit).write_volatile(1) };
    }

    fn withdraw_stop(&self) {
        // SAFETY: as above.
        unsafe { (&raw mut (*self.control()).immediate_exit).write_volatile(0) };
    }

    fn registers(&self) -> Option<RegisterDump> {
        let mut regs = kvm_regs::default();
        let mut sregs = kvm_sregs::default();
        // SAFETY: both calls write to exactly the structure they are given.
        unsafe {
            sys::call(__NR_ioctl, [self.fd as u64, KVM_GET_REGS, (&raw mut regs) as u64, 0, 0, 0]).ok()?;
            sys::call(__NR_ioctl, [self.fd as u64, KVM_GET_SREGS, (&raw mut sregs) as u64, 0, 0, 0]).ok()?;
        }
        Some(registers::dump(&regs, &sregs))
    }

    fn second_level_faults(&self) -> Option<u64> {
        self.statistics?.second_level_faults(&self.vcpu)
    }
}

/// KVM_RUN returned an error.
#[cold]
fn failed(value: u64) -> Exit {
    match sys::result(value) {
        Err(errno) if errno.raw() == EINTR as i32 || errno.raw() == EAGAIN as i32 => Exit::Interrupted,
        Err(errno) if errno.raw() == EFAULT as i32 => Exit::SecondLevelFault,
        Err(errno) => Exit::Failed { what: "KVM_RUN failed with errno", code: errno.raw() as u64 },
        Ok(value) => Exit::Failed { what: "KVM_RUN returned an unexpected value", code: value },
    }
}

/// KVM_RUN returned with an exit other than HLT.
#[cold]
fn other_exit(run: *mut kvm_run, reason: u32) -> Exit {
    // SAFETY: 1. `run` is mapped and ours (see `KvmVcpu::run`); 2. `exit_reason` says which member of the union
    // KVM filled in.
    unsafe {
        match reason {
            KVM_EXIT_INTR => Exit::Interrupted,
            KVM_EXIT_IRQ_WINDOW_OPEN => Exit::InterruptWindow,
            KVM_EXIT_SHUTDOWN => Exit::Shutdown,
            KVM_EXIT_MMIO => Exit::OutsideWindows { gpa: (*run).__bindgen_anon_1.mmio.phys_addr },
            KVM_EXIT_IO => Exit::PortAccess { port: (*run).__bindgen_anon_1.io.port },
            KVM_EXIT_FAIL_ENTRY => {
                Exit::EntryFailed { reason: (*run).__bindgen_anon_1.fail_entry.hardware_entry_failure_reason }
            }
            KVM_EXIT_INTERNAL_ERROR => Exit::Failed {
                what: "KVM internal error (KVM_EXIT_INTERNAL_ERROR), suberror",
                code: (*run).__bindgen_anon_1.internal.suberror.into(),
            },
            other => Exit::Failed { what: "KVM exit that Dune does not know", code: other.into() },
        }
    }
}
