//! `/proc`, for a process that has gone where there is none: chroot(2), pivot_root(2).
//!
//! Dune asks Linux what is mapped where, for as long as the process lives. So it keeps `/proc` open, out of the program's way
//! (`descriptor.rs`); children of forks inherit it.

use core::ffi::CStr;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::os::fd::RawFd;

use linux_raw_sys::errno::ENAMETOOLONG;
use linux_raw_sys::general::{
    __NR_newfstatat, __NR_pread64, __NR_readlinkat, AT_FDCWD, O_DIRECTORY, O_PATH, O_RDONLY, stat,
};

use super::descriptor::{Descriptor, made_high, own_argument};
use super::kept::Source;
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
    let target = read_link(c"thread-self", &mut target)?;
    let last = target.rsplit(|&byte| byte == b'/').next()?;
    number(last)
}

/// The id of this process as the directory that is kept knows it.
pub(crate) fn own_process() -> Option<u32> {
    let mut target = [0u8; 64];
    number(read_link(c"self", &mut target)?)
}

/// What the descriptor `number` of this process is open for, as far as `to` has room.
pub(crate) fn path_of(number: u32, to: &mut [u8]) -> Option<&[u8]> {
    let mut name = [0u8; 32];
    let name = name_of([b"self/fd/", decimal(number, &mut [0; 10])], &mut name)?;
    read_link(name, to)
}

/// How many links the file `name` below the directory that is kept has (newfstatat(2)).
pub(crate) fn links(name: &CStr) -> Option<u64> {
    let mut found = MaybeUninit::<stat>::uninit();
    let directory = own_argument(DIRECTORY.load(Ordering::Relaxed));
    // SAFETY: the call writes `found` at most, and all of it if it succeeds.
    unsafe {
        sys::call(__NR_newfstatat, [directory, name.as_ptr() as u64, found.as_mut_ptr() as u64, 0, 0, 0])
            .ok()?;
        Some(found.assume_init().st_nlink)
    }
}

/// Opens the list of the tasks of `process`, by its name in /proc.
pub(crate) fn open_tasks(process: &[u8]) -> Result<Descriptor, Errno> {
    let mut name = [0u8; 32];
    let name = name_of([process, b"/task"], &mut name).ok_or(Errno::from_raw(ENAMETOOLONG))?;
    open(name, O_RDONLY | O_DIRECTORY)
}

/// Calls `visit` with each name in `directory` that is a number. `None` if the directory is not as getdents(2) says.
pub(crate) fn each_number(directory: &Descriptor, mut visit: impl FnMut(&[u8])) -> Option<()> {
    /// `struct linux_dirent64` (getdents(2)): the length of the entry, and its name.
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    let mut entries = [0u8; 2048];
    loop {
        let read = directory.read_entries(&mut entries).unwrap_or(0);
        if read == 0 {
            return Some(());
        }
        let mut rest = &entries[..read];
        while rest.len() > NAME {
            let length = usize::from(u16::from_ne_bytes([rest[LENGTH], rest[LENGTH + 1]]));
            let name = CStr::from_bytes_until_nul(&rest[NAME..]).ok()?.to_bytes();
            if number(name).is_some() {
                visit(name);
            }
            rest = &rest[length.clamp(1, rest.len())..];
        }
    }
}

/// `parts` one behind the other, in `to`.
fn name_of<'a>(parts: [&[u8]; 2], to: &'a mut [u8; 32]) -> Option<&'a CStr> {
    let mut length = 0;
    for part in parts {
        // One byte at least stays zero.
        to[..31].get_mut(length..length + part.len())?.copy_from_slice(part);
        length += part.len();
    }
    CStr::from_bytes_until_nul(&to[..]).ok()
}

/// The decimal digits of `value`, in `to`.
fn decimal(mut value: u32, to: &mut [u8; 10]) -> &[u8] {
    let mut start = to.len();
    loop {
        start -= 1;
        to[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &to[start..];
        }
    }
}

/// The target of the link `name` below the directory that is kept.
fn read_link<'a>(name: &CStr, to: &'a mut [u8]) -> Option<&'a [u8]> {
    let arguments = [
        own_argument(DIRECTORY.load(Ordering::Relaxed)),
        name.as_ptr() as u64,
        to.as_mut_ptr() as u64,
        to.len() as u64,
        0,
        0,
    ];
    // SAFETY: the call writes to `to` at most.
    let length = unsafe { sys::call(__NR_readlinkat, arguments) }.ok()? as usize;
    Some(&to[..length])
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

/// Opens what proc_pid_smaps(5) describes.
pub(crate) fn open_smaps() -> Result<Descriptor, Errno> {
    open_or(c"thread-self/smaps", c"/proc/thread-self/smaps")
}

/// What proc_pid_pagemap(5) says of page number `page`.
pub(crate) fn pagemap_entry(page: u64) -> Option<u64> {
    let mut entry = 0u64;
    let mut read = |file: u64| {
        let arguments = [file, (&raw mut entry) as u64, 8, page * 8, 0, 0];
        // SAFETY: the call writes 8 bytes to `entry`.
        unsafe { sys::call(__NR_pread64, arguments) }
    };
    let read = match Source::Pagemap.shared() {
        Some(number) => read(own_argument(number)),
        None => open_or(c"thread-self/pagemap", c"/proc/thread-self/pagemap")
            .and_then(|file| read(file.argument())),
    };
    (read == Ok(8)).then_some(entry)
}

/// In the directory that is kept.
const KEPT_MAPS: &CStr = c"thread-self/maps";

/// Opens a file by its `name` below the directory that is kept, or by its `path` where it is not kept yet, or host mode has closed it.
pub(super) fn open_or(name: &CStr, path: &CStr) -> Result<Descriptor, Errno> {
    open(name, O_RDONLY).or_else(|_| Descriptor::open(AT_FDCWD, path, O_RDONLY))
}
