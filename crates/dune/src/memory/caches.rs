//! What the translation caches of a vCPU may hold about which address space.
//!
//! Each thread in Dune mode has a vCPU of its own, and its block has this for it. A space's translations stay in the caches when
//! another is loaded, and are right still if nobody has edited its tables meanwhile. What makes it sound:
//!
//! * An edit that is flushed ([`Flush::now`](super::Flush::now)) is flushed on the other vCPUs for all their spaces
//!   (`shootdown.rs`: the engine empties their caches).
//! * On the vCPU that flushes itself, it is flushed for the space in use only. Each edit counts, and a load compares the counts.
//! * Who edits while others load counts again after the edit, or flushes them.
//! * Who edits after a load, with tables that it took before, has counted too early: such a load remembers nothing.
//! * A vCPU that changes hands comes with a new block, which knows nothing.

use core::cell::Cell;

use super::tlb::{Cached, Pcid};
use crate::arch::thread_words;
use crate::arch::token::Dune;

/// Of how many further spaces a vCPU's caches are known: of more than these the last ones that were loaded. (Linux tells six apart.)
const TAGS: usize = 16;

/// No count of edits.
const UNKNOWN: u64 = u64::MAX;

/// The state of a space when its translations in the caches were right.
#[derive(Debug)]
struct Seen {
    /// Its [number](Identity::number), and how often it had been edited.
    space: Cell<u64>,
    edits: Cell<u64>,
}

/// An address space as the caches tell it from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The tag of its translations, which another space has had before and will have afterwards.
    pub pcid: Pcid,
    /// A number that no other space ever has.
    pub number: u64,
}

/// What the caches of one vCPU hold. For the thread whose vCPU it is.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct VcpuCaches {
    /// A space that is not the process's own is in use.
    is_away: Cell<bool>,
    own: Cell<u64>,
    others: [Seen; TAGS],
}

impl VcpuCaches {
    /// Those of a vCPU of which nothing is known.
    pub const fn new() -> VcpuCaches {
        let others = [const { Seen { space: Cell::new(0), edits: Cell::new(UNKNOWN) } }; TAGS];
        VcpuCaches { is_away: Cell::new(false), own: Cell::new(UNKNOWN), others }
    }

    /// Those of the calling thread's vCPU.
    #[inline]
    pub fn of(_: Dune) -> &'static VcpuCaches {
        // SAFETY: 1. ring 0, by the token; 2. the field is at that place in the thread's block (`contract/mod.rs`), which lives as long
        // as the thread is in Dune mode; 3. it stays on this thread, for cells are not `Sync`, nor is the token `Send`.
        unsafe { &*((thread_words::block() + thread_words::CACHES as u64) as *const VcpuCaches) }
    }

    /// Whether a space that is not the process's own is in use.
    #[inline]
    pub fn is_away(&self) -> bool {
        self.is_away.get()
    }

    /// Notes that a space is being loaded that is not the process's own.
    #[inline]
    pub fn go_away(&self) {
        self.is_away.set(true);
    }

    /// What becomes of the translations of `space`, which is being loaded and has been edited `edits` times. If this thread holds
    /// tables, which it may edit after this, they have to be forgotten next time, too.
    #[inline]
    pub fn load(&self, space: Identity, edits: u64, holds_tables: bool) -> Cached {
        let seen = &self.others[usize::from(space.pcid.get()) % TAGS];
        let is_known = seen.space.replace(space.number) == space.number;
        let old = seen.edits.replace(if holds_tables { UNKNOWN } else { edits });
        if is_known && old == edits && !holds_tables { Cached::Keep } else { Cached::Flush }
    }

    /// As [`load`](Self::load), for the process's own space, which has been edited `edits` times by threads in other spaces.
    #[inline]
    pub fn load_own(&self, edits: u64, holds_tables: bool) -> Cached {
        self.is_away.set(false);
        let old = self.own.replace(if holds_tables { UNKNOWN } else { edits });
        if old == edits && !holds_tables { Cached::Keep } else { Cached::Flush }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(pcid: u16, number: u64) -> Identity {
        Identity { pcid: Pcid::new(pcid).unwrap(), number }
    }

    #[test]
    fn translations_are_kept_only_while_right() {
        let caches = VcpuCaches::new();
        let (first, second) = (space(1, 1), space(2, 2));
        assert_eq!(caches.load(first, 0, false), Cached::Flush, "nothing is known at first");
        assert_eq!(caches.load(second, 0, false), Cached::Flush);
        assert_eq!(caches.load(first, 0, false), Cached::Keep);
        assert_eq!(caches.load(first, 1, false), Cached::Flush, "it was edited");
        assert_eq!(caches.load(first, 1, false), Cached::Keep);
        assert_eq!(caches.load(second, 0, false), Cached::Keep);
        assert_eq!(VcpuCaches::new().load(first, 1, false), Cached::Flush, "that is another vCPU");
    }

    #[test]
    fn tags_change_hands() {
        let caches = VcpuCaches::new();
        assert_eq!(caches.load(space(1, 1), 0, false), Cached::Flush);
        assert_eq!(caches.load(space(1, 2), 0, false), Cached::Flush, "the PCID's next space");
        let far = 1 + TAGS as u16;
        assert_eq!(
            caches.load(space(far, 3), 0, false),
            Cached::Flush,
            "another PCID, in the same place here"
        );
        assert_eq!(caches.load(space(1, 2), 0, false), Cached::Flush, "as far as is known");
        assert_eq!(caches.load(space(1, 2), 0, false), Cached::Keep);
    }

    #[test]
    fn tables_that_are_held_over_a_load_may_be_edited_after_it() {
        let caches = VcpuCaches::new();
        let space = space(1, 1);
        assert_eq!(caches.load(space, 1, false), Cached::Flush);
        assert_eq!(caches.load(space, 1, true), Cached::Flush);
        assert_eq!(caches.load(space, 1, false), Cached::Flush, "they may have been");
        assert_eq!(caches.load(space, 1, false), Cached::Keep);
    }

    #[test]
    fn the_own_space_is_kept_while_nobody_edits_it_from_others() {
        let caches = VcpuCaches::new();
        assert!(!caches.is_away());
        assert_eq!(caches.load_own(0, false), Cached::Flush, "nothing is known at first");
        caches.go_away();
        assert!(caches.is_away());
        assert_eq!(caches.load_own(0, false), Cached::Keep);
        assert!(!caches.is_away());
        assert_eq!(caches.load_own(1, false), Cached::Flush);
        assert_eq!(caches.load_own(1, true), Cached::Flush);
        assert_eq!(caches.load_own(1, false), Cached::Flush);
        assert_eq!(caches.load_own(1, false), Cached::Keep);
    }
}
