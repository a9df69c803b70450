//! Signals at a moment that a tracer chooses: in the middle of what Dune does about a fault.

use std::arch::asm;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::scenario::{raise, set};
use crate::case::CaseResult;
use crate::probe;

/// When the tracer sends SIGUSR1.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// As the call that blocks the signals of the fault's handler begins: the signal comes when it ends.
    MaskChanges,
    /// When the vCPU has stopped for that call, which is not made then.
    BeforeMaskChanges,
}

/// A signal that comes with a fault reaches the fault's handler at once, though that makes no system call.
pub(super) fn fault_meanwhile() -> CaseResult {
    traced(Moment::MaskChanges, || {
        // SAFETY: the handler skips the instruction.
        unsafe { asm!("ud2") }
    })?;
    // What comes after its instruction can not be put off.
    traced(Moment::BeforeMaskChanges, || {
        // SAFETY: the trap has a handler.
        unsafe { asm!("int3") }
    })
}

/// What WSTOPSIG says at the beginning and the end of a system call (PTRACE_O_TRACESYSGOOD).
const SYSCALL: i32 = libc::SIGTRAP | 0x80;

static HITS: AtomicU64 = AtomicU64::new(0);
static RESULT: AtomicI64 = AtomicI64::new(1);

extern "C" fn count(_: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
    HITS.fetch_add(1, Ordering::Relaxed);
}

/// Waits for the other handler, without system calls.
extern "C" fn wait(signal: i32, _: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
    const LONG: u32 = 20_000_000;
    let came = (0..LONG).any(|_| {
        std::hint::spin_loop();
        HITS.load(Ordering::Relaxed) != 0
    });
    RESULT.store((!came).into(), Ordering::Relaxed);
    if signal == libc::SIGILL {
        context.uc_mcontext.gregs[libc::REG_RIP as usize] += 2;
    }
}

/// Runs `body` in a child in Dune mode, which gets SIGUSR1 at `moment`.
fn traced(moment: Moment, body: fn()) -> CaseResult {
    // SAFETY: the child has its parent's only thread, and ends by _exit; the rest are calls about it.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            let entered = dune::enter().is_ok();
            set(libc::SIGUSR1, count, 0, &[]);
            set(libc::SIGILL, wait, 0, &[]);
            set(libc::SIGTRAP, wait, 0, &[]);
            raise(libc::SIGSTOP);
            body();
            libc::_exit(if entered { RESULT.load(Ordering::Relaxed) as i32 } else { 2 });
        }
        let mut sent = false;
        let mut at_entry = false;
        loop {
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &mut status, 0), child);
            if !libc::WIFSTOPPED(status) {
                return if sent && status == 0 {
                    Ok(())
                } else {
                    probe::fail(format!("{moment:?}: sent: {sent}, wait status {status:#x}"))
                };
            }
            let mut pass_on = 0;
            match libc::WSTOPSIG(status) {
                SYSCALL => {
                    at_entry = !at_entry;
                    let mut registers: libc::user_regs_struct = std::mem::zeroed();
                    libc::ptrace(libc::PTRACE_GETREGS, child, 0, &raw mut registers);
                    let (number, first) = (registers.orig_rax as i64, registers.rdi as i32);
                    let now = match moment {
                        Moment::MaskChanges => {
                            at_entry && number == libc::SYS_rt_sigprocmask && first == libc::SIG_BLOCK
                        }
                        Moment::BeforeMaskChanges => !at_entry && number == libc::SYS_ioctl,
                    };
                    if now && !sent {
                        sent = true;
                        libc::syscall(libc::SYS_tgkill, child, child, libc::SIGUSR1);
                    }
                }
                // The body is next. Its stops from here on are told from signals; the last of the call was not seen.
                libc::SIGSTOP => {
                    libc::ptrace(libc::PTRACE_SETOPTIONS, child, 0, libc::PTRACE_O_TRACESYSGOOD);
                }
                signal => pass_on = signal,
            }
            libc::ptrace(libc::PTRACE_SYSCALL, child, 0, pass_on);
        }
    }
}
