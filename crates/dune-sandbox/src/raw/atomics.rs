//! Memory that a launcher shares with the program's processes: what is in it are numbers that each side changes in one step.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::observe::{Journal, Totals};
use crate::questions::Questions;
use crate::quota::Shared;

/// What can be shared.
///
/// # Safety
///
/// All of it is atomic numbers, or arrays and structures of them: any bytes are a value, and so are zeros.
pub(crate) unsafe trait OfAtomics: Sync {}

// SAFETY: these are structures and arrays of atomic numbers.
unsafe impl OfAtomics for Journal {}
// SAFETY: the same.
unsafe impl OfAtomics for Totals {}
// SAFETY: the same.
unsafe impl OfAtomics for Shared {}
// SAFETY: the same.
unsafe impl OfAtomics for Questions {}

/// A value of zeros, in memory that children of this process will share. It stays to the end of the process. It has no user bit, as all
/// that is not the program's: ring 3 does not get at it.
pub(crate) fn zeros<T: OfAtomics>() -> io::Result<&'static T> {
    let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, where Linux wants it.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), size_of::<T>(), rights, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: 1. the mapping is as long as the value, at the start of a page, and nobody unmaps it; 2. its zeros are a value, and others
    // change it by atomic steps only, says `OfAtomics`.
    Ok(unsafe { &*start.cast() })
}

/// Waits until `word`, in shared memory, is not `value`, or so long (futex(2)).
pub(crate) fn wait(word: &AtomicU32, value: u32, most: Duration) {
    let time = libc::timespec { tv_sec: most.as_secs() as i64, tv_nsec: most.subsec_nanos().into() };
    if word.load(Ordering::Relaxed) == value {
        // SAFETY: the call reads the word and the time.
        unsafe {
            libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, &raw const time, 0, 0)
        };
    }
}

/// Wakes who waits for `word`.
pub(crate) fn wake(word: &AtomicU32) {
    let arguments = [word.as_ptr().expose_provenance() as u64, libc::FUTEX_WAKE as u64, 1, 0, 0, 0];
    // SAFETY: the call reads nothing.
    unsafe { super::system_call(libc::SYS_futex, arguments) };
}
