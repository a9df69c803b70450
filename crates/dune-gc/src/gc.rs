//! Pointers to objects of the heap.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;

use crate::trace::address_of;

/// A pointer to a value in a [`Heap`](crate::Heap), which stays where it is as long as something leads to it.
///
/// It is a copyable word (with its length, for a slice). It may be on the stack, in registers, in objects of the same heap and in
/// a [`Root`](crate::Root), and nowhere else: that is what [`Heap::new`](crate::Heap::new) asks for.
#[repr(transparent)]
pub struct Gc<'h, T: ?Sized> {
    pointer: NonNull<T>,
    heap: PhantomData<&'h T>,
}

impl<'h, T: ?Sized> Gc<'h, T> {
    /// # Safety
    ///
    /// `pointer` leads to the whole value of an object of a heap that is borrowed for `'h`.
    pub(crate) unsafe fn new(pointer: NonNull<T>) -> Gc<'h, T> {
        Gc { pointer, heap: PhantomData }
    }

    /// Whether both lead to the same object.
    #[inline]
    pub fn ptr_eq(self, other: Gc<'_, T>) -> bool {
        self.address() == other.address()
    }

    /// The value, with its length. No method: slices have their own of such names.
    pub(crate) fn raw(object: Self) -> *const T {
        object.pointer.as_ptr()
    }

    /// Where the value is.
    #[inline]
    pub(crate) fn address(self) -> usize {
        address_of(self.pointer)
    }
}

impl<T: ?Sized> Clone for Gc<'_, T> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for Gc<'_, T> {}

impl<T: ?Sized> Deref for Gc<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the object is whole (`Gc::new`), there are only shared references to it, and it is there as long as this is, or a
        // reference from this: both are where the collector looks, which is what `Heap::new` asks for.
        unsafe { self.pointer.as_ref() }
    }
}

impl<T: ?Sized> fmt::Debug for Gc<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gc").field(&self.pointer).finish()
    }
}
