//! Tables of descriptors: most processes have one, but a thread may have its own (unshare(2) and clone(2), CLONE_FILES). A vCPU's
//! descriptor is good only in the table in which it was made, and in copies of that.

use core::sync::atomic::{AtomicU32, Ordering};

/// A table of descriptors of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileTable(u32);

impl FileTable {
    /// The one in which the process entered.
    pub(crate) const FIRST: FileTable = FileTable(0);

    /// One that there has not been yet.
    pub(crate) fn new() -> FileTable {
        static LAST: AtomicU32 = AtomicU32::new(0);
        FileTable(LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1))
    }

    /// The number that stands for it.
    pub(crate) const fn word(self) -> u32 {
        self.0
    }
}
