//! A box in a mapping of its own, for what is made where the program's allocator may be in use.

use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use linux_raw_sys::general::__NR_munmap;

use super::place::{self, HugePages};
use super::sys::{self, Errno};

/// Linux gave no address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutOfMemory {
    /// What it was for.
    pub what: &'static str,
    pub bytes: u64,
    pub errno: Errno,
}

/// A `T` in whole pages.
#[derive(Debug)]
pub(crate) struct Mapped<T>(NonNull<T>);

impl<T> Mapped<T> {
    const BYTES: u64 = (size_of::<T>() as u64).next_multiple_of(4096);

    /// Moves `value` to pages of its own; `what` names it in the error.
    pub(crate) fn new(what: &'static str, value: T) -> Result<Mapped<T>, OutOfMemory> {
        const { assert!(align_of::<T>() <= 4096) };
        let address = place::anonymous(Self::BYTES, 4096, 0, HugePages::Unwanted)
            .map_err(|errno| OutOfMemory { what, bytes: Self::BYTES, errno })?;
        let pointer = NonNull::new(address as *mut T).expect("mmap does not return null");
        // SAFETY: the mapping is writable, aligned to a page, and large enough.
        unsafe { pointer.write(value) };
        Ok(Mapped(pointer))
    }

    /// Gives the value up to whoever keeps the pointer.
    pub(crate) fn leak(self) -> *mut T {
        let pointer = self.0.as_ptr();
        core::mem::forget(self);
        pointer
    }

    /// Where the value is.
    pub(crate) fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }

    /// Takes back what [`leak`](Mapped::leak) gave up.
    ///
    /// # Safety
    ///
    /// `pointer` came from `leak` and nobody else uses it.
    pub(crate) unsafe fn from_leaked(pointer: *mut T) -> Mapped<T> {
        // SAFETY: `leak` gave a pointer that is not null, says the caller.
        Mapped(unsafe { NonNull::new_unchecked(pointer) })
    }
}

impl<T> Deref for Mapped<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this value owns the T.
        unsafe { self.0.as_ref() }
    }
}

impl<T> DerefMut for Mapped<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this value owns the T and is borrowed mutably.
        unsafe { self.0.as_mut() }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the T is dropped once, then its pages, which are this value's own, go.
        unsafe {
            self.0.drop_in_place();
            let _ = sys::call(__NR_munmap, [self.0.as_ptr() as u64, Self::BYTES, 0, 0, 0, 0]);
        }
    }
}
