//! Mapping, unmapping, aliases.

use core::cell::Cell;

use x86_64::{PhysAddr, VirtAddr};

use super::entry::{Entry, Table};
use super::error::EditError;
use super::flush::Flush;
use super::table::{PageTables, part_end};
use super::walk::{Rule, Slot, Step};
use super::work::Work;
use crate::arch::page::{Level, PAGE_BYTES, PagePermissions, PageRange, PageSize};

/// With pages of which size a range is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapSize {
    /// The largest that alignment and the CPU allow, page by page.
    Largest,
    /// This one; range and frames must be aligned to it.
    Exactly(PageSize),
}

impl MapSize {
    /// Whether a leaf at `level` is wanted for the whole of its span at `at`, on `frame`.
    fn leaf(self, level: Level, at: u64, frame: u64, giant: bool) -> Option<PageSize> {
        let size = level.leaf()?;
        let aligned = (at | frame).is_multiple_of(level.span());
        let wanted = match self {
            MapSize::Largest => aligned && (giant || size != PageSize::Size1GiB),
            MapSize::Exactly(exactly) => size == exactly,
        };
        wanted.then_some(size)
    }
}

/// What a piece of a range is mapped on: `delta` is what turns its virtual addresses into frames.
#[derive(Clone, Copy, Debug)]
struct Piece {
    end: u64,
    delta: u64,
}

/// What new leaves look like.
#[derive(Clone, Copy)]
struct Form {
    bits: u64,
    user: bool,
    size: MapSize,
}

impl Form {
    fn new(permissions: PagePermissions, size: MapSize) -> Form {
        let user = permissions.contains(PagePermissions::USER);
        Form { bits: Entry::permission_bits(permissions) | Entry::OWNED, user, size }
    }
}

impl<'m> PageTables<'m> {
    /// Maps `range`, where nothing may be mapped yet, on the guest-physical memory from `frame` on.
    ///
    /// The memory must lie in a window: it is either of the process itself or a frame of the library's.
    ///
    /// # Safety
    ///
    /// As long as the mapping is there, here and in address spaces that have copied it, and until the [`Flush`] of its
    /// end is discharged:
    ///
    /// 1. Neither Rust nor Linux puts anything into `range`: it is reserved by an mmap of the caller's (PROT_NONE will
    ///    do), or in the upper half of the addresses.
    /// 2. What is done through `range` does not violate what Rust promises about the memory at `frame`. With `USER` and
    ///    `WRITE` ring 3 does so, too: see [`protect_for_user`](Self::protect_for_user).
    /// 3. The memory at `frame` is not given back: no [`FrameAllocator::free`](super::FrameAllocator::free), no munmap.
    /// 4. Nothing relies on `range` being accessible: any safe code may [`protect`](Self::protect) or
    ///    [`unmap`](Self::unmap) it.
    pub unsafe fn map(
        &mut self,
        range: PageRange,
        frame: PhysAddr,
        permissions: PagePermissions,
        size: MapSize,
    ) -> Result<Flush<'m>, EditError> {
        self.check_frames(range, frame, size)?;
        let piece = Piece { end: range.end(), delta: frame.as_u64().wrapping_sub(range.first()) };
        self.map_pieces(range, Form::new(permissions, size), |_, _| Ok(piece)).map(Flush::owed)
    }

    /// Maps one page of `size` at `page` on `frame`, whatever was mapped there; the page of a larger size is
    /// split, smaller pages are dropped. The entry goes from the old to the new page in one store.
    ///
    /// This is what copy-on-write needs: the new frame for whom the caller chooses.
    ///
    /// # Safety
    ///
    /// As for [`map`](Self::map); and what Rust refers to in `page` has the same value on `frame`. Linux knows nothing of it:
    /// system calls, and what Linux does to its mapping there (mremap, a fork's copies), act on the old memory.
    pub unsafe fn replace(
        &mut self,
        page: PageRange,
        frame: PhysAddr,
        permissions: PagePermissions,
        size: PageSize,
    ) -> Result<Flush<'m>, EditError> {
        self.snapshots.refuse(page)?;
        self.check_frames(page, frame, MapSize::Exactly(size))?;
        if page.bytes() != size.bytes() {
            return Err(EditError::LengthMismatch { new: page.bytes(), existing: size.bytes() });
        }
        let rule =
            Replace { frame: frame.as_u64(), form: Form::new(permissions, MapSize::Exactly(size)), size };
        let span = (page.first(), page.end());
        let mut work = Work::begin(self.frames, self.count(&rule, span)?)?;
        self.apply(&rule, span, &mut work);
        Ok(work.flush.owed())
    }

    /// Maps `range`, where nothing may be mapped, on the memory that the process has there: the way back from
    /// [`unmap`](Self::unmap). (The way without unsafe code is [`protect`](Self::protect) without permissions, and then
    /// with some.)
    ///
    /// # Safety
    ///
    /// 1. Whatever Rust refers to in `range` has been stored in the process's memory there, and not in other memory that was
    ///    mapped there ([`map`](Self::map), [`replace`](Self::replace)) until somebody unmapped it.
    /// 2. With `USER` and `WRITE`: as for [`protect_for_user`](Self::protect_for_user).
    pub unsafe fn remap(
        &mut self,
        range: PageRange,
        permissions: PagePermissions,
    ) -> Result<Flush<'m>, EditError> {
        self.map_identically(range, permissions).map(Flush::owed)
    }

    /// [`Self::remap`] for what is so by construction.
    pub(super) fn map_identically(
        &mut self,
        range: PageRange,
        permissions: PagePermissions,
    ) -> Result<Flush<'m>, EditError> {
        self.map_identically_by(range, permissions, MapSize::Largest)
    }

    /// [`Self::map_identically`], with pages of this size.
    pub(super) fn map_identically_by(
        &mut self,
        range: PageRange,
        permissions: PagePermissions,
        size: MapSize,
    ) -> Result<Flush<'m>, EditError> {
        self.map_pieces(range, Form::new(permissions, size), |tables, at| {
            let window = tables.windows.find(VirtAddr::new_truncate(at));
            let window = window.ok_or(EditError::OutsideWindows { address: at })?;
            let delta = window.gpa.as_u64().wrapping_sub(window.range.first());
            Ok(Piece { end: window.range.end(), delta })
        })
    }

    /// Maps the pages of `existing` a second time, at `new`, with `permissions` of their own.
    ///
    /// `new` needs no window, only addresses where nothing is mapped. An alias means nothing to Linux: its
    /// addresses are not valid in system calls. It stays when `existing` is mapped otherwise later.
    ///
    /// # Safety
    ///
    /// As for [`map`](Self::map), with the memory of `existing` for that at `frame`.
    pub unsafe fn alias(
        &mut self,
        new: PageRange,
        existing: PageRange,
        permissions: PagePermissions,
    ) -> Result<Flush<'m>, EditError> {
        if new.bytes() != existing.bytes() {
            return Err(EditError::LengthMismatch { new: new.bytes(), existing: existing.bytes() });
        }
        self.count_mapped(existing)?;
        let shift = existing.first().wrapping_sub(new.first());
        let pieces = self.map_pieces(new, Form::new(permissions, MapSize::Largest), |tables, at| {
            let (frame, bytes) = tables.run(at.wrapping_add(shift), existing.end());
            Ok(Piece { end: at + bytes, delta: frame.wrapping_sub(at) })
        });
        pieces.map(Flush::owed)
    }

    /// Unmaps `range`: an access becomes a fault. Holes in it are allowed, but not a range without any page.
    ///
    /// Pages that an end of the range cuts are split. Tables that become empty are freed when the obligation
    /// is discharged.
    pub fn unmap(&mut self, range: PageRange) -> Result<Flush<'m>, EditError> {
        self.snapshots.refuse(range)?;
        let span = (range.first(), range.end());
        let rule = Clear::default();
        let count = self.count(&rule, span)?;
        if !rule.found.get() {
            return Err(self.not_mapped(range.first()));
        }
        let mut work = Work::begin(self.frames, count)?;
        self.apply(&rule, span, &mut work);
        Ok(work.flush.owed())
    }

    /// Refuses a range of which a page is mapped.
    pub(super) fn check_unmapped(&self, range: PageRange) -> Result<(), EditError> {
        self.check_free(self.root_table(), Level::ROOT, (range.first(), range.end()))
    }

    fn check_frames(&self, range: PageRange, frame: PhysAddr, size: MapSize) -> Result<(), EditError> {
        let size = match size {
            MapSize::Largest => PageSize::Size4KiB,
            MapSize::Exactly(size) => size,
        };
        if size == PageSize::Size1GiB && !self.giant {
            return Err(EditError::Unsupported { size });
        }
        for address in [range.first(), range.bytes(), frame.as_u64()] {
            if !address.is_multiple_of(size.bytes()) {
                return Err(EditError::Misaligned { address, size });
            }
        }
        match self.windows.first_physical_outside(frame.as_u64(), range.bytes()) {
            Some(address) => Err(EditError::OutsideWindows { address }),
            None => Ok(()),
        }
    }

    /// Maps `range` piece by piece. If a later piece cannot be mapped, the earlier ones go again.
    fn map_pieces(
        &mut self,
        range: PageRange,
        form: Form,
        mut piece: impl FnMut(&Self, u64) -> Result<Piece, EditError>,
    ) -> Result<Flush<'m>, EditError> {
        self.check_unmapped(range)?;
        let mut work = Work::owing(self.frames, Flush::none());
        let mut at = range.first();
        while at < range.end() {
            let placed = piece(self, at).and_then(|piece| {
                let span = (at, piece.end.min(range.end()));
                let rule = Place { delta: piece.delta, form };
                work.restock(self.count(&rule, span)?)?;
                self.apply(&rule, span, &mut work);
                Ok(span.1)
            });
            match placed {
                Ok(end) => at = end,
                Err(error) => {
                    if at > range.first() {
                        // Nothing to split: these pages were mapped in whole a moment ago. What the CPU may
                        // have read ahead of them is quarantined with the tables.
                        self.apply(&Clear::default(), (range.first(), at), &mut work);
                    }
                    work.flush.waive();
                    return Err(error);
                }
            }
        }
        Ok(work.flush)
    }

    fn check_free(&self, table: &Table, level: Level, (mut at, end): (u64, u64)) -> Result<(), EditError> {
        while at < end {
            let part = part_end(level, at, end);
            let entry = table.get(level.index(at));
            if !entry.is_empty() {
                if entry.is_leaf(level) {
                    return Err(EditError::AlreadyMapped { address: VirtAddr::new_truncate(at) });
                }
                self.check_free(self.child(entry), level.below(), (at, part))?;
            }
            at = part;
        }
        Ok(())
    }

    /// Refuses a range of which a page is not mapped.
    fn count_mapped(&self, range: PageRange) -> Result<(), EditError> {
        let mut at = range.first();
        while at < range.end() {
            let (level, _, entry) = self.find(at);
            if entry.is_empty() {
                return Err(self.not_mapped(at));
            }
            at = part_end(level, at, range.end());
        }
        Ok(())
    }

    /// The frame of the mapped `at` and how many bytes from there, at most to `end`, lie contiguously.
    fn run(&self, at: u64, end: u64) -> (u64, u64) {
        let mut next = at;
        let mut first = 0;
        while next < end {
            let (level, _, entry) = self.find(next);
            let frame = entry.frame(level) + (next & (level.span() - 1));
            if next == at {
                first = frame;
            }
            if entry.is_empty() || frame.wrapping_sub(first) != next - at {
                break;
            }
            next = part_end(level, next, end);
        }
        (first, next - at)
    }

    /// Whether a page is mapped below `table`, which is of `level`.
    fn has_pages(&self, table: &Table, level: Level) -> bool {
        (0..512).map(|index| table.get(index)).any(|entry| {
            !entry.is_empty() && (entry.is_leaf(level) || self.has_pages(self.child(entry), level.below()))
        })
    }

    /// Retires the tables below an entry that has been taken out; `level` is that of the table.
    pub(super) fn drop_table(&self, entry: Entry, level: Level, flush: &mut Flush<'m>) {
        flush.record_everything();
        if entry.is_shared() || !self.may_free() {
            // While others share the tables, they may still use these; a table too much is better than one
            // too few.
            return;
        }
        // The entries stay as they are until the flush: the CPU may still walk through them.
        let table = self.child(entry);
        for index in 0..512 {
            let below = table.get(index);
            if below.is_empty() {
            } else if below.is_leaf(level) {
                flush.record_globals(below);
            } else {
                self.drop_table(below, level.below(), flush);
            }
        }
        flush.retire(self.frames, PhysAddr::new_truncate(entry.table_address()));
    }
}

/// Maps pages where nothing is.
struct Place {
    delta: u64,
    form: Form,
}

impl Place {
    /// The frame for a slot, and the size of the page if it is to be one.
    fn page(&self, tables: &PageTables<'_>, slot: &Slot) -> (u64, Option<PageSize>) {
        let frame = slot.at.wrapping_add(self.delta);
        let size = self.form.size.leaf(slot.level, slot.at, frame, tables.giant);
        (frame, size.filter(|_| slot.is_whole() && slot.entry.is_empty()))
    }
}

impl<'m> Rule<'m> for Place {
    fn user(&self) -> bool {
        self.form.user
    }

    fn step(&self, tables: &PageTables<'m>, slot: &Slot) -> Result<Step, EditError> {
        Ok(if self.page(tables, slot).1.is_some() { Step::Set } else { Step::Descend })
    }

    fn set(&self, tables: &PageTables<'m>, table: &Table, slot: &Slot, _: &mut Flush<'m>) {
        if let (frame, Some(size)) = self.page(tables, slot) {
            table.set(slot.index(), Entry::leaf(frame, self.form.bits, size));
        }
    }
}

/// Maps one page, whatever is there.
struct Replace {
    frame: u64,
    form: Form,
    size: PageSize,
}

impl<'m> Rule<'m> for Replace {
    fn user(&self) -> bool {
        self.form.user
    }

    fn step(&self, _: &PageTables<'m>, slot: &Slot) -> Result<Step, EditError> {
        Ok(if slot.level > Level::of(self.size) { Step::Descend } else { Step::Set })
    }

    fn set(&self, tables: &PageTables<'m>, table: &Table, slot: &Slot, flush: &mut Flush<'m>) {
        let old = table.swap(slot.index(), Entry::leaf(self.frame, self.form.bits, self.size));
        if !old.is_empty() && !old.is_leaf(slot.level) {
            tables.drop_table(old, slot.level.below(), flush);
        } else {
            flush.record(slot.at, self.size, old);
        }
    }
}

/// Unmaps what is there.
#[derive(Default)]
struct Clear {
    /// Whether there is a page.
    found: Cell<bool>,
}

impl<'m> Rule<'m> for Clear {
    fn step(&self, tables: &PageTables<'m>, slot: &Slot) -> Result<Step, EditError> {
        if slot.entry.is_empty() {
            return Ok(Step::Keep);
        }
        let is_whole = slot.is_whole();
        if slot.is_leaf() {
            self.found.set(true);
            return Ok(if is_whole { Step::Set } else { Step::Descend });
        }
        if !(slot.is_shared && is_whole) {
            return Ok(Step::Descend);
        }
        // Another root's tables go from here as they are.
        if !self.found.get() {
            self.found.set(tables.has_pages(tables.child(slot.entry), slot.level.below()));
        }
        Ok(Step::Set)
    }

    fn check_lowest(
        &self,
        _: &PageTables<'m>,
        table: &Table,
        (start, end): (u64, u64),
    ) -> Result<(), EditError> {
        if !self.found.get() {
            let is_mapped = |at: u64| !table.get(Level(1).index(at)).is_empty();
            self.found.set((start..end).step_by(PAGE_BYTES as usize).any(is_mapped));
        }
        Ok(())
    }

    fn set(&self, tables: &PageTables<'m>, table: &Table, slot: &Slot, flush: &mut Flush<'m>) {
        if !slot.is_leaf() {
            table.swap(slot.index(), Entry::EMPTY);
            flush.record_everything();
            return;
        }
        let old = table.swap(slot.index(), tables.vacancy(slot.level, slot.at));
        if let Some(size) = slot.level.leaf() {
            flush.record(slot.at, size, old);
        }
    }

    fn leave(
        &self,
        tables: &PageTables<'m>,
        table: &Table,
        slot: &Slot,
        below: &Table,
        flush: &mut Flush<'m>,
    ) {
        let vacancy = tables.vacancy(slot.level, slot.at);
        let empty = if vacancy == Entry::EMPTY { vacancy } else { Entry::hole(slot.level.below()) };
        tables.free_if_full_of(empty, below, (table, slot.index(), vacancy), flush);
    }
}
