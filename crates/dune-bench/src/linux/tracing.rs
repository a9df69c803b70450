//! A child whose system calls its parent watches by ptrace(2).

use std::{io, mem, ptr};

use super::Refused;
use super::children::wait;
use super::pages::Mapping;
use crate::payload::{self, Outcome};

/// How a tracer watches its child's system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tracing {
    /// PTRACE_SYSCALL: a stop before the call, Linux makes it, a stop after.
    Syscall,
    /// PTRACE_SYSEMU: a stop instead of the call, and the tracer writes the answer.
    Emulate,
}

/// PTRACE_SYSEMU on x86, which the libc crate does not name everywhere.
const PTRACE_SYSEMU: libc::c_uint = 31;

/// Where PTRACE_POKEUSER finds RAX.
const RAX_OFFSET: usize = mem::offset_of!(libc::user_regs_struct, rax);

/// Runs the payload in a child under `tracing`; its outcome, and its process id.
pub(crate) fn traced_payload(tracing: Tracing, calls: u32) -> Result<(Outcome, u64), Refused> {
    let shared = Mapping::shared(1)?;
    shared.touch(0);
    // SAFETY: the child only makes system calls, runs the payload and exits.
    let child = unsafe { libc::fork() };
    match child {
        -1 => Err(Refused::last("fork")),
        0 => {
            // SAFETY: asks to be traced and waits for the tracer. kill(2) rather than raise(3), which makes more
            // calls after the stop. The page is shared with the parent and writable.
            unsafe {
                if libc::ptrace(libc::PTRACE_TRACEME, 0, ptr::null_mut::<u8>(), ptr::null_mut::<u8>()) != 0 {
                    libc::_exit(1);
                }
                libc::kill(libc::getpid(), libc::SIGSTOP);
                payload::run(calls, shared.start().cast());
                libc::_exit(0)
            }
        }
        child => {
            let watched = watch(child, tracing, calls);
            if watched.is_err() {
                // SAFETY: our own child, not yet waited for to its end.
                unsafe {
                    libc::kill(child, libc::SIGKILL);
                    libc::waitpid(child, ptr::null_mut(), 0);
                }
            }
            watched.map(|()| (shared.outcome(), child as u64))
        }
    }
}

/// The tracer's loop: no more calls per stop than it takes.
fn watch(child: libc::pid_t, tracing: Tracing, calls: u32) -> Result<(), Refused> {
    let mut status = 0;
    wait(child, &mut status)?;
    if !libc::WIFSTOPPED(status) {
        return Err(Refused { call: "ptrace", error: io::ErrorKind::PermissionDenied.into() });
    }
    match tracing {
        Tracing::Syscall => {
            while libc::WIFSTOPPED(status) {
                ptrace(libc::PTRACE_SYSCALL, child, 0, 0)?;
                wait(child, &mut status)?;
            }
        }
        Tracing::Emulate => {
            for _ in 0..calls {
                ptrace(PTRACE_SYSEMU, child, 0, 0)?;
                wait(child, &mut status)?;
                if !libc::WIFSTOPPED(status) {
                    return Err(Refused { call: "waitpid", error: io::ErrorKind::UnexpectedEof.into() });
                }
                ptrace(libc::PTRACE_POKEUSER, child, RAX_OFFSET, child as usize)?;
            }
            ptrace(libc::PTRACE_CONT, child, 0, 0)?;
            wait(child, &mut status)?;
        }
    }
    if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 {
        Ok(())
    } else {
        Err(Refused { call: "waitpid", error: io::ErrorKind::UnexpectedEof.into() })
    }
}

fn ptrace(request: libc::c_uint, child: libc::pid_t, address: usize, data: usize) -> Result<(), Refused> {
    // SAFETY: the requests used here read and write the child's state only.
    match unsafe { libc::ptrace(request, child, address, data) } {
        -1 => Err(Refused::last("ptrace")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traced_child_gets_its_own_pid() {
        for tracing in [Tracing::Syscall, Tracing::Emulate] {
            let (outcome, pid) = traced_payload(tracing, 20).expect("ptrace works");
            assert_eq!(outcome.sum, 20 * pid, "{tracing:?}");
        }
    }
}
