//! The heap: allocation, roots, and when to collect.

mod bits;
mod blocks;
mod check;
mod collect;
mod config;
mod finalizers;
mod object;
mod pages;
mod space;
mod weak;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use thiserror::Error;

pub(crate) use bits::Marks;
pub(crate) use blocks::BLOCK;
pub use check::CheckError;
pub use collect::Collection;
pub use config::{Config, Stats};
pub(crate) use pages::{PAGE, PageSet, runs};
pub(crate) use space::Space;
pub use weak::Weak;

use crate::gc::Gc;
use crate::root::Root;
use crate::stack::Bounds;
use crate::trace::Trace;
use crate::tracker::{Tracker, TrackerError, WriteTracker};
use blocks::{Blocks, CLASSES, Cursor, class_of};
use finalizers::Finalizers;
pub(crate) use object::HEADER;
use object::Of;
use weak::Weaks;

/// Why there is no heap, or no object.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HeapError {
    /// Linux does not give the addresses.
    #[error(
        "{bytes} bytes of addresses for the heap are refused ({error}): ask for less by Config::capacity"
    )]
    NoMemory {
        /// How many.
        bytes: usize,
        /// Linux's reason.
        error: io::Error,
    },
    /// The heap is full, also after a full collection.
    #[error(
        "no room for {bytes} bytes in a heap of {capacity} bytes: let go of objects, or raise Config::capacity"
    )]
    Full {
        /// Bytes of the object.
        bytes: usize,
        /// Bytes that the heap may have.
        capacity: usize,
    },
    /// The calling thread's stack can not be found.
    #[error("the stack of this thread can not be found ({0}): mount /proc, which has the main thread's")]
    Stack(io::Error),
    /// The writes can not be known in this way here.
    #[error(transparent)]
    Tracker(#[from] TrackerError),
}

/// A heap of objects that lead to each other, and a collector for those to which nothing leads any more.
///
/// It belongs to the thread that has made it. See the [crate's documentation](crate) for an example.
pub struct Heap {
    inner: RefCell<Inner>,
    stack: Bounds,
    /// It knows one thread's stack.
    not_send: PhantomData<*mut ()>,
}

/// What the heap changes.
pub(crate) struct Inner {
    // Before the addresses: it lets go of them.
    tracker: Box<dyn WriteTracker>,
    config: Config,
    blocks: Blocks,
    /// Where the next objects of each class go.
    cursors: [Cursor; CLASSES.len()],
    /// Blocks of each class with room, the next at the end.
    partial: [Vec<u32>; CLASSES.len()],
    /// Free blocks, the next at the end.
    free: Vec<u32>,
    /// Bytes for objects since the last collection.
    allocated: usize,
    /// Bytes of old objects after the last full collection, and after the last of any kind.
    used_after_full: usize,
    used: usize,
    /// Objects that roots lead to. A place that is free has the number of the next one.
    roots: Vec<RootPlace>,
    free_root: usize,
    weaks: Weaks,
    finalizers: Finalizers,
    pending: Vec<usize>,
    written: PageSet,
    old: PageSet,
    /// What the tracker says next is not the truth.
    is_blind: bool,
    stats: Stats,
    space: Space,
}

#[derive(Debug, Clone, Copy)]
enum RootPlace {
    Taken(usize),
    Free(usize),
}

impl Heap {
    /// A heap for the calling thread.
    ///
    /// # Errors
    ///
    /// [`HeapError::NoMemory`], [`HeapError::Stack`], or [`HeapError::Tracker`] where `config` asks for a way of knowing writes that is not
    /// there.
    ///
    /// # Safety
    ///
    /// The collector looks for addresses of objects, and of what is in them, in some places only. The caller signs once, for all that the
    /// program does while the heap lives ([`soundness`](crate::soundness) says why each is needed):
    ///
    /// 1. pointers and references to its objects, or into them, are nowhere else than on the stack that the calling thread has now, in its
    ///    registers, in objects of this very heap (as a [`Gc`]), or in a [`Root`]. Not in a `Box`, `Vec`, closure or future outside of the
    ///    heap, not in a static or thread-local, not in another heap, not on another thread's stack (a reference to what is `Sync` in an object
    ///    can go to a scoped thread) or another stack that the thread switches to; and on the stack at multiples of 8, so not in a
    ///    `repr(packed)` type;
    /// 2. nothing but the heap clears dirty marks of its pages, or changes their rights: not the page-table functions of `dune`, not
    ///    mprotect(2), `/proc/self/clear_refs` or userfaultfd(2) (of the crate's own heaps there may be several);
    /// 3. with [`Tracker::Mprotect`] and [`Tracker::Userfaultfd`], a handler for SIGSEGV or SIGBUS that is set after the first such heap was made passes on what is not
    ///    its own;
    /// 4. the program is compiled so that an object in use has a word on the stack or in a register that is an address in it, or its end.
    ///    rustc does so today, and promises nothing.
    pub unsafe fn new(config: Config) -> Result<Heap, HeapError> {
        let stack = Bounds::of_this_thread().map_err(HeapError::Stack)?;
        let bytes = config.capacity.max(BLOCK);
        let bytes = bytes.checked_next_multiple_of(BLOCK).ok_or_else(|| HeapError::NoMemory {
            bytes,
            error: io::Error::from_raw_os_error(libc::ENOMEM),
        })?;
        let space = Space::reserve(bytes, config.tracker.may_have_huge_pages())?;
        let tracker = config.tracker.start(&space)?;
        Ok(Heap { inner: RefCell::new(Inner::new(config, space, tracker)), stack, not_send: PhantomData })
    }

    #[cfg(test)]
    pub(crate) fn with_tracker(
        config: Config,
        make: impl FnOnce(Box<dyn WriteTracker>) -> Box<dyn WriteTracker>,
    ) -> Heap {
        let stack = Bounds::of_this_thread().unwrap();
        let space = Space::reserve(config.capacity, false).unwrap();
        let tracker = make(config.tracker.start(&space).unwrap());
        Heap { inner: RefCell::new(Inner::new(config, space, tracker)), stack, not_send: PhantomData }
    }

    /// Puts `value` into the heap.
    ///
    /// # Panics
    ///
    /// If the heap is full, or the thread is on another stack than when the heap was made: see [`try_alloc`](Self::try_alloc).
    #[inline]
    pub fn alloc<'h, T: Trace + 'h>(&'h self, value: T) -> Gc<'h, T> {
        self.try_alloc(value).unwrap_or_else(|error| refuse(error))
    }

    /// The same, for who can do something about a full heap.
    ///
    /// # Errors
    ///
    /// [`HeapError::Full`]; the value has been dropped.
    ///
    /// # Panics
    ///
    /// If a collection is due and the thread is on another stack than when the heap was made.
    #[inline]
    pub fn try_alloc<'h, T: Trace + 'h>(&'h self, value: T) -> Result<Gc<'h, T>, HeapError> {
        let cell = self.cell(const { size_for(size_of::<T>()) }, Of::<T>::DROPS)?;
        // SAFETY: the cell has been taken, and is large enough; after the write it has one whole value. It stays as long as something leads to it.
        unsafe {
            let place = object::init::<T>(cell);
            place.write(value);
            object::set_count(cell, 1);
            Ok(Gc::new(NonNull::new_unchecked(place)))
        }
    }

    /// Puts `count` values, which `make` gives for their indices, into one object of the heap.
    ///
    /// # Panics
    ///
    /// As [`alloc`](Self::alloc), and if `make` does.
    pub fn alloc_slice<'h, T: Trace + 'h>(
        &'h self,
        count: usize,
        make: impl FnMut(usize) -> T,
    ) -> Gc<'h, [T]> {
        self.try_alloc_slice(count, make).unwrap_or_else(|error| refuse(error))
    }

    /// The same, for who can do something about a full heap.
    ///
    /// # Errors
    ///
    /// [`HeapError::Full`]; `make` has not been called.
    ///
    /// # Panics
    ///
    /// As [`try_alloc`](Self::try_alloc), and if `make` does.
    pub fn try_alloc_slice<'h, T: Trace + 'h>(
        &'h self,
        count: usize,
        mut make: impl FnMut(usize) -> T,
    ) -> Result<Gc<'h, [T]>, HeapError> {
        let bytes = size_of::<T>().checked_mul(count).filter(|&bytes| bytes <= isize::MAX as usize / 2);
        let cell = match bytes {
            Some(bytes) => self.cell(size_for(bytes), Of::<T>::DROPS)?,
            None => return Err(self.inner.borrow().full(usize::MAX)),
        };
        // SAFETY: the cell has been taken, and is large enough. While `make` runs, and may allocate and collect, the object is whole with the
        // values that it counts, and `cell` is on this stack.
        unsafe {
            let first = object::init::<T>(cell);
            for index in 0..count {
                first.add(index).write(make(index));
                object::set_count(cell, index + 1);
            }
            Ok(Gc::new(NonNull::new_unchecked(ptr::slice_from_raw_parts_mut(first, count))))
        }
    }

    /// Puts a copy of `values` into one object of the heap: shorter work than [`alloc_slice`](Self::alloc_slice).
    ///
    /// # Panics
    ///
    /// As [`alloc`](Self::alloc).
    pub fn alloc_copy<'h, T: Trace + Copy + 'h>(&'h self, values: &[T]) -> Gc<'h, [T]> {
        self.try_alloc_copy(values).unwrap_or_else(|error| refuse(error))
    }

    /// The same, for who can do something about a full heap.
    ///
    /// # Errors
    ///
    /// [`HeapError::Full`].
    ///
    /// # Panics
    ///
    /// As [`try_alloc`](Self::try_alloc).
    pub fn try_alloc_copy<'h, T: Trace + Copy + 'h>(
        &'h self,
        values: &[T],
    ) -> Result<Gc<'h, [T]>, HeapError> {
        let cell = self.cell(size_for(size_of_val(values)), Of::<T>::DROPS)?;
        // SAFETY: the cell has been taken, and is large enough; after the copy it has whole values, which may be copied. Nothing is collected
        // meanwhile, and before that `values` was the caller's, on the stack or wherever else.
        unsafe {
            let first = object::init::<T>(cell);
            ptr::copy_nonoverlapping(values.as_ptr(), first, values.len());
            object::set_count(cell, values.len());
            Ok(Gc::new(NonNull::new_unchecked(ptr::slice_from_raw_parts_mut(first, values.len()))))
        }
    }

    /// A handle that keeps `object`, and may be anywhere: also where the collector does not look.
    ///
    /// # Panics
    ///
    /// If `object` is in another heap, which would not be kept from collecting it.
    pub fn root<'h, T: ?Sized>(&'h self, object: Gc<'h, T>) -> Root<'h, T> {
        self.assert_has(object.address());
        let mut inner = self.inner.borrow_mut();
        let (place, taken) = (inner.free_root, RootPlace::Taken(object.address()));
        match inner.roots.get(place).copied() {
            Some(RootPlace::Free(next)) => {
                inner.roots[place] = taken;
                inner.free_root = next;
            }
            _ => {
                inner.roots.push(taken);
                inner.free_root = inner.roots.len();
            }
        }
        Root::new(self, place, object)
    }

    fn assert_has(&self, address: usize) {
        let is_here = self.inner.borrow().space.contains(address);
        assert!(is_here, "dune-gc: the object is in another heap: ask that one");
    }

    pub(crate) fn unroot(&self, place: usize) {
        let mut inner = self.inner.borrow_mut();
        let next = inner.free_root;
        inner.roots[place] = RootPlace::Free(next);
        inner.free_root = place;
    }

    /// Collects now: all objects, or the young ones and what they lead to.
    ///
    /// # Panics
    ///
    /// If the thread is on another stack than when the heap was made.
    pub fn collect(&self, which: Collection) {
        let mut inner = self.inner.borrow_mut();
        inner.collect(which, false, &self.known_stack());
    }

    /// Follows all edges from all roots, and says how many there are, or which leads to no object.
    ///
    /// Every collection does so in [`Config::checked`].
    ///
    /// # Errors
    ///
    /// [`CheckError`]: the collector has a fault, or what [`Heap::new`] asks for has not been kept.
    ///
    /// # Panics
    ///
    /// If the thread is on another stack than when the heap was made.
    pub fn check(&self) -> Result<u64, CheckError> {
        let mut inner = self.inner.borrow_mut();
        inner.put_back_cursors();
        inner.check(&self.known_stack(), false)
    }

    /// What the collector has done so far.
    pub fn stats(&self) -> Stats {
        let inner = self.inner.borrow();
        Stats { old_bytes: inner.used, heap_bytes: inner.blocks.len() * BLOCK, ..inner.stats }
    }

    /// How it knows what has been written.
    pub fn tracker(&self) -> Tracker {
        self.inner.borrow().config.tracker
    }

    /// The stack, where the caller is.
    fn known_stack(&self) -> Bounds {
        assert!(
            self.stack.contain_caller(),
            "dune-gc: the heap can only be collected on the stack of the thread that has made it: call it from there"
        );
        self.stack
    }

    /// A cell of `bytes` bytes.
    #[inline]
    fn cell(&self, (bytes, class): Size, drops: bool) -> Result<usize, HeapError> {
        let mut inner = self.inner.borrow_mut();
        if let Some(class) = class {
            let cursor = &mut inner.cursors[class];
            if cursor.free != 0 {
                return Ok(cursor.take(drops));
            }
        }
        drop(inner);
        self.slow_cell(bytes, drops)
    }

    #[cold]
    #[inline(never)]
    fn slow_cell(&self, bytes: usize, drops: bool) -> Result<usize, HeapError> {
        let mut inner = self.inner.borrow_mut();
        if inner.is_due() {
            let which = inner.next_collection();
            // A stressed heap is to show that young collections find all.
            let may_be_full = !inner.config.at_every_allocation;
            inner.collect(which, may_be_full, &self.known_stack());
        }
        if let Some(cell) = inner.try_cell(bytes, drops) {
            return Ok(cell);
        }
        inner.collect(Collection::Full, false, &self.known_stack());
        inner.try_cell(bytes, drops).ok_or_else(|| inner.full(bytes))
    }
}

/// Bytes of a cell, and its class.
type Size = (usize, Option<usize>);

/// A cell for so many bytes of values. The address of a value of none is still in the cell.
const fn size_for(bytes: usize) -> Size {
    let all = HEADER + if bytes == 0 { 1 } else { bytes };
    (all, class_of(all))
}

#[cold]
fn refuse(error: HeapError) -> ! {
    panic!("dune-gc: {error}")
}

impl fmt::Debug for Heap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heap")
            .field("tracker", &self.tracker())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        let inner = self.inner.get_mut();
        inner.put_back_cursors();
        if inner.blocks.have_drops() {
            inner.blocks.clear_marks();
            inner.sweep(true);
        }
    }
}

impl Inner {
    fn new(config: Config, space: Space, tracker: Box<dyn WriteTracker>) -> Inner {
        let pages = space.bytes() / PAGE;
        Inner {
            blocks: Blocks::new(space.start(), space.bytes() / BLOCK),
            config,
            space,
            tracker,
            cursors: [Cursor::NONE; CLASSES.len()],
            partial: [const { Vec::new() }; CLASSES.len()],
            free: Vec::new(),
            allocated: 0,
            used_after_full: 0,
            used: 0,
            roots: Vec::new(),
            free_root: 0,
            weaks: Weaks::default(),
            finalizers: Finalizers::default(),
            pending: Vec::new(),
            written: PageSet::new(pages),
            old: PageSet::new(pages),
            is_blind: true,
            stats: Stats::default(),
        }
    }

    fn full(&self, bytes: usize) -> HeapError {
        HeapError::Full { bytes, capacity: self.space.bytes() }
    }

    fn is_due(&self) -> bool {
        self.config.at_every_allocation || self.allocated >= self.config.young_bytes
    }

    /// A full collection is due when the old objects are twice those of the last one.
    fn next_collection(&self) -> Collection {
        let limit = (2 * self.used_after_full).saturating_add(self.config.young_bytes);
        if self.used > limit { Collection::Full } else { Collection::Young }
    }

    /// What has been taken of the cursors are objects from now on; there may be more of each.
    fn put_back_cursors(&mut self) {
        for cursor in &mut self.cursors {
            self.blocks.put_back(cursor);
            *cursor = Cursor::NONE;
        }
    }

    /// A cell without a collection.
    fn try_cell(&mut self, bytes: usize, drops: bool) -> Option<usize> {
        let Some(class) = class_of(bytes) else {
            let count = bytes.div_ceil(BLOCK);
            let cell = self.blocks.take_large(count, drops)?;
            // Some of the free blocks may have been taken.
            self.free.clear();
            self.free.extend(self.blocks.free().rev());
            self.allocated += count * BLOCK;
            self.stats.allocated_bytes += (count * BLOCK) as u64;
            return Some(cell);
        };
        let here = self.cursors[class];
        self.blocks.put_back(&here);
        self.cursors[class] = Cursor::NONE;
        let mut next = self.blocks.cells_after(&here);
        while next.is_none() {
            let block = match self.partial[class].pop() {
                Some(block) => block,
                None => {
                    let block = match self.free.pop() {
                        Some(block) => block as usize,
                        None => self.blocks.grow()?,
                    };
                    self.blocks.use_block(block, class);
                    block as u32
                }
            };
            next = self.blocks.cells_of(block);
        }
        let mut cursor = next?;
        if self.config.at_every_allocation {
            // So that the next one comes here, too.
            cursor = cursor.first();
        }
        let bytes = cursor.len() * CLASSES[class] as usize;
        self.allocated += bytes;
        self.stats.allocated_bytes += bytes as u64;
        let cell = cursor.take(drops);
        self.cursors[class] = cursor;
        Some(cell)
    }
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod weak_tests;
