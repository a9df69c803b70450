//! Editing the page tables although somebody else does.

use super::Memory;
use super::error::EditError;
use super::frames::FrameError;
use super::table::PageTables;
use crate::linux::sys;

/// So often tables that are busy are tried again, after a millisecond each, beyond the seconds that the lock itself waits.
const TRIES: u32 = 2000;

impl Memory {
    /// Calls `edit` with the page tables of the process's own address space. If they are busy, or `edit` says that frames are, it is
    /// tried again for some seconds; so `edit` may be called several times, and a refused edit has changed nothing.
    ///
    /// # Errors
    ///
    /// What `edit` says; [`EditError::Busy`] at once in a handler that has interrupted code which holds the tables, since that
    /// goes on only when the handler returns, and else after some seconds.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use dune::memory::{PagePermissions, PageRange, VirtAddr};
    ///
    /// let dune = dune::enter()?;
    /// let page = PageRange::page(VirtAddr::new(0x7000_0000_0000));
    /// let flush = dune.memory().with_page_tables(|tables| tables.protect(page, PagePermissions::READ))?;
    /// flush.now(dune);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_page_tables<'m, T>(
        &'m self,
        mut edit: impl FnMut(&mut PageTables<'m>) -> Result<T, EditError>,
    ) -> Result<T, EditError> {
        let mut tries = 0;
        loop {
            let result = self.page_tables().and_then(|mut tables| edit(&mut tables));
            let is_busy = matches!(&result, Err(EditError::Busy(_) | EditError::Frames(FrameError::Busy(_))));
            if !is_busy || tries == TRIES || self.edits.is_mine() || self.frames.is_mine() {
                return result;
            }
            tries += 1;
            sys::pause();
        }
    }
}
