//! How many flushes the process has executed, for its counters.

use core::sync::atomic::{AtomicU64, Ordering};

use super::tlb::FlushKind;

pub(crate) static PAGE_FLUSHES: AtomicU64 = AtomicU64::new(0);
pub(crate) static CONTEXT_FLUSHES: AtomicU64 = AtomicU64::new(0);
pub(crate) static FULL_FLUSHES: AtomicU64 = AtomicU64::new(0);

/// Counts `n` flushes of `kind`.
#[inline]
pub(crate) fn add(kind: FlushKind, n: u64) {
    let counter = match kind {
        FlushKind::Page => &PAGE_FLUSHES,
        FlushKind::Pcid => &CONTEXT_FLUSHES,
        FlushKind::All => &FULL_FLUSHES,
    };
    // A lost count under contention is cheaper than a locked instruction in each flush.
    counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
}
