//! Handles that keep objects from wherever they are.

use std::fmt;
use std::ops::Deref;

use crate::gc::Gc;
use crate::heap::Heap;

/// Keeps an object, and may itself be anywhere: in a `Vec`, in a structure on the heap of the allocator. [`Heap::root`] makes one.
pub struct Root<'h, T: ?Sized> {
    heap: &'h Heap,
    place: usize,
    object: Gc<'h, T>,
}

impl<'h, T: ?Sized> Root<'h, T> {
    pub(crate) fn new(heap: &'h Heap, place: usize, object: Gc<'h, T>) -> Root<'h, T> {
        Root { heap, place, object }
    }

    /// The object.
    pub fn get(&self) -> Gc<'h, T> {
        self.object
    }
}

impl<T: ?Sized> Deref for Root<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.object
    }
}

impl<T: ?Sized> Clone for Root<'_, T> {
    fn clone(&self) -> Self {
        self.heap.root(self.object)
    }
}

impl<T: ?Sized> Drop for Root<'_, T> {
    fn drop(&mut self) {
        self.heap.unroot(self.place);
    }
}

impl<T: ?Sized> fmt::Debug for Root<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Root").field(&self.object).finish()
    }
}
