//! What leads from an object to others.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::gc::Gc;
use crate::heap::{HEADER, Marks};
use crate::pointers::PointerMap;

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
/// 6. If [`POINTERS`](Self::POINTERS) is a map, then in every value the words that it names are the address of a [`Gc`], or null, and it names
///    all that [`trace`](Self::trace) calls. [`IN_OPTION`](Self::IN_OPTION) is that for values of `Option<Self>`.
pub unsafe trait Trace {
    /// Whether a value can lead to objects.
    const HAS_EDGES: bool;

    /// Where in a value its pointers are, if they always are in the same words: then the collector reads these, and only the checker calls
    /// [`trace`](Self::trace).
    const POINTERS: Option<PointerMap> = if Self::HAS_EDGES { None } else { Some(PointerMap::NONE) };

    /// The same for an `Option` of the type. Where none is there, its bytes can be anything, but for a pointer: that is null then.
    const IN_OPTION: Option<PointerMap> = if Self::HAS_EDGES { None } else { Some(PointerMap::NONE) };

    /// Shows the tracer everything that the value leads to.
    fn trace(&self, tracer: &mut Tracer<'_>);
}

/// What follows the edges of objects.
#[derive(Debug)]
pub struct Tracer<'a> {
    pub(crate) marks: Marks<'a>,
    /// Objects that are marked, and whose edges are to be followed.
    pub(crate) pending: &'a mut Vec<usize>,
    /// For the checker: edges are only listed.
    pub(crate) listed: Option<&'a mut Vec<usize>>,
}

impl Tracer<'_> {
    /// An edge to the object with this value, which may lead to others or not.
    #[inline]
    pub(crate) fn edge(&mut self, value: usize, has_edges: bool) {
        if let Some(listed) = &mut self.listed {
            listed.push(value);
        } else if self.marks.mark(value.wrapping_sub(HEADER)) && has_edges {
            self.pending.push(value - HEADER);
        }
    }
}

// A pointer to a slice begins with the address, and null is what an `Option` of a pointer has for none: so `PointerMap::first` names both.
const _: () = {
    // SAFETY: words; an `Option` of what can not be null is as large, so that none is null.
    unsafe {
        let slice = std::ptr::slice_from_raw_parts(std::ptr::without_provenance::<u64>(16), 3);
        let [first, second] = std::mem::transmute::<*const [u64], [usize; 2]>(slice);
        assert!(first == 16 && second == 3);
        assert!(std::mem::transmute::<Option<Gc<'static, u64>>, usize>(None) == 0);
    }
    let none: Option<Gc<'static, [u64]>> = None;
    // SAFETY: what tells none from a pointer is the pointer, which can not be null; the assertion is about that.
    let first = unsafe { (&raw const none).cast::<usize>().read() };
    assert!(size_of::<Option<Gc<'static, [u64]>>>() == size_of::<Gc<'static, [u64]>>() && first == 0);
};

// SAFETY: 1. the edge is this; 2. to 5. there is nothing else; 6. the address is the first word, and null for none: see above.
unsafe impl<T: ?Sized + Trace> Trace for Gc<'_, T> {
    const HAS_EDGES: bool = true;
    const POINTERS: Option<PointerMap> = Some(PointerMap::first(T::HAS_EDGES));
    const IN_OPTION: Option<PointerMap> = Self::POINTERS;

    #[inline]
    fn trace(&self, tracer: &mut Tracer<'_>) {
        tracer.edge(self.address(), T::HAS_EDGES);
    }
}

// SAFETY: as for `T`. What a pointer leads to has no map of its own: its values have, each.
unsafe impl<T: Trace> Trace for [T] {
    const HAS_EDGES: bool = T::HAS_EDGES;

    #[inline]
    fn trace(&self, tracer: &mut Tracer<'_>) {
        self.iter().for_each(|value| value.trace(tracer));
    }
}

// SAFETY: 1. it is copied, so that no reference into the cell is there while the program changes it; 2. to 6. as for `T`, which is all that
// is in it.
unsafe impl<T: Trace + Copy> Trace for Cell<T> {
    const HAS_EDGES: bool = T::HAS_EDGES;
    const POINTERS: Option<PointerMap> = T::POINTERS;

    #[inline]
    fn trace(&self, tracer: &mut Tracer<'_>) {
        self.get().trace(tracer);
    }
}

// SAFETY: as for `T`.
unsafe impl<T: Trace> Trace for Option<T> {
    const HAS_EDGES: bool = T::HAS_EDGES;
    const POINTERS: Option<PointerMap> = T::IN_OPTION;

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
    const POINTERS: Option<PointerMap> = match T::POINTERS {
        Some(map) => map.repeated(N, size_of::<T>()),
        None => None,
    };

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
            const POINTERS: Option<PointerMap> =
                PointerMap::of_parts(&[$((std::mem::offset_of!(Self, $index), $part::POINTERS)),+]);

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
