//! The copies of `memory_functions.rs`, by C's names, and as the compiler calls them where it knows how much room there is (_FORTIFY_SOURCE).

use super::stop;

unsafe extern "C" {
    #[link_name = "dune_compartment_memcpy"]
    pub(super) fn memcpy(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8;
    #[link_name = "dune_compartment_memcpy"]
    pub(super) fn memmove(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8;
    #[link_name = "dune_compartment_memset"]
    pub(super) fn memset(to: *mut u8, byte: i32, bytes: usize) -> *mut u8;
}

pub(super) unsafe extern "C" fn memcpy_chk(
    to: *mut u8,
    from: *const u8,
    bytes: usize,
    room: usize,
) -> *mut u8 {
    // SAFETY: the caller's, and there is room.
    if bytes <= room { unsafe { memcpy(to, from, bytes) } } else { stop() }
}

pub(super) unsafe extern "C" fn memset_chk(to: *mut u8, byte: i32, bytes: usize, room: usize) -> *mut u8 {
    // SAFETY: as above.
    if bytes <= room { unsafe { memset(to, byte, bytes) } } else { stop() }
}
