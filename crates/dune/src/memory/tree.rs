//! Whole trees of tables: copying one for a further address space, and giving it back.

use core::sync::atomic::{AtomicU64, Ordering};

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

/// Which entries of the process's root another root has had, a bit each: what has become of them there is its own affair.
#[derive(Debug, Default)]
pub(super) struct Copied([AtomicU64; 8]);

impl Copied {
    /// Takes entry `index` over; whether it was taken over before.
    fn take_over(&self, index: usize) -> bool {
        self.0[index / 64].fetch_or(1 << (index % 64), Ordering::Relaxed) >> (index % 64) & 1 != 0
    }

    /// Leaves entry `index` out, for ever.
    pub fn leave_out(&self, index: usize) {
        self.take_over(index);
    }
}

/// Has `copy` show what has come to the process's `root` since `copied`, and the rights for ring 3 of what it still shares. None is ever
/// taken from there while others share its tables.
pub(super) fn renew_root(root: &Table, copy: &Table, copied: &Copied) {
    for index in 0..512 {
        let (entry, old) = (root.get(index), copy.get(index));
        if !entry.is_empty() && (!copied.take_over(index) && old.is_empty() || old.is_shared()) {
            copy.set(index, entry.shared());
        }
    }
}

impl<'m> PageTables<'m> {
    /// A new root that maps what this one maps now; a shared one, but for what `copied` leaves out.
    pub(super) fn clone_root(&mut self, kind: SpaceKind, copied: &Copied) -> Result<PhysAddr, EditError> {
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
                renew_root(root, copy, copied);
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
