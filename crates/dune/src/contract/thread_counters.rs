//! What a thread's counters are made of.

use core::cell::Cell;

/// Counters of one thread, in its block. Ring 0 and its host loop write them in turn, never at the same time.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct ThreadCounters {
    pub traps: Cell<[u64; 256]>,
    pub intercepted_syscalls: Cell<u64>,
    pub forwarded_syscalls: Cell<u64>,
    pub other_requests: Cell<u64>,
    pub interrupted: Cell<u64>,
    pub interrupt_windows: Cell<u64>,
}

impl ThreadCounters {
    pub(crate) const fn new() -> ThreadCounters {
        ThreadCounters {
            traps: Cell::new([0; 256]),
            intercepted_syscalls: Cell::new(0),
            forwarded_syscalls: Cell::new(0),
            other_requests: Cell::new(0),
            interrupted: Cell::new(0),
            interrupt_windows: Cell::new(0),
        }
    }
}

/// One more.
#[inline(always)]
pub(crate) fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}
