//! Linux's soft-dirty marks: Documentation/admin-guide/mm/soft-dirty.rst.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

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
    /// Which of the process's clearings the last one of this heap's was, if there was no other meanwhile.
    cleared: Option<u64>,
}

/// How many times a heap of this process has begun to clear the marks, which are those of all heaps, and how many times that has ended.
static BEGUN: AtomicU64 = AtomicU64::new(0);
static ENDED: AtomicU64 = AtomicU64::new(0);

/// Bit 55 of an entry: Documentation/admin-guide/mm/pagemap.rst.
const DIRTY: u64 = 1 << 55;

impl SoftDirty {
    pub(super) fn start(space: &Space) -> Result<SoftDirty, TrackerError> {
        let mut tracker = SoftDirty {
            start: space.start(),
            pagemap: open()?,
            process: std::process::id(),
            entries: Vec::new(),
            cleared: None,
        };
        // A page that nobody has touched is not dirty. The first block comes into use at once; what is written to a page of it has to show.
        if tracker.probe(false)? || !tracker.probe(true)? { Err(TrackerError::NoMarks) } else { Ok(tracker) }
    }

    /// Whether the first page is marked after marks were cleared, and it was perhaps written to.
    fn probe(&mut self, write: bool) -> Result<bool, TrackerError> {
        let mut is_marked = false;
        // Other threads may clear the marks meanwhile; each does so now and then.
        for _ in 0..100 {
            self.cleared = clear()?;
            if write {
                // SAFETY: the heap has no objects yet.
                unsafe { (self.start as *mut u64).write_volatile(0) };
            }
            let mut written = PageSet::new(64);
            let known = self.written(1, &mut written)?;
            is_marked = written.words(1)[0] != 0;
            if known == Knowledge::Exact {
                break;
            }
        }
        Ok(is_marked)
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
        // Another heap that has cleared the marks has cleared ours. One that begins to after this look at the count does so after the read.
        let is_ours = self.cleared == Some(BEGUN.load(Ordering::SeqCst));
        Ok(if is_ours { Knowledge::Exact } else { Knowledge::Nothing })
    }

    fn begin(&mut self, _: &PageSet, _: usize) -> Result<(), TrackerError> {
        self.cleared = None;
        self.cleared = clear()?;
        Ok(())
    }
}

fn open() -> Result<File, TrackerError> {
    File::open("/proc/self/pagemap").map_err(|error| refused("open of /proc/self/pagemap", error))
}

/// Clears the marks of all pages of the process. The number of this clearing, if no other thread was about one.
fn clear() -> Result<Option<u64>, TrackerError> {
    let number = BEGUN.fetch_add(1, Ordering::SeqCst) + 1;
    let cleared = fs::write("/proc/self/clear_refs", "4");
    let ended = ENDED.fetch_add(1, Ordering::SeqCst) + 1;
    cleared.map_err(|error| refused("write to /proc/self/clear_refs", error))?;
    // All that had begun have ended: what is marked from here on stays so until the count grows. (In the child of a fork that came in the midst
    // of another thread's clearing that never is so: its collections are full ones.)
    Ok((number == ended).then_some(number))
}

fn refused(call: &'static str, error: io::Error) -> TrackerError {
    let remedy = "mount /proc with writable clear_refs, or take another tracker";
    TrackerError::Refused { tracker: "soft-dirty", call, error, remedy }
}
