//! What leads from an object to others.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::gc::Gc;
use crate::heap::Blocks;

/// A type whose values can be in the heap: they tell the collector which objects they lead to.
///
/// `#[derive(Trace)]` implements it for types whose fields all are `Trace`: [`Gc`], numbers, `Option`, [`Cell`], arrays, tuples, and
/// `String`, `Box` and `Vec` of what leads nowhere.
///
/// # Safety
///
/// 1. [`trace`](Self::trace) calls `trace` on everything in the value that is or has a [`Gc`], and does nothing else.
/// 2. No `Gc` is anywhere else than in the value itself: not in memory that it owns, where the collector would not see it being
///    written.
/// 3. Dropping the value follows no `Gc`, and uses no heap: what it led to may be gone.
/// 4. [`HAS_EDGES`](Self::HAS_EDGES) is true if a value can have a `Gc`.
/// 5. The value holds nothing that is borrowed, but `Gc` and what is `'static`: a finalizer may get it when that borrow is over.
pub unsafe trait Trace {
    /// Whether a value can lead to objects.
    const HAS_EDGES: bool;

    /// Shows the tracer everything that the value leads to.
    fn trace(&self, tracer: &mut Tracer<'_>);
}

/// What follows the edges of objects.
#[derive(Debug)]
pub struct Tracer<'a> {
    pub(crate) blocks: &'a mut Blocks,
    /// Objects that are marked, and whose edges are to be followed.
    pub(crate) pending: &'a mut Vec<usize>,
    /// For the checker: edges are only listed.
    pub(crate) listed: Option<&'a mut Vec<usize>>,
}

impl Tracer<'_> {
    /// An edge to the object with this value.
    #[inline]
    pub(crate) fn edge(&mut self, value: usize) {
        if let Some(listed) = &mut self.listed {
            listed.push(value);
        } else if let Some(cell) = self.blocks.mark(value) {
            self.pending.push(cell);
        }
    }
}

// SAFETY: 1. the edge is this; 2. to 5. there is nothing else.
unsafe impl<T: ?Sized> Trace for Gc<'_, T> {
    const HAS_EDGES: bool = true;

    #[inline]
    fn trace(&self, tracer: &mut Tracer<'_>) {
        tracer.edge(self.address());
    }
}

// SAFETY: 1. it is copied, so that no reference into the cell is there while the program changes it; 2. to 5. as for `T`.
unsafe impl<T: Trace + Copy> Trace for Cell<T> {
    const HAS_EDGES: bool = T::HAS_EDGES;

    #[inline]
    fn trace(&self, tracer: &mut Tracer<'_>) {
        self.get().trace(tracer);
    }
}

// SAFETY: as for `T`.
unsafe impl<T: Trace> Trace for Option<T> {
    const HAS_EDGES: bool = T::HAS_EDGES;

    #[inline]
    fn trace(&self, tracer: &mut Tracer<'_>) {
        if let Some(value) = self {
            value.trace(tracer);
        }
    }
}

// SAFETY: as for `T`.
unsafe impl<T: Trace, const N: usize> Trace for [T; N] {
    const HAS_EDGES: bool = T::HAS_EDGES;

    #[inline]
    fn trace(&self, tracer: &mut Tracer<'_>) {
        self.iter().for_each(|value| value.trace(tracer));
    }
}

macro_rules! tuples {
    ($(($($part:ident $index:tt),+))*) => {$(
        // SAFETY: as for the parts.
        unsafe impl<$($part: Trace),+> Trace for ($($part,)+) {
            // Not `||`: each is to be evaluated, as some are refused.
            const HAS_EDGES: bool = false $(| $part::HAS_EDGES)+;

            #[inline]
            fn trace(&self, tracer: &mut Tracer<'_>) {
                $(self.$index.trace(tracer);)+
            }
        }
    )*};
}

tuples!((A 0) (A 0, B 1) (A 0, B 1, C 2) (A 0, B 1, C 2, D 3));

macro_rules! leaves {
    ($($type:ty)*) => {$(
        // SAFETY: it has no edges.
        unsafe impl Trace for $type {
            const HAS_EDGES: bool = false;

            #[inline]
            fn trace(&self, _: &mut Tracer<'_>) {}
        }
    )*};
}

leaves!(() bool char u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64 String &'static str);

// SAFETY: it has no edges.
unsafe impl<T: ?Sized> Trace for PhantomData<T> {
    const HAS_EDGES: bool = false;

    fn trace(&self, _: &mut Tracer<'_>) {}
}

macro_rules! functions {
    ($($part:ident)*) => {
        // SAFETY: code has no edges.
        unsafe impl<R, $($part),*> Trace for fn($($part),*) -> R {
            const HAS_EDGES: bool = false;

            fn trace(&self, _: &mut Tracer<'_>) {}
        }
    };
}

functions!();
functions!(A);
functions!(A B);
functions!(A B C);

macro_rules! owners {
    ($($type:ident)*) => {$(
        /// Of what leads nowhere: the collector sees no writes to memory outside of the heap, so that it would miss edges there. An object
        /// that leads to many others is a slice in the heap: `Heap::alloc_slice`.
        // SAFETY: 1. and 2. an edge is refused at compile time; 3. dropping it drops values of `T`; 4. so it is; 5. as for `T`.
        unsafe impl<T: Trace> Trace for $type<T> {
            const HAS_EDGES: bool = {
                assert!(!T::HAS_EDGES, "a Gc can not be in memory outside of the heap: use Heap::alloc_slice");
                false
            };

            fn trace(&self, _: &mut Tracer<'_>) {}
        }
    )*};
}

owners!(Box Vec);

/// The address of what `pointer` leads to, without its length.
pub(crate) fn address_of<T: ?Sized>(pointer: NonNull<T>) -> usize {
    pointer.as_ptr().cast::<u8>() as usize
}
