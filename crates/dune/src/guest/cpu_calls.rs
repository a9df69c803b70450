//! System calls that change how the CPU treats the calling thread: which instructions it may execute, what they answer, where
//! they trap.
//!
//! Linux tells the CPU so for the thread in host mode; Dune mode, a virtual machine, has a CPU of its own. What can not be
//! told to that too, the thread gets where it has an effect: it leaves Dune mode for good (`filter.rs`) and makes the call in
//! host mode. Where it can not leave, the call is refused as Linux refuses it on a computer without the feature. No call
//! succeeds that has no effect.

use linux_raw_sys::errno::{EFAULT, EINVAL, ENODEV, ENOSYS, EOPNOTSUPP, EPERM};
use linux_raw_sys::general::{
    __NR_arch_prctl as ARCH_PRCTL, __NR_ioperm as IOPERM, __NR_iopl as IOPL, __NR_modify_ldt as MODIFY_LDT,
    __NR_perf_event_open as PERF_EVENT_OPEN, __NR_ptrace as PTRACE,
};

use super::copy;
use super::filter::{can_leave, is_alone, leave_or};
use super::syscall::error;
use crate::arch::cpu;
use crate::arch::page::TASK_SIZE;
use crate::arch::registers::{Registers, VectorArea};
use crate::arch::token::Dune;
use crate::guest::hypercall::forward;
use crate::linux::sys;

/// The calls that [`handle`] takes.
pub(crate) const NUMBERS: [u32; 6] = [ARCH_PRCTL, IOPERM, IOPL, MODIFY_LDT, PERF_EVENT_OPEN, PTRACE];

/// Makes the call if it is one of this module's; the kernel's raw return value, or [`RESTART`](super::signal::RESTART) if a
/// signal came first.
pub(super) fn handle(dune: Dune, number: u32, registers: &Registers, area: VectorArea) -> Option<u64> {
    let call = Call { dune, number, arguments: registers.arguments(), registers, area };
    let [first, second, third, ..] = call.arguments;
    Some(match number {
        ARCH_PRCTL => call.arch_prctl(first as u32, second),
        IOPERM => call.with_effect(third as u32 != 0, EPERM),
        IOPL => call.with_effect(first as u32 != 0, EPERM),
        MODIFY_LDT => call.modify_ldt(first as u32),
        PERF_EVENT_OPEN => call.perf_event_open(first, second as u32),
        PTRACE => call.ptrace(first),
        _ => return None,
    })
}

/// Makes prctl(2) if it is one of these; else `None`.
pub(super) fn prctl(dune: Dune, registers: &Registers, area: VectorArea) -> Option<u64> {
    // <linux/prctl.h>
    const PR_SET_TSC: u64 = 26;
    const PR_TSC_SIGSEGV: u64 = 2;
    const PR_SET_SPECULATION_CTRL: u64 = 53;
    const PR_SPEC_STORE_BYPASS: u64 = 0;
    const PR_SPEC_INDIRECT_BRANCH: u64 = 1;
    const PR_SPEC_ENABLE: u64 = 1 << 1;
    let call = Call {
        dune,
        number: linux_raw_sys::general::__NR_prctl,
        arguments: registers.arguments(),
        registers,
        area,
    };
    match call.arguments {
        // CR4.TSD does not bind ring 0.
        [PR_SET_TSC, PR_TSC_SIGSEGV, ..] => Some(call.leave_or(EINVAL)),
        // IA32_SPEC_CTRL is the virtual machine's in Dune mode.
        [PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS | PR_SPEC_INDIRECT_BRANCH, how, ..] => {
            Some(call.with_effect(how != PR_SPEC_ENABLE, EPERM))
        }
        _ => None,
    }
}

/// A call that a thread makes.
struct Call<'a> {
    dune: Dune,
    number: u32,
    arguments: [u64; 6],
    registers: &'a Registers,
    area: VectorArea,
}

impl Call<'_> {
    fn forward(&self) -> u64 {
        forward(self.number, &self.arguments)
    }

    /// Whether the program knows nothing of Dune mode.
    fn is_unmodified(&self) -> bool {
        self.dune.block().is_unmodified()
    }

    fn can_leave(&self) -> bool {
        self.is_unmodified() && can_leave(self.dune, self.registers)
    }

    /// Has the thread make the call in host mode; if it can not leave, the call is refused with `refusal`.
    fn leave_or(&self, refusal: u32) -> u64 {
        if !self.is_unmodified() {
            return error(refusal);
        }
        leave_or(self.dune, refusal, self.registers, self.area)
    }

    /// A call that may be made twice: if Linux permits it and it `counts` in host mode only, once more there.
    fn with_effect(&self, counts: bool, refusal: u32) -> u64 {
        match self.forward() {
            0 if counts => self.leave_or(refusal),
            result => result,
        }
    }

    /// arch_prctl(2), arch/x86/kernel/process_64.c `do_arch_prctl_64`.
    fn arch_prctl(&self, code: u32, address: u64) -> u64 {
        // <asm/prctl.h>
        const ARCH_SET_GS: u32 = 0x1001;
        const ARCH_SET_FS: u32 = 0x1002;
        const ARCH_GET_FS: u32 = 0x1003;
        const ARCH_GET_GS: u32 = 0x1004;
        const ARCH_SET_CPUID: u32 = 0x1012;
        const ARCH_REQ_XCOMP_PERM: u32 = 0x1023;
        const ARCH_ENABLE_TAGGED_ADDR: u32 = 0x4002;
        const ARCH_GET_MAX_TAG_BITS: u32 = 0x4003;
        const ARCH_SHSTK_ENABLE: u32 = 0x5001;
        const ARCH_SHSTK_STATUS: u32 = 0x5005;
        let is_unmodified = self.is_unmodified();
        match code {
            // WRFSBASE of a non-canonical address would fault; Linux refuses addresses past the task size.
            ARCH_SET_FS | ARCH_SET_GS if address >= TASK_SIZE => error(EPERM),
            ARCH_SET_FS => {
                // Linux is told for those who leave Dune mode: children in host mode.
                let result = self.forward();
                if result == 0 {
                    // SAFETY: ring 0 in Dune mode; the program asks for this thread-local storage.
                    unsafe { cpu::set_fs_base(address) };
                }
                result
            }
            // SAFETY: ring 0.
            ARCH_GET_FS => answer(address, unsafe { cpu::fs_base() }),
            // GS holds the thread block. Nobody has changed the base that the program believes it has.
            ARCH_GET_GS if is_unmodified => answer(address, 0),
            ARCH_SET_GS if is_unmodified => self.leave_or(EOPNOTSUPP),
            ARCH_SET_GS | ARCH_GET_GS => error(EOPNOTSUPP),
            ARCH_SET_CPUID if address == 0 => match self.forward() {
                // CPUID of Dune mode is KVM's business, which does not make it fault.
                0 if self.can_leave() => self.leave_or(ENODEV),
                0 => {
                    forward(ARCH_PRCTL, &[code.into(), 1, 0, 0, 0, 0]);
                    error(ENODEV)
                }
                result => result,
            },
            ARCH_REQ_XCOMP_PERM => self.request_state(address),
            // Linux's table root of the process is not the one in use, and all threads would have to leave.
            ARCH_ENABLE_TAGGED_ADDR => self.refuse_like(ARCH_GET_MAX_TAG_BITS, ENODEV),
            ARCH_GET_MAX_TAG_BITS => match self.forward() {
                0 => answer(address, 0),
                result => result,
            },
            // The host loop would run with it.
            ARCH_SHSTK_ENABLE => self.refuse_like(ARCH_SHSTK_STATUS, EOPNOTSUPP),
            _ => self.forward(),
        }
    }

    /// What Linux says of the question `code`, if it does not know it; else `refusal`.
    fn refuse_like(&self, code: u32, refusal: u32) -> u64 {
        let mut answer = 0u64;
        let result = forward(ARCH_PRCTL, &[code.into(), (&raw mut answer) as u64, 0, 0, 0, 0]);
        if sys::result(result).is_ok() { error(refusal) } else { result }
    }

    /// Permission for the state component `component`, which XCR0 of Dune mode may leave out. It is the process's.
    fn request_state(&self, component: u64) -> u64 {
        let enabled = self.dune.block().vector_mask;
        let has_it = enabled.checked_shr(component as u32).is_some_and(|bits| bits & 1 != 0);
        if !has_it && !is_alone() {
            return error(EOPNOTSUPP);
        }
        self.with_effect(!has_it, EOPNOTSUPP)
    }

    /// modify_ldt(2): the table in use is not Linux's.
    fn modify_ldt(&self, function: u32) -> u64 {
        const WRITE_OLD: u32 = 1;
        const WRITE: u32 = 0x11;
        match function {
            // As a kernel without CONFIG_MODIFY_LDT_SYSCALL.
            WRITE_OLD | WRITE if !is_alone() => error(ENOSYS),
            WRITE_OLD | WRITE => self.leave_or(ENOSYS),
            _ => self.forward(),
        }
    }

    /// perf_event_open(2): breakpoints are the CPU's debug registers, of which a virtual machine has its own.
    fn perf_event_open(&self, attributes: u64, task: u32) -> u64 {
        const PERF_TYPE_BREAKPOINT: u32 = 5;
        // SAFETY: any bytes make a word.
        let kind = unsafe { copy::from_program::<u64>(attributes) };
        let is_own = task == 0 || task == sys::thread_id();
        if is_own && kind.is_ok_and(|kind| kind as u32 == PERF_TYPE_BREAKPOINT) {
            return self.leave_or(EOPNOTSUPP);
        }
        self.forward()
    }

    /// ptrace(2): a thread that becomes traced shows its tracer its registers, its faults and its steps.
    fn ptrace(&self, request: u64) -> u64 {
        const PTRACE_TRACEME: u64 = 0;
        if request == PTRACE_TRACEME && self.can_leave() {
            return self.leave_or(EPERM);
        }
        self.forward()
    }
}

/// Writes an answer to where the program wants it.
fn answer(address: u64, value: u64) -> u64 {
    // SAFETY: the program wants the value there.
    match unsafe { copy::to_program(address, &value) } {
        Ok(()) => 0,
        Err(_) => error(EFAULT),
    }
}
