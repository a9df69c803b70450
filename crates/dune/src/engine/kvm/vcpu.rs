//! A vCPU of KVM's: creating it, and the hot path that runs it.

use core::cell::Cell;
use std::os::fd::RawFd;

use kvm_bindings::{
    KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR, KVM_EXIT_IO,
    KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_MMIO, KVM_EXIT_SHUTDOWN, KVM_INTERNAL_ERROR_EMULATION, kvm_interrupt,
    kvm_regs, kvm_run,
};
use linux_raw_sys::errno::{EBADF, EFAULT, EINTR};
use linux_raw_sys::general::{__NR_ioctl, __NR_munmap, MAP_SHARED};

use super::cpuid::CpuidList;
use super::snapshot::Snapshot;
use super::statistics::Statistics;
use super::{ioctl, registers};
use crate::arch::state::{CpuState, RegisterDump};
use crate::engine::error::EngineError;
use crate::engine::{Exit, Vcpu};
use crate::linux::descriptor::{Descriptor, made_high};
use crate::linux::place;
use crate::linux::sys;

const INVALID_OPCODE: u8 = 6;
const GENERAL_PROTECTION: u8 = 13;
const PAGE_FAULT: u8 = 14;

/// A vCPU of KVM's, bound to the thread that made it.
#[derive(Debug)]
pub(crate) struct KvmVcpu {
    fd: Descriptor,
    run: RunPage,
    has_xsave: Cell<bool>,
    statistics: Option<Statistics>,
}

impl KvmVcpu {
    /// A vCPU of `vm`, a machine of `device`'s.
    pub(super) fn create(
        device: &Descriptor,
        vm: &Descriptor,
        id: u32,
        cpuid: &CpuidList,
    ) -> Result<KvmVcpu, EngineError> {
        let fd = made_high(|| ioctl::CREATE_VCPU.make(vm, id.into()))?;
        // Unmodified: what the program chose at start-up by CPUID has to work.
        ioctl::SET_CPUID2.with(&fd, cpuid)?;
        let run = RunPage::map(device, &fd)?;
        Ok(KvmVcpu { fd, run, has_xsave: Cell::new(false), statistics: None })
    }

    /// Where this kernel's vCPUs count second-level faults.
    pub(super) fn find_statistics(&self) -> Option<Statistics> {
        Statistics::find(&self.fd)
    }

    /// The vCPU, knowing that.
    pub(super) fn with_statistics(self, statistics: Option<Statistics>) -> KvmVcpu {
        KvmVcpu { statistics, ..self }
    }

    /// Takes the place of `parent`, the vCPU that this process inherited by a fork, in the state it had.
    pub(super) fn succeed(&mut self, parent: &KvmVcpu, state: &Snapshot) -> Result<(), EngineError> {
        state.load(&self.fd)?;
        self.has_xsave.set(parent.has_xsave.get());
        self.statistics = parent.statistics;
        Ok(())
    }

    /// Has KVM start what it starts at a machine's first run, a thread of its own, without running anything. Linux may
    /// refuse that: since 6.13 the thread counts as one of this process (kernel/vhost_task.c).
    pub(super) fn wake_machine(&self) -> Result<(), EngineError> {
        self.run_nothing()
    }

    /// Runs no instruction.
    fn run_nothing(&self) -> Result<(), EngineError> {
        self.request_stop();
        let run = ioctl::RUN.with(&self.fd, 0);
        self.withdraw_stop();
        match run {
            Err(error) if error.errno.raw() != EINTR as i32 => Err(error),
            _ => Ok(()),
        }
    }

    /// Has Dune mode take exception `vector` before its next instruction.
    fn inject(&self, vector: u8, error_code: Option<u32>) -> Result<(), EngineError> {
        let mut events = ioctl::GET_VCPU_EVENTS.from(&self.fd)?;
        (events.exception.injected, events.exception.nr) = (1, vector);
        events.exception.has_error_code = error_code.is_some().into();
        events.exception.error_code = error_code.unwrap_or(0);
        ioctl::SET_VCPU_EVENTS.with(&self.fd, &events).map(drop)
    }

    fn control(&self) -> *mut kvm_run {
        self.run.start
    }
}

impl Vcpu for KvmVcpu {
    type Snapshot = Snapshot;

    fn descriptor(&self) -> RawFd {
        self.fd.number()
    }

    fn close(&mut self) {
        self.run.unmap();
        self.fd.close();
    }

    fn snapshot(&self) -> Result<Snapshot, EngineError> {
        Snapshot::of(&self.fd, self.has_xsave.get())
    }

    fn load(&self, state: &CpuState) -> Result<(), EngineError> {
        self.has_xsave.set(state.xcr0.is_some());
        registers::load(&self.fd, state)
    }

    #[inline(always)]
    fn run(&self) -> Exit {
        // SAFETY: KVM_RUN takes no pointer. What Dune mode does to memory while it runs, the program does.
        let value =
            unsafe { sys::raw(__NR_ioctl, [self.fd.number() as u64, ioctl::RUN.number(), 0, 0, 0, 0]) };
        let run = self.control();
        if value != 0 {
            return failed(value);
        }
        // SAFETY: `run` is the vCPU's shared page, mapped as long as `self` lives; only this thread runs it.
        let reason = unsafe { (*run).exit_reason };
        if reason == KVM_EXIT_HLT {
            return Exit::Request;
        }
        // SAFETY: KVM has just said so.
        unsafe { other_exit(run, reason) }
    }

    fn try_interrupt(&self, vector: u8) -> bool {
        // SAFETY: as in `run`.
        let ready = unsafe { (*self.control()).ready_for_interrupt_injection != 0 };
        let request = kvm_interrupt { irq: vector.into() };
        ready && ioctl::INTERRUPT.with(&self.fd, &request).is_ok()
    }

    fn turn_interrupts_on(&self, is_theirs: impl FnOnce(u64, u64) -> bool) {
        const INTERRUPT_FLAG: u64 = 1 << 9;
        let Ok(regs) = ioctl::GET_REGS.from(&self.fd) else { return };
        if regs.rflags & INTERRUPT_FLAG == 0 && is_theirs(regs.rip, regs.rsp) {
            let rflags = regs.rflags | INTERRUPT_FLAG;
            // Else the interrupt waits.
            let _ = ioctl::SET_REGS.with(&self.fd, &kvm_regs { rflags, ..regs });
        }
    }

    fn set_cpu_number(&self, number: u32) {
        // Refused where the CPU has neither instruction, so that nobody can ask.
        let _ = registers::write_msr(&self.fd, registers::IA32_TSC_AUX, number.into());
    }

    fn request_interrupt_window(&self, wanted: bool) {
        // SAFETY: as in `run`; KVM reads the byte at the next KVM_RUN.
        unsafe { (*self.control()).request_interrupt_window = wanted.into() };
    }

    fn inject_page_fault(&self, address: u64, error_code: u32) -> bool {
        let inject = || -> Result<(), EngineError> {
            let mut sregs = ioctl::GET_SREGS.from(&self.fd)?;
            sregs.cr2 = address;
            ioctl::SET_SREGS.with(&self.fd, &sregs)?;
            self.inject(PAGE_FAULT, Some(error_code))
        };
        inject().is_ok()
    }

    fn refuse_port_access(&self) -> bool {
        let refuse = || -> Result<(), EngineError> {
            let before = ioctl::GET_REGS.from(&self.fd)?;
            // KVM finishes what it has begun, with a value that nobody sees, before it runs anything (`immediate_exit` of
            // Linux Documentation/virt/kvm/api.rst). IN and OUT are not behind it before.
            self.run_nothing()?;
            ioctl::SET_REGS.with(&self.fd, &before)?;
            self.inject(GENERAL_PROTECTION, Some(0))
        };
        refuse().is_ok()
    }

    fn refuse_halt(&self) -> bool {
        const HALT_BYTES: u64 = 1;
        let refuse = || -> Result<(), EngineError> {
            let regs = ioctl::GET_REGS.from(&self.fd)?;
            ioctl::SET_REGS.with(&self.fd, &kvm_regs { rip: regs.rip.wrapping_sub(HALT_BYTES), ..regs })?;
            self.inject(GENERAL_PROTECTION, Some(0))
        };
        refuse().is_ok()
    }

    fn refuse_instruction(&self) -> bool {
        self.inject(INVALID_OPCODE, None).is_ok()
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
        let (regs, sregs) = (ioctl::GET_REGS.from(&self.fd).ok()?, ioctl::GET_SREGS.from(&self.fd).ok()?);
        Some(registers::dump(&regs, &sregs))
    }

    fn second_level_faults(&self) -> Option<u64> {
        self.statistics?.second_level_faults(&self.fd)
    }
}

/// A vCPU's `struct kvm_run`, which this process shares with KVM, and what KVM keeps behind it. Unmapped when dropped.
#[derive(Debug)]
struct RunPage {
    start: *mut kvm_run,
    bytes: u64,
}

impl RunPage {
    fn map(device: &Descriptor, vcpu: &Descriptor) -> Result<RunPage, EngineError> {
        let bytes = ioctl::GET_VCPU_MMAP_SIZE.with(device, 0)?;
        let start = place::descriptor(bytes, MAP_SHARED, vcpu.argument())
            .map_err(|errno| EngineError { operation: "mmap of a vCPU", errno })?;
        Ok(RunPage { start: start as *mut kvm_run, bytes })
    }
}

impl RunPage {
    /// Afterwards `start` is nobody's.
    fn unmap(&mut self) {
        // Of no bytes the second time, which Linux refuses.
        let bytes = core::mem::take(&mut self.bytes);
        // SAFETY: the mapping is this value's own; its vCPU is dropped with it or does nothing any more.
        let _ = unsafe { sys::call(__NR_munmap, [self.start as u64, bytes, 0, 0, 0, 0]) };
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        self.unmap();
    }
}

/// KVM_RUN returned an error.
#[cold]
fn failed(value: u64) -> Exit {
    match sys::result(value) {
        Err(errno) if errno.raw() == EINTR as i32 => Exit::Interrupted,
        Err(errno) if errno.raw() == EFAULT as i32 => Exit::SecondLevelFault,
        Err(errno) if errno.raw() == EBADF as i32 => Exit::Failed {
            what: "who shares this process's descriptors in host mode has closed Dune's (docs/limits.md): errno",
            code: errno.raw() as u64,
        },
        Err(errno) => Exit::Failed { what: "KVM_RUN failed with errno", code: errno.raw() as u64 },
        Ok(value) => Exit::Failed { what: "KVM_RUN returned an unexpected value", code: value },
    }
}

/// KVM_RUN returned with an exit other than HLT.
///
/// # Safety
///
/// `run` is the page of a vCPU of this thread's, which has stopped for this reason.
#[cold]
unsafe fn other_exit(run: *mut kvm_run, reason: u32) -> Exit {
    // SAFETY: the caller's: the reason says which member of the union KVM filled in.
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
            KVM_EXIT_INTERNAL_ERROR
                if (*run).__bindgen_anon_1.internal.suberror == KVM_INTERNAL_ERROR_EMULATION =>
            {
                Exit::NotEmulated
            }
            KVM_EXIT_INTERNAL_ERROR => Exit::Failed {
                what: "KVM internal error (KVM_EXIT_INTERNAL_ERROR), suberror",
                code: (*run).__bindgen_anon_1.internal.suberror.into(),
            },
            other => Exit::Failed { what: "KVM exit that Dune does not know", code: other.into() },
        }
    }
}
