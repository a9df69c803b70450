//! What calls cost, by the time-stamp counter, when somebody wants to know.

use std::arch::x86_64::_rdtsc;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set before the program starts, and never cleared.
static IS_ON: AtomicBool = AtomicBool::new(false);

thread_local! {
    static IN_LINUX: Cell<u64> = const { Cell::new(0) };
}

/// From now on [`linux`] measures.
pub(crate) fn switch_on() {
    IS_ON.store(true, Ordering::Relaxed);
}

pub(crate) fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// The time-stamp counter.
pub(crate) fn now() -> u64 {
    // SAFETY: ring 0 may read it, and so may ring 3 before.
    unsafe { _rdtsc() }
}

/// Makes a call of Linux's, whose time counts as Linux's.
#[inline(always)]
pub(super) fn linux(call: impl FnOnce() -> i64) -> i64 {
    if is_on() { measured(call) } else { call() }
}

#[cold]
fn measured(call: impl FnOnce() -> i64) -> i64 {
    let start = now();
    let result = call();
    IN_LINUX.with(|sum| sum.set(sum.get().wrapping_add(now().wrapping_sub(start))));
    result
}

/// How long the thread has been in Linux since it was asked last.
pub(crate) fn take_linux() -> u64 {
    IN_LINUX.with(|sum| sum.replace(0))
}
