//! What the process was given, recorded before Rust's standard library changes it.
//!
//! Before `main`, std makes SIGPIPE ignored and opens /dev/null in place of standard streams that are closed. A function in
//! `.init_array` runs earlier (System V ABI, chapter 5, *Initialization and Termination Functions*).

use std::ptr::null;
use std::sync::atomic::{AtomicBool, Ordering};

static PIPE_SIGNAL_IGNORED: AtomicBool = AtomicBool::new(false);
static CLOSED: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];

// SAFETY: the section holds pointers to functions of the C ABI, and this is one.
#[used]
#[unsafe(link_section = ".init_array")]
static RECORD: extern "C" fn() = record;

extern "C" fn record() {
    // struct kernel_sigaction: handler, flags, restorer, mask.
    let mut old = [0u64; 4];
    // SAFETY: 1. rt_sigaction without a new action writes the old one; 2. F_GETFD touches no memory.
    unsafe {
        libc::syscall(libc::SYS_rt_sigaction, libc::SIGPIPE, null::<u64>(), &raw mut old, 8);
        for (descriptor, closed) in CLOSED.iter().enumerate() {
            closed.store(libc::fcntl(descriptor as i32, libc::F_GETFD) == -1, Ordering::Relaxed);
        }
    }
    PIPE_SIGNAL_IGNORED.store(old[0] == libc::SIG_IGN as u64, Ordering::Relaxed);
}

/// Whether SIGPIPE was ignored at the start.
pub(super) fn pipe_signal_ignored() -> bool {
    // The reference keeps the linker from leaving the record out.
    let _ = std::hint::black_box(&RECORD);
    PIPE_SIGNAL_IGNORED.load(Ordering::Relaxed)
}

/// Whether `descriptor` was a closed standard stream.
pub(super) fn was_closed(descriptor: i32) -> bool {
    usize::try_from(descriptor)
        .ok()
        .and_then(|index| CLOSED.get(index))
        .is_some_and(|closed| closed.load(Ordering::Relaxed))
}
