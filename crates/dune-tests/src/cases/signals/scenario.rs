//! What the scenarios have in common: running in both modes, setting handlers, and noting what these see.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use crate::both;
use crate::case::CaseResult;
pub(super) use crate::probe::set_action as set;

pub(super) type Log = Vec<(&'static str, i64)>;

/// `scenario` logs the same in host mode and in Dune mode.
pub(super) fn same(scenario: fn() -> Log) -> CaseResult {
    both::alike(|notes| scenario().into_iter().for_each(|(what, value)| notes.note(what, value)))
}

pub(super) fn raise(signal: i32) {
    // SAFETY: a signal to this thread.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), signal) };
}

/// The signals from 1 to 64 that are blocked, as bits.
pub(super) fn mask() -> i64 {
    let mut mask = 0u64;
    // SAFETY: the call writes `mask`.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, 0, &mut mask, 8) };
    mask as i64
}

pub(super) fn block(how: i32, signals: &[i32]) {
    let bits = signals.iter().fold(0u64, |bits, signal| bits | 1 << (signal - 1));
    // SAFETY: the call reads `bits`.
    assert_eq!(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, &bits, 0, 8) }, 0);
}

/// What handlers noted.
static SEEN: [AtomicI64; 64] = [const { AtomicI64::new(0) }; 64];
static COUNT: AtomicUsize = AtomicUsize::new(0);

pub(super) fn note(value: i64) {
    let index = COUNT.fetch_add(1, Ordering::Relaxed);
    if let Some(slot) = SEEN.get(index) {
        slot.store(value, Ordering::Relaxed);
    }
}

/// How often they did.
pub(super) fn notes() -> usize {
    COUNT.load(Ordering::Relaxed)
}

/// What they noted since the last time.
pub(super) fn noted(what: &'static str) -> Log {
    let count = COUNT.swap(0, Ordering::Relaxed);
    let mut log = vec![(what, count as i64)];
    log.extend(SEEN.iter().take(count).map(|slot| (what, slot.swap(0, Ordering::Relaxed))));
    log
}

pub(super) trait Bits {
    fn to_bits(&self) -> u64;
}

impl Bits for libc::sigset_t {
    fn to_bits(&self) -> u64 {
        // SAFETY: the set starts with the word of signals 1 to 64.
        unsafe { (&raw const *self).cast::<u64>().read() }
    }
}

/// Starts a timer that sends SIGALRM after `milliseconds`, then every `period`.
pub(super) fn alarm(milliseconds: i64, period: i64) {
    let time = |ms: i64| libc::timeval { tv_sec: ms / 1000, tv_usec: ms % 1000 * 1000 };
    let timer = libc::itimerval { it_interval: time(period), it_value: time(milliseconds) };
    // SAFETY: the call reads the timer.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, null_mut()) };
}
