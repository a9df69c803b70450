//! Why safe code can not have the collector free what is in use, and what the one unsafe step asks for.
//!
//! The rule: **once a heap is made and what [`Heap::new`] asks for is kept, no sequence of safe calls frees, moves or changes an object
//! that safe code can still reach.** It rests on these.
//!
//! | what a hostile user tries | what stops it |
//! |---|---|
//! | a [`Gc`] that outlives its heap | it borrows the heap; a heap that is leaked keeps its objects |
//! | a heap or a `Gc` on another thread | neither is `Send` or `Sync` |
//! | a type that does not tell all its edges | [`Trace`] is an unsafe trait; the derive asks every field, of the type that it saw, and refuses a `union` |
//! | a map of pointers ([`Trace::POINTERS`]) that names a word which is none, or leaves one out | the derive makes it of the parts' maps and offsets; by hand it is a promise of the unsafe trait. An `Option` has a map only of a pointer itself, since its niche could be elsewhere. The checker follows `trace`, and not maps |
//! | a `Gc` in a `Vec` or `Box` in an object, where a write would not be seen | refused at compile time, wherever in the type it is |
//! | a destructor that follows a `Gc` to what was swept before it | a derived type has none; a [`Trace`] by hand promises it |
//! | a destructor that allocates or collects | the heap is borrowed: a panic |
//! | a destructor that panics in a collection | it goes on to the caller; the next collection is a full one, since what was written is not known any more |
//! | values that panic while a slice is made, or collect | the object is whole with those that there are |
//! | a type of no size, slices of `usize::MAX`, a heap of `usize::MAX` | the address is in the cell still; errors |
//! | alignment above 16 | refused at compile time |
//! | a finalizer whose object's lifetime is over | it is a function, which captures nothing; a [`Trace`] by hand promises that values hold nothing that is borrowed |
//! | a weak reference to an object that is gone, or of another heap | a table beside the heap says so; a panic |
//! | closures, `dyn`, references in objects | they are not `Trace` |
//! | a [`Root`] of the wrong heap | a panic |
//! | two heaps whose ways of knowing writes meet (soft-dirty marks are the whole process's) | they count whose clearing was the last; else the collection is a full one |
//! | the end of a slice as all that is left of it | the byte before a word counts, too |
//! | writes by system calls | safe code has no `&mut` into an object that Linux could be given |
//!
//! # What the caller of `Heap::new` signs
//!
//! *Where pointers are* (1). A conservative collector sees the stack. A reference into an object that safe code puts elsewhere, in a `Vec`, in
//! a thread-local, on the stack of a scoped thread, is not seen: types do not stop that. So it is a promise, given once for the heap, and not a
//! property of each call. [`Config::checked`](crate::Config::checked) finds edges that lead nowhere; a pointer in a `Vec` it does not find.
//!
//! *Marks and rights* (2, 3). `dune`'s `harvest_dirty` and `protect` are safe, as marks are nobody's proof. For this crate they are one, so the
//! caller promises to leave the heap's pages alone.
//!
//! *The compiler* (4). It may keep an address from which that of the object can be computed, and which is in none. All conservative
//! collectors live with that, Boehm's, JavaScriptCore's and those for C; what is known of it is covered: addresses in an object, and its end.
//!
//! # What it would cost to do without (1) and (4)
//!
//! Two designs need no stack. *Registered roots:* every `Gc` that lives over an allocation is a handle, as [`Root`] is: two writes at least
//! when it comes and two when it goes, for each local variable and each argument, in every function that can allocate; and a plain `Gc` must be kept from
//! living over an allocation by its lifetime, so that each allocation borrows the heap mutably. *Turns:* pointers have a lifetime of a closure
//! that the program runs in, and collections come between closures only, from one root; pointers may then be anywhere, and nothing is paid
//! for each. But a program that does not return from its closure has no collection: recursive ones such as GCBench, a parser or the example's
//! interpreter would have to be turned inside out. This crate is for programs as they are written. Where neither promise can be given, keep to
//! [`Root`]s in code that allocates, with a `Gc` from [`Root::get`] for one expression at a time: then nothing rests on the stack but that.
//!
//! # These do not compile
//!
//! An edge that is hidden in memory outside of the heap, behind another edge:
//!
//! ```compile_fail,E0080
//! # use dune_gc::{Config, Gc, Heap, Trace, Tracker};
//! # let heap = unsafe { Heap::new(Config::new(Tracker::None)) }.unwrap();
//! #[derive(Trace)]
//! struct Hidden<'h>(Gc<'h, u8>, Option<(u8, Vec<Gc<'h, u8>>)>);
//! let object = heap.alloc(1u8);
//! heap.alloc(Hidden(object, None));
//! ```
//! Telling edges by hand without `unsafe`:
//! ```compile_fail,E0200
//! struct Silent;
//! impl dune_gc::Trace for Silent {
//!     const HAS_EDGES: bool = false;
//!     fn trace(&self, _: &mut dune_gc::Tracer<'_>) {}
//! }
//! ```
//! An alignment that cells do not have:
//! ```compile_fail,E0080
//! # use dune_gc::{Config, Heap, Trace, Tracker};
//! # let heap = unsafe { Heap::new(Config::new(Tracker::None)) }.unwrap();
//! #[derive(Trace)]
//! #[repr(align(32))]
//! struct Wide(u8);
//! heap.alloc(Wide(1));
//! ```
//! References, closures, and what changes without a `Cell`, in objects:
//! ```compile_fail,E0277
//! # use dune_gc::{Config, Heap, Tracker};
//! # let heap = unsafe { Heap::new(Config::new(Tracker::None)) }.unwrap();
//! let local = 1u8;
//! heap.alloc(&local);
//! ```
//! ```compile_fail,E0277
//! # use dune_gc::{Config, Heap, Tracker};
//! # let heap = unsafe { Heap::new(Config::new(Tracker::None)) }.unwrap();
//! let object = heap.alloc(1u8);
//! heap.alloc(move || *object);
//! ```
//! ```compile_fail,E0277
//! # use dune_gc::{Config, Heap, Tracker};
//! # let heap = unsafe { Heap::new(Config::new(Tracker::None)) }.unwrap();
//! heap.alloc(std::cell::RefCell::new(1u8));
//! ```
//! A heap without the signature, and one, its objects or roots on another thread:
//! ```compile_fail,E0133
//! # use dune_gc::{Config, Heap, Tracker};
//! let heap = Heap::new(Config::new(Tracker::None));
//! ```
//! ```compile_fail,E0277
//! fn is_send<T: Send>() {}
//! is_send::<dune_gc::Heap>();
//! ```
//! ```compile_fail,E0277
//! fn is_sync<T: Sync>() {}
//! is_sync::<dune_gc::Heap>();
//! ```
//! ```compile_fail,E0277
//! fn is_sync<T: Sync>() {}
//! is_sync::<dune_gc::Gc<'static, u8>>();
//! ```
//! ```compile_fail,E0277
//! fn is_send<T: Send>() {}
//! is_send::<dune_gc::Root<'static, u8>>();
//! ```
//! A root that outlives the heap, and an object changed through an exclusive reference:
//! ```compile_fail,E0505
//! fn end(heap: dune_gc::Heap) -> u8 {
//!     let root = heap.root(heap.alloc(1u8));
//!     drop(heap);
//!     *root.get()
//! }
//! ```
//! ```compile_fail,E0594
//! fn change(heap: &dune_gc::Heap) {
//!     let mut object = heap.alloc(1u8);
//!     *object = 2;
//! }
//! ```
//! A packed type, whose `Gc` would not be where the collector looks:
//! ```compile_fail,E0793
//! #[derive(dune_gc::Trace)]
//! #[repr(packed)]
//! struct Packed<'h>(u8, dune_gc::Gc<'h, u8>);
//! ```
//!
//! [`Gc`]: crate::Gc
//! [`Heap::new`]: crate::Heap::new
//! [`Root`]: crate::Root
//! [`Root::get`]: crate::Root::get
//! [`Trace`]: trait@crate::Trace
//! [`Trace::POINTERS`]: crate::Trace::POINTERS
