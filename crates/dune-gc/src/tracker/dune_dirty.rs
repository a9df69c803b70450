//! The CPU's dirty marks.

use dune::memory::{Flush, PageRange, PageSize, VirtAddr};
use dune::{Dune, LinuxWrites};

use super::{Knowledge, TrackerError, WriteTracker};
use crate::heap::{PAGE, PageSet, Space};

/// [`Tracker::DuneDirty`](super::Tracker::DuneDirty).
#[derive(Debug)]
pub(super) struct DuneDirty {
    dune: Dune,
    start: u64,
    /// How many pages from the start are mapped with 4 KiB each, so that each has a mark.
    small: usize,
    /// All pages of the heap.
    most: usize,
    /// What Linux writes is marked, too, as long as this lives.
    _writes: LinuxWrites,
}

/// Pages that are split at a time: those of 2 MiB.
const AT_A_TIME: usize = 512;

impl DuneDirty {
    pub(super) fn start(dune: Dune, space: &Space) -> Result<DuneDirty, TrackerError> {
        let writes = dune.watch_linux_writes().map_err(dune::memory::EditError::from)?;
        let most = space.bytes() / PAGE;
        Ok(DuneDirty { dune, start: space.start() as u64, small: 0, most, _writes: writes })
    }

    fn range(&self, first: usize, pages: usize) -> Option<PageRange> {
        PageRange::new(VirtAddr::new(self.start + (first * PAGE) as u64), (pages * PAGE) as u64).ok()
    }

    /// Has pages up to `pages` mapped with 4 KiB each.
    fn split(&mut self, pages: usize) -> Result<(), TrackerError> {
        let mut tables = self.dune.page_tables()?;
        let mut flush = Flush::none();
        while self.small < pages {
            let end = (self.small + AT_A_TIME).min(self.most);
            for page in self.small..end {
                let address = VirtAddr::new(self.start + (page * PAGE) as u64);
                if tables.lookup(address).is_some_and(|leaf| leaf.size != PageSize::Size4KiB) {
                    flush = flush.merge(tables.split(address, PageSize::Size4KiB)?);
                }
            }
            self.small = end;
        }
        drop(tables);
        flush.now(self.dune);
        Ok(())
    }
}

impl WriteTracker for DuneDirty {
    fn written(&mut self, pages: usize, written: &mut PageSet) -> Result<Knowledge, TrackerError> {
        let Some(range) = self.range(0, pages) else { return Ok(Knowledge::Nothing) };
        let flush = self.dune.page_tables()?.harvest_dirty(range, |address, size| {
            // A large page may begin before the heap, and end behind it.
            let first = address.as_u64().max(self.start) - self.start;
            let end = (address.as_u64() + size.bytes() - self.start) as usize / PAGE;
            (first as usize / PAGE..end.min(pages)).for_each(|page| written.add(page));
        });
        flush.now(self.dune);
        Ok(Knowledge::Exact)
    }

    fn begin(&mut self, _: &PageSet, pages: usize) -> Result<(), TrackerError> {
        if pages > self.small { self.split(pages) } else { Ok(()) }
    }
}
