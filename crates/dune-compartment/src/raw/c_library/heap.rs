//! malloc(3) and its like, on the heap that the thread block tells of.

use std::cell::Cell;
use std::mem::MaybeUninit;

use dlmalloc::{Allocator, Dlmalloc};

use crate::raw::thread_block::{HEAP, word};

/// What is at the heap's start; zeros at first.
#[repr(C)]
struct Heap {
    is_ready: bool,
    allocator: MaybeUninit<Dlmalloc<Room>>,
}

/// The part of the heap that has not been used yet.
struct Room {
    next: Cell<usize>,
    end: usize,
}

// SAFETY: what it hands out lies in the heap, behind `Heap`, and is handed out once.
unsafe impl Allocator for Room {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        let start = self.next.get();
        match start.checked_add(size).filter(|end| *end <= self.end) {
            Some(end) => {
                self.next.set(end);
                (std::ptr::with_exposed_provenance_mut(start), size, 0)
            }
            None => (std::ptr::null_mut(), 0, 0),
        }
    }

    fn remap(&self, _: *mut u8, _: usize, _: usize, _: bool) -> *mut u8 {
        std::ptr::null_mut()
    }

    fn free_part(&self, _: *mut u8, _: usize, _: usize) -> bool {
        false
    }

    fn free(&self, _: *mut u8, _: usize) -> bool {
        false
    }

    fn can_release_part(&self, _: u32) -> bool {
        false
    }

    fn allocates_zeros(&self) -> bool {
        true
    }

    fn page_size(&self) -> usize {
        dune::memory::PAGE_BYTES as usize
    }
}

/// # Safety
///
/// In a compartment with a heap, on its only thread; where there is none this is a fault.
unsafe fn allocator<'h>() -> &'h mut Dlmalloc<Room> {
    let (start, bytes) = (word::<HEAP>() as usize, word::<{ HEAP + 8 }>() as usize);
    // SAFETY: as the caller says, nobody else uses what is there, and all bits of zeros make a `Heap` that is not ready.
    let heap = unsafe { &mut *std::ptr::with_exposed_provenance_mut::<Heap>(start) };
    if !heap.is_ready {
        let next = (start + size_of::<Heap>()).next_multiple_of(4096);
        let room = Room { next: Cell::new(next), end: start + bytes };
        heap.allocator.write(Dlmalloc::new_with_allocator(room));
        heap.is_ready = true;
    }
    // SAFETY: written above, now or earlier.
    unsafe { heap.allocator.assume_init_mut() }
}

// The functions of C: who calls them keeps C's rules. Whoever does not harms the compartment alone.

pub(super) unsafe extern "C" fn malloc(bytes: usize) -> *mut u8 {
    // SAFETY: the caller's.
    unsafe { allocator().c_malloc(bytes) }
}

pub(super) unsafe extern "C" fn calloc(count: usize, bytes: usize) -> *mut u8 {
    let Some(bytes) = count.checked_mul(bytes) else { return std::ptr::null_mut() };
    // SAFETY: the caller's.
    unsafe { allocator().calloc(bytes, 2 * size_of::<usize>()) }
}

pub(super) unsafe extern "C" fn realloc(old: *mut u8, bytes: usize) -> *mut u8 {
    // SAFETY: the caller's.
    unsafe { allocator().c_realloc(old, bytes) }
}

pub(super) unsafe extern "C" fn reallocarray(old: *mut u8, count: usize, bytes: usize) -> *mut u8 {
    let Some(bytes) = count.checked_mul(bytes) else { return std::ptr::null_mut() };
    // SAFETY: the caller's.
    unsafe { realloc(old, bytes) }
}

pub(super) unsafe extern "C" fn aligned_alloc(alignment: usize, bytes: usize) -> *mut u8 {
    // SAFETY: the caller's.
    unsafe { allocator().c_memalign(alignment, bytes) }
}

pub(super) unsafe extern "C" fn posix_memalign(to: *mut *mut u8, alignment: usize, bytes: usize) -> i32 {
    if !alignment.is_power_of_two() || !alignment.is_multiple_of(8) {
        return libc::EINVAL;
    }
    // SAFETY: the caller's.
    let memory = unsafe { aligned_alloc(alignment, bytes) };
    if memory.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: the caller's.
    unsafe { to.write(memory) };
    0
}

pub(super) unsafe extern "C" fn free(memory: *mut u8) {
    // SAFETY: the caller's.
    unsafe { allocator().c_free(memory) }
}
