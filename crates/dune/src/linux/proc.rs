//! `/proc`, for a process that has gone where there is none: chroot(2), pivot_root(2).
//!
//! Dune asks Linux what is mapped where, for as long as the process lives. So it keeps `/proc` open, out of the program's way
//! (`descriptor.rs`); children of forks inherit it.

use core::ffi::CStr;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::os::fd::RawFd;

use linux_raw_sys::general::{__NR_readlinkat, AT_FDCWD, O_DIRECTORY, O_PATH, O_RDONLY};

use super::descriptor::{Descriptor, made_high, own_argument};
use super::sys::{self, Errno};

/// The number of `/proc`'s descriptor, if it is kept.
static DIRECTORY: AtomicI32 = AtomicI32::new(Descriptor::CLOSED);

/// Keeps `/proc` open from now on, if it is there: not where a parent has done so, unless the program has closed it since in
/// host mode.
pub(crate) fn keep() {
    if open(KEPT_MAPS, O_RDONLY).is_ok() {
        return;
    }
    let opened = made_high(|| Descriptor::open(AT_FDCWD, c"/proc", O_PATH | O_DIRECTORY));
    DIRECTORY.store(opened.map_or(Descriptor::CLOSED, Descriptor::leak), Ordering::Relaxed);
}

/// The descriptor that is kept.
pub(crate) fn kept() -> Option<RawFd> {
    Some(DIRECTORY.load(Ordering::Relaxed)).filter(|&number| number != Descriptor::CLOSED)
}

/// Opens the file `name` below the directory that is kept.
pub(crate) fn open(name: &CStr, flags: u32) -> Result<Descriptor, Errno> {
    Descriptor::open(DIRECTORY.load(Ordering::Relaxed), name, flags)
}

/// The calling thread's id as the directory that is kept knows it, which may be that of another PID namespace.
pub(crate) fn own_task() -> Option<u32> {
    // PID/task/TID
    let mut target = [0u8; 64];
    let (directory, name) = (DIRECTORY.load(Ordering::Relaxed), c"thread-self");
    let arguments = [
        own_argument(directory),
        name.as_ptr() as u64,
        target.as_mut_ptr() as u64,
        target.len() as u64,
        0,
        0,
    ];
    // SAFETY: the call writes to `target` at most.
    let length = unsafe { sys::call(__NR_readlinkat, arguments) }.ok()? as usize;
    let last = target[..length].rsplit(|&byte| byte == b'/').next()?;
    number(last)
}

/// The number that these decimal digits are.
pub(crate) fn number(digits: &[u8]) -> Option<u32> {
    core::str::from_utf8(digits).ok()?.parse().ok()
}

/// The tracer of the process when it entered; 0 without one.
static TRACER: AtomicU32 = AtomicU32::new(0);

/// Remembers who traces the calling thread.
pub(crate) fn keep_tracer() {
    TRACER.store(tracer().unwrap_or(0), Ordering::Relaxed);
}

/// Whether the calling thread has got a tracer since the process entered: one that is in Dune mode itself, perhaps. Where there
/// is no answer, nobody knows.
pub(crate) fn has_new_tracer() -> Option<bool> {
    tracer().map(|tracer| tracer != 0 && tracer != TRACER.load(Ordering::Relaxed))
}

/// Whether the calling thread has a tracer.
pub(crate) fn is_traced() -> bool {
    tracer().is_some_and(|tracer| tracer != 0)
}

/// The process that traces the calling thread, 0 if there is none (proc_pid_status(5), TracerPid).
fn tracer() -> Option<u32> {
    const FIELD: &[u8] = b"\nTracerPid:\t";
    let status = open_or(c"thread-self/status", c"/proc/thread-self/status").ok()?;
    // The field is among the first, and the name before it is short.
    let mut buffer = [0; 512];
    let length = status.read(&mut buffer).ok()?;
    let text = &buffer[..length];
    let at = text.windows(FIELD.len()).position(|bytes| bytes == FIELD)? + FIELD.len();
    number(text[at..].split(|&byte| byte == b'\n').next()?)
}

/// Opens the list of what the process has mapped where, as the calling thread sees it. (`/proc/self/maps` is the first thread's,
/// and empty once that has ended before the others.)
pub(crate) fn open_maps() -> Result<Descriptor, Errno> {
    open_or(KEPT_MAPS, c"/proc/thread-self/maps")
}

/// In the directory that is kept.
const KEPT_MAPS: &CStr = c"thread-self/maps";

/// Opens a file by its `name` below the directory that is kept, or by its `path` where it is not kept yet, or host mode has closed it.
fn open_or(name: &CStr, path: &CStr) -> Result<Descriptor, Errno> {
    open(name, O_RDONLY).or_else(|_| Descriptor::open(AT_FDCWD, path, O_RDONLY))
}
