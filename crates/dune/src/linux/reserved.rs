//! Large tables of which little is used.

use core::ops::Deref;
use core::ptr::NonNull;

use linux_raw_sys::general as linux;

use super::place::{self, HugePages};
use super::sys::{self, Errno};
use crate::arch::page::PageRange;

/// What has a meaning when all its bytes are zero.
///
/// # Safety
///
/// Zeros are a valid value.
pub(crate) unsafe trait Zeroed {}

/// A `T` of zeros in a mapping of its own, which takes memory where it is written to. It begins and ends on multiples of 2 MiB, so that
/// the page tables of Dune mode need few entries for it.
#[derive(Debug)]
pub(crate) struct Reserved<T>(NonNull<T>);

// SAFETY: it owns the T, and gives out shared references only.
unsafe impl<T: Send> Send for Reserved<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Reserved<T> {}

const ALIGNMENT: u64 = 2 << 20;

impl<T> Reserved<T> {
    /// Its length in bytes.
    pub const BYTES: u64 = (size_of::<T>() as u64).next_multiple_of(ALIGNMENT);

    /// The mapping.
    pub fn range(&self) -> PageRange {
        let start = self.0.as_ptr() as u64;
        PageRange::known(start, start + Self::BYTES)
    }
}

impl<T: Zeroed> Reserved<T> {
    pub fn new() -> Result<Reserved<T>, Errno> {
        const { assert!(align_of::<T>() <= 4096 && !core::mem::needs_drop::<T>()) };
        Ok(Reserved(reserve_aligned(Self::BYTES, ALIGNMENT, HugePages::Unwanted)?.cast()))
    }
}

/// Maps `bytes` bytes without reserving memory, on a multiple of `alignment`.
pub(crate) fn reserve_aligned(bytes: u64, alignment: u64, huge: HugePages) -> Result<NonNull<u8>, Errno> {
    let start = place::anonymous(bytes, alignment, linux::MAP_NORESERVE, huge)?;
    let pointer = core::ptr::with_exposed_provenance_mut(start as usize);
    Ok(NonNull::new(pointer).expect("mmap does not give out the null page"))
}

impl<T> Deref for Reserved<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: 1. the mapping is this value's own, aligned to a page, and long enough; 2. zeros are a T.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Drop for Reserved<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        let _ = unsafe { sys::raw(linux::__NR_munmap, [self.0.as_ptr() as u64, Self::BYTES, 0, 0, 0, 0]) };
    }
}
