//! The way to one table, made where it is missing, and what hangs below an entry that goes.

use x86_64::PhysAddr;

use super::entry::{Entry, Table};
use super::flush::Flush;
use super::table::PageTables;
use super::work::Work;
use crate::arch::page::Level;

impl<'m> PageTables<'m> {
    /// The tables that [`Self::path`] will need.
    pub(super) fn count_path(&self, address: u64, target: Level) -> usize {
        let (mut level, mut table, mut count, mut lent) = (Level::ROOT, self.root_table(), 0, false);
        while level > target {
            let entry = table.get(level.index(address));
            if entry.is_empty() || entry.is_leaf(level) {
                return count + (level.0 - target.0) as usize;
            }
            lent |= entry.is_lent();
            count += usize::from(lent);
            (level, table) = (level.below(), self.child(entry));
        }
        count
    }

    /// The table of level `target` for `address`, made where it is missing; larger pages on the way are
    /// split.
    pub(super) fn path(&self, address: u64, target: Level, user: bool, work: &mut Work<'m>) -> &'m Table {
        let (mut level, mut table) = (Level::ROOT, self.root_table());
        while level > target {
            let index = level.index(address);
            if table.get(index) == Entry::EMPTY {
                table.set(index, Entry::table(work.stock.pop(), user));
            }
            let at = address & !(level.span() - 1);
            table = self.enter(table, index, level, user, work, at);
            level = level.below();
        }
        table
    }

    /// Retires the tables below an entry that has been taken out; `level` is that of the table.
    pub(super) fn drop_table(&self, entry: Entry, level: Level, flush: &mut Flush<'m>) {
        flush.record_everything();
        if entry.is_lent() || !self.may_free() {
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
