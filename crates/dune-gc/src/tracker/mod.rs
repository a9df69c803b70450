//! What the collector knows of writes.

mod dune_dirty;
mod dune_traps;
mod mprotect;
mod page_scan;
mod signals;
mod soft_dirty;
mod uffd;
mod userfaultfd;
mod watch;

use std::fmt;
use std::io;
use std::str::FromStr;

use dune::HandlerError;
use dune::memory::{EditError, RangeError};
use thiserror::Error;

use crate::heap::{PageSet, Space};
use dune_traps::DuneTraps;

/// How the collector is to know which old objects have been written to. Collector and program are the same with all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tracker {
    /// Not at all: every collection is a full one.
    None,
    /// Pages with old objects are read-only by mprotect(2), and a handler for SIGSEGV makes them writable.
    ///
    /// System calls that write to objects fail with EFAULT on such pages.
    Mprotect,
    /// Linux's soft-dirty marks, which `/proc/self/clear_refs` clears for the whole process.
    SoftDirty,
    /// Write protection by userfaultfd(2) that Linux itself lifts, and PAGEMAP_SCAN (Linux 6.7).
    PageScan,
    /// Write protection by userfaultfd(2), and a handler for SIGBUS that lifts it.
    ///
    /// System calls that write to objects fail with EFAULT on such pages.
    Userfaultfd,
    /// In Dune mode: pages with old objects are read-only in the process's page tables, and a handler for page faults makes them writable, and
    /// flushes all translations each time.
    ///
    /// What Linux writes for system calls is not known: it uses its own tables.
    DuneTraps,
    /// The same, but the translation of the one page is flushed (INVLPG).
    DuneTrapsInvlpg,
    /// In Dune mode: the CPU's dirty marks. A write costs nothing. What Linux writes for system calls counts.
    DuneDirty,
}

impl Tracker {
    /// All of them.
    pub const ALL: [Tracker; 8] = [
        Tracker::None,
        Tracker::Mprotect,
        Tracker::SoftDirty,
        Tracker::PageScan,
        Tracker::Userfaultfd,
        Tracker::DuneTraps,
        Tracker::DuneTrapsInvlpg,
        Tracker::DuneDirty,
    ];

    /// The tracker's name, as [`FromStr`] takes it.
    pub fn name(self) -> &'static str {
        match self {
            Tracker::None => "none",
            Tracker::Mprotect => "mprotect",
            Tracker::SoftDirty => "soft-dirty",
            Tracker::PageScan => "page-scan",
            Tracker::Userfaultfd => "userfaultfd",
            Tracker::DuneTraps => "dune-traps",
            Tracker::DuneTrapsInvlpg => "dune-traps-invlpg",
            Tracker::DuneDirty => "dune-dirty",
        }
    }

    /// Whether it is there in Dune mode only.
    pub fn needs_dune_mode(self) -> bool {
        matches!(self, Tracker::DuneTraps | Tracker::DuneTrapsInvlpg | Tracker::DuneDirty)
    }

    /// Whether Linux's pages may be of 2 MiB: where they decide nothing about what is known. Dune mode's own tables have 4 KiB pages on
    /// them.
    pub(crate) fn may_have_huge_pages(self) -> bool {
        self == Tracker::None || self.needs_dune_mode()
    }

    pub(crate) fn start(self, space: &Space) -> Result<Box<dyn WriteTracker>, TrackerError> {
        let dune = || dune::current().ok_or(TrackerError::NotInDuneMode { tracker: self.name() });
        let traps = |flush_all| DuneTraps::start(dune()?, space, flush_all);
        Ok(match self {
            Tracker::None => Box::new(Nothing),
            Tracker::Mprotect => Box::new(mprotect::Mprotect::start(space)?),
            Tracker::SoftDirty => Box::new(soft_dirty::SoftDirty::start(space)?),
            Tracker::PageScan => Box::new(page_scan::PageScan::start(space)?),
            Tracker::Userfaultfd => Box::new(userfaultfd::Userfaultfd::start(space)?),
            Tracker::DuneTraps => Box::new(traps(true)?),
            Tracker::DuneTrapsInvlpg => Box::new(traps(false)?),
            Tracker::DuneDirty => Box::new(dune_dirty::DuneDirty::start(dune()?, space)?),
        })
    }
}

impl fmt::Display for Tracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Tracker {
    type Err = TrackerError;

    fn from_str(name: &str) -> Result<Tracker, TrackerError> {
        let unknown = || TrackerError::Unknown { name: name.to_owned() };
        Tracker::ALL.into_iter().find(|tracker| tracker.name() == name).ok_or_else(unknown)
    }
}

/// Why writes can not be known in a way, or were not.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrackerError {
    /// There is no tracker of this name.
    #[error(
        "no tracker is called {name}: there are none, mprotect, soft-dirty, page-scan, userfaultfd, dune-traps, dune-traps-invlpg and dune-dirty"
    )]
    Unknown {
        /// The name.
        name: String,
    },
    /// The tracker is of Dune mode.
    #[error("{tracker} works in Dune mode only: call dune::enter before the heap is made, or take mprotect")]
    NotInDuneMode {
        /// The tracker.
        tracker: &'static str,
    },
    /// A system call that it needs is refused.
    #[error("{tracker}: {call} is refused ({error}): {remedy}")]
    Refused {
        /// The tracker.
        tracker: &'static str,
        /// The call.
        call: &'static str,
        /// Linux's reason.
        error: io::Error,
        /// What can be done.
        remedy: &'static str,
    },
    /// This kernel sets no soft-dirty marks.
    #[error("soft-dirty: this kernel marks no pages (CONFIG_MEM_SOFT_DIRTY): take page-scan or mprotect")]
    NoMarks,
    /// More heaps are watched at a time than there is room for.
    #[error("{most} heaps are watched by faults already: let go of one, or take dune-dirty or page-scan")]
    TooMany {
        /// How many there can be.
        most: usize,
    },
    /// The page tables can not be edited.
    #[error("the page tables can not be edited: {0}")]
    Tables(#[from] EditError),
    /// The heap is no range of pages.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// The handler can not be set.
    #[error("the handler of page faults can not be set: {0}")]
    Handler(#[from] HandlerError),
}

/// How exact an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Knowledge {
    /// All pages that have been written to are in the answer.
    Exact,
    /// Any page may have been.
    Nothing,
}

/// What the collector knows of writes: pages of the heap, by number.
///
/// A tracker that misses a write makes the collector free what is in use. So where one does not know, it says so, or returns an
/// error, and the collection is a full one.
pub(crate) trait WriteTracker: fmt::Debug {
    /// Adds to `written` all pages with old objects, of the first `pages`, that have been written to since [`begin`](Self::begin).
    fn written(&mut self, pages: usize, written: &mut PageSet) -> Result<Knowledge, TrackerError>;

    /// From now on writes to the pages `old`, which have old objects, are to be known; they are among the first `pages`. Between the
    /// answer before and this, nobody has written.
    fn begin(&mut self, old: &PageSet, pages: usize) -> Result<(), TrackerError>;
}

/// [`Tracker::None`].
#[derive(Debug)]
struct Nothing;

impl WriteTracker for Nothing {
    fn written(&mut self, _: usize, _: &mut PageSet) -> Result<Knowledge, TrackerError> {
        Ok(Knowledge::Nothing)
    }

    fn begin(&mut self, _: &PageSet, _: usize) -> Result<(), TrackerError> {
        Ok(())
    }
}
