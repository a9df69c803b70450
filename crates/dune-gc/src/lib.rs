//! A garbage collector for Rust programs: precise in the heap, conservative on the stack, generational.
//!
//! Objects of types with [`derive(Trace)`](derive@Trace) lead to each other by [`Gc`], a copyable pointer. What changes is in
//! [`Cell`](std::cell::Cell)s. There is no write barrier in the program: which old objects have been written to, and so may lead to
//! young ones, the collector knows by pages, in a way that is chosen when the heap is made ([`Tracker`]). In Dune mode that is the CPU's dirty
//! marks, with which a write costs nothing; on Linux there are mprotect(2) and a signal, and others.
//!
//! ```
//! use std::cell::Cell;
//! use dune_gc::{Config, Gc, Heap, Trace, Tracker};
//!
//! #[derive(Trace)]
//! struct Node<'h> {
//!     value: u64,
//!     next: Cell<Option<Gc<'h, Node<'h>>>>,
//! }
//!
//! // SAFETY: pointers to nodes are on this thread's stack and in nodes, and nothing else touches the heap's pages.
//! let heap = unsafe { Heap::new(Config::new(Tracker::Mprotect))? };
//! let first = heap.alloc(Node { value: 1, next: Cell::new(None) });
//! let second = heap.alloc(Node { value: 2, next: Cell::new(None) });
//! first.next.set(Some(second));
//! assert_eq!(first.next.get().map(|node| node.value), Some(2));
//! # Ok::<(), dune_gc::HeapError>(())
//! ```
//!
//! # How it works
//!
//! Objects do not move. They are in cells of some sizes, in blocks of 32 KiB. Marks are beside the heap. A *full* collection marks all that roots
//! lead to, and sweeps the rest. Marks then stay: what is marked is old, and a *young* collection starts from the roots and from those old
//! objects that are on pages which have been written to since. Roots are [`Root`]s, and every word of the stack and the registers that
//! is an address in an object.
//!
//! # What is unsafe
//!
//! [`Heap::new`], since a collector that looks at the stack can not see a `Gc` in a `Vec`: its caller promises where pointers are. All else is safe:
//! [`soundness`] says why.
//! These do not compile: an object whose destructor could follow a `Gc` to what has been swept before it, a `Gc` in memory outside of the heap, one
//! that outlives its heap, and one that goes to another thread.
//!
//! ```compile_fail,E0119
//! #[derive(dune_gc::Trace)]
//! struct Closes(u32);
//! impl Drop for Closes {
//!     fn drop(&mut self) {}
//! }
//! ```
//! ```compile_fail,E0080
//! # use dune_gc::{Config, Heap, Tracker};
//! # let heap = unsafe { Heap::new(Config::new(Tracker::None)) }.unwrap();
//! let object = heap.alloc(1u8);
//! heap.alloc(vec![object]);
//! ```
//! ```compile_fail,E0505
//! fn end(heap: dune_gc::Heap) -> u8 {
//!     let object = heap.alloc(1u8);
//!     drop(heap);
//!     *object
//! }
//! ```
//! ```compile_fail,E0277
//! fn is_send<T: Send>() {}
//! is_send::<dune_gc::Gc<'static, u8>>();
//! ```
//!
//! `unsafe` code is in the modules `gc`, `trace`, `stack`, in the heap's `object` and `space` and where it calls these, and in the trackers that
//! protect pages.

#![deny(unsafe_code)]

// The derive names the crate.
extern crate self as dune_gc;

#[expect(unsafe_code, reason = "follows pointers to objects")]
mod gc;
#[expect(unsafe_code, reason = "objects in raw memory")]
mod heap;
mod pointers;
mod root;
pub mod soundness;
#[expect(unsafe_code, reason = "reads words of the stack and the registers")]
mod stack;
#[expect(unsafe_code, reason = "implements the unsafe trait for types of the standard library")]
mod trace;
#[expect(unsafe_code, reason = "protects pages, and handles their faults")]
mod tracker;

pub use dune_gc_derive::Trace;
pub use gc::Gc;
pub use heap::{CheckError, Collection, Config, Heap, HeapError, Stats, Weak};
pub use pointers::PointerMap;
pub use root::Root;
pub use trace::{Trace, Tracer};
pub use tracker::{Tracker, TrackerError};
