//! Accesses that the host loop makes itself, in user mode, in place of one that the engine has failed to make.
//!
//! The engine has Linux fetch a page from kernel mode. Who is told of faults by userfaultfd(2) may be told of those in user mode
//! only (UFFD_USER_MODE_ONLY), or want a signal (UFFD_FEATURE_SIGBUS): Linux refuses the engine then. The same access by an
//! instruction of the host loop waits for the monitor, or brings the signal, as the program's own would.
//!
//! Signals find it by its labels (`host/signal.rs`): a fault ends it with what Linux said, and any other signal without the access.

use core::arch::global_asm;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, Ordering};

use linux_raw_sys::general::{SIGBUS, SIGSEGV};

use crate::arch::atomic::AtomicU64;
use crate::contract::signal_frame::{SignalContext, SignalInfo};
use crate::linux::maps;

/// What came of an access.
pub(super) enum Touched {
    /// It was made.
    Done,
    /// Linux raised this signal.
    Refused(SignalInfo),
    /// A signal came first.
    Interrupted,
}

unsafe extern "C" {
    /// Reads the byte at `address`, or writes it as it is, unless `*pending` is not 0: [`DONE`], [`REFUSED`] with the signal at
    /// `info`, or [`INTERRUPTED`].
    /// ABI: System V, only RAX changes.
    fn dune_touch(address: u64, info: *mut SignalInfo, is_write: u64, pending: *const AtomicU64) -> u64;
    // Places in its code: only their addresses are used.
    static dune_touch_end: u8;
    static dune_touch_refused: u8;
    static dune_touch_interrupted: u8;
}

const DONE: u64 = 0;
const REFUSED: u64 = 1;
const INTERRUPTED: u64 = 2;

global_asm!(
    "    .section .text.dune_touch, \"ax\", @progbits",
    "    .globl dune_touch",
    "    .hidden dune_touch",
    "    .type dune_touch, @function",
    "dune_touch:",
    "    cmp qword ptr [rcx], 0",
    "    jne dune_touch_interrupted",
    "    test rdx, rdx",
    "    jnz 2f",
    "    mov al, byte ptr [rdi]",
    "    jmp dune_touch_end",
    "2:",
    "    lock or byte ptr [rdi], 0",
    "    .globl dune_touch_end",
    "    .hidden dune_touch_end",
    "dune_touch_end:",
    "    mov eax, {DONE}",
    "    ret",
    "    .globl dune_touch_refused",
    "    .hidden dune_touch_refused",
    "dune_touch_refused:",
    "    mov eax, {REFUSED}",
    "    ret",
    "    .globl dune_touch_interrupted",
    "    .hidden dune_touch_interrupted",
    "dune_touch_interrupted:",
    "    mov eax, {INTERRUPTED}",
    "    ret",
    "    .size dune_touch, . - dune_touch",
    "    .text",
    DONE = const DONE,
    REFUSED = const REFUSED,
    INTERRUPTED = const INTERRUPTED,
);

/// Makes an access at `address`, unless a signal is `pending`.
pub(super) fn touch(address: u64, is_write: bool, pending: &AtomicU64) -> Touched {
    let mut info = MaybeUninit::<SignalInfo>::zeroed();
    // SAFETY: the access is one that the program is about to make, and changes nothing; a fault ends it (`refuse`).
    match unsafe { dune_touch(address, info.as_mut_ptr(), is_write.into(), pending) } {
        DONE => Touched::Done,
        // SAFETY: any bytes make one, and Linux's are there.
        REFUSED => Touched::Refused(unsafe { info.assume_init() }),
        _ => Touched::Interrupted,
    }
}

/// Whether code at `rip` is making such an access.
fn is_touching(rip: u64) -> bool {
    (dune_touch as *const () as u64..&raw const dune_touch_end as u64).contains(&rip)
}

/// If `signal` is the answer to such an access: ends the access with it.
pub(super) fn refuse(signal: u32, info: &SignalInfo, registers: &mut SignalContext) -> bool {
    // What another process or thread sends has no positive code (sigaction(2)).
    let is_fault = (signal == SIGSEGV || signal == SIGBUS) && info.code > 0 && is_touching(registers.rip);
    if is_fault {
        // SAFETY: RSI holds the place for it.
        unsafe { (registers.rsi as *mut SignalInfo).write(*info) };
        registers.rip = &raw const dune_touch_refused as u64;
    }
    is_fault
}

/// Where a thread goes on that another signal has interrupted at `rip`: not into an access that may wait for long.
pub(super) fn after_signal(rip: u64) -> u64 {
    if is_touching(rip) { &raw const dune_touch_interrupted as u64 } else { rip }
}

/// Whether somebody is told of faults at `address` by userfaultfd(2). Once that was so, it is said of all addresses.
pub(super) fn may_be_watched(address: u64) -> bool {
    static HAS_BEEN: AtomicBool = AtomicBool::new(false);
    if HAS_BEEN.load(Ordering::Relaxed) {
        return true;
    }
    // VmFlags of proc_pid_smaps(5): missing pages, protected ones, minor faults.
    let is_watched = maps::has_flag(address, &[b"um", b"uw", b"ui"]).unwrap_or(false);
    if is_watched {
        HAS_BEEN.store(true, Ordering::Relaxed);
    }
    is_watched
}
