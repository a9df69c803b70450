//! What a thread's counters are made of.

/// Counters of one thread, in its block. Ring 0 and its host loop write them in turn, never at the same time.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct ThreadCounters {
    pub traps: [u64; 256],
    pub intercepted_syscalls: u64,
    pub forwarded_syscalls: u64,
    pub other_requests: u64,
    pub interrupted: u64,
    pub interrupt_windows: u64,
}

impl ThreadCounters {
    pub(crate) const fn new() -> ThreadCounters {
        ThreadCounters {
            traps: [0; 256],
            intercepted_syscalls: 0,
            forwarded_syscalls: 0,
            other_requests: 0,
            interrupted: 0,
            interrupt_windows: 0,
        }
    }
}
