//! The process's own page tables, and a handler for its page faults.

use dune::memory::{EditError, Flush, PagePermissions, PageRange, VirtAddr, tlb};
use dune::{Dune, Handler, TrapFrame, TrapHandler, TrapOutcome};

use super::watch::{self, Watch};
use super::{Knowledge, TrackerError, WriteTracker};
use crate::heap::{PageSet, Space};

/// [`Tracker::DuneTraps`](super::Tracker::DuneTraps) and [`Tracker::DuneTrapsInvlpg`](super::Tracker::DuneTrapsInvlpg).
#[derive(Debug)]
pub(super) struct DuneTraps {
    dune: Dune,
    range: PageRange,
    watch: Watch,
}

/// Opens a page, and flushes all translations if so told.
#[derive(Debug)]
struct Open {
    flush_all: bool,
}

static OPEN: Handler<Open> = Handler::new(Open { flush_all: false });
static OPEN_AND_FLUSH_ALL: Handler<Open> = Handler::new(Open { flush_all: true });

impl TrapHandler for Open {
    fn handle(&self, dune: Dune, frame: &mut TrapFrame) -> TrapOutcome {
        let Some(page) = watch::find(frame.fault_address().as_u64() as usize) else {
            return TrapOutcome::Unhandled;
        };
        let range = PageRange::page(frame.fault_address());
        match dune.memory().protect_now(dune, range, PagePermissions::READ_WRITE) {
            Ok(()) => {
                if self.flush_all {
                    tlb::flush_current(dune);
                }
                page.opened();
                TrapOutcome::Resume
            }
            // Another thread edits the tables, and the write will fault again.
            Err(EditError::Busy(_)) => TrapOutcome::Resume,
            Err(_) => TrapOutcome::Unhandled,
        }
    }
}

impl DuneTraps {
    pub(super) fn start(dune: Dune, space: &Space, flush_all: bool) -> Result<DuneTraps, TrackerError> {
        let range = PageRange::covering(VirtAddr::new(space.start() as u64), space.bytes() as u64)?;
        let watch = Watch::new(space)?;
        let handler = if flush_all { &OPEN_AND_FLUSH_ALL } else { &OPEN };
        // SAFETY: the handler touches atomics and edits page tables, whose lock says when it is held.
        unsafe { dune.set_range_handler(range, handler)? };
        Ok(DuneTraps { dune, range, watch })
    }
}

impl Drop for DuneTraps {
    fn drop(&mut self) {
        // Nobody writes to the heap any more. Its pages are unmapped next, and what they were protected with goes with them.
        let _ = self.dune.clear_range_handler(self.range);
    }
}

impl WriteTracker for DuneTraps {
    fn written(&mut self, pages: usize, written: &mut PageSet) -> Result<Knowledge, TrackerError> {
        self.watch.written(pages, written);
        Ok(Knowledge::Exact)
    }

    fn begin(&mut self, old: &PageSet, pages: usize) -> Result<(), TrackerError> {
        let dune = self.dune;
        let mut tables = dune.page_tables()?;
        let mut flush = Flush::none();
        let edited = self.watch.begin(old, pages, |start, bytes, writable| {
            let rights = if writable { PagePermissions::READ_WRITE } else { PagePermissions::READ };
            let range = PageRange::new(VirtAddr::new(start as u64), bytes as u64)?;
            let more = tables.protect(range, rights)?;
            flush = std::mem::replace(&mut flush, Flush::none()).merge(more);
            Ok(())
        });
        drop(tables);
        flush.now(dune);
        edited
    }
}
