//! Time limits for ring 3, as ring 0 and the host side know them: who has set one, and whether its time is over.
//!
//! The host side only comes between two instructions of ring 0 on the same thread.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// So many limits may be set in a thread at once: one inside of another.
pub(crate) const MOST: usize = 4;
/// A name is greater than 0, and by 1 at most than this.
const NAME: u64 = 0x7fff_ffff;

/// The limits of one thread, in its block.
#[derive(Debug)]
pub(crate) struct TimeLimits {
    /// The names of those that are set, 0 for none. A name is not used again for long.
    names: [AtomicU64; MOST],
    is_over: [AtomicBool; MOST],
    last: AtomicU64,
    /// A timer has fired, and ring 0 has not been told.
    is_news: AtomicBool,
}

impl TimeLimits {
    pub(crate) const fn new() -> TimeLimits {
        TimeLimits {
            names: [const { AtomicU64::new(0) }; MOST],
            is_over: [const { AtomicBool::new(false) }; MOST],
            last: AtomicU64::new(0),
            is_news: AtomicBool::new(false),
        }
    }

    /// Ring 0: a place and a name for a new limit; `None` if all places are taken.
    pub(crate) fn set(&self) -> Option<(usize, u64)> {
        let place = self.names.iter().position(|name| name.load(Ordering::Relaxed) == 0)?;
        let name = (self.last.fetch_add(1, Ordering::Relaxed) & NAME) + 1;
        self.is_over[place].store(false, Ordering::Relaxed);
        self.names[place].store(name, Ordering::Release);
        Some((place, name))
    }

    /// Ring 0: there is no limit `name` at `place` any more. False if there was none: it was the parent's, before a fork.
    pub(crate) fn clear(&self, place: usize, name: u64) -> bool {
        self.names[place].compare_exchange(name, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Host side: in the child of a fork, which inherits no timers.
    pub(crate) fn forget(&self) {
        self.names.iter().for_each(|name| name.store(0, Ordering::Release));
    }

    /// Ring 0: whether the time of the limit at `place` is over.
    #[inline]
    pub(crate) fn is_over(&self, place: usize) -> bool {
        self.is_over[place].load(Ordering::Acquire)
    }

    /// Host side: the timer of the limit `name` has fired. One that is not set any more is nobody's.
    pub(crate) fn fire(&self, name: u64) {
        if let Some(place) =
            self.names.iter().position(|set| set.load(Ordering::Acquire) == name && name != 0)
        {
            self.is_over[place].store(true, Ordering::Release);
            self.is_news.store(true, Ordering::Release);
        }
    }

    /// Host side: whether one has fired since the last time.
    pub(crate) fn take_news(&self) -> bool {
        self.is_news.load(Ordering::Relaxed) && self.is_news.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_timer_does_not_end_the_next_limit() {
        let limits = TimeLimits::new();
        let (place, first) = limits.set().unwrap();
        assert!(limits.clear(place, first) && !limits.clear(place, first));
        let (again, second) = limits.set().unwrap();
        assert_eq!(place, again);
        limits.fire(first);
        limits.fire(0);
        assert!(!limits.is_over(place) && !limits.take_news());
        limits.fire(second);
        assert!(limits.is_over(place) && limits.take_news() && !limits.take_news());
        while limits.set().is_some() {}
        assert!((0..MOST).all(|other| other == place || !limits.is_over(other)));
    }
}
