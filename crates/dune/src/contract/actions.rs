//! What the program wants done with each signal, and what Linux is told in its place.
//!
//! Linux knows a handler of ours in place of each of the program's (`host/signal.rs`). The table here has the
//! program's; default and ignore are Linux's business alone.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use linux_raw_sys::general::{
    SA_EXPOSE_TAGBITS, SA_NOCLDSTOP, SA_NOCLDWAIT, SA_ONSTACK, SA_RESETHAND, SA_RESTART, SA_RESTORER,
    SA_SIGINFO,
};

use super::signal_queue::{Action, DEFAULT};
use crate::lock::holder::Holder;
use crate::lock::{Guard, Rank, SpinLock};

/// Signals are numbered from 1 to 64.
pub(crate) const SIGNALS: u32 = 64;

/// One action, in words that can be replaced while another thread reads them. Who changes an action while the signal
/// comes gets a mixture of old and new flags at worst.
#[derive(Debug)]
struct Slot {
    handler: AtomicU64,
    flags: AtomicU64,
    restorer: AtomicU64,
    mask: AtomicU64,
}

static ACTIONS: [Slot; SIGNALS as usize] = [const {
    Slot {
        handler: AtomicU64::new(DEFAULT),
        flags: AtomicU64::new(0),
        restorer: AtomicU64::new(0),
        mask: AtomicU64::new(0),
    }
}; SIGNALS as usize];

/// The program's action for `signal`, 1 to 64.
pub(crate) fn get(signal: u32) -> Action {
    let slot = &ACTIONS[signal as usize - 1];
    Action {
        handler: slot.handler.load(Ordering::Acquire),
        flags: slot.flags.load(Ordering::Relaxed),
        restorer: slot.restorer.load(Ordering::Relaxed),
        mask: slot.mask.load(Ordering::Relaxed),
    }
}

/// Sets it.
pub(crate) fn set(signal: u32, action: &Action) {
    let slot = &ACTIONS[signal as usize - 1];
    slot.flags.store(action.flags, Ordering::Relaxed);
    slot.restorer.store(action.restorer, Ordering::Relaxed);
    slot.mask.store(action.mask, Ordering::Relaxed);
    slot.handler.store(action.handler, Ordering::Release);
}

/// Whether threads have left Dune mode for good while others were in it.
static HAS_LEAVERS: AtomicBool = AtomicBool::new(false);

/// Whether what threads tell Linux may not be seen here.
pub(crate) fn has_leavers() -> bool {
    HAS_LEAVERS.load(Ordering::Relaxed)
}

/// A thread has left Dune mode for good: what it tells Linux is not seen here.
pub(crate) fn expect_leavers() {
    HAS_LEAVERS.store(true, Ordering::Relaxed);
}

/// In a child that Linux has taken all handlers from (CLONE_CLEAR_SIGHAND of clone3(2)); what is ignored stays so.
pub(crate) fn clear_handlers() {
    for signal in (1..=SIGNALS).filter(|&signal| get(signal).has_handler()) {
        set(signal, &Action::default());
    }
}

/// Sets `seen` to the default action, unless another thread has set another handler since.
pub(crate) fn reset(signal: u32, seen: &Action) {
    let slot = &ACTIONS[signal as usize - 1];
    let _ = slot.handler.compare_exchange(seen.handler, DEFAULT, Ordering::AcqRel, Ordering::Relaxed);
}

/// Held while this table and Linux's are changed: another thread must not bring them apart.
static CHANGES: SpinLock<()> = SpinLock::new(Rank::Actions, ());

/// Keeps other threads from changing actions; `None` if the interrupted code of this thread is about it.
pub(crate) fn hold() -> Option<Guard<'static, ()>> {
    CHANGES.lock_without_limit().ok()
}

/// In the child of a fork: frees what a thread of its parent has held, which `is_gone`.
pub(crate) fn free_if(is_gone: impl Fn(Holder) -> bool) {
    CHANGES.free_if(is_gone);
}

unsafe extern "C" {
    /// The handler that Linux knows, of the host side: not to be called from here.
    static dune_signal_handler: u8;
    /// Where it returns to.
    /// ABI: the stack pointer is at the rest of the kernel's frame.
    static dune_restorer: u8;
}

/// What Linux is told in place of the program's `action`.
pub(crate) fn as_told_to_linux(action: &Action) -> Action {
    /// What concerns Linux: which events are signals, the stack in host mode, and what becomes of system calls.
    const KEPT: u32 =
        SA_NOCLDSTOP | SA_NOCLDWAIT | SA_ONSTACK | SA_RESTART | SA_RESETHAND | SA_EXPOSE_TAGBITS;
    if !action.has_handler() {
        return *action;
    }
    Action {
        handler: &raw const dune_signal_handler as u64,
        flags: action.flags & u64::from(KEPT) | u64::from(SA_SIGINFO | SA_RESTORER),
        restorer: &raw const dune_restorer as u64,
        mask: u64::MAX,
    }
}

/// What the program wants done with `signal` if Linux says `known`.
pub(crate) fn as_the_programs(signal: u32, known: &Action) -> Action {
    if is_ours(known) { get(signal) } else { *known }
}

/// Whether Linux has the handler of ours in place of the program's.
pub(crate) fn is_ours(known: &Action) -> bool {
    known.handler == &raw const dune_signal_handler as u64
}
