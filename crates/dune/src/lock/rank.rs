//! The order in which a thread takes locks.

use core::fmt;

/// The locks by rank: a thread that waits for one as long as it takes holds none of the same or a higher rank. The table is in the
/// [module](super).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Rank {
    /// `guest/signal/action.rs`.
    Actions,
    /// `host/process.rs`.
    Births,
    /// `guest/range_handlers.rs`.
    Handlers,
    /// `memory/turns.rs`.
    Calls,
    /// `memory/window.rs`.
    Windows,
    /// `memory/streams.rs`.
    Streams,
    /// `memory/mod.rs`.
    Edits,
    /// `memory/frames/mod.rs`.
    Frames,
}

impl Rank {
    /// Whether the program itself may hold it for as long as it likes: it has a `PageTables`. Then nobody can say in what order
    /// it is taken, and nobody waits for it without a limit.
    #[cfg(debug_assertions)]
    pub const fn may_be_the_programs(self) -> bool {
        matches!(self, Rank::Edits)
    }
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rank::Actions => "signal actions",
            Rank::Births => "threads that are made",
            Rank::Handlers => "handlers of ranges",
            Rank::Calls => "memory calls",
            Rank::Windows => "windows",
            Rank::Streams => "streams",
            Rank::Edits => "page tables",
            Rank::Frames => "frames",
        })
    }
}

/// What a thread holds, in debug builds; in release builds nothing happens.
pub(crate) mod held {
    use super::Rank;
    use crate::lock::holder::Holder;

    /// `caller` has taken a lock.
    #[inline(always)]
    pub fn add(caller: Holder, rank: Rank) {
        #[cfg(debug_assertions)]
        if let Some(ranks) = caller.ranks()
            && !rank.may_be_the_programs()
        {
            let before = ranks.fetch_or(1 << rank as u32, core::sync::atomic::Ordering::Relaxed);
            let above = before >> rank as u32;
            assert!(above == 0, "the lock of {rank} is taken by a thread that holds others, {before:#b}");
        }
        let _ = (caller, rank);
    }

    /// `holder` gives a lock back.
    #[inline(always)]
    pub fn remove(holder: Holder, rank: Rank) {
        #[cfg(debug_assertions)]
        if let Some(ranks) = holder.ranks() {
            ranks.fetch_and(!(1 << rank as u32), core::sync::atomic::Ordering::Relaxed);
        }
        let _ = (holder, rank);
    }

    /// Holds nothing while it lives, for a handler, whose locks come in any order after those of the code that it has interrupted:
    /// it takes them with a limit only.
    #[must_use]
    pub struct Interrupted {
        #[cfg(debug_assertions)]
        before: Option<(Holder, u32)>,
    }

    /// A handler begins.
    #[inline(always)]
    pub fn interrupt() -> Interrupted {
        Interrupted {
            #[cfg(debug_assertions)]
            before: {
                let caller = Holder::caller();
                let swap = |ranks: &core::sync::atomic::AtomicU32| {
                    ranks.swap(0, core::sync::atomic::Ordering::Relaxed)
                };
                caller.ranks().map(|ranks| (caller, swap(ranks)))
            },
        }
    }

    #[cfg(debug_assertions)]
    impl Drop for Interrupted {
        fn drop(&mut self) {
            if let Some((holder, before)) = self.before
                && let Some(ranks) = holder.ranks()
            {
                ranks.store(before, core::sync::atomic::Ordering::Relaxed);
            }
        }
    }
}
