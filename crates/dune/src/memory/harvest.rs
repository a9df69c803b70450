//! Accessed and dirty marks: which pages the CPU has used, without a single fault.
//!
//! The CPU sets the marks when it caches a translation (accessed) or first writes through one (dirty); a
//! cached translation does not set them again. So after a harvest has cleared them, its flush must be
//! discharged before the next harvest can be relied on (Intel SDM Vol. 3A §4.8).

use x86_64::VirtAddr;

use super::entry::{Entry, Table};
use super::flush::Flush;
use super::table::{Leaf, PageTables, part_end};
use crate::arch::page::{Level, PAGE_BYTES, PageRange, PageSize};

impl<'m> PageTables<'m> {
    /// The pages of `range` that have been written to since their marks were cleared, in ascending order. The marks stay.
    ///
    /// A large page comes whole, also where the range ends within it.
    pub fn dirty_pages(&self, range: PageRange) -> impl Iterator<Item = Leaf> + '_ {
        self.mark_under_way(range);
        let (mut at, end) = (range.first(), range.end());
        core::iter::from_fn(move || {
            while at < end {
                let (level, _, entry) = self.find(at);
                let here = at;
                at = part_end(level, at, end);
                if let Some(size) = level.leaf()
                    && !entry.is_empty()
                    && entry.is_dirty()
                {
                    return Some(Leaf::new(here & !(size.bytes() - 1), level, size, entry));
                }
            }
            None
        })
    }

    /// Gives every page of `range` that has been written to `found`, in ascending order, and clears its mark.
    ///
    /// A large page is given whole, with its size, even where the range ends within it. Holes are skipped. In
    /// an address space that shares tables the marks are shared too. `found` runs under the lock of the
    /// tables.
    pub fn harvest_dirty(&mut self, range: PageRange, found: impl FnMut(VirtAddr, PageSize)) -> Flush<'m> {
        self.mark_under_way(range);
        self.harvest(range, Entry::DIRTY, found)
    }

    /// As [`harvest_dirty`](Self::harvest_dirty), for pages that have been accessed in any way.
    pub fn harvest_accessed(&mut self, range: PageRange, found: impl FnMut(VirtAddr, PageSize)) -> Flush<'m> {
        self.harvest(range, Entry::ACCESSED, found)
    }

    /// Gives every page of `range` that has been written to to `restore`, in ascending order, and clears its mark then: for who makes it
    /// what it was before. (Marks that this sets are cleared, too; a write of another thread's meanwhile is lost.)
    pub(crate) fn restore_dirty(
        &mut self,
        range: PageRange,
        mut restore: impl FnMut(VirtAddr, PageSize),
    ) -> Flush<'m> {
        self.mark_under_way(range);
        let mut flush = Flush::none();
        self.each_marked(range, Entry::DIRTY, |table, index, start, size| {
            restore(VirtAddr::new_truncate(start), size);
            flush.record(start, size, table.update(index, |entry| entry.edited(Entry::DIRTY, 0)));
        });
        flush.owed()
    }

    fn harvest(
        &mut self,
        range: PageRange,
        mark: u64,
        mut found: impl FnMut(VirtAddr, PageSize),
    ) -> Flush<'m> {
        let mut flush = Flush::none();
        self.each_marked(range, mark, |table, index, start, size| {
            flush.record(start, size, table.update(index, |entry| entry.edited(mark, 0)));
            found(VirtAddr::new_truncate(start), size);
        });
        flush.owed()
    }

    /// Visits every page of `range` that has `mark`: the table and index of its entry, its first address, its size.
    fn each_marked(&self, range: PageRange, mark: u64, mut visit: impl FnMut(&Table, usize, u64, PageSize)) {
        let mut at = range.first();
        while at < range.end() {
            // The table of 4 KiB pages, or what decides about more than one of those.
            let (level, table, entry) = self.find(at);
            if level.0 == 1 {
                let end = part_end(Level(2), at, range.end());
                let (first, base) = (level.index(at), at & !(Level(2).span() - 1));
                table.each_marked((first, level.index(end - 1)), mark, |index| {
                    visit(table, index, base + index as u64 * PAGE_BYTES, PageSize::Size4KiB);
                });
                at = end;
                continue;
            }
            if let Some(size) = level.leaf()
                && !entry.is_empty()
                && entry.0 & mark != 0
            {
                visit(table, level.index(at), at & !(size.bytes() - 1), size);
            }
            at = part_end(level, at, range.end());
        }
    }

    /// Marks the pages of `range` as the CPU would on a write, for tests.
    #[cfg(any(test, fuzzing))]
    pub(super) fn mark_dirty(&mut self, range: PageRange) {
        let mark = |entry: Entry| entry.edited(0, Entry::DIRTY | Entry::ACCESSED);
        let mut at = range.first();
        while at < range.end() {
            let (level, table, _) = self.find(at);
            table.update(level.index(at), mark);
            at = part_end(level, at, range.end());
        }
    }
}
