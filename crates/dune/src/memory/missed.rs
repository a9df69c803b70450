//! What the mirror has missed.

use core::sync::atomic::Ordering;

use crate::arch::atomic::AtomicU64;
use crate::arch::page::PageRange;

/// What edits have missed because the tables were busy or frames were out: a range that holds it all, to be
/// synchronised when there is an occasion.
#[derive(Debug)]
pub(super) struct Missed {
    /// `u64::MAX` for nothing.
    start: AtomicU64,
    /// Only grows.
    end: AtomicU64,
}

impl Missed {
    pub const fn new() -> Missed {
        Missed { start: AtomicU64::new(u64::MAX), end: AtomicU64::new(0) }
    }

    pub fn add(&self, range: PageRange) {
        // The end first: whoever takes the start finds it.
        self.end.fetch_max(range.end(), Ordering::AcqRel);
        self.start.fetch_min(range.first(), Ordering::AcqRel);
    }

    /// Whether there is anything to [`take`](Self::take).
    #[inline]
    pub fn is_any(&self) -> bool {
        self.start.load(Ordering::Relaxed) != u64::MAX
    }

    #[inline]
    pub fn take(&self) -> Option<PageRange> {
        if !self.is_any() {
            return None;
        }
        let start = self.start.swap(u64::MAX, Ordering::AcqRel);
        let end = self.end.load(Ordering::Acquire);
        (start < end).then(|| PageRange::known(start, end))
    }
}
