//! The memories of which snapshots can be taken, and their snapshots.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use x86_64::{PhysAddr, VirtAddr};

use super::SnapshotError;
use super::kept::Kept;
use crate::arch::page::{PageRange, PageSize};
use crate::memory::EditError;
use crate::memory::frames::{Contents, FrameAllocator};

/// How many memories there are at most, of which snapshots can be taken.
pub(crate) const MOST_REGIONS: usize = 16;
/// How many snapshots of one there are at most.
const MOST_SNAPSHOTS: usize = 32;
/// Frames that are set aside for who can not have the allocator's lock.
const SPARE: usize = 8;
/// Marks the root of a snapshot that is ending.
const ENDING: u64 = 1;

/// A memory, and the roots of what its snapshots keep, the oldest first; 0 ends them. It changes under the lock of the page tables.
#[derive(Debug)]
pub(in crate::memory) struct Region {
    /// 0 if this is none.
    start: AtomicU64,
    end: AtomicU64,
    roots: [AtomicU64; MOST_SNAPSHOTS],
}

impl Region {
    const fn none() -> Region {
        Region {
            start: AtomicU64::new(0),
            end: AtomicU64::new(0),
            roots: [const { AtomicU64::new(0) }; MOST_SNAPSHOTS],
        }
    }

    pub fn start(&self) -> u64 {
        self.start.load(Ordering::Relaxed)
    }

    fn end(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    fn words(&self) -> impl DoubleEndedIterator<Item = u64> {
        let count = self.roots.iter().take_while(|root| root.load(Ordering::Relaxed) != 0).count();
        self.roots[..count].iter().map(|root| root.load(Ordering::Relaxed))
    }

    /// The snapshots, the latest first.
    pub(super) fn snapshots<'m>(&self, frames: &'m FrameAllocator) -> impl Iterator<Item = Kept<'m>> {
        let alive = self.words().rev().filter(|word| word & ENDING == 0);
        alive.map(move |word| Kept { frames, root: PhysAddr::new_truncate(word) })
    }

    /// Those, and what is left of snapshots that are ending.
    pub(super) fn all<'m>(&self, frames: &'m FrameAllocator) -> impl Iterator<Item = Kept<'m>> {
        self.words().map(move |word| Kept { frames, root: PhysAddr::new_truncate(word & !ENDING) })
    }

    /// Adds a snapshot, the latest.
    pub fn add(&self, root: PhysAddr) -> Result<(), SnapshotError> {
        let free = self.roots.get(self.words().count());
        let free = free.ok_or(SnapshotError::TooManySnapshots { most: MOST_SNAPSHOTS })?;
        free.store(root.as_u64(), Ordering::Relaxed);
        Ok(())
    }

    /// The snapshot is to keep nothing more.
    pub fn begin_end(&self, root: PhysAddr) {
        let ending = self.roots.iter().find(|word| word.load(Ordering::Relaxed) == root.as_u64());
        ending.inspect(|word| word.store(root.as_u64() | ENDING, Ordering::Relaxed));
    }

    /// Takes a snapshot out that has ended.
    pub fn remove(&self, root: PhysAddr) {
        let at = self.words().position(|word| word & !ENDING == root.as_u64());
        for index in at.into_iter().flat_map(|at| at..MOST_SNAPSHOTS) {
            let next = self.roots.get(index + 1).map_or(0, |next| next.load(Ordering::Relaxed));
            self.roots[index].store(next, Ordering::Relaxed);
        }
    }
}

/// The memories of a process of which snapshots can be taken.
#[derive(Debug)]
pub(in crate::memory) struct Regions {
    /// How many snapshots there are, of all memories: as long as there are none, nothing has to be kept.
    pub snapshots: AtomicU32,
    count: AtomicU32,
    regions: [Region; MOST_REGIONS],
    spare: [AtomicU64; SPARE],
}

impl Regions {
    pub const fn new() -> Regions {
        Regions {
            snapshots: AtomicU32::new(0),
            count: AtomicU32::new(0),
            regions: [const { Region::none() }; MOST_REGIONS],
            spare: [const { AtomicU64::new(0) }; SPARE],
        }
    }

    /// Makes `range` one of them. The caller holds the lock of the page tables.
    pub fn begin(&self, range: PageRange) -> Result<(), SnapshotError> {
        let free = self.regions.iter().find(|region| region.start() == 0);
        let free = free.ok_or(SnapshotError::TooManyMemories { most: MOST_REGIONS })?;
        free.end.store(range.end(), Ordering::Relaxed);
        free.start.store(range.first(), Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// The memory at `range` is none of them any more; whether it was. The caller holds the lock of the page tables.
    pub fn end(&self, range: PageRange) -> bool {
        let region = self.at(range.first());
        region.inspect(|region| {
            region.start.store(0, Ordering::Relaxed);
            region.end.store(0, Ordering::Relaxed);
            self.count.fetch_sub(1, Ordering::Relaxed);
        });
        region.is_some()
    }

    /// How many memories there are.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// Refuses an edit of the program's that is about such memory.
    #[inline]
    pub fn refuse(&self, range: PageRange) -> Result<(), EditError> {
        if self.count() == 0 { Ok(()) } else { self.refuse_overlap(range) }
    }

    #[cold]
    fn refuse_overlap(&self, range: PageRange) -> Result<(), EditError> {
        match self.within((range.first(), range.end())).next() {
            Some((_, (at, _))) => Err(EditError::SnapshotMemory { address: VirtAddr::new_truncate(at) }),
            None => Ok(()),
        }
    }

    /// The parts of a span that are such memory.
    pub fn within(&self, (from, to): (u64, u64)) -> impl Iterator<Item = (&Region, (u64, u64))> {
        let used = self.regions.iter().filter(|region| region.start() != 0);
        let parts = used.map(move |region| (region, (from.max(region.start()), to.min(region.end()))));
        parts.filter(|(_, (from, to))| from < to)
    }

    /// The memory at `address`.
    pub fn at(&self, address: u64) -> Option<&Region> {
        self.regions.iter().find(|region| region.start() <= address && address < region.end())
    }

    /// A frame that was set aside.
    pub fn spare(&self) -> Option<PhysAddr> {
        self.spare.iter().find_map(|spare| match spare.swap(0, Ordering::Relaxed) {
            0 => None,
            frame => Some(PhysAddr::new_truncate(frame)),
        })
    }

    /// Sets frames aside; without any the allocator's are all there are.
    pub fn set_aside(&self, frames: &FrameAllocator) {
        for spare in self.spare.iter().filter(|spare| spare.load(Ordering::Relaxed) == 0) {
            if let Ok(frame) = frames.allocate(PageSize::Size4KiB, Contents::Any) {
                spare.store(frame.into_raw().as_u64(), Ordering::Relaxed);
            }
        }
    }
}
