//! Finalizers: functions that get an object once nothing else leads to it.
//!
//! A collection marks such objects, and all that they lead to, and puts them in a queue; the program runs the queue where it suits it. So a
//! finalizer is a plain call: it may allocate, collect, panic, and store its object somewhere.

use std::collections::VecDeque;
use std::ptr::NonNull;

use super::{Heap, Inner, object};
use crate::gc::Gc;
use crate::trace::Trace;

/// An object and what is to be called with it.
#[derive(Debug, Clone, Copy)]
struct Finalizer {
    object: usize,
    /// A `fn(&'h Heap, Gc<'h, T>)`, and what calls it.
    function: *const (),
    call: unsafe fn(*const (), &Heap, usize),
}

/// Who waits for its object to become unreachable, and whose has.
#[derive(Debug, Default)]
pub(super) struct Finalizers {
    waiting: Vec<Finalizer>,
    due: VecDeque<Finalizer>,
}

impl Finalizers {
    /// Objects that finalizers are to get: these are roots.
    pub(super) fn due(&self) -> impl Iterator<Item = usize> + '_ {
        self.due.iter().map(|finalizer| finalizer.object)
    }
}

impl Heap {
    /// Has `finalizer` called with `object`, by [`run_finalizers`](Self::run_finalizers), once a collection has found that only weak references
    /// lead to it.
    ///
    /// It is called once. It may store the object where something leads to it, and add a finalizer anew. Of objects that become unreachable
    /// together, whatever leads from one to another, all have their finalizers called, in the order in which these were added, and all are
    /// whole then. Weak references have been cleared before. When the heap is dropped, finalizers that have not been called are not.
    ///
    /// ```
    /// # use dune_gc::{Collection, Config, Gc, Heap, Tracker};
    /// # // SAFETY: pointers are on the stack.
    /// # let heap = unsafe { Heap::new(Config::new(Tracker::None))? };
    /// let file = heap.alloc(7u32);
    /// heap.add_finalizer(file, |_, file| println!("closing {}", *file));
    /// heap.collect(Collection::Full); // finds `file`, which is used below
    /// assert_eq!(heap.run_finalizers(), 0);
    /// println!("{}", *file);
    /// # Ok::<(), dune_gc::HeapError>(())
    /// ```
    ///
    /// # Panics
    ///
    /// If `object` is in another heap.
    pub fn add_finalizer<'h, T: Trace + 'h>(&'h self, object: Gc<'h, T>, finalizer: fn(&'h Heap, Gc<'h, T>)) {
        /// # Safety
        ///
        /// `function` is a `fn(&'h Heap, Gc<'h, T>)`, and `object` the address of a `T` in `heap`.
        unsafe fn call<'h, T: Trace + 'h>(function: *const (), heap: &Heap, object: usize) {
            // SAFETY: the caller's. 'h may be over. But a function has captured nothing, the object holds nothing that is borrowed (`Trace`, 5.)
            // but by its pointers into this heap, and the heap is there; so nothing that the function can reach was borrowed for 'h but the heap.
            unsafe {
                let function = std::mem::transmute::<*const (), fn(&'h Heap, Gc<'h, T>)>(function);
                let heap = &*std::ptr::from_ref(heap);
                function(heap, Gc::new(NonNull::new_unchecked(object as *mut T)));
            }
        }
        self.assert_has(object.address());
        let (object, function) = (object.address(), finalizer as *const ());
        self.inner.borrow_mut().finalizers.waiting.push(Finalizer { object, function, call: call::<T> });
    }

    /// Calls the finalizers of objects that have been found unreachable so far; how many there were. Those that become due meanwhile wait for
    /// the next time.
    ///
    /// # Panics
    ///
    /// If a finalizer does: it has been called then, and the others still wait.
    pub fn run_finalizers(&self) -> usize {
        let count = self.due_finalizers();
        let mut called = 0;
        while called < count {
            // Not in the condition: the heap is not to be borrowed during the call.
            let next = self.inner.borrow_mut().finalizers.due.pop_front();
            let Some(Finalizer { object, function, call }) = next else { break };
            called += 1;
            // SAFETY: they were put there together; the object was a root until now, and its address is on this stack.
            unsafe { call(function, self, object) };
        }
        called
    }

    /// How many finalizers [`run_finalizers`](Self::run_finalizers) would call now.
    pub fn due_finalizers(&self) -> usize {
        self.inner.borrow().finalizers.due.len()
    }
}

impl Inner {
    /// Puts the finalizers of objects that are not marked into the queue, and marks what they are to get.
    pub(super) fn mark_for_finalizers(&mut self) {
        let (blocks, due) = (&self.blocks, &mut self.finalizers.due);
        let first = due.len();
        self.finalizers.waiting.retain(|finalizer| {
            let is_marked = blocks.is_marked(finalizer.object);
            if !is_marked {
                due.push_back(*finalizer);
            }
            is_marked
        });
        let (blocks, pending) = (&mut self.blocks, &mut self.pending);
        pending.extend(self.finalizers.due.iter().skip(first).filter_map(|it| blocks.mark(it.object)));
        object::drain(blocks, pending);
    }
}
