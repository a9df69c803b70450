//! Memory that spaces are granted.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use x86_64::VirtAddr;

use super::{Reserve, UserSpaceError};
use crate::arch::page::{PAGE_BYTES, PageRange};
use crate::guest::copy;
use crate::weakness::{Defence, lacks};

/// Memory that can be granted to spaces of ring 3 ([`UserSpace::grant`](super::UserSpace::grant)).
///
/// Ring 0 has no references into it, and copies with [`read`](Self::read) and [`write`](Self::write), whatever ring 3 may do. It lives as
/// long as a space has it. Whoever gets its addresses next finds zeros.
#[derive(Debug)]
pub struct SpaceMemory {
    reserve: Arc<Reserve>,
    range: PageRange,
    /// A bit for each page that may hold something: of the first 64, and of the others.
    written: (AtomicU64, Box<[AtomicU64]>),
}

impl SpaceMemory {
    pub(super) fn new(reserve: Arc<Reserve>, range: PageRange) -> SpaceMemory {
        let others = (1..range.pages().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        SpaceMemory { reserve, range, written: (AtomicU64::new(0), others) }
    }

    /// Its pages.
    pub fn range(&self) -> PageRange {
        self.range
    }

    /// Its first address.
    pub fn start(&self) -> VirtAddr {
        self.range.start()
    }

    /// The address after its last one: where a stack starts.
    pub fn end(&self) -> VirtAddr {
        VirtAddr::new_truncate(self.range.end())
    }

    /// Copies what is at byte `offset` to `to`.
    ///
    /// # Errors
    ///
    /// [`UserSpaceError::Outside`].
    pub fn read(&self, offset: u64, to: &mut [u8]) -> Result<(), UserSpaceError> {
        let from = self.address(offset, to.len() as u64)?;
        let at = to.as_mut_ptr().expose_provenance() as u64;
        // SAFETY: 1. the bytes at `to` are the caller's; 2. those at `from` are this memory's, which ring 0 may read; ring 3 may change
        // them meanwhile, but no code of Rust's has a reference.
        unsafe { copy::plain(at, from, to.len() as u64) };
        Ok(())
    }

    /// Copies `from` to byte `offset`.
    ///
    /// # Errors
    ///
    /// [`UserSpaceError::Outside`].
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<(), UserSpaceError> {
        let to = self.address(offset, from.len() as u64)?;
        let Some(last) = (from.len() as u64).checked_sub(1) else { return Ok(()) };
        // SAFETY: 1. the bytes at `to` are this memory's, to which no code of Rust's has a reference; 2. those at `from` can be read.
        unsafe { copy::plain(to, from.as_ptr().expose_provenance() as u64, from.len() as u64) };
        // Afterwards: who clears it meanwhile takes the marks away first.
        (offset / PAGE_BYTES..(offset + last) / PAGE_BYTES + 1).for_each(|page| self.mark_page(page));
        Ok(())
    }

    /// Fills it with zeros where it may hold something else: what [`write`](Self::write) has written, and what ring 3 has in spaces that
    /// have it no longer. Takes time for these pages only.
    pub fn clear(&self) {
        let (first, others) = &self.written;
        for (first, word) in (0..).step_by(64).zip([first].into_iter().chain(others)) {
            if word.load(Ordering::Relaxed) != 0 {
                self.clear_pages(first, word.swap(0, Ordering::Relaxed));
            }
        }
    }

    /// Clears the pages of `marks`, bit 0 of which is page `first`.
    fn clear_pages(&self, first: u64, mut marks: u64) {
        while marks != 0 {
            let page = first + u64::from(marks.trailing_zeros());
            // SAFETY: the page is this value's own, and no code of Rust's has a reference to it.
            unsafe { copy::clear(self.range.first() + page * PAGE_BYTES, PAGE_BYTES) };
            marks &= marks - 1;
        }
    }

    /// Whether `reserve` made it.
    pub(super) fn is_of(&self, reserve: &Arc<Reserve>) -> bool {
        Arc::ptr_eq(&self.reserve, reserve)
    }

    /// The pages in which `bytes` lie; `None` if that is no byte.
    pub(super) fn pages(&self, bytes: Range<u64>) -> Result<Option<PageRange>, UserSpaceError> {
        let Some(count) = bytes.end.checked_sub(bytes.start).filter(|count| *count > 0) else {
            return Ok(None);
        };
        let start = self.address(bytes.start, count)? & !(PAGE_BYTES - 1);
        Ok(Some(PageRange::known(start, (self.range.first() + bytes.end).next_multiple_of(PAGE_BYTES))))
    }

    /// Notes that these pages, which are its own, may hold something.
    pub(super) fn mark_range(&self, range: PageRange) {
        let first = (range.first() - self.range.first()) / PAGE_BYTES;
        (first..first + range.pages()).for_each(|page| self.mark_page(page));
    }

    #[inline]
    fn mark_page(&self, page: u64) {
        let (first, others) = &self.written;
        let word = if page < 64 { first } else { &others[page as usize / 64 - 1] };
        let bit = 1 << (page % 64);
        // Most have been written to before.
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    #[inline]
    fn address(&self, offset: u64, bytes: u64) -> Result<u64, UserSpaceError> {
        let length = self.range.bytes();
        if offset.checked_add(bytes).is_some_and(|end| end <= length) {
            return Ok(self.range.first() + offset);
        }
        Err(UserSpaceError::Outside { offset, bytes, length })
    }
}

impl Drop for SpaceMemory {
    fn drop(&mut self) {
        // No space has it: each that does has a reference to this value.
        if !lacks(Defence::Clearing) {
            self.clear();
        }
        self.reserve.give_back(self.range);
    }
}
