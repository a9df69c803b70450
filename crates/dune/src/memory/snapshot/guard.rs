//! Guards: a range of which the first write to each page is noticed, made and pushed down a table at a time.
//!
//! The CPU lets nobody write below an entry without the write bit, at any level. So a handful of upper entries guard a range of any
//! size at once. The first write below one of them moves the guard down: the 512 entries below get it each, and the
//! upper one lets writes through again. At the lowest level the guard is off when the page has been written to.
//!
//! Guards are on memory that a [`Region`](super::Region) has for itself, from one multiple of 2 MiB to another, so that no table of 4 KiB pages
//! holds anything else.

use x86_64::PhysAddr;

use crate::arch::page::{Level, PageRange};
use crate::memory::entry::{Entry, Table};
use crate::memory::frames::FrameAllocator;
use crate::memory::reshape::divide;
use crate::memory::table::{part_end, table_at};

/// A walk through tables whose lock the caller holds, or the code that it has interrupted.
#[derive(Clone, Copy)]
pub(super) struct Guards<'m> {
    pub frames: &'m FrameAllocator,
    pub root: PhysAddr,
}

/// What a page is before it is written to.
pub(super) enum Page<'m> {
    /// Writable.
    Open,
    /// Guarded, by this entry of this table of 4 KiB pages alone.
    Guarded(&'m Table, usize),
    /// Not writable, or not there.
    Closed,
    /// Part of a large one of this level, guarded, for which there was no table to divide it.
    Undivided(&'m Table, Level),
}

/// An entry, guarded: a leaf only if it is writable, since a guard gives that right back.
fn guarded(entry: Entry, level: Level) -> Entry {
    if entry.is_empty() || entry.is_leaf(level) && !entry.is_writable() { entry } else { entry.guarded() }
}

impl<'m> Guards<'m> {
    fn table(self, address: u64) -> &'m Table {
        table_at(self.frames, self.frames.offset(), address)
    }

    /// Guards all of `range`.
    pub fn guard(self, range: PageRange) {
        self.guard_below(self.table(self.root.as_u64()), Level::ROOT, (range.first(), range.end()));
    }

    /// Takes all guards of `range` away, and the marks of entries above leaves; the pages are the mirror's again.
    pub fn unguard(self, range: PageRange) {
        self.unguard_below(self.table(self.root.as_u64()), Level::ROOT, (range.first(), range.end()));
    }

    /// Guards each part by an entry of the highest level of which all is meant.
    fn guard_below(self, table: &Table, level: Level, (mut at, end): (u64, u64)) {
        while at < end {
            let part = part_end(level, at, end);
            let index = level.index(at);
            let entry = table.get(index);
            if entry.is_empty() {
            } else if part - at == level.span() || entry.is_leaf(level) {
                table.update(index, |entry| guarded(entry, level));
            } else {
                self.guard_below(self.table(entry.table_address()), level.below(), (at, part));
            }
            at = part;
        }
    }

    fn unguard_below(self, table: &Table, level: Level, (mut at, end): (u64, u64)) {
        while at < end {
            let part = part_end(level, at, end);
            let index = level.index(at);
            let entry = table.get(index);
            if entry.is_empty() {
            } else if entry.is_leaf(level) {
                table.update(index, |entry| entry.unguarded().edited(Entry::OWNED, 0));
            } else {
                if part - at == level.span() && entry.is_guarded() {
                    table.update(index, Entry::unguarded);
                }
                self.unguard_below(self.table(entry.table_address()), level.below(), (at, part));
            }
            at = part;
        }
    }

    /// Marks the entries above the tables of 4 KiB pages of `range`: the shortest ways of edits pass them by.
    pub fn mark(self, range: PageRange) {
        let mut at = range.first();
        while at < range.end() {
            let (level, table, entry) = self.above_pages(at);
            if level.0 == 2 && !entry.is_empty() && !entry.is_leaf(level) {
                table.update(level.index(at), Entry::above_guarded);
            }
            at = part_end(level, at, range.end());
        }
    }

    /// The entry of level 2 for `address`, or the one of a higher level that has no table.
    fn above_pages(self, address: u64) -> (Level, &'m Table, Entry) {
        let (mut level, mut table) = (Level::ROOT, self.table(self.root.as_u64()));
        loop {
            let entry = table.get(level.index(address));
            if level.0 == 2 || entry.is_empty() || entry.is_leaf(level) {
                return (level, table, entry);
            }
            (level, table) = (level.below(), self.table(entry.table_address()));
        }
    }

    /// Pushes the guards above the page at `address` down to that page alone. `new_table` gives empty tables.
    pub fn descend(self, address: u64, mut new_table: impl FnMut() -> Option<PhysAddr>) -> Page<'m> {
        let (mut level, mut table) = (Level::ROOT, self.table(self.root.as_u64()));
        loop {
            let index = level.index(address);
            let entry = table.get(index);
            if entry.is_empty() {
                return Page::Closed;
            }
            if entry.is_leaf(level) && !entry.is_guarded() {
                return if entry.is_writable() { Page::Open } else { Page::Closed };
            }
            if level.0 == 1 {
                return Page::Guarded(table, index);
            }
            if entry.is_leaf(level) {
                // What its pages inherit is the guard, too.
                let Some(below) = new_table() else { return Page::Undivided(table, level) };
                divide((table, index), level, false, (below, self.table(below.as_u64())));
            }
            let child = self.table(table.get(index).table_address());
            if !table.get(index).is_writable() {
                let below = level.below();
                for index in 0..512 {
                    child.update(index, |entry| guarded(entry, below));
                }
            }
            let mark = |entry: Entry| if level.0 == 2 { entry.above_guarded() } else { entry };
            table.update(index, |entry| mark(entry.lifted()));
            (level, table) = (level.below(), child);
        }
    }
}
