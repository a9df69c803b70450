//! Whole trees of tables: copying one for a further address space, and giving it back.

use x86_64::PhysAddr;

use super::entry::{Entry, Table};
use super::error::EditError;
use super::table::PageTables;
use super::work::Stock;
use crate::arch::page::Level;

/// How a new address space gets the tables of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpaceKind {
    /// All tables are copied: later edits on either side stay there.
    Copied,
    /// Only the root is copied; all below is shared until the new space edits it, and copied then, table by
    /// table. Cheap to make. Edits of the process's own tables show in the parts still shared.
    Shared,
}

/// Makes the entries of `copy` that have not become its own what those of the process's `root` are now. None is ever taken from there while
/// others share its tables.
pub(super) fn renew_root(root: &Table, copy: &Table, private: Option<usize>) {
    for index in (0..512).filter(|index| Some(*index) != private) {
        let (entry, old) = (root.get(index), copy.get(index));
        if !entry.is_empty() && (old.is_empty() || old.is_shared()) {
            copy.set(index, entry.shared());
        }
    }
}

impl<'m> PageTables<'m> {
    /// A new root that maps what this one maps now; nothing by the entry `private` of a shared one.
    pub(super) fn clone_root(
        &mut self,
        kind: SpaceKind,
        private: Option<usize>,
    ) -> Result<PhysAddr, EditError> {
        let root = self.root_table();
        let count = match kind {
            SpaceKind::Copied => self.count_tables(root, Level::ROOT),
            SpaceKind::Shared => 1,
        };
        let mut stock = Stock::take(self.frames, count)?;
        match kind {
            SpaceKind::Copied => Ok(self.copy_table(root, Level::ROOT, &mut stock)),
            SpaceKind::Shared => {
                let address = stock.pop();
                let copy = self.table(address);
                renew_root(root, copy, private);
                self.edits.shared += 1;
                Ok(address)
            }
        }
    }

    /// Frees the tables of this root, except those that belong to another. The CPU must not have them cached.
    pub(super) fn free_root(&mut self) {
        self.free_table(self.root, Level::ROOT);
    }

    fn count_tables(&self, table: &Table, level: Level) -> usize {
        let below = |index| {
            let entry = table.get(index);
            if entry.is_empty() || entry.is_leaf(level) {
                0
            } else {
                self.count_tables(self.child(entry), level.below())
            }
        };
        if level.0 == 1 { 1 } else { 1 + (0..512).map(below).sum::<usize>() }
    }

    fn copy_table(&self, from: &Table, level: Level, stock: &mut Stock<'m>) -> PhysAddr {
        let address = stock.pop();
        let to = self.table(address);
        for index in 0..512 {
            let entry = from.get(index);
            if entry.is_empty() || entry.is_leaf(level) {
                to.set(index, entry);
            } else {
                let child = self.copy_table(self.child(entry), level.below(), stock);
                to.set(index, Entry::table(child, entry.is_user()));
            }
        }
        address
    }

    fn free_table(&self, address: PhysAddr, level: Level) {
        let table = self.table(address);
        for index in 0..512 {
            let entry = table.get(index);
            if level.0 > 1 && !entry.is_empty() && !entry.is_leaf(level) && !entry.is_shared() {
                self.free_table(PhysAddr::new_truncate(entry.table_address()), level.below());
            }
        }
        self.frames.free_table(address);
    }
}
