//! Mappings, and changing the permissions of their pages.

use std::io;
use std::ptr::{self, NonNull};

use super::{Refused, die};
use crate::payload::Outcome;

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;

/// Fresh anonymous memory in pages of 4 KiB, given back on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    pages: usize,
}

/// Keeps huge pages out of a mapping.
pub(crate) fn refuse_huge_pages(start: *mut u8, bytes: usize) {
    // SAFETY: advice, which changes no byte. A kernel without huge pages answers EINVAL, and needs none.
    unsafe { libc::madvise(start.cast(), bytes, libc::MADV_NOHUGEPAGE) };
}

impl Mapping {
    /// Private memory that no huge page will back.
    pub(crate) fn private(pages: usize) -> Result<Mapping, Refused> {
        Mapping::new(pages, libc::MAP_PRIVATE).inspect(Mapping::refuse_huge_pages)
    }

    /// Private memory that no huge page will back, with all its entries in one page table: what a change of many pages costs does
    /// not depend on where Linux likes to have them.
    pub(crate) fn under_one_table(pages: usize) -> Result<Mapping, Refused> {
        const ENTRIES: usize = 512;
        assert!(pages <= ENTRIES);
        let whole = Mapping::private(pages + ENTRIES)?;
        let skipped = whole.address().next_multiple_of(ENTRIES * PAGE) - whole.address();
        let start = whole.start().wrapping_add(skipped);
        // SAFETY: what is in front of the part that is kept, and what is behind it; nobody has used it.
        unsafe {
            if skipped > 0 {
                libc::munmap(whole.start().cast(), skipped);
            }
            libc::munmap(start.wrapping_add(pages * PAGE).cast(), ENTRIES * PAGE - skipped);
        }
        std::mem::forget(whole);
        Ok(Mapping { start: NonNull::new(start).expect("above the first address"), pages })
    }

    /// Private memory that Linux may back by huge pages.
    pub(crate) fn plain(pages: usize) -> Result<Mapping, Refused> {
        Mapping::new(pages, libc::MAP_PRIVATE)
    }

    /// Memory that a child of a fork shares.
    pub(crate) fn shared(pages: usize) -> Result<Mapping, Refused> {
        Mapping::new(pages, libc::MAP_SHARED).inspect(Mapping::refuse_huge_pages)
    }

    fn new(pages: usize, flags: libc::c_int) -> Result<Mapping, Refused> {
        let flags = flags | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping where the kernel likes touches nothing that exists.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), pages * PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        if start == libc::MAP_FAILED {
            return Err(Refused::last("mmap"));
        }
        let Some(start) = NonNull::new(start.cast()) else { return Err(Refused::last("mmap")) };
        Ok(Mapping { start, pages })
    }

    fn refuse_huge_pages(&self) {
        refuse_huge_pages(self.start(), self.pages * PAGE);
    }

    /// Its first byte.
    #[inline(always)]
    pub(crate) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Its first address.
    pub(crate) fn address(&self) -> usize {
        self.start.as_ptr() as usize
    }

    /// Stores to page `page`; reading it first would map the page of zeros.
    #[inline(always)]
    pub(crate) fn touch(&self, page: usize) {
        debug_assert!(page < self.pages);
        // SAFETY: the first byte of a page of ours. Where a page is read-only, the row's handler sees to it.
        unsafe { self.start().add(page * PAGE).write_volatile(1) };
    }

    /// Reads the word at the start of the page whose distance from the first is `offset` bytes.
    #[inline(always)]
    pub(crate) fn load(&self, offset: usize) -> usize {
        debug_assert!(offset < self.pages * PAGE);
        // SAFETY: an aligned word within a page of ours.
        unsafe { self.start().add(offset).cast::<usize>().read_volatile() }
    }

    /// Writes the word `index` words before the end of the mapping.
    pub(crate) fn write_from_end(&self, index: usize, word: u64) {
        assert!(index > 0 && index * 8 <= PAGE);
        // SAFETY: an aligned word within the last page.
        unsafe { self.start().add(self.pages * PAGE - index * 8).cast::<u64>().write_volatile(word) };
    }

    /// The outcome that a payload left at the start.
    pub(crate) fn outcome(&self) -> Outcome {
        // SAFETY: the first 16 bytes of the mapping, aligned; any bits are an outcome.
        unsafe { self.start().cast::<Outcome>().read_volatile() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone and nothing points into it any more.
        unsafe { libc::munmap(self.start().cast(), self.pages * PAGE) };
    }
}

/// A system on which page permissions can be changed and the faults of it be served: Linux, or Dune mode.
pub(crate) trait Pages: Copy {
    /// Makes `pages` pages from address `start` read-only, or writable again. Ends the process if that fails, since
    /// it is called from handlers.
    fn protect(self, start: usize, pages: usize, writable: bool);

    /// Gives pages the permissions that they came with, before their mapping ends: page tables that outlive it must
    /// not hand anything else to the next.
    fn give_back(self, start: usize, pages: usize);
}

/// Host mode.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Linux;

impl Pages for Linux {
    #[inline(always)]
    fn protect(self, start: usize, pages: usize, writable: bool) {
        if protect(start, pages, writable).is_err() {
            die("dune-bench: mprotect failed in a measured handler\n");
        }
    }

    fn give_back(self, start: usize, pages: usize) {
        self.protect(start, pages, true);
    }
}

/// Makes `pages` pages from address `start` read-only, or writable again.
///
/// # Errors
///
/// What `mprotect` said.
pub(crate) fn protect(start: usize, pages: usize, writable: bool) -> io::Result<()> {
    let access = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
    // SAFETY: callers pass pages of a `Mapping`, which are only accessed through raw pointers.
    match unsafe { libc::mprotect(start as *mut libc::c_void, pages * PAGE, access) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_mapping_says_so() {
        let refused = Mapping::private(usize::MAX / PAGE).expect_err("more than there is");
        assert_eq!(refused.call, "mmap");
    }
}
