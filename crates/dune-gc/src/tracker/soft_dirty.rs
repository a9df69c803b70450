//! Linux's soft-dirty marks: Documentation/admin-guide/mm/soft-dirty.rst.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use super::{Knowledge, TrackerError, WriteTracker};
use crate::heap::{PAGE, PageSet, Space};

/// [`Tracker::SoftDirty`](super::Tracker::SoftDirty).
#[derive(Debug)]
pub(super) struct SoftDirty {
    start: usize,
    pagemap: File,
    /// Whose page map that is: after a fork it is another's.
    process: u32,
    entries: Vec<u8>,
}

/// Bit 55 of an entry: Documentation/admin-guide/mm/pagemap.rst.
const DIRTY: u64 = 1 << 55;

impl SoftDirty {
    pub(super) fn start(space: &Space) -> Result<SoftDirty, TrackerError> {
        let mut tracker = SoftDirty {
            start: space.start(),
            pagemap: open()?,
            process: std::process::id(),
            entries: Vec::new(),
        };
        // The first block comes into use at once; what is written to a page of it has to show.
        let mut marks = [true, false];
        for (mark, write) in marks.iter_mut().zip([false, true]) {
            clear()?;
            if write {
                // SAFETY: the heap has no objects yet.
                unsafe { (space.start() as *mut u64).write_volatile(0) };
            }
            let mut written = PageSet::new(64);
            tracker.written(1, &mut written)?;
            *mark = written.words(1)[0] != 0;
        }
        // A page that nobody has touched is not dirty.
        if marks == [false, true] { Ok(tracker) } else { Err(TrackerError::NoMarks) }
    }
}

impl WriteTracker for SoftDirty {
    fn written(&mut self, pages: usize, written: &mut PageSet) -> Result<Knowledge, TrackerError> {
        let process = std::process::id();
        if process != self.process {
            (self.pagemap, self.process) = (open()?, process);
        }
        self.entries.resize(pages * 8, 0);
        let from = (self.start / PAGE * 8) as u64;
        self.pagemap
            .read_exact_at(&mut self.entries, from)
            .map_err(|error| refused("read of the page map", error))?;
        for (page, entry) in self.entries.as_chunks::<8>().0.iter().enumerate() {
            if u64::from_le_bytes(*entry) & DIRTY != 0 {
                written.add(page);
            }
        }
        Ok(Knowledge::Exact)
    }

    fn begin(&mut self, _: &PageSet, _: usize) -> Result<(), TrackerError> {
        clear()
    }
}

fn open() -> Result<File, TrackerError> {
    File::open("/proc/self/pagemap").map_err(|error| refused("open of /proc/self/pagemap", error))
}

/// Clears the marks of all pages of the process.
fn clear() -> Result<(), TrackerError> {
    fs::write("/proc/self/clear_refs", "4").map_err(|error| refused("write to /proc/self/clear_refs", error))
}

fn refused(call: &'static str, error: io::Error) -> TrackerError {
    let remedy = "mount /proc with writable clear_refs, or take another tracker";
    TrackerError::Refused { tracker: "soft-dirty", call, error, remedy }
}
