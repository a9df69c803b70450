//! Signals on their way: the host loop has taken them from Linux, ring 0 has not yet made them frames.
//!
//! Both sides belong to one Linux thread, so they never run at the same time; the host side may only come between
//! two instructions of ring 0, as an interrupt does.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::Ordering;

use linux_raw_sys::general::{SA_NODEFER, SA_RESETHAND};

use super::signal_frame::SignalInfo;
use crate::arch::atomic::{AtomicBool, AtomicU64};

/// What Linux was told to do with a signal (`struct kernel_sigaction`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Action {
    /// The handler's address, or `SIG_DFL` or `SIG_IGN`.
    pub handler: u64,
    /// `SA_` flags.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// Signals that are blocked while the handler runs.
    pub mask: u64,
}

/// `SIG_DFL`.
pub(crate) const DEFAULT: u64 = 0;
/// `SIG_IGN`.
pub(crate) const IGNORE: u64 = 1;

impl Action {
    /// Whether there is a function to call.
    pub(crate) fn has_handler(&self) -> bool {
        self.handler > IGNORE
    }

    /// The signals that come to be blocked while the handler runs for `signal`.
    pub(crate) fn blocked(&self, signal: u32) -> u64 {
        let own = if self.flags & u64::from(SA_NODEFER) == 0 { 1 << (signal - 1) } else { 0 };
        self.mask | own
    }

    /// Whether the action becomes the default when the handler is called.
    pub(crate) fn is_for_once(&self) -> bool {
        self.flags & u64::from(SA_RESETHAND) != 0
    }
}

/// A signal that the program has not seen yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    pub info: SignalInfo,
    /// What was to be done with it when Linux delivered it.
    pub action: Action,
    /// The thread's signal mask before, which the handler's return brings back.
    pub mask: u64,
    /// The thread's mask while the handler runs.
    pub handler_mask: u64,
}

const CAPACITY: u64 = 8;

/// The signals of one thread, in its block: a ring with one writer, the host side, and one reader, ring 0.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Queue {
    /// Non-zero when there may be something to take. Ring 0's system-call entry looks here.
    pub pending: AtomicU64,
    head: AtomicU64,
    tail: AtomicU64,
    /// The host side has blocked all signals since the queue was full.
    throttled: AtomicBool,
    entries: [UnsafeCell<MaybeUninit<Taken>>; CAPACITY as usize],
}

impl Queue {
    pub(crate) const fn new() -> Queue {
        Queue {
            pending: AtomicU64::new(0),
            head: AtomicU64::new(0),
            tail: AtomicU64::new(0),
            throttled: AtomicBool::new(false),
            entries: [const { UnsafeCell::new(MaybeUninit::uninit()) }; CAPACITY as usize],
        }
    }

    /// Host side: appends a signal. False if that was the last place, and no signal may come before ring 0 has made
    /// room.
    pub(crate) fn push(&self, taken: &Taken) -> bool {
        let tail = self.tail.load(Ordering::Relaxed);
        // SAFETY: the place is free: nobody pushes to a full queue, see `throttled`.
        unsafe { (*self.entries[(tail % CAPACITY) as usize].get()).write(*taken) };
        self.tail.store(tail + 1, Ordering::Release);
        let full = tail + 1 - self.head.load(Ordering::Relaxed) == CAPACITY;
        if full {
            self.throttled.store(true, Ordering::Relaxed);
        }
        self.pending.store(1, Ordering::Release);
        !full
    }

    /// Ring 0: takes the oldest signal.
    pub(crate) fn pop(&self) -> Option<Taken> {
        // First, so that whatever comes from here on is noticed.
        self.pending.store(0, Ordering::SeqCst);
        let head = self.head.load(Ordering::Relaxed);
        if head == self.tail.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: the host side has written the entry, and does not touch it before `head` moves.
        let taken = unsafe { (*self.entries[(head % CAPACITY) as usize].get()).assume_init() };
        self.head.store(head + 1, Ordering::Release);
        Some(taken)
    }

    /// Ring 0: has the handlers of all that wait run with `signals` blocked, which stay so when they have returned. The mask
    /// before the oldest.
    pub(crate) fn block(&self, signals: u64) -> Option<u64> {
        let (head, tail) = (self.head.load(Ordering::Relaxed), self.tail.load(Ordering::Acquire));
        let mut before = None;
        for index in head..tail {
            // SAFETY: the host side has written the entry, and does not touch it before `head` moves.
            let taken = unsafe { (*self.entries[(index % CAPACITY) as usize].get()).assume_init_mut() };
            before = before.or(Some(taken.mask));
            taken.mask |= signals;
            taken.handler_mask |= signals;
        }
        before
    }

    /// Ring 0: whether signals were blocked since the queue was full. They are not any more, says the caller.
    pub(crate) fn end_throttling(&self) -> bool {
        self.throttled.swap(false, Ordering::Relaxed)
    }

    /// Whether there is something to take.
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(signal: i32) -> Taken {
        let info = SignalInfo { signal, errno: 0, code: 0, padding: 0, fields: [0; 14] };
        Taken { info, action: Action::default(), mask: 0, handler_mask: 0 }
    }

    #[test]
    fn signals_come_out_in_order_and_a_full_queue_says_so() {
        let queue = Queue::new();
        for round in 0..3 {
            for signal in 1..=CAPACITY as i32 {
                assert_eq!(queue.push(&taken(signal)), signal < CAPACITY as i32, "round {round}");
            }
            assert!(queue.is_pending());
            for signal in 1..=CAPACITY as i32 {
                assert_eq!(queue.pop().map(|taken| taken.info.signal), Some(signal));
            }
            assert!(queue.pop().is_none());
            assert!(!queue.is_pending());
            assert!(queue.end_throttling());
            assert!(!queue.end_throttling());
        }
    }
}
