//! The allocator of the tests: the system's, which a case can forbid.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

#[global_allocator]
static ALLOCATOR: Watched = Watched;

static IS_FORBIDDEN: AtomicBool = AtomicBool::new(false);

/// From here on the process is aborted by what it allocates or frees, as it might wait for ever for a lock of the allocator's that the
/// code before has held.
pub fn forbid() {
    IS_FORBIDDEN.store(true, Ordering::SeqCst);
}

/// The other way round.
pub fn permit() {
    IS_FORBIDDEN.store(false, Ordering::SeqCst);
}

struct Watched;

fn watch() {
    if IS_FORBIDDEN.load(Ordering::Relaxed) {
        std::process::abort();
    }
}

// SAFETY: the system's allocator does all of it.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        watch();
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        watch();
        // SAFETY: the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}
