//! What ring 3 reaches: what the tables let it do with an address, and changes of that in all tables that count.

use super::Memory;
use super::error::EditError;
use super::flush::Flush;
use super::mirror::Ownership;
use super::table::PageTables;
use crate::arch::page::{Level, PagePermissions, PageRange};

impl PageTables<'_> {
    /// What ring 3 may do at `address`, nothing if some level keeps it out, and where the page ends.
    pub(crate) fn reach_of_user(&self, address: u64) -> (PagePermissions, u64) {
        let (mut level, mut table) = (Level::ROOT, self.root_table());
        loop {
            let entry = table.get(level.index(address));
            let end = (address | (level.span() - 1)).saturating_add(1);
            if !entry.is_user() || entry.is_empty() {
                return (PagePermissions::empty(), end);
            }
            if entry.is_leaf(level) {
                return (entry.permissions(), end);
            }
            (level, table) = (level.below(), self.child(entry));
        }
    }
}

impl Memory {
    /// Makes an edit in the process's own tables, and in those that the CPU uses now, if they are others.
    fn edit_active<'m>(
        &'m self,
        edit: impl Fn(&mut PageTables<'m>) -> Result<Flush<'m>, EditError>,
    ) -> Result<Flush<'m>, EditError> {
        let flush = edit(&mut self.page_tables()?)?;
        match self.foreign_root() {
            None => Ok(flush),
            Some(root) => Ok(flush + edit(&mut self.tables(root)?)?),
        }
    }

    /// [`PageTables::protect_for_user`], in the address space in use, too.
    ///
    /// # Safety
    ///
    /// As for that.
    pub(crate) unsafe fn protect_for_user(
        &self,
        range: PageRange,
        permissions: PagePermissions,
    ) -> Result<Flush<'_>, EditError> {
        // SAFETY: the caller's.
        self.edit_active(|tables| unsafe { tables.protect_for_user(range, permissions) })
    }

    /// Keeps ring 3 out of `range`, which is about to be unmapped.
    pub(crate) fn take_from_user(&self, range: PageRange) -> Result<Flush<'_>, EditError> {
        match self.mapping() {
            super::mirror::MirrorMode::Full => {
                self.edit_active(|tables| tables.protect(range, PagePermissions::ALL))
            }
            super::mirror::MirrorMode::Precise => {
                self.edit_active(|tables| tables.mirror(range, PagePermissions::empty(), Ownership::TakeBack))
            }
        }
    }
}
