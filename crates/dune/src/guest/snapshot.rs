//! Memory of the program's of which snapshots can be taken: the safe side of `memory/snapshot/`.

use std::sync::Arc;

use linux_raw_sys::general::{
    __NR_mmap, __NR_munmap, MAP_ANONYMOUS, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE,
};
use x86_64::structures::idt::PageFaultErrorCode as Error;
use x86_64::{PhysAddr, VirtAddr};

use super::error::HandlerError;
use super::handlers::{self, Handler, TrapHandler, TrapOutcome};
use super::linux_writes::LinuxWrites;
use super::range_handlers;
use crate::arch::frame::TrapFrame;
use crate::arch::page::PageRange;
use crate::arch::token::Dune;
use crate::linux::sys;
use crate::memory::snapshot::{self, MOST_REGIONS};
use crate::memory::streams::Reason;
use crate::memory::{EditError, Memory};

pub use crate::memory::snapshot::SnapshotError;

const GIB: u64 = 1 << 30;

/// Zeroed memory of which snapshots can be taken while the program goes on writing to it.
///
/// [`snapshot`](Self::snapshot) takes a time that does not depend on how large the memory is, nor on how much of it has been written.
/// From then on the first write to each page copies the page before. What Linux writes for the program counts: as long as there
/// is such memory, system calls are watched as with [`Dune::watch_linux_writes`], and what a call may write is copied before.
/// There it says what can not be known, and so is not noticed here either; and threads in host mode are to write nothing there.
///
/// The bytes are accessed by [`read`](Self::read) and [`write`](Self::write), or through the pointer, which leads to ordinary private memory:
/// system calls may be given it. A child of fork(2) has the memory with its snapshots as they were.
///
/// Clones stand for the same memory. It is given back when all of them, and all snapshots, have been dropped.
///
/// # Example
///
/// ```no_run
/// use dune::snapshot::SnapshotMemory;
///
/// let dune = dune::enter()?;
/// let memory = SnapshotMemory::new(dune, 64 << 20)?;
/// memory.write(0, b"then")?;
/// let snapshot = memory.snapshot(dune)?;
/// memory.write(0, b"now!")?;
/// let reader = std::thread::spawn(move || {
///     let mut bytes = [0; 4];
///     snapshot.read(0, &mut bytes).map(|()| bytes)
/// });
/// assert_eq!(reader.join().expect("it does not panic")?, *b"then");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct SnapshotMemory(Arc<Area>);

/// What a [`SnapshotMemory`] was at one moment. Any thread may read it, in Dune mode and in host mode.
///
/// Dropping it frees what it kept of the pages that have been written to since, in a time for these. In a handler that has interrupted an
/// edit of the page tables, that stays in use.
#[derive(Debug)]
pub struct Snapshot {
    area: Arc<Area>,
    root: PhysAddr,
}

/// A mapping of which snapshots can be taken.
#[derive(Debug)]
struct Area {
    memory: &'static Memory,
    range: PageRange,
    _writes: LinuxWrites,
}

impl SnapshotMemory {
    /// Memory of `bytes` bytes, rounded up to multiples of 2 MiB.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`]: there can be 16 such memories of up to 512 GiB each, and no [`AddressSpace`](crate::memory::AddressSpace)
    /// beside them.
    pub fn new(dune: Dune, bytes: u64) -> Result<SnapshotMemory, SnapshotError> {
        let _writes = dune.watch_linux_writes()?;
        let range = map(bytes)?;
        let memory = dune.memory();
        let registered = dune.without_interrupts(|| add_region(dune, range)).and_then(|()| {
            let forbid = || memory.forbid_arming(Reason::RangeHandlers);
            let added = range_handlers::add(range, handlers::full(&FIRST_WRITES), forbid);
            added.map_err(|error| match error {
                HandlerError::Busy(busy) => busy.into(),
                _ => SnapshotError::TooManyMemories { most: MOST_REGIONS },
            })
        });
        match registered {
            Ok(()) => Ok(SnapshotMemory(Arc::new(Area { memory, range, _writes }))),
            Err(error) => {
                let _ = memory.remove_region(range);
                unmap(range.first(), range.bytes());
                Err(error)
            }
        }
    }

    /// Its pages.
    pub fn range(&self) -> PageRange {
        self.0.range
    }

    /// Its first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        core::ptr::with_exposed_provenance_mut(self.0.range.first() as usize)
    }

    /// What it is now. The calling thread waits for as long as it takes to guard the memory and to have the other threads in
    /// Dune mode flush; what system calls of others may be writing meanwhile is copied, too.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`]: there can be 32 of a memory at a time.
    pub fn snapshot(&self, dune: Dune) -> Result<Snapshot, SnapshotError> {
        let root = self.0.memory.snapshot_root()?;
        self.0.memory.begin_snapshots(dune, &[(self.0.range, root)]).inspect_err(|_| {
            self.0.memory.free_snapshot_root(root);
        })?;
        Ok(Snapshot { area: Arc::clone(&self.0), root })
    }

    /// Copies what is at `offset` to `to`.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Outside`].
    pub fn read(&self, offset: u64, to: &mut [u8]) -> Result<(), SnapshotError> {
        let at = self.0.check(offset, to.len())?;
        // SAFETY: 1. so many bytes of the mapping, which lives, are readable; `to` is as long.
        unsafe { snapshot::copy_bytes(at, to.as_mut_ptr() as u64, to.len()) };
        Ok(())
    }

    /// Copies `from` to what is at `offset`.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Outside`].
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<(), SnapshotError> {
        let at = self.0.check(offset, from.len())?;
        // SAFETY: 1. so many bytes of the mapping, which lives, are writable; no reference leads there but by who has promised
        // that nobody writes meanwhile.
        unsafe { snapshot::copy_bytes(from.as_ptr() as u64, at, from.len()) };
        Ok(())
    }
}

impl Snapshot {
    /// What all of `memories` are at one moment, in their order; or none of them.
    ///
    /// # Errors
    ///
    /// As for [`SnapshotMemory::snapshot`].
    ///
    /// # Example
    ///
    /// ```no_run
    /// use dune::snapshot::{Snapshot, SnapshotMemory};
    ///
    /// # fn save(dune: dune::Dune, index: &SnapshotMemory, heap: &SnapshotMemory) -> Result<(), Box<dyn std::error::Error>> {
    /// let all = Snapshot::of_all(dune, &[index, heap])?;
    /// let mut entry = [0; 8];
    /// all[0].read(0, &mut entry)?;
    /// let mut object = [0; 64];
    /// all[1].read(u64::from_le_bytes(entry), &mut object)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn of_all(dune: Dune, memories: &[&SnapshotMemory]) -> Result<Vec<Snapshot>, SnapshotError> {
        let memory = dune.memory();
        let mut parts = Vec::with_capacity(memories.len());
        let free = |parts: &[(PageRange, PhysAddr)]| {
            parts.iter().for_each(|&(_, root)| memory.free_snapshot_root(root));
        };
        for of in memories {
            let root = memory.snapshot_root().inspect_err(|_| free(&parts))?;
            parts.push((of.0.range, root));
        }
        memory.begin_snapshots(dune, &parts).inspect_err(|_| free(&parts))?;
        let snapshots = memories.iter().zip(parts);
        Ok(snapshots.map(|(of, (_, root))| Snapshot { area: Arc::clone(&of.0), root }).collect())
    }

    /// The addresses of the memory that this is a snapshot of.
    pub fn range(&self) -> PageRange {
        self.area.range
    }

    /// Copies what was at `offset` to `to`.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Outside`]; [`SnapshotError::Lost`] where there was no frame to keep it in.
    pub fn read(&self, offset: u64, to: &mut [u8]) -> Result<(), SnapshotError> {
        self.area.check(offset, to.len())?;
        self.area.memory.read_snapshot((self.area.range, self.root), offset, to)
    }

    /// How many bytes it keeps of pages that have been written to since. (Snapshots that have the same of a page share it.)
    pub fn bytes_kept(&self) -> u64 {
        self.area.memory.bytes_kept(self.root)
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        // If the tables are busy what it kept stays in use.
        let _ = self.area.memory.end_snapshot(self.area.range, self.root);
    }
}

impl Area {
    /// The address of `offset`, if so many bytes are there.
    fn check(&self, offset: u64, bytes: usize) -> Result<u64, SnapshotError> {
        let (bytes, length) = (bytes as u64, self.range.bytes());
        if offset.checked_add(bytes).is_none_or(|end| end > length) {
            return Err(SnapshotError::Outside { offset, bytes, length });
        }
        Ok(self.range.first() + offset)
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        if self.memory.remove_region(self.range).is_err() {
            // The interrupted code edits the tables: it stays, for good.
            return;
        }
        let _ = range_handlers::remove(self.range, || self.memory.allow_arming(Reason::RangeHandlers));
        unmap(self.range.first(), self.range.bytes());
    }
}

/// Opens guarded pages as they are written to.
struct FirstWrites;

static FIRST_WRITES: Handler<FirstWrites> = Handler::new(FirstWrites);

impl TrapHandler for FirstWrites {
    #[inline]
    fn handle(&self, dune: Dune, frame: &mut TrapFrame) -> TrapOutcome {
        if is_first_write(dune, frame) && dune.memory().first_write(dune, frame.words().cr2) {
            TrapOutcome::Resume
        } else {
            TrapOutcome::Unhandled
        }
    }
}

/// Whether the page fault can be of a guard: not one that Linux's mapping is to blame for, which would come again and again.
fn is_first_write(dune: Dune, frame: &TrapFrame) -> bool {
    let error = frame.page_fault_error();
    let is_other = error.intersects(Error::PROTECTION_KEY | Error::MALFORMED_TABLE);
    let is_of_linux = || dune.block().second_level_fault.get().is_some_and(|fault| fault.is_of(frame));
    error.contains(Error::CAUSED_BY_WRITE) && !is_other && !is_of_linux()
}

/// Tells the memory's side of `range`, all of which Linux has mapped; what is in no window yet gets one.
fn add_region(dune: Dune, range: PageRange) -> Result<(), SnapshotError> {
    let mut last = VirtAddr::zero();
    loop {
        let missing = match dune.memory().add_region(range) {
            Err(SnapshotError::Tables(EditError::NotMapped { address })) => address,
            Err(SnapshotError::Tables(EditError::OutsideWindows { address })) => {
                VirtAddr::new_truncate(address)
            }
            result => return result,
        };
        if missing <= last || dune.reach(missing).is_none() {
            return Err(EditError::OutsideWindows { address: missing.as_u64() }.into());
        }
        last = missing;
    }
}

/// Maps `bytes` bytes where a few entries of page tables tell of all.
fn map(bytes: u64) -> Result<PageRange, SnapshotError> {
    let length = bytes.max(1).checked_next_multiple_of(snapshot::ALIGNMENT).unwrap_or(1 << 63);
    let alignment = if length >= GIB { GIB } else { snapshot::ALIGNMENT };
    let protection = u64::from(PROT_READ | PROT_WRITE);
    let flags = u64::from(MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
    let whole = length.saturating_add(alignment);
    // SAFETY: a new mapping where nothing was.
    let mapped = unsafe { sys::call(__NR_mmap, [0, whole, protection, flags, u64::MAX, 0]) }
        .map_err(|errno| SnapshotError::Refused { bytes, errno })?;
    let start = mapped.next_multiple_of(alignment);
    unmap(mapped, start - mapped);
    unmap(start + length, mapped + whole - (start + length));
    Ok(PageRange::known(start, start + length))
}

/// Gives a part of the mapping back, which nobody uses.
fn unmap(start: u64, bytes: u64) {
    if bytes > 0 {
        // SAFETY: the mapping is the caller's own, and no reference leads there.
        let _ = unsafe { sys::raw(__NR_munmap, [start, bytes, 0, 0, 0, 0]) };
    }
}
