//! The addresses of the heap.

use std::io;
use std::ptr;

use super::HeapError;

/// Reserved memory, which Linux gives pages for as they are touched.
#[derive(Debug)]
pub(crate) struct Space {
    start: *mut libc::c_void,
    bytes: usize,
}

/// The heap starts where a page of 2 MiB would, so that as few tables as can be are split for it.
const ALIGNMENT: usize = 2 << 20;

impl Space {
    /// `bytes` bytes, a multiple of a page, in pages of Linux's that may be huge or have to be small.
    pub(crate) fn reserve(bytes: usize, may_be_huge: bool) -> Result<Space, HeapError> {
        let refused = |error| HeapError::NoMemory { bytes, error };
        let (rights, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        );
        let too_much = || refused(io::Error::from_raw_os_error(libc::ENOMEM));
        let all = bytes.checked_add(ALIGNMENT).ok_or_else(too_much)?;
        // SAFETY: a new mapping where nothing is.
        let mapped = unsafe { libc::mmap(ptr::null_mut(), all, rights, flags, -1, 0) };
        if mapped == libc::MAP_FAILED {
            return Err(refused(io::Error::last_os_error()));
        }
        let start = (mapped as usize).next_multiple_of(ALIGNMENT);
        let (before, end) = (start - mapped as usize, start + bytes);
        // SAFETY: parts of the mapping above, into which nothing leads.
        unsafe {
            if before > 0 {
                libc::munmap(mapped, before);
            }
            libc::munmap(end as *mut _, mapped as usize + all - end);
            // A kernel without huge pages refuses, and has none.
            let advice = if may_be_huge { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
            libc::madvise(start as *mut _, bytes, advice);
        }
        Ok(Space { start: start as *mut _, bytes })
    }

    pub(crate) fn start(&self) -> usize {
        self.start as usize
    }

    pub(crate) fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.start()) < self.bytes
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // SAFETY: nothing leads into it: `Gc` borrows the heap, and the heap is gone.
        unsafe { libc::munmap(self.start, self.bytes) };
    }
}
