//! Splitting pages into smaller ones and merging them into larger ones.
//!
//! Either way the pages before and after translate alike, so it does not matter which of the two the CPU has
//! cached while the flush is owed.

use x86_64::{PhysAddr, VirtAddr};

use super::entry::{Entry, Table};
use super::error::{EditError, MergeObstacle};
use super::flush::Flush;
use super::table::PageTables;
use super::walk::{Rule, Slot, Step};
use super::work::Work;
use crate::arch::page::{Level, PageRange, PageSize};

/// Splits what is larger than the pages of a level, and changes nothing.
struct Reach {
    target: Level,
}

impl<'m> Rule<'m> for Reach {
    fn step(&self, _: &PageTables<'m>, slot: &Slot) -> Result<Step, EditError> {
        Ok(if slot.level > self.target { Step::Descend } else { Step::Keep })
    }

    fn set(&self, _: &PageTables<'m>, _: &Table, _: &Slot, _: &mut Flush<'m>) {}
}

impl<'m> PageTables<'m> {
    /// Splits the page at `address` so that it has at most `size`. Permissions and marks are inherited.
    ///
    /// Pages that are so small already are left alone: a loop of single-page edits is fast after one `split`.
    pub fn split(&mut self, address: VirtAddr, size: PageSize) -> Result<Flush<'m>, EditError> {
        self.snapshots.refuse(PageRange::page(address))?;
        let address = address.as_u64();
        let (level, _, entry) = self.find(address);
        if entry.is_empty() {
            return Err(self.not_mapped(address));
        }
        let target = Level::of(size);
        if level <= target {
            return Ok(Flush::none());
        }
        let start = address & !(target.span() - 1);
        let (rule, span) = (Reach { target }, (start, start + target.span()));
        let mut work = Work::begin(self.frames, self.count(&rule, span)?)?;
        self.apply(&rule, span, &mut work);
        Ok(work.flush.owed())
    }

    /// Merges the 512 pages of the next smaller size into the one page of `size`, 2 MiB or 1 GiB, that holds
    /// `address`. They must be contiguous and alike. A page merged from writable ones counts as dirty, since
    /// the CPU may write to one of them at this moment.
    pub fn merge(&mut self, address: VirtAddr, size: PageSize) -> Result<Flush<'m>, EditError> {
        let level = Level::of(size);
        let start = address.as_u64() & !(size.bytes() - 1);
        if level.0 == 1 {
            return Err(EditError::Unsupported { size });
        }
        if let Ok(range) = PageRange::new(VirtAddr::new_truncate(start), size.bytes()) {
            self.snapshots.refuse(range)?;
        }
        if size == PageSize::Size1GiB && !self.giant {
            return Err(EditError::Unsupported { size });
        }
        let obstacle = |address, reason| EditError::NotMergeable {
            address: VirtAddr::new_truncate(address),
            size,
            reason,
        };
        let (mut above, mut table) = (Level::ROOT, self.root_table());
        let mut shared = !self.may_free();
        loop {
            let entry = table.get(above.index(start));
            if entry.is_empty() {
                return Err(obstacle(start, MergeObstacle::Missing));
            }
            if entry.is_leaf(above) {
                return Ok(Flush::none()); // as large as that or larger already
            }
            shared |= entry.is_shared();
            if above == level {
                break;
            }
            (above, table) = (above.below(), self.child(entry));
        }
        if shared {
            return Err(obstacle(start, MergeObstacle::Shared));
        }
        let index = level.index(start);
        let old = table.get(index);
        let leaf = merged(self.child(old), level, start).map_err(|(at, reason)| obstacle(at, reason))?;
        let mut flush = Flush::none();
        table.swap(index, leaf);
        if leaf.is_present() {
            flush.record_everything();
            flush.record_globals(leaf);
        }
        flush.retire(self.frames, PhysAddr::new_truncate(old.table_address()));
        Ok(flush.owed())
    }

    /// Makes a table of the leaf at entry `index`, whose pages then map what the leaf mapped.
    pub(super) fn split_entry(
        &self,
        table: &Table,
        index: usize,
        level: Level,
        user: bool,
        work: &mut Work<'m>,
        at: u64,
    ) -> &'m Table {
        let address = work.stock.pop();
        let child = self.table(address);
        let old = divide((table, index), level, user, (address, child));
        if let Some(size) = level.leaf() {
            work.flush.record(at & !(level.span() - 1), size, old);
        }
        child
    }
}

/// Puts the empty table `child`, at `address`, in the place of the leaf at entry `index` of `table`; it then maps what the leaf mapped.
/// Returns the leaf.
pub(super) fn divide(
    (table, index): (&Table, usize),
    level: Level,
    user: bool,
    (address, child): (PhysAddr, &Table),
) -> Entry {
    let mut old = table.get(index);
    loop {
        let below = level.below();
        let first = old.disarmed().shrunk(level);
        for index in 0..512 {
            let hole = old.is_empty();
            child.set(index, if hole { Entry::hole(below) } else { first.step(below, index) });
        }
        // If the CPU marked the page meanwhile, the new pages have to inherit that.
        match table.exchange(index, old, Entry::table(address, user || old.is_user())) {
            Ok(()) => return old,
            Err(seen) => old = seen,
        }
    }
}

/// The leaf of `level` that the 512 entries of `table` amount to, or the first page that differs.
fn merged(table: &Table, level: Level, start: u64) -> Result<Entry, (u64, MergeObstacle)> {
    const MARKS: u64 = Entry::ACCESSED | Entry::DIRTY | Entry::OWNED;
    let below = level.below();
    let first = table.get(0).disarmed();
    let mut marks = 0;
    for index in 0..512 {
        let entry = table.get(index).disarmed();
        let at = start + index as u64 * below.span();
        if entry.is_empty() {
            return Err((at, MergeObstacle::Missing));
        }
        if !entry.is_leaf(below) {
            return Err((at, MergeObstacle::Divided));
        }
        let expected = first.frame(below).wrapping_add(index as u64 * below.span());
        if entry.frame(below) != expected || !first.frame(below).is_multiple_of(level.span()) {
            return Err((at, MergeObstacle::Frames));
        }
        if entry.edited(MARKS, 0) != first.step(below, index).edited(MARKS, 0) {
            return Err((at, MergeObstacle::Permissions));
        }
        marks |= entry.0 & MARKS;
    }
    if first.is_present() {
        marks |= Entry::ACCESSED;
        if first.is_writable() {
            marks |= Entry::DIRTY;
        }
    }
    Ok(first.grown(level).edited(0, marks))
}
