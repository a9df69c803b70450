//! Weak references: they tell whether an object is still there, and do not keep it.
//!
//! A weak reference is an edge to a small object of its own, its *ticket*, with the number of a place in a table beside the heap. There the
//! collector says that the target is gone, and so writes to no page of the heap. The target's address in the reference itself is
//! changed, so that a weak reference on the stack is no word that is an address.

use std::cell::Cell;
use std::fmt;
use std::mem::offset_of;
use std::ptr::NonNull;

use super::blocks::Blocks;
use super::{Heap, Inner};
use crate::gc::Gc;
use crate::pointers::PointerMap;
use crate::trace::{Trace, Tracer};

/// A copyable reference to an object that does not keep it. [`Heap::downgrade`] makes one.
///
/// It may be where a [`Gc`] may be, and nowhere else: it has one.
pub struct Weak<'h, T: ?Sized> {
    hidden: *const T,
    ticket: Gc<'h, Cell<usize>>,
}

/// What is added to the address of a target: then it is that of nothing.
const HIDE: usize = 1 << 62;

impl<'h, T: ?Sized> Weak<'h, T> {
    /// The object, if the collector has not found it to be unreachable.
    ///
    /// # Panics
    ///
    /// If `heap` is not the object's.
    pub fn upgrade(self, heap: &'h Heap) -> Option<Gc<'h, T>> {
        heap.assert_has(self.ticket.address());
        let is_there = heap.inner.borrow().weaks.is_alive(self.ticket.get());
        // SAFETY: the object is there: its collector has not found otherwise, and it comes back to the stack before the next collection. The
        // address is that of `downgrade`, where it was one of this heap's objects.
        is_there.then(|| unsafe {
            Gc::new(NonNull::new_unchecked(self.hidden.wrapping_byte_sub(HIDE).cast_mut()))
        })
    }

    /// Whether both were made of the same object.
    pub fn ptr_eq(self, other: Weak<'_, T>) -> bool {
        std::ptr::addr_eq(self.hidden, other.hidden)
    }
}

impl<T: ?Sized> Clone for Weak<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for Weak<'_, T> {}

impl<T: ?Sized> fmt::Debug for Weak<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Weak").field(&self.ticket.get()).finish()
    }
}

// SAFETY: 1. the ticket is an edge, and the target is none; 2. to 5. there is nothing else; 6. the ticket's word is named.
unsafe impl<T: ?Sized> Trace for Weak<'_, T> {
    const HAS_EDGES: bool = true;
    const POINTERS: Option<PointerMap> =
        PointerMap::of_parts(&[(offset_of!(Self, ticket), <Gc<'_, Cell<usize>> as Trace>::POINTERS)]);

    fn trace(&self, tracer: &mut Tracer<'_>) {
        self.ticket.trace(tracer);
    }
}

impl Heap {
    /// A weak reference to `object`.
    ///
    /// # Panics
    ///
    /// As [`alloc`](Self::alloc), and if `object` is in another heap.
    pub fn downgrade<'h, T: ?Sized>(&'h self, object: Gc<'h, T>) -> Weak<'h, T> {
        self.assert_has(object.address());
        let ticket = self.alloc(Cell::new(usize::MAX));
        let mut inner = self.inner.borrow_mut();
        ticket.set(inner.weaks.add(ticket.address(), object.address()));
        Weak { hidden: Gc::raw(object).wrapping_byte_add(HIDE), ticket }
    }
}

/// The table of weak references.
#[derive(Debug, Default)]
pub(super) struct Weaks {
    places: Vec<Place>,
    free: Vec<usize>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    /// Where the ticket is; 0 for a free place.
    ticket: usize,
    /// Where the target is; 0 when it is gone.
    target: usize,
}

impl Weaks {
    fn add(&mut self, ticket: usize, target: usize) -> usize {
        let place = Place { ticket, target };
        match self.free.pop() {
            Some(number) => {
                self.places[number] = place;
                number
            }
            None => {
                self.places.push(place);
                self.places.len() - 1
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    fn is_alive(&self, number: usize) -> bool {
        self.places.get(number).is_some_and(|place| place.target != 0)
    }

    /// After marking: targets that are not marked are gone for good.
    fn let_go_of_targets(&mut self, blocks: &Blocks) {
        for place in &mut self.places {
            if place.target != 0 && !blocks.is_marked(place.target) {
                place.target = 0;
            }
        }
    }

    /// Before the sweep: places of tickets that will be swept are free.
    fn let_go_of_tickets(&mut self, blocks: &Blocks) {
        for (number, place) in self.places.iter_mut().enumerate() {
            if place.ticket != 0 && !blocks.is_marked(place.ticket) {
                *place = Place { ticket: 0, target: 0 };
                self.free.push(number);
            }
        }
    }
}

impl Inner {
    /// After all is marked that roots lead to: weak references to the rest are cleared, and what finalizers are to get is marked, too.
    pub(super) fn after_marking(&mut self) {
        self.weaks.let_go_of_targets(&self.blocks);
        // What finalizers are to get may have tickets.
        self.mark_for_finalizers();
        self.weaks.let_go_of_tickets(&self.blocks);
    }
}
