//! Syscall User Dispatch: a process's system calls, handed to its own handler of SIGSYS (Linux,
//! Documentation/admin-guide/syscall-user-dispatch.rst).

use std::arch::global_asm;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::signals::DISPOSITIONS;
use super::{Refused, getpid};
use crate::payload::{self, Outcome};

global_asm!(
    // rt_sigreturn from a place that Syscall User Dispatch lets through.
    ".pushsection .text.dune_bench_restorer, \"ax\", @progbits",
    ".balign 16",
    ".globl dune_bench_restorer",
    ".type dune_bench_restorer, @function",
    "dune_bench_restorer:",
    "mov eax, {rt_sigreturn}",
    "syscall",
    ".size dune_bench_restorer, . - dune_bench_restorer",
    ".globl dune_bench_restorer_end",
    "dune_bench_restorer_end:",
    "ud2",
    ".popsection",
    rt_sigreturn = const libc::SYS_rt_sigreturn,
);

unsafe extern "C" {
    fn dune_bench_restorer();
    static dune_bench_restorer_end: u8;
}

/// The kernel's own `struct sigaction`: the C library's would put its restorer in.
#[repr(C)]
struct KernelAction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

const SA_RESTORER: u64 = 0x0400_0000;
const PR_SET_SYSCALL_USER_DISPATCH: libc::c_int = 59;
const PR_SYS_DISPATCH_OFF: usize = 0;
const PR_SYS_DISPATCH_ON: usize = 1;
const ALLOW: u8 = 0;
const BLOCK: u8 = 1;

/// Where Linux looks whether to dispatch a call.
static SELECTOR: AtomicU8 = AtomicU8::new(ALLOW);

/// What the handler of dispatched calls answers.
static ANSWER: AtomicU64 = AtomicU64::new(0);

extern "C" fn answer_dispatched(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: Linux passes a `ucontext_t` to a handler installed with SA_SIGINFO.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    context.uc_mcontext.gregs[libc::REG_RAX as usize] = ANSWER.load(Ordering::Relaxed) as i64;
}

/// Runs the payload with its calls dispatched to a handler that answers them.
pub(crate) fn dispatched_payload(calls: u32) -> Result<Outcome, Refused> {
    let _guard = DISPOSITIONS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut outcome = Outcome::default();
    ANSWER.store(getpid(), Ordering::Relaxed);
    let action = KernelAction {
        handler: answer_dispatched as *const () as usize,
        flags: libc::SA_SIGINFO as u64 | SA_RESTORER,
        restorer: dune_bench_restorer as *const () as usize,
        mask: 0,
    };
    let mut before = MaybeUninit::<KernelAction>::zeroed();
    // SAFETY: two actions in the kernel's layout, with the size of its signal set.
    if unsafe { libc::syscall(libc::SYS_rt_sigaction, libc::SIGSYS, &action, before.as_mut_ptr(), 8) } != 0 {
        return Err(Refused::last("rt_sigaction"));
    }
    let dispatch = |mode: usize, start: usize, length: usize, selector: usize| {
        // SAFETY: the selector is a static byte; calls between `start` and its end are let through.
        unsafe { libc::prctl(PR_SET_SYSCALL_USER_DISPATCH, mode, start, length, selector) }
    };
    let start = dune_bench_restorer as *const () as usize;
    // Linux looks at the address behind the SYSCALL instruction, which is the end of the stub: include it.
    let length = &raw const dune_bench_restorer_end as usize - start + 1;
    let result = if dispatch(PR_SYS_DISPATCH_ON, start, length, SELECTOR.as_ptr() as usize) != 0 {
        Err(Refused::last("prctl(PR_SET_SYSCALL_USER_DISPATCH)"))
    } else {
        SELECTOR.store(BLOCK, Ordering::SeqCst);
        // SAFETY: a local variable; the caller asks for one call or more.
        unsafe { payload::run(calls, &mut outcome) };
        SELECTOR.store(ALLOW, Ordering::SeqCst);
        dispatch(PR_SYS_DISPATCH_OFF, 0, 0, 0);
        Ok(outcome)
    };
    // SAFETY: the action that was there.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            libc::SIGSYS,
            before.as_ptr(),
            ptr::null_mut::<KernelAction>(),
            8,
        )
    };
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dispatched_calls_are_answered_and_dispatch_ends() {
        let outcome = dispatched_payload(20).expect("syscall user dispatch works");
        assert_eq!(outcome.sum, 20 * u64::from(std::process::id()));
        assert_eq!(getpid(), u64::from(std::process::id()));
    }
}
