//! Frames that are page tables: taken several at once, and kept back while a CPU may still walk them.

use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::PhysAddr;

use super::{FrameAllocator, FrameError};
use crate::arch::page::{PAGE_BYTES, PageSize};

/// Where links between tables are kept in entries: bits 52 to 58.
const LINK_SHIFT: u32 = 52;
const LINK_WIDTH: u32 = 7;
const LINK_BITS: u64 = ((1 << LINK_WIDTH) - 1) << LINK_SHIFT;

impl FrameAllocator {
    /// Takes `count` small frames, zeroed, all or none, and gives each to `take`.
    pub(in crate::memory) fn take_tables(
        &self,
        count: usize,
        mut take: impl FnMut(PhysAddr),
    ) -> Result<(), FrameError> {
        if count as u64 * PAGE_BYTES > self.bytes {
            return Err(FrameError::Exhausted { capacity: self.bytes });
        }
        let mut state = self.state.lock()?;
        if !state.has_small(count) {
            return Err(FrameError::Exhausted { capacity: self.bytes });
        }
        for _ in 0..count {
            let Some((offset, zero)) = state.take_small() else { break };
            state.count(PAGE_BYTES);
            let memory = self.start() + offset;
            if !zero {
                // SAFETY: 1. the frame lies in the arena, which is mapped for writing; 2. it belongs to
                // nobody else.
                unsafe { ptr::write_bytes(ptr::with_exposed_provenance_mut::<u8>(memory as usize), 0, 4096) };
            }
            take(self.to_physical(memory));
        }
        Ok(())
    }

    /// Keeps the small frame at `address`, an emptied page table, until no CPU can have it cached. Lock-free:
    /// an edit must not fail because of it. [`Self::release_quarantined`] frees them.
    pub(in crate::memory) fn quarantine(&self, address: PhysAddr) {
        let mut head = self.quarantined.load(Ordering::Relaxed);
        loop {
            self.set_link(address.as_u64(), head);
            let new = address.as_u64();
            match self.quarantined.compare_exchange_weak(head, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(seen) => head = seen,
            }
        }
    }

    /// Frees the quarantined tables and returns their number; `flush` makes every CPU forget everything.
    pub(in crate::memory) fn release_quarantined(&self, flush: impl FnOnce()) -> usize {
        // What is quarantined from now on is not covered by the flush.
        let mut address = self.quarantined.swap(0, Ordering::AcqRel);
        flush();
        let mut count = 0;
        while address != 0 {
            let next = self.link(address);
            count += usize::from(self.free_table(PhysAddr::new(address)));
            address = next;
        }
        count
    }

    /// Frees a page table; if the allocator is at work, quarantines it instead and returns `false`.
    pub(in crate::memory) fn free_table(&self, address: PhysAddr) -> bool {
        match self.free_address(address, PageSize::Size4KiB) {
            Ok(()) => true,
            Err(error) => {
                debug_assert!(matches!(error, FrameError::Busy(_)), "{error}");
                if matches!(error, FrameError::Busy(_)) {
                    self.quarantine(address);
                }
                false
            }
        }
    }

    /// Stores `next`, a table's address or 0, in the table at `table`, without changing what the CPU reads
    /// there: it may still walk the table. Bits 52 to 58 of an entry are ignored by it; six entries hold a
    /// frame number.
    pub(in crate::memory) fn set_link(&self, table: u64, next: u64) {
        debug_assert!(next.is_multiple_of(PAGE_BYTES) && next < 1 << 52);
        let mut number = next / PAGE_BYTES;
        for word in self.link_words(table) {
            word.fetch_and(!LINK_BITS, Ordering::Relaxed);
            word.fetch_or((number << LINK_SHIFT) & LINK_BITS, Ordering::Relaxed);
            number >>= LINK_WIDTH;
        }
    }

    /// What [`Self::set_link`] stored.
    pub(in crate::memory) fn link(&self, table: u64) -> u64 {
        self.link_words(table).iter().rev().fold(0, |number, word| {
            number << LINK_WIDTH | (word.load(Ordering::Relaxed) & LINK_BITS) >> LINK_SHIFT
        }) * PAGE_BYTES
    }

    fn link_words(&self, table: u64) -> &[AtomicU64; 6] {
        let memory = self.to_memory(table);
        debug_assert!(memory.wrapping_sub(self.start()) < self.bytes);
        // SAFETY: 1. `table` is a table's frame from this arena, so it is mapped and aligned; 2. all tables
        // are accessed by atomics only.
        unsafe { &*ptr::with_exposed_provenance(memory as usize) }
    }
}
