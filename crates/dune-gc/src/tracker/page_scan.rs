//! Write protection that Linux lifts itself, and PAGEMAP_SCAN: Documentation/admin-guide/mm/pagemap.rst.

use std::fs::File;
use std::os::fd::AsRawFd;

use super::uffd::{FEATURE_WP_ASYNC, FEATURE_WP_UNPOPULATED, Protector, refused};
use super::{Knowledge, TrackerError, WriteTracker};
use crate::heap::{PAGE, PageSet, Space};

const NAME: &str = "page-scan";

/// [`Tracker::PageScan`](super::Tracker::PageScan).
#[derive(Debug)]
pub(super) struct PageScan {
    start: usize,
    pagemap: File,
    protector: Protector,
    /// What a scan finds: from where to where, and in which categories.
    regions: Vec<[u64; 3]>,
}

/// Regions that are found at a time.
const REGIONS: usize = 512;

impl PageScan {
    pub(super) fn start(space: &Space) -> Result<PageScan, TrackerError> {
        let protector = Protector::of(space, NAME, FEATURE_WP_UNPOPULATED | FEATURE_WP_ASYNC)?;
        let pagemap =
            File::open("/proc/self/pagemap").map_err(|_| refused(NAME, "open of /proc/self/pagemap"))?;
        let mut tracker =
            PageScan { start: space.start(), pagemap, protector, regions: vec![[0; 3]; REGIONS] };
        tracker.scan(1, |_, _| ())?;
        Ok(tracker)
    }

    /// Gives the runs of pages that were written to, of the first `pages`, to `found`, and protects them again.
    fn scan(&mut self, pages: usize, mut found: impl FnMut(usize, usize)) -> Result<(), TrackerError> {
        /// <linux/fs.h>
        const PAGEMAP_SCAN: u64 = 0xc060_6610;
        const WP_MATCHING: u64 = 1;
        const CHECK_WPASYNC: u64 = 2;
        const IS_WRITTEN: u64 = 1 << 1;
        let (mut from, end) = (self.start as u64, (self.start + pages * PAGE) as u64);
        while from < end {
            let list = self.regions.as_mut_ptr() as u64;
            let (flags, most) = (WP_MATCHING | CHECK_WPASYNC, REGIONS as u64);
            let mut scan = [96, flags, from, end, 0, list, most, 0, 0, IS_WRITTEN, 0, IS_WRITTEN];
            // SAFETY: a structure of this size, with the list's true length.
            let count = unsafe { libc::ioctl(self.pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut scan) };
            let Ok(count) = usize::try_from(count) else { return Err(refused(NAME, "PAGEMAP_SCAN")) };
            for [first, last, _] in &self.regions[..count.min(REGIONS)] {
                found((*first as usize - self.start) / PAGE, (*last as usize - self.start) / PAGE);
            }
            // Where the scan has come to.
            from = scan[4].max(from + PAGE as u64);
        }
        Ok(())
    }
}

impl WriteTracker for PageScan {
    fn written(&mut self, pages: usize, written: &mut PageSet) -> Result<Knowledge, TrackerError> {
        if self.protector.is_anothers() {
            // A child's memory is not protected, and its page map is another.
            return Ok(Knowledge::Nothing);
        }
        self.scan(pages, |from, to| (from..to).for_each(|page| written.add(page)))?;
        Ok(Knowledge::Exact)
    }

    fn begin(&mut self, _: &PageSet, _: usize) -> Result<(), TrackerError> {
        // The scan has protected what had been written; pages beyond have not been in use.
        Ok(())
    }
}
