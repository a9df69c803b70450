//! What the rows ask of Linux: mappings, a raw getpid, signal handlers, a traced child, Syscall User Dispatch.
//!
//! Everything here also works in Dune mode as far as its system calls do; the signal handlers and the traced child
//! are for the Linux sides, which run in host mode.
//!
//! # Safety
//!
//! Memory of a [`Mapping`] is only touched through raw pointers. Signal handlers touch atomics, the frame they were
//! given and mappings. The child of a fork makes system calls and nothing else until it ends.

mod calls;
mod children;
mod dispatch;
mod echo;
mod pages;
mod reset;
mod signals;
mod snapshot;
mod tracing;

use std::arch::asm;
use std::io;

pub(crate) use calls::{Folder, Opened, ask_personality};
pub(crate) use children::{fork_and_wait, in_child};
pub(crate) use dispatch::dispatched_payload;
pub(crate) use echo::Echo;
pub(crate) use pages::{Linux, Mapping, PAGE, Pages, protect, refuse_huge_pages};
pub(crate) use reset::Resettable;
pub use reset::Way;
pub(crate) use signals::{
    ServesFaults, send_signal, signals_handled, with_counting_handler, with_fault_handler,
    with_stamping_handler,
};
pub(crate) use snapshot::{View, has_memory};
pub(crate) use tracing::{Tracing, traced_payload};

/// A system call that Linux refused.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) call: &'static str,
    pub(crate) error: io::Error,
}

impl Refused {
    fn last(call: &'static str) -> Refused {
        Refused { call, error: io::Error::last_os_error() }
    }
}

/// getpid by the SYSCALL instruction, so that no library stands between the loop and what is measured.
#[inline(always)]
pub(crate) fn getpid() -> u64 {
    let pid: u64;
    // SAFETY: getpid touches no memory; SYSCALL overwrites RCX and R11, both declared.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") libc::SYS_getpid => pid,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    pid
}

/// The calling thread's id.
pub(crate) fn gettid() -> i64 {
    // SAFETY: gettid touches no memory.
    unsafe { libc::syscall(libc::SYS_gettid) }
}

/// Ends the process from a handler that cannot go on: it may not return an error, and must not loop.
pub(crate) fn die(sentence: &str) -> ! {
    // SAFETY: writes a borrowed string to standard error and ends the process.
    unsafe {
        libc::write(libc::STDERR_FILENO, sentence.as_ptr().cast(), sentence.len());
        libc::abort()
    }
}
