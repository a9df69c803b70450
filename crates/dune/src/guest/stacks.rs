//! The stacks that ring 0 switches to: one region per interrupt stack, one for system calls handled in ring 0.
//!
//! A region is divided into levels; each use moves its start one level down, so that nested use finds fresh space.
//! The lowest level has no rights: what nests deeper ends in a double fault with a report, not in
//! foreign memory.

use linux_raw_sys::general::{__NR_mprotect, __NR_munmap, MAP_NORESERVE, MAP_STACK, PROT_NONE};

use crate::arch::page::PAGE_BYTES;
use crate::linux::mapped::OutOfMemory;
use crate::linux::place::{self, HugePages};
use crate::linux::sys;

/// Bytes of one level. A panic's backtrace fits.
pub(crate) const LEVEL: usize = 128 << 10;
/// Levels of a region, the guard at the bottom included.
const LEVELS: usize = 8;
/// How deep traps of one interrupt stack may nest.
pub const MAX_NESTING: usize = LEVELS - 1;
/// Bytes of a region; it is aligned to its size, so that its top follows from any stack pointer inside.
pub(crate) const SIZE: usize = LEVEL * LEVELS;
/// Bytes at the top that hold the address of the thread's block.
const TOP_RESERVED: usize = 64;

const _: () = assert!(SIZE.is_power_of_two());

/// Maps `bytes` for stacks, on a multiple of `alignment`.
pub(crate) fn map(what: &'static str, bytes: u64, alignment: u64) -> Result<u64, OutOfMemory> {
    place::anonymous(bytes, alignment, MAP_NORESERVE | MAP_STACK, HugePages::Unwanted)
        .map_err(|errno| OutOfMemory { what, bytes, errno })
}

/// Stack regions of one thread.
#[derive(Debug)]
pub(crate) struct Regions {
    first: u64,
    count: usize,
}

impl Regions {
    /// Reserves `count` regions; memory is used when touched.
    pub(crate) fn reserve(count: usize) -> Result<Regions, OutOfMemory> {
        let first = map("trap stacks", Self::bytes(count), SIZE as u64)?;
        let regions = Regions { first, count };
        regions.protect_guards()?;
        Ok(regions)
    }

    /// Of `count` regions and the page behind.
    fn bytes(count: usize) -> u64 {
        (count * SIZE) as u64 + PAGE_BYTES
    }

    /// A page behind the last region.
    pub(crate) fn flush_page(&self) -> u64 {
        self.first + (self.count * SIZE) as u64
    }

    /// Start and size of all regions.
    pub(crate) fn bounds(&self) -> (u64, u64) {
        (self.first, (self.count * SIZE) as u64)
    }

    /// Start and size of each region without its guard, and of the flush page.
    pub(crate) fn usable(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let region = |index| (self.first + (index * SIZE + LEVEL) as u64, (SIZE - LEVEL) as u64);
        (0..self.count).map(region).chain([(self.flush_page(), PAGE_BYTES)])
    }

    /// Takes all rights from the lowest level of each region: the next trap's start lies in it.
    fn protect_guards(&self) -> Result<(), OutOfMemory> {
        for index in 0..self.count {
            let guard = self.first + (index * SIZE) as u64;
            // SAFETY: the guard is this value's own, and nobody uses it.
            unsafe { sys::call(__NR_mprotect, [guard, LEVEL as u64, PROT_NONE.into(), 0, 0, 0]) }
                .map_err(|errno| OutOfMemory { what: "guards of trap stacks", bytes: LEVEL as u64, errno })?;
        }
        Ok(())
    }

    /// Where the stack of region `index` starts, after writing `block` to its top for code that has lost GS.
    pub(crate) fn prepare(&self, index: usize, block: u64) -> u64 {
        assert!(index < self.count);
        let top = self.first + ((index + 1) * SIZE) as u64;
        // SAFETY: the last 64 bytes of the region are mapped, aligned, and used for nothing else.
        unsafe { ((top - 16) as *mut u64).write(block) };
        top - TOP_RESERVED as u64
    }
}

impl Drop for Regions {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and no thread runs on it any more when it is dropped.
        let _ = unsafe { sys::call(__NR_munmap, [self.first, Self::bytes(self.count), 0, 0, 0, 0]) };
    }
}
