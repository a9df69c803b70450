//! Time limits: timers of Linux's (timer_create(2)) that bring a thread out of ring 3.
//!
//! A timer sends its signal to the thread that set it. Is Dune mode running, the signal interrupts the engine; if not, the next
//! run is interrupted at once. Ring 0 then takes the interrupt of signals, in ring 3 as a trap, which is where
//! [`run_user_until`](crate::Dune::run_user_until) looks at its limit. The timer goes on to fire every few milliseconds, since the
//! first time may be between the look and ring 3.
//!
//! The signal is the first of those that C libraries keep for themselves, and do not let programs block. With Linux's own
//! `si_code` for timers and the name of a limit that is set, it is this module's; any other is the program's as before.

use core::mem::offset_of;

use linux_raw_sys::general::{
    __NR_rt_sigprocmask, __NR_timer_create, __NR_timer_delete, __NR_timer_settime, CLOCK_MONOTONIC,
    SIG_BLOCK, SIG_UNBLOCK, SIGEV_THREAD_ID,
};

use super::signal;
use crate::contract::block::ThreadBlock;
use crate::contract::signal_frame::SignalInfo;
use crate::linux::sys;

/// SIGCANCEL of glibc, SIGTIMER of musl.
pub(super) const SIGNAL: u32 = 32;
/// `SI_TIMER`.
const FROM_TIMER: i32 = -2;
/// The upper half of what timers of this module carry, the lower half is the limit's name.
const MARK: u64 = 0xd0e5_7130 << 32;
/// How often a timer fires when its time is over.
const INTERVAL: Time = Time { seconds: 0, nanoseconds: 5_000_000 };

/// `struct sigevent`.
#[repr(C)]
struct SignalEvent {
    value: u64,
    signal: u32,
    notify: u32,
    thread: u32,
    rest: [u32; 11],
}
const _: () = assert!(size_of::<SignalEvent>() == 64 && offset_of!(SignalEvent, thread) == 16);

/// `struct timespec`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Time {
    seconds: u64,
    nanoseconds: u64,
}

/// `struct itimerspec`.
#[repr(C)]
struct TimerTimes {
    interval: Time,
    first: Time,
}

/// Starts the timer of the limit `name` that fires in so many `nanoseconds`: its number, or the negative error number. Bit 32 is
/// set if the program has the signal blocked, which it is not any more.
pub(super) fn start(nanoseconds: u64, name: u64) -> u64 {
    signal::take_over(SIGNAL);
    let event = SignalEvent {
        value: MARK | name & 0xffff_ffff,
        signal: SIGNAL,
        notify: SIGEV_THREAD_ID,
        thread: sys::thread_id(),
        rest: [0; 11],
    };
    let mut timer = 0i32;
    let (address, number) = ((&raw const event) as u64, (&raw mut timer) as u64);
    // SAFETY: the call reads `event` and writes `timer`.
    let result = unsafe { sys::raw(__NR_timer_create, [CLOCK_MONOTONIC.into(), address, number, 0, 0, 0]) };
    if sys::result(result).is_err() {
        return result;
    }
    let nanoseconds = nanoseconds.max(1);
    const SECOND: u64 = 1_000_000_000;
    let first = Time { seconds: nanoseconds / SECOND, nanoseconds: nanoseconds % SECOND };
    let times = TimerTimes { interval: INTERVAL, first };
    // SAFETY: the call reads `times`.
    let set = unsafe { sys::raw(__NR_timer_settime, [timer as u64, 0, (&raw const times) as u64, 0, 0, 0]) };
    if sys::result(set).is_err() {
        stop(timer as u64);
        return set;
    }
    let was_blocked = change_mask(SIG_UNBLOCK) >> (SIGNAL - 1) & 1;
    timer as u64 | was_blocked << 32
}

/// Ends what [`start`] has given.
pub(super) fn stop(timer: u64) {
    // SAFETY: a timer of this process's, named by its number alone.
    let _ = unsafe { sys::raw(__NR_timer_delete, [timer & 0xffff_ffff, 0, 0, 0, 0, 0]) };
    if timer >> 32 != 0 {
        change_mask(SIG_BLOCK);
    }
}

/// Blocks the signal, or does not any more; the mask before.
fn change_mask(how: u32) -> u64 {
    let (mask, mut before) = (1u64 << (SIGNAL - 1), 0u64);
    let (new, old) = ((&raw const mask) as u64, (&raw mut before) as u64);
    // SAFETY: the call reads `mask` and writes `before`.
    let _ = unsafe { sys::raw(__NR_rt_sigprocmask, [how.into(), new, old, 8, 0, 0]) };
    before
}

/// Whether the signal is one of a timer of this module's.
pub(super) fn is_ours(signal: u32, info: &SignalInfo) -> bool {
    signal == SIGNAL && info.code == FROM_TIMER && info.fields[1] & !0xffff_ffff == MARK
}

/// Notes that the timer of [`is_ours`] has fired.
pub(super) fn fired(block: &ThreadBlock, info: &SignalInfo) {
    block.time_limits.fire(info.fields[1] & 0xffff_ffff);
}
