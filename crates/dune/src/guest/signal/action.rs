//! What the program wants done with each signal: rt_sigaction(2).
//!
//! Linux knows a handler of ours in place of each of the program's (`host/signal.rs`). The table here has the
//! program's; default and ignore are Linux's business alone.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use linux_raw_sys::errno::{EFAULT, EINVAL};
use linux_raw_sys::general::{
    __NR_rt_sigaction, SA_EXPOSE_TAGBITS, SA_NOCLDSTOP, SA_NOCLDWAIT, SA_NODEFER, SA_ONSTACK, SA_RESETHAND,
    SA_RESTART, SA_RESTORER, SA_SIGINFO, SIGKILL, SIGSTOP,
};

use crate::contract::block;
use crate::contract::request::forward;
use crate::contract::signal_queue::{Action, DEFAULT};
use crate::guest::copy;
use crate::guest::syscall::error;
use crate::host::signal;
use crate::lock::{Guard, SpinLock};

/// `UAPI_SA_FLAGS`.
const KNOWN_FLAGS: u64 = (SA_NOCLDSTOP
    | SA_NOCLDWAIT
    | SA_SIGINFO
    | SA_ONSTACK
    | SA_RESTART
    | SA_NODEFER
    | SA_RESETHAND
    | SA_EXPOSE_TAGBITS
    | SA_RESTORER) as u64;
/// SIGKILL and SIGSTOP.
const UNBLOCKABLE: u64 = 1 << (SIGKILL - 1) | 1 << (SIGSTOP - 1);

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

/// The calling thread's action for `signal`. A child that shares its parent's memory has a table of its own with Linux, and
/// not here.
pub(super) fn of_caller(signal: u32) -> Action {
    // SAFETY: ring 0; the block is this thread's own.
    if !unsafe { (*block::current()).is_lent } {
        return get(signal);
    }
    known_to_linux(signal)
}

/// The program's action for `signal` as Linux has it.
fn known_to_linux(signal: u32) -> Action {
    let mut known = Action::default();
    forward(__NR_rt_sigaction, &[signal.into(), 0, (&raw mut known) as u64, 8, 0, 0]);
    signal::as_the_programs(signal, &known)
}

/// Whether threads have left Dune mode for good while others were in it.
static HAS_LEAVERS: AtomicBool = AtomicBool::new(false);

/// A thread has left Dune mode for good: what it tells Linux is not seen here.
pub(crate) fn expect_leavers() {
    HAS_LEAVERS.store(true, Ordering::Relaxed);
}

/// The calling thread's action for its own fault. Threads in host mode may have set one that this table does not know.
pub(super) fn of_fault(signal: u32) -> Action {
    let action = of_caller(signal);
    let is_known = action.has_handler() && !HAS_LEAVERS.load(Ordering::Relaxed);
    // SAFETY: ring 0; the block is this thread's own.
    if is_known || unsafe { (*block::current()).is_lent } {
        return action;
    }
    let _changes = hold();
    let known = known_to_linux(signal);
    if known.has_handler() {
        set(signal, &known);
        let told = signal::as_told_to_linux(&known);
        forward(__NR_rt_sigaction, &[signal.into(), (&raw const told) as u64, 0, 8, 0, 0]);
    }
    known
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
static CHANGES: SpinLock<()> = SpinLock::new(());

/// Keeps other threads from changing actions; `None` if one of them has been about it for seconds.
pub(crate) fn hold() -> Option<Guard<'static, ()>> {
    CHANGES.lock().ok()
}

/// In the child of a fork: frees what a thread of its parent has held, which `is_gone`.
pub(crate) fn free_if(is_gone: impl Fn(u64) -> bool) {
    CHANGES.free_if(is_gone);
}

/// rt_sigaction(2).
pub(super) fn system_call(arguments: &[u64; 6]) -> u64 {
    let [number, new, old, set_size, ..] = *arguments;
    let signal = number as u32;
    if set_size != 8 || signal == 0 || signal > SIGNALS {
        return error(EINVAL);
    }
    // SAFETY: ring 0; the block is this thread's own.
    let is_lent = unsafe { (*block::current()).is_lent };
    let _changes = if is_lent { None } else { hold() };
    let before = of_caller(signal);
    let set = |action: &Action| {
        if !is_lent {
            set(signal, action);
        }
    };
    if new != 0 {
        // SAFETY: any bytes make an action.
        let Ok(mut action) = (unsafe { copy::from_program::<Action>(new) }) else { return error(EFAULT) };
        // As Linux keeps it (`do_sigaction`).
        action.flags &= KNOWN_FLAGS;
        action.mask &= !UNBLOCKABLE;
        let told = signal::as_told_to_linux(&action);
        // The table first: Linux may deliver the signal before this thread goes on.
        set(&action);
        let result = forward(__NR_rt_sigaction, &[number, (&raw const told) as u64, 0, 8, 0, 0]);
        if result != 0 {
            set(&before);
            return result;
        }
    }
    // SAFETY: the program wants the old action there.
    if old != 0 && unsafe { copy::to_program(old, &before) }.is_err() {
        return error(EFAULT);
    }
    0
}
