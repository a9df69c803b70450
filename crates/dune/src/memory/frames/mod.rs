//! The frame allocator: 4 KiB and 2 MiB frames of guest-physical memory that the library owns.
//!
//! Frames come from one *arena*, a range of the process's memory reserved once and backed by Linux only where
//! it is touched. The arena is divided into 2 MiB blocks; a block is free, or one large frame, or 512 small
//! ones. Free blocks that still hold memory are given back to Linux when there are many of them, or by
//! [`FrameAllocator::trim`].
//!
//! All of it is safe to call from handlers: nothing allocates after the start, and a handler that interrupted
//! the allocator itself gets [`FrameError::Busy`].

mod ledger;
mod tables;

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU64, Ordering};

use linux_raw_sys::general as linux;
use thiserror::Error;
use x86_64::{PhysAddr, VirtAddr};

use ledger::BLOCK_BYTES;
pub(super) use ledger::Ledger;

use super::window::{GIB, round_up};
use crate::arch::page::{PageRange, PageSize};
use crate::linux::place::HugePages;
use crate::linux::reserved::reserve_aligned;
use crate::linux::sys::{self, Errno};
use crate::lock::holder::Holder;
use crate::lock::{Busy, Fork, ForkGuard, Guard, Rank, SpinLock};

/// More free blocks that hold memory than these (64 MiB) go back to Linux.
const KEEP_RESIDENT: u32 = 32;

/// Why a frame could not be had or returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// All frames are in use.
    #[error("all {capacity} bytes of frames are in use: free some, or enter with a larger arena")]
    Exhausted {
        /// The size of the arena in bytes.
        capacity: u64,
    },
    /// The allocator is at work.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The frame is free already.
    #[error("the frame at {frame:#x} is not allocated: it has been freed twice")]
    DoubleFree {
        /// The frame.
        frame: PhysAddr,
    },
    /// The frame comes from elsewhere.
    #[error("the frame at {frame:#x} is not from this arena")]
    NotFromArena {
        /// The frame.
        frame: PhysAddr,
    },
    /// There are no frames of this size.
    #[error("there are no frames of {size:?}: ask for 4 KiB or 2 MiB")]
    Unsupported {
        /// The size asked for.
        size: PageSize,
    },
    /// Linux did not reserve the arena.
    #[error("cannot reserve {bytes} bytes of addresses for frames: {errno}: raise RLIMIT_AS or ask for less")]
    Reserve {
        /// The size of the arena in bytes.
        bytes: u64,
        /// What Linux said.
        errno: Errno,
    },
}

/// What a new frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Contents {
    /// Zeroes.
    Zeroed,
    /// Anything: the caller writes all of it.
    Any,
}

/// A frame that belongs to whoever holds this. Goes back with [`FrameAllocator::free`]; if dropped it stays
/// in use.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a frame that is dropped stays in use for ever: give it to FrameAllocator::free"]
pub struct Frame {
    address: PhysAddr,
    memory: u64,
    size: PageSize,
}

impl Frame {
    /// The guest-physical address, for page tables.
    pub const fn address(&self) -> PhysAddr {
        self.address
    }

    /// The address at which the process's own mapping shows the frame.
    pub const fn virtual_address(&self) -> VirtAddr {
        VirtAddr::new_truncate(self.memory)
    }

    /// The first byte of the frame's memory.
    pub fn as_ptr(&self) -> *mut u8 {
        ptr::with_exposed_provenance_mut(self.memory as usize)
    }

    /// 4 KiB or 2 MiB.
    pub const fn size(&self) -> PageSize {
        self.size
    }

    /// The address, to be turned back by [`FrameAllocator::from_raw`]; the frame stays in use.
    pub const fn into_raw(self) -> PhysAddr {
        self.address
    }
}

/// How much is in use. All in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FrameStats {
    /// The arena.
    pub capacity: u64,
    /// Allocated frames.
    pub in_use: u64,
    /// Frames that can be had, as small ones.
    pub free: u64,
    /// The most that was ever in use.
    pub high_water: u64,
    /// Free 2 MiB blocks that Linux still backs with memory: what [`FrameAllocator::trim`] gives back.
    pub resident_free: u64,
}

/// Hands out frames and takes them back.
#[derive(Debug)]
pub struct FrameAllocator {
    /// The arena's memory.
    memory: NonNull<u8>,
    bytes: u64,
    /// Guest-physical address of the arena minus its virtual one.
    offset: AtomicU64,
    state: SpinLock<Ledger>,
    /// Tables that may still be cached by a CPU: the first of a list, 0 for none. See [`Self::quarantine`].
    quarantined: AtomicU64,
}

// SAFETY: 1. the arena belongs to the allocator; frames are handed out once; 2. the rest is behind a lock or
// atomic.
unsafe impl Send for FrameAllocator {}
// SAFETY: 1. as for Send.
unsafe impl Sync for FrameAllocator {}

impl FrameAllocator {
    /// Reserves an arena of `bytes` bytes, rounded up to 2 MiB, on a 1 GiB boundary if it is that large, else
    /// on a 2 MiB boundary. Linux gives it memory page by page as it is touched.
    ///
    /// Until the arena has a place in a window, frames have the guest-physical
    /// addresses of their virtual ones.
    pub(crate) fn reserve(bytes: u64) -> Result<FrameAllocator, FrameError> {
        let bytes = round_up(bytes.clamp(BLOCK_BYTES, 1 << 46), BLOCK_BYTES);
        let alignment = if bytes >= GIB { GIB } else { BLOCK_BYTES };
        let errno = Errno::from_raw(linux_raw_sys::errno::ENOMEM);
        let state = Ledger::new((bytes / BLOCK_BYTES) as u32).ok_or(FrameError::Reserve { bytes, errno })?;
        // Large pages make second-level walks shorter.
        let start = reserve_aligned(bytes, alignment, HugePages::Wanted)
            .map_err(|errno| FrameError::Reserve { bytes, errno })?;
        Ok(FrameAllocator {
            memory: start,
            bytes,
            offset: AtomicU64::new(0),
            state: SpinLock::new(Rank::Frames, state),
            quarantined: AtomicU64::new(0),
        })
    }

    /// The arena's virtual addresses.
    pub fn range(&self) -> PageRange {
        PageRange::known(self.start(), self.start() + self.bytes)
    }

    /// Tells where in guest-physical memory the arena lies. Only before any frame is handed out.
    pub(in crate::memory) fn attach(&mut self, address: PhysAddr) {
        debug_assert_eq!(self.state.get_mut().in_use, 0);
        *self.offset.get_mut() = address.as_u64().wrapping_sub(self.start());
    }

    /// A frame of `size`, 4 KiB or 2 MiB.
    pub fn allocate(&self, size: PageSize, contents: Contents) -> Result<Frame, FrameError> {
        let mut state = self.state.lock()?;
        let offset = match size {
            PageSize::Size4KiB => state.take_small(),
            PageSize::Size2MiB => state.take_large(),
            PageSize::Size1GiB => return Err(FrameError::Unsupported { size }),
        };
        let (offset, zero) = offset.ok_or(FrameError::Exhausted { capacity: self.bytes })?;
        state.count(size.bytes());
        drop(state);
        let memory = self.start() + offset;
        if contents == Contents::Zeroed && !zero {
            // SAFETY: 1. the frame lies in the arena, which is mapped for writing; 2. it belongs to nobody
            // else.
            unsafe {
                ptr::write_bytes(
                    ptr::with_exposed_provenance_mut::<u8>(memory as usize),
                    0,
                    size.bytes() as usize,
                )
            };
        }
        Ok(Frame { address: self.to_physical(memory), memory, size })
    }

    /// Takes a frame back, for whoever asks next: it may become a page table.
    ///
    /// # Errors
    ///
    /// [`FrameError::Busy`], [`FrameError::DoubleFree`], [`FrameError::NotFromArena`]; the frame then stays in use.
    ///
    /// # Safety
    ///
    /// 1. No page tables map the frame, those of address spaces included, and no CPU has such a translation cached: the
    ///    [`Flush`](super::Flush) of each edit that unmapped it has been discharged. Who is not sure that it was its own edit that
    ///    did so (unmapping is safe) discharges [`Flush::everything`](super::Flush::everything).
    /// 2. Nobody uses its memory any more, by [`Frame::as_ptr`] or in any other way.
    pub unsafe fn free(&self, frame: Frame) -> Result<(), FrameError> {
        self.free_address(frame.address, frame.size)
    }

    /// Makes a frame of what [`Frame::into_raw`] gave.
    ///
    /// # Safety
    ///
    /// The frame is in use, of this size, from this allocator, and no other `Frame` stands for it.
    pub unsafe fn from_raw(&self, address: PhysAddr, size: PageSize) -> Frame {
        Frame { address, memory: self.to_memory(address.as_u64()), size }
    }

    /// Gives the memory of all free blocks back to Linux. Returns the bytes given back.
    pub fn trim(&self) -> Result<u64, FrameError> {
        let mut state = self.state.lock()?;
        Ok(self.give_back(&mut state, 0))
    }

    /// How much is in use.
    pub fn stats(&self) -> Result<FrameStats, FrameError> {
        let state = self.state.lock()?;
        Ok(FrameStats {
            capacity: self.bytes,
            in_use: state.in_use,
            free: self.bytes - state.in_use,
            high_water: state.high_water,
            resident_free: u64::from(state.dirty()) * BLOCK_BYTES,
        })
    }

    /// Keeps others from taking and freeing frames for the time of `fork`.
    pub(in crate::memory) fn hold_across(&self, fork: Fork) -> Result<Option<ForkGuard<'_, Ledger>>, Busy> {
        self.state.lock_across(fork)
    }

    /// Whether the code that this handler has interrupted is taking or freeing frames.
    pub(in crate::memory) fn is_mine(&self) -> bool {
        self.state.is_mine()
    }

    /// Frees the lock from a holder that `is_gone`.
    pub(in crate::memory) fn free_if(&self, is_gone: impl Fn(Holder) -> bool) {
        self.state.free_if(is_gone);
    }

    /// What turns a guest-physical address of the arena into a virtual one, by subtraction.
    #[inline]
    pub(in crate::memory) fn offset(&self) -> u64 {
        self.offset.load(Ordering::Relaxed)
    }

    /// The virtual address of a physical one of the arena. Addresses from elsewhere give nonsense.
    #[inline]
    pub(in crate::memory) fn to_memory(&self, physical: u64) -> u64 {
        physical.wrapping_sub(self.offset())
    }

    /// Frees the frame of `size` at `address`.
    pub(in crate::memory) fn free_address(
        &self,
        address: PhysAddr,
        size: PageSize,
    ) -> Result<(), FrameError> {
        let offset = self.to_memory(address.as_u64()).wrapping_sub(self.start());
        if offset >= self.bytes {
            return Err(FrameError::NotFromArena { frame: address });
        }
        let mut state = self.state.lock()?;
        if !state.put(offset, size) {
            return Err(FrameError::DoubleFree { frame: address });
        }
        if state.dirty() > KEEP_RESIDENT {
            self.give_back(&mut state, KEEP_RESIDENT / 2);
        }
        Ok(())
    }

    fn start(&self) -> u64 {
        self.memory.as_ptr().expose_provenance() as u64
    }

    fn to_physical(&self, memory: u64) -> PhysAddr {
        PhysAddr::new(memory.wrapping_add(self.offset.load(Ordering::Relaxed)))
    }

    /// Gives all but `keep` free blocks that hold memory back to Linux.
    fn give_back(&self, state: &mut Guard<'_, Ledger>, keep: u32) -> u64 {
        let state = &mut **state;
        let mut bytes = 0;
        while state.dirty() > keep
            && let Some(index) = state.take_dirty()
        {
            let address = self.start() + u64::from(index) * BLOCK_BYTES;
            let arguments = [address, BLOCK_BYTES, u64::from(linux::MADV_DONTNEED), 0, 0, 0];
            // SAFETY: 1. the block is free: nobody uses its memory.
            if unsafe { sys::call(linux::__NR_madvise, arguments) }.is_err() {
                // Locked memory (mlockall) stays resident; the block is as useful as before.
                state.put_dirty(index);
                break;
            }
            state.put_clean(index);
            bytes += BLOCK_BYTES;
        }
        bytes
    }
}

impl Drop for FrameAllocator {
    fn drop(&mut self) {
        // SAFETY: 1. frames are raw memory: whoever still uses one did so by unsafe code that promised not to
        // outlive the allocator; 2. the range is this allocator's own mapping.
        let _ = unsafe { sys::raw(linux::__NR_munmap, [self.start(), self.bytes, 0, 0, 0, 0]) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocator(bytes: u64) -> FrameAllocator {
        FrameAllocator::reserve(bytes).unwrap()
    }

    fn free(frames: &FrameAllocator, frame: Frame) {
        // SAFETY: 1. no page tables map the frames of these tests; 2. they are not used afterwards.
        unsafe { frames.free(frame) }.unwrap();
    }

    #[test]
    fn sizes_alignment_and_zeroes() {
        let frames = allocator(8 << 20);
        assert_eq!(frames.range().bytes(), 8 << 20);
        let small = frames.allocate(PageSize::Size4KiB, Contents::Zeroed).unwrap();
        let large = frames.allocate(PageSize::Size2MiB, Contents::Any).unwrap();
        assert!(large.address().as_u64().is_multiple_of(2 << 20));
        // SAFETY: 1. the frame belongs to this test.
        unsafe { small.as_ptr().write_bytes(0xaa, 4096) };
        free(&frames, small);
        let again = frames.allocate(PageSize::Size4KiB, Contents::Zeroed).unwrap();
        // SAFETY: 1. the frame belongs to this test.
        assert!(unsafe { core::slice::from_raw_parts(again.as_ptr(), 4096) }.iter().all(|&byte| byte == 0));
        let stats = frames.stats().unwrap();
        assert_eq!((stats.in_use, stats.high_water), ((2 << 20) + 4096, (2 << 20) + 4096));
        free(&frames, again);
        free(&frames, large);
        assert_eq!(frames.stats().unwrap().in_use, 0);
        assert!(frames.trim().unwrap() >= 4 << 20);
        assert_eq!(frames.stats().unwrap().resident_free, 0);
        let huge = frames.allocate(PageSize::Size1GiB, Contents::Any);
        assert_eq!(huge.unwrap_err(), FrameError::Unsupported { size: PageSize::Size1GiB });
    }

    #[test]
    fn exhaustion_is_typed_and_passes() {
        let frames = allocator(4 << 20);
        let mut all = Vec::new();
        while let Ok(frame) = frames.allocate(PageSize::Size4KiB, Contents::Any) {
            all.push(frame);
        }
        assert_eq!(all.len(), 1024);
        let mut addresses: Vec<_> = all.iter().map(Frame::address).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 1024);
        let error = FrameError::Exhausted { capacity: 4 << 20 };
        assert_eq!(frames.allocate(PageSize::Size2MiB, Contents::Any).unwrap_err(), error);
        assert_eq!(frames.take_tables(1, |_| ()).unwrap_err(), error);
        all.into_iter().for_each(|frame| free(&frames, frame));
        let large = frames.allocate(PageSize::Size2MiB, Contents::Any).unwrap();
        free(&frames, large);
    }

    #[test]
    fn double_free_and_foreign_frames_are_refused() {
        let frames = allocator(2 << 20);
        let frame = frames.allocate(PageSize::Size4KiB, Contents::Any).unwrap();
        let address = frame.address();
        free(&frames, frame);
        assert_eq!(
            frames.free_address(address, PageSize::Size4KiB),
            Err(FrameError::DoubleFree { frame: address })
        );
        let elsewhere = PhysAddr::new(0x1000);
        assert_eq!(
            frames.free_address(elsewhere, PageSize::Size4KiB),
            Err(FrameError::NotFromArena { frame: elsewhere })
        );
    }

    #[test]
    fn many_free_blocks_go_back_by_themselves() {
        let frames = allocator(128 << 20);
        let all: Vec<_> =
            (0..64).map(|_| frames.allocate(PageSize::Size2MiB, Contents::Any).unwrap()).collect();
        all.into_iter().for_each(|frame| free(&frames, frame));
        assert!(frames.stats().unwrap().resident_free <= u64::from(KEEP_RESIDENT) * BLOCK_BYTES);
    }

    #[test]
    fn quarantined_tables_come_back() {
        let frames = allocator(2 << 20);
        let mut tables = Vec::new();
        frames.take_tables(3, |table| tables.push(table)).unwrap();
        tables.into_iter().for_each(|table| frames.quarantine(table));
        assert_eq!(frames.stats().unwrap().in_use, 3 * 4096);
        assert_eq!(frames.release_quarantined(|| ()), 3);
        assert_eq!(frames.stats().unwrap().in_use, 0);
    }

    #[test]
    fn a_handler_that_interrupts_gets_busy() {
        let frames = allocator(2 << 20);
        let _held = frames.state.lock().unwrap();
        assert_eq!(frames.allocate(PageSize::Size4KiB, Contents::Any).unwrap_err(), FrameError::Busy(Busy));
    }
}
