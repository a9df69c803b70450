//! Mapping, unmapping, aliases.

use x86_64::PhysAddr;

use super::entry::{Entry, Table};
use super::error::EditError;
use super::flush::Flush;
use super::table::{PageTables, part_end, tables_to_split};
use super::work::Work;
use crate::arch::page::{Level, PagePermissions, PageRange, PageSize};

/// With pages of which size a range is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// 1. Nothing that Rust or Linux will use comes to lie in `range`: addresses outside every window, or
    ///    ones
    ///    reserved by an mmap of the caller's, are right.
    /// 2. What is accessible there does not violate what Rust promises about the memory at `frame`.
    pub unsafe fn map(
        &mut self,
        range: PageRange,
        frame: PhysAddr,
        permissions: PagePermissions,
        size: MapSize,
    ) -> Result<Flush<'m>, EditError> {
        self.check_frames(range, frame, size)?;
        let piece = Piece { end: range.end(), delta: frame.as_u64().wrapping_sub(range.first()) };
        self.map_pieces(range, Form::new(permissions, size), |_, _| Ok(piece))
    }

    /// Maps one page of `size` at `page` on `frame`, whatever was mapped there; the page of a larger size is
    /// split, smaller pages are dropped. The entry goes from the old to the new page in one store.
    ///
    /// This is what copy-on-write needs: the new frame for whom the caller chooses.
    ///
    /// # Safety
    ///
    /// As for [`map`](Self::map).
    pub unsafe fn replace(
        &mut self,
        page: PageRange,
        frame: PhysAddr,
        permissions: PagePermissions,
        size: PageSize,
    ) -> Result<Flush<'m>, EditError> {
        self.check_frames(page, frame, MapSize::Exactly(size))?;
        if page.bytes() != size.bytes() {
            return Err(EditError::LengthMismatch { new: page.bytes(), existing: size.bytes() });
        }
        let form = Form::new(permissions, MapSize::Exactly(size));
        let mut work = Work::begin(self.frames, self.count_path(page.first(), Level::of(size)))?;
        let table = self.path(page.first(), Level::of(size), form.user, &mut work);
        let mut flush = work.flush;
        let level = Level::of(size);
        let index = level.index(page.first());
        let old = table.swap(index, Entry::leaf(frame.as_u64(), form.bits, size));
        if !old.is_empty() && !old.is_leaf(level) {
            self.drop_table(old, level.below(), &mut flush);
        } else {
            flush.record(page.first(), size, old);
        }
        Ok(flush)
    }

    /// Maps `range`, where nothing may be mapped, on the memory that the process has there: the way back from
    /// [`unmap`](Self::unmap).
    pub fn map_own(
        &mut self,
        range: PageRange,
        permissions: PagePermissions,
    ) -> Result<Flush<'m>, EditError> {
        self.map_pieces(range, Form::new(permissions, MapSize::Largest), |tables, at| {
            let window = tables.windows.find(x86_64::VirtAddr::new_truncate(at));
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
    /// As for [`map`](Self::map).
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
        self.map_pieces(new, Form::new(permissions, MapSize::Largest), |tables, at| {
            let (frame, bytes) = tables.run(at.wrapping_add(shift), existing.end());
            Ok(Piece { end: at + bytes, delta: frame.wrapping_sub(at) })
        })
    }

    /// Unmaps `range`. Holes in it are allowed, but not a range without any page.
    ///
    /// Pages that an end of the range cuts are split. Tables that become empty are freed when the obligation
    /// is discharged.
    pub fn unmap(&mut self, range: PageRange) -> Result<Flush<'m>, EditError> {
        let span = (range.first(), range.end());
        let mut found = false;
        let count = self.count_clear(self.root_table(), Level::ROOT, span, false, &mut found);
        if !found {
            return Err(self.not_mapped(range.first()));
        }
        let mut work = Work::begin(self.frames, count)?;
        self.clear(self.root_table(), Level::ROOT, span, &mut work);
        Ok(work.flush)
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
                let root = self.root_table();
                let count = self.count_place(Some(root), Level::ROOT, span, piece.delta, form, false);
                work.restock(count)?;
                self.place(root, Level::ROOT, span, piece.delta, form, &mut work);
                Ok(span.1)
            });
            match placed {
                Ok(end) => at = end,
                Err(error) => {
                    if at > range.first() {
                        // Nothing to split: these pages were mapped in whole a moment ago. What the CPU may
                        // have read ahead of them is quarantined with the tables.
                        self.clear(self.root_table(), Level::ROOT, (range.first(), at), &mut work);
                    }
                    work.flush.ignore();
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
                    return Err(EditError::AlreadyMapped { address: at });
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

    /// The tables that [`Self::place`] will need.
    fn count_place(
        &self,
        table: Option<&Table>,
        level: Level,
        (mut at, end): (u64, u64),
        delta: u64,
        form: Form,
        lent: bool,
    ) -> usize {
        let mut count = 0;
        if level.0 == 1 {
            return 0;
        }
        while at < end {
            let part = part_end(level, at, end);
            let entry = table.map_or(Entry::EMPTY, |table| table.get(level.index(at)));
            if entry.is_empty() {
                let whole = part - at == level.span();
                if !(whole && form.size.leaf(level, at, at.wrapping_add(delta), self.giant).is_some()) {
                    count += 1 + self.count_place(None, level.below(), (at, part), delta, form, false);
                }
            } else {
                let lent = lent || entry.is_lent();
                let child = self.child(entry);
                count += usize::from(lent);
                count += self.count_place(Some(child), level.below(), (at, part), delta, form, lent);
            }
            at = part;
        }
        count
    }

    fn place(
        &self,
        table: &Table,
        level: Level,
        (mut at, end): (u64, u64),
        delta: u64,
        form: Form,
        work: &mut Work<'m>,
    ) {
        while at < end {
            let part = part_end(level, at, end);
            let index = level.index(at);
            let frame = at.wrapping_add(delta);
            let whole = part - at == level.span();
            let empty = table.get(index).is_empty();
            match form.size.leaf(level, at, frame, self.giant) {
                Some(size) if whole && empty => table.set(index, Entry::leaf(frame, form.bits, size)),
                _ => {
                    if table.get(index) == Entry::EMPTY {
                        table.set(index, Entry::table(work.stock.pop(), form.user));
                    }
                    let child = self.enter(table, index, level, form.user, work, at);
                    self.place(child, level.below(), (at, part), delta, form, work);
                }
            }
            at = part;
        }
    }

    /// The tables that [`Self::clear`] will need, and whether there is anything to clear.
    fn count_clear(
        &self,
        table: &Table,
        level: Level,
        (mut at, end): (u64, u64),
        lent: bool,
        found: &mut bool,
    ) -> usize {
        let mut count = 0;
        while at < end {
            let part = part_end(level, at, end);
            let entry = table.get(level.index(at));
            if entry.is_empty() {
            } else if entry.is_leaf(level) {
                *found = true;
                count += tables_to_split(level, at, part);
            } else {
                let lent = lent || entry.is_lent();
                let mut inside = false;
                let below = self.count_clear(self.child(entry), level.below(), (at, part), lent, &mut inside);
                *found |= inside;
                if !(lent && part - at == level.span()) {
                    count += below + usize::from(lent);
                }
            }
            at = part;
        }
        count
    }

    fn clear(&self, table: &Table, level: Level, (mut at, end): (u64, u64), work: &mut Work<'m>) {
        while at < end {
            let part = part_end(level, at, end);
            let index = level.index(at);
            let entry = table.get(index);
            let whole = part - at == level.span();
            if entry.is_empty() {
            } else if entry.is_leaf(level) && whole {
                let old = table.swap(index, self.vacancy(level, at));
                if let Some(size) = level.leaf() {
                    work.flush.record(at, size, old);
                }
            } else if !entry.is_leaf(level) && entry.is_lent() && whole {
                table.swap(index, Entry::EMPTY);
                work.flush.record_everything();
            } else {
                let child = self.enter(table, index, level, false, work, at);
                self.clear(child, level.below(), (at, part), work);
                let vacancy = self.vacancy(level, at);
                let below = if vacancy == Entry::EMPTY { vacancy } else { Entry::hole(level.below()) };
                if self.may_free() && child.is_full_of(below) {
                    let old = table.swap(index, vacancy);
                    work.flush.retire(self.frames, PhysAddr::new_truncate(old.table_address()));
                }
            }
            at = part;
        }
    }
}
