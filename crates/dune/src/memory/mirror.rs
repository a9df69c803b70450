//! The mirror: page tables that say what Linux's mappings say.
//!
//! [`Memory::synchronise`] makes a range of the process's own tables what `/proc/thread-self/maps` says: each mapping is
//! present with its rights, NX where it is not executable, on the largest pages that alignment allows; what is
//! PROT_NONE or not mapped is not present, and needs no tables. The program's system calls keep it true
//! (`guest/memory_calls.rs`) by [`Memory::reflect`], and what they could not know is found by faults
//! (`guest/fault.rs`).
//!
//! # Whose page
//!
//! A page that the program edits through [`PageTables`] (`protect`, `unmap`, `map`, `grant_user`…) is the program's
//! from then on: its entry has the owned mark, also as the hole that `unmap` leaves. Faults do not undo such edits.
//! A system call of the program's that gives the range new mappings or new rights (mmap, munmap, mprotect, mremap,
//! brk, shmat, shmdt) takes the pages back for the mirror; one that fails leaves them.
//!
//! Memory that ring 0 can not do without, not even to take a page fault, is *pinned* ([`PageTables::pin`]): the mirror never
//! touches it. What tells the mirror that there is nothing may be late: by then Linux may have given the addresses of one
//! thread's munmap to another thread's stacks.
//!
//! # Wrong entries
//!
//! Entries may be out of date for a while: another thread may have changed the mappings. That is safe either way.
//! An entry that is missing, or allows too little, is a #PF that `guest/fault.rs` settles. One that is stale, or
//! allows too much, leads to the second level, where Linux has nothing or refuses the write: an access never
//! reaches anything but what Linux has at that address of this process. Only the right to execute is not asked for there
//! again: KVM maps all memory as code. What host mode takes it from keeps it, up to the next edit or entry.

use core::ops::ControlFlow;
use core::sync::atomic::Ordering;

use x86_64::registers::control::Cr3;
use x86_64::{PhysAddr, VirtAddr};

use super::entry::{Entry, Table};
use super::error::EditError;
use super::flush::Flush;
use super::table::PageTables;
use super::walk::{Rule, Slot, Step};
use super::work::Work;
use super::{Memory, MemoryError};
use crate::arch::cpu;
use crate::arch::page::{Level, PAGE_BYTES, PagePermissions, PageRange, PageSize, TASK_SIZE};
use crate::linux::maps;

/// What the page tables of a process in Dune mode say about its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MirrorMode {
    /// Each mapping has the rights it has in Linux, and what is not mapped is not present: an invalid access is a
    /// page fault in Dune mode. The program's memory calls keep the tables true.
    #[default]
    Precise,
    /// All of every window is present, writable and executable; Linux decides what can be accessed, and an access
    /// that it refuses ends the process. There is no upkeep.
    Full,
}

/// What happens to pages that are the program's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// They stay as the program has edited them.
    Respect,
    /// They become the mirror's.
    TakeBack,
}

/// How pages are to be: the permission bits of their leaves, 0 for not present.
#[derive(Clone, Copy)]
struct Wish {
    bits: u64,
    /// The marks of a page that was not there.
    marks: u64,
    ownership: Ownership,
}

impl Wish {
    /// Memory that comes while what Linux writes `is_watched` counts as written.
    fn new(permissions: PagePermissions, ownership: Ownership, is_watched: bool) -> Wish {
        let permissions = permissions.intersection(PagePermissions::ALL);
        let bits = if permissions.is_empty() { 0 } else { Entry::permission_bits(permissions) };
        let marks = if is_watched { Entry::DIRTY | Entry::ACCESSED } else { 0 };
        Wish { bits, marks, ownership }
    }

    /// The entry of `level` on `frame` that replaces `old`. Accessed and dirty marks stay with the frame.
    fn entry(self, old: Entry, frame: u64, level: Level) -> Entry {
        let Some(size) = level.leaf() else { return old };
        // Guarded leaves are owned, but for those that have been another mapping's since.
        let is_own = old.is_owned() || old.is_guarded();
        if old.is_pinned() || (self.ownership == Ownership::Respect && is_own) {
            old
        } else if self.bits == 0 {
            Entry::EMPTY
        } else if !old.is_empty() && old.frame(level) == frame {
            old.with_permissions(self.bits).edited(Entry::OWNED, 0)
        } else {
            Entry::leaf(frame, self.bits | self.marks, size)
        }
    }

    /// What to do with `entry` of `level`, of which the part from `at` on `frame` is meant, `whole` or not.
    fn step(self, entry: Entry, level: Level, (at, frame): (u64, u64), whole: bool, giant: bool) -> Step {
        let leaf = entry.is_leaf(level);
        if !leaf && entry != Entry::EMPTY {
            // A table of the process's own root has been edited there.
            return if entry.is_shared() { Step::Keep } else { Step::Descend };
        }
        let offset = at & (level.span() - 1);
        if self.entry(entry, frame.wrapping_sub(offset), level) == entry {
            return if level.leaf().is_some() || self.bits == 0 { Step::Keep } else { Step::Descend };
        }
        let fits = level.leaf().is_some_and(|size| giant || size != PageSize::Size1GiB);
        if whole && (fits || leaf) { Step::Set } else { Step::Descend }
    }

    /// Makes the pages from `start` to `end`, of one table, what is wished for; the first one's frame is `frame`.
    #[inline]
    fn paint(self, table: &Table, (start, end): (u64, u64), frame: u64, flush: &mut Flush<'_>) {
        let (first, last) = (Level(1).index(start), Level(1).index(end - 1));
        for index in first..=last {
            let offset = (index - first) as u64 * PAGE_BYTES;
            let frame = frame.wrapping_add(offset);
            if self.bits != 0 && table.get(index) == Entry::EMPTY {
                // As mostly: nobody marks it, and nothing of it is cached.
                table.set(index, Entry::leaf(frame, self.bits | self.marks, PageSize::Size4KiB));
                continue;
            }
            let wished = |old| self.entry(old, frame, Level(1));
            let old = table.update(index, wished);
            if reduces(old, wished(old)) {
                flush.record(start + offset, PageSize::Size4KiB, old);
            }
        }
    }
}

/// Whether the CPU may have cached something about `old` that `new` does not allow.
fn reduces(old: Entry, new: Entry) -> bool {
    // Asked first: mostly nothing was there.
    old.may_be_cached()
        && (!(old.permissions() - new.permissions()).is_empty() || old.table_address() != new.table_address())
}

/// Makes pages what is wished for; `delta` is what turns their addresses into frames.
struct Paint {
    wish: Wish,
    delta: u64,
}

impl<'m> Rule<'m> for Paint {
    #[inline]
    fn step(&self, tables: &PageTables<'m>, slot: &Slot) -> Result<Step, EditError> {
        let place = (slot.at, slot.at.wrapping_add(self.delta));
        Ok(self.wish.step(slot.entry, slot.level, place, slot.is_whole(), tables.giant))
    }

    #[inline]
    fn set(&self, _: &PageTables<'m>, table: &Table, slot: &Slot, flush: &mut Flush<'m>) {
        let wished = |old| self.wish.entry(old, slot.at.wrapping_add(self.delta), slot.level);
        let old = table.update(slot.index(), wished);
        if let Some(size) = slot.level.leaf()
            && reduces(old, wished(old))
        {
            flush.record(slot.at, size, old);
        }
    }

    #[inline]
    fn set_lowest(&self, _: &PageTables<'m>, table: &Table, (start, end): (u64, u64), flush: &mut Flush<'m>) {
        self.wish.paint(table, (start, end), start.wrapping_add(self.delta), flush);
    }

    fn leave(
        &self,
        tables: &PageTables<'m>,
        table: &Table,
        slot: &Slot,
        below: &Table,
        flush: &mut Flush<'m>,
    ) {
        if self.wish.bits == 0 {
            tables.free_if_full_of(Entry::EMPTY, below, (table, slot.index(), Entry::EMPTY), flush);
        }
    }
}

impl<'m> PageTables<'m> {
    /// Makes every page of `range` what Linux has there: the process's memory with `permissions`, not present if
    /// there are none. What lies in no window stays absent.
    pub(crate) fn mirror(
        &mut self,
        range: PageRange,
        permissions: PagePermissions,
        ownership: Ownership,
    ) -> Result<Flush<'m>, EditError> {
        let wish = Wish::new(permissions, ownership, self.writers.are_watched());
        if let Some(flush) = self.mirror_few(range, wish) {
            return Ok(flush);
        }
        let mut work = Work::owing(self.frames, Flush::none());
        let mut at = range.first();
        while at < range.end() {
            // Without a window only what the program has mapped there can be in the way.
            let window = self.windows.find(VirtAddr::new_truncate(at));
            let (end, delta) = match window {
                Some(window) => (window.range.end(), window.gpa.as_u64().wrapping_sub(window.range.first())),
                None => (self.windows.next_after(at, range.end()), 0),
            };
            let wish = if window.is_some() { wish } else { Wish { bits: 0, ..wish } };
            let span = (at, end.min(range.end()));
            let rule = Paint { wish, delta };
            let restocked = self.count(&rule, span).and_then(|count| Ok(work.restock(count)?));
            if let Err(error) = restocked {
                // The pieces before are as they shall be; only their flush is owed.
                self.missed.add(range);
                return if work.flush.is_empty() { Err(error) } else { Ok(work.flush) };
            }
            self.apply(&rule, span, &mut work);
            at = span.1;
        }
        Ok(work.flush)
    }

    /// [`Self::mirror`] within one table of 4 KiB pages that is there already.
    fn mirror_few(&mut self, range: PageRange, wish: Wish) -> Option<Flush<'m>> {
        let (start, last) = (range.first(), range.end() - 1);
        if (start ^ last) >> Level(2).shift() != 0 {
            return None;
        }
        let table = self.leaf_table(start, false)?;
        let window = self.windows.find(range.start())?;
        if window.range.end() < range.end() {
            return None;
        }
        let frame = window.to_physical(range.start())?.as_u64();
        let mut flush = Flush::none();
        wish.paint(table, (start, range.end()), frame, &mut flush);
        let (first, last) = (Level(1).index(start), Level(1).index(last));
        let alone = || {
            // Neighbours are looked at first: mostly one is mapped.
            let empty = |index| table.get(index) == Entry::EMPTY;
            empty(first.saturating_sub(1)) && empty((last + 1).min(511)) && table.is_full_of(Entry::EMPTY)
        };
        if wish.bits == 0 && self.may_free() && alone() {
            // The table goes, which is the other path's business. Nothing is split, so it needs no stock.
            let span = (start & !(Level(2).span() - 1), (start | (Level(2).span() - 1)) + 1);
            let mut work = Work::owing(self.frames, flush);
            self.apply(&Paint { wish, delta: 0 }, span, &mut work);
            return Some(work.flush);
        }
        Some(flush)
    }

    /// Makes the pages of `range`, which are mapped, readable and writable for ever.
    pub(crate) fn pin(&mut self, range: PageRange) -> Result<Flush<'m>, EditError> {
        let bits = Entry::permission_bits(PagePermissions::READ_WRITE) | Entry::OWNED | Entry::PINNED;
        self.edit_leaves(range, false, |entry| entry.with_permissions(bits))
    }

    /// Makes the pages of `range` the program's, with the rights that they have.
    pub(super) fn own(&mut self, range: PageRange) -> Result<Flush<'m>, EditError> {
        self.edit_leaves(range, false, |entry| entry.edited(0, Entry::OWNED))
    }

    /// Whether the program has edited the page at `address`.
    pub(crate) fn is_owned(&self, address: VirtAddr) -> bool {
        self.find(address.as_u64()).2.is_owned()
    }
}

impl Memory {
    /// How the page tables are kept.
    pub fn mapping(&self) -> MirrorMode {
        self.mapping
    }

    /// [`PageTables::mirror`] in the process's own tables and in those that the CPU uses now, if they are others.
    pub(crate) fn mirror(
        &self,
        range: PageRange,
        permissions: PagePermissions,
        ownership: Ownership,
    ) -> Result<Flush<'_>, EditError> {
        let flush = self.page_tables()?.mirror(range, permissions, ownership)?;
        let Some(root) = self.foreign_root() else { return Ok(flush) };
        match self.tables(root).and_then(|mut tables| tables.mirror(range, permissions, ownership)) {
            Ok(second) => Ok(flush + second),
            Err(_) => {
                self.missed.add(range);
                Ok(flush)
            }
        }
    }

    /// The tables that the CPU uses now, to look up.
    pub(crate) fn active_tables(&self) -> Result<PageTables<'_>, EditError> {
        match self.foreign_root() {
            None => self.page_tables(),
            Some(root) => self.tables(root),
        }
    }

    /// The root in use if it is not the process's own.
    pub(crate) fn foreign_root(&self) -> Option<PhysAddr> {
        // A thread that enters has the process's own.
        if self.sharers.load(Ordering::Relaxed) == 0 || !cpu::in_dune_mode() {
            return None;
        }
        let root = Cr3::read_raw().0.start_address();
        (root != self.root).then_some(root)
    }

    /// Edits the tables after a system call that has given `range` the rights `permissions`, none for a range that
    /// is no longer mapped. What cannot be done now is noted, and done by [`Self::catch_up`].
    pub(crate) fn reflect(
        &self,
        range: PageRange,
        permissions: PagePermissions,
        ownership: Ownership,
    ) -> Flush<'_> {
        self.mirror(range, permissions, ownership).unwrap_or_else(|_| {
            self.missed.add(range);
            Flush::none()
        })
    }

    /// Notes that `range` is to be made what Linux says, when there is an occasion.
    pub(crate) fn miss(&self, range: PageRange) {
        self.missed.add(range);
    }

    /// Makes up for edits that [`Self::reflect`] could not make. For who has the turn to edit, or nobody to take it from.
    #[inline]
    pub(crate) fn catch_up<'m>(&'m self, discharge: impl FnMut(Flush<'m>)) {
        if let Some(range) = self.missed.take() {
            self.synchronise_or_miss(range, Ownership::Respect, discharge);
        }
    }

    /// [`Self::synchronise`], or else a note that it is to be done later.
    #[cold]
    pub(crate) fn synchronise_or_miss<'m>(
        &'m self,
        range: PageRange,
        ownership: Ownership,
        discharge: impl FnMut(Flush<'m>),
    ) {
        if self.synchronise(range, ownership, discharge).is_err() {
            self.missed.add(range);
        }
    }

    /// Makes the tables of `range` what `/proc/thread-self/maps` says; each edit's flush is given to `discharge`.
    #[cold]
    pub(crate) fn synchronise<'m>(
        &'m self,
        range: PageRange,
        ownership: Ownership,
        mut discharge: impl FnMut(Flush<'m>),
    ) -> Result<(), MemoryError> {
        let mut edit = |start: u64, end: u64, permissions| {
            if start < end {
                discharge(self.mirror(PageRange::known(start, end), permissions, ownership)?);
            }
            Ok::<(), EditError>(())
        };
        let (mut at, end) = (range.first(), range.end().min(TASK_SIZE));
        let mut refused = None;
        maps::for_each_from(at, |mapping| {
            let (from, to) = (mapping.start.max(at), mapping.end.min(end));
            if from < to {
                let gap = edit(at, from, PagePermissions::empty());
                if let Err(error) = gap.and_then(|()| edit(from, to, mapping.permissions)) {
                    refused = Some(error);
                    return ControlFlow::Break(());
                }
                at = to;
            }
            if mapping.end >= end { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        match refused {
            Some(error) => Err(error.into()),
            None => Ok(edit(at, end.max(at), PagePermissions::empty())?),
        }
    }

    /// All addresses that a process can have.
    pub(crate) const fn everything() -> PageRange {
        PageRange::known(0, TASK_SIZE)
    }

    /// Whether there is anything for [`Self::catch_up`].
    #[inline]
    pub(crate) fn has_missed(&self) -> bool {
        self.missed.is_any()
    }

    /// The program break as it was last seen.
    pub(crate) fn program_break(&self) -> u64 {
        self.program_break.load(Ordering::Relaxed)
    }

    /// The program break as it was last seen; remembers `now`.
    pub(crate) fn exchange_break(&self, now: u64) -> u64 {
        self.program_break.swap(now, Ordering::Relaxed)
    }
}
