//! Tables of trap handlers by vector: the process's, and one in each thread block.
//!
//! An entry is the address of a handler, a value that lives for ever with its code in the first word and its state behind
//! (`guest/handlers.rs`), so that a trap on another thread sees code and state together whenever the entry is replaced. Bit 63 of an
//! entry marks the lean kind, which trap.S tests as the sign; addresses of the process have 47 bits.

use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

/// The first word of a handler: the address of its code.
#[repr(C)]
pub(crate) struct Head(*const ());

/// What a place in a table holds: a handler of either kind, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Entry(*mut Head);

// SAFETY: stands for a `&'static` to a handler, which threads share.
unsafe impl Send for Entry {}
// SAFETY: as above.
unsafe impl Sync for Entry {}

/// Marks an entry of the lean kind.
const LEAN: usize = 1 << 63;

impl Entry {
    /// No handler.
    pub(crate) const NONE: Entry = Entry(null_mut());

    /// The handler at `head`.
    pub(crate) fn full(head: *const Head) -> Entry {
        Entry(head.cast_mut())
    }

    /// The lean handler at `head`.
    pub(crate) fn lean(head: *const Head) -> Entry {
        Entry(head.cast_mut().map_addr(|address| address | LEAN))
    }

    pub(crate) fn is_none(self) -> bool {
        self == Entry::NONE
    }

    pub(crate) fn is_lean(self) -> bool {
        self.0.addr() & LEAN != 0
    }

    /// Where the handler is.
    pub(crate) fn head(self) -> *const Head {
        self.0.map_addr(|address| address & !LEAN)
    }
}

/// A place in a table.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Slot(AtomicPtr<Head>);

const _: () = assert!(size_of::<Slot>() == 8, "trap.S takes the index by eight");

impl Slot {
    /// An empty place.
    pub(crate) const fn new() -> Slot {
        Slot(AtomicPtr::new(null_mut()))
    }

    /// Puts `entry` in place of what is there: who finds it finds all that was written to the handler before.
    pub(crate) fn store(&self, entry: Entry) {
        self.0.store(entry.0, Ordering::SeqCst);
    }

    pub(crate) fn load(&self) -> Entry {
        Entry(self.0.load(Ordering::SeqCst))
    }

    /// Puts `new` in place of `old`, if that is there.
    pub(crate) fn replace(&self, old: Entry, new: Entry) -> bool {
        self.0.compare_exchange(old.0, new.0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_tells_the_kind_and_leads_to_the_handler() {
        let head = Head(core::ptr::null());
        let (full, lean) = (Entry::full(&raw const head), Entry::lean(&raw const head));
        assert!(!full.is_lean() && lean.is_lean());
        assert!([full, lean].iter().all(|entry| entry.head() == &raw const head && !entry.is_none()));
        assert!(Entry::NONE.is_none() && !Entry::NONE.is_lean());
    }

    #[test]
    fn only_what_is_there_is_replaced() {
        let head = Head(core::ptr::null());
        let (slot, entry) = (Slot::new(), Entry::full(&raw const head));
        assert!(slot.replace(Entry::NONE, entry));
        assert!(!slot.replace(Entry::NONE, Entry::NONE));
        assert_eq!(slot.load(), entry);
    }
}
