//! Dune's own descriptors, and where they stand in the process's table: out of the program's way.
//!
//! Programs count on the lowest free numbers, close a few low descriptors without looking, or all up to their limit.
//! So what Dune keeps stands above the limit: it bounds the numbers that are handed out, not those in use
//! (getrlimit(2)), and a process may raise it for a moment as far as its hard limit goes.

use core::ffi::CStr;
use core::sync::atomic::{AtomicU64, Ordering};
use std::os::fd::RawFd;

use linux_raw_sys::errno::EMFILE;
use linux_raw_sys::general::{
    __NR_close, __NR_fcntl, __NR_getdents64, __NR_openat, __NR_read, F_DUPFD_CLOEXEC, O_CLOEXEC,
};

use super::descriptor_limit::{RaisedLimit, limits};
use super::sys::{self, Errno};

/// Numbers from this one on are not kept account of: programs that look for Dune's there find them.
pub(crate) const MOST: usize = 1 << 17;

/// One bit for each number that Dune keeps: it is not there for the program (`guest/files.rs`).
pub(crate) static KEPT: [AtomicU64; MOST / 64] = [const { AtomicU64::new(0) }; MOST / 64];

/// Whether Dune keeps the descriptor `number`.
pub(crate) fn is_kept(number: u32) -> bool {
    bit(number as RawFd).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
}

fn bit(number: RawFd) -> Option<(&'static AtomicU64, u64)> {
    let number = usize::try_from(number).ok()?;
    KEPT.get(number / 64).map(|word| (word, 1 << (number % 64)))
}

/// What Dune's own calls have in the upper half of an argument that is a descriptor, and Linux does not look at.
const OWN: u64 = 0x4475_6e65 << 32;

/// Descriptor `number` as an argument of a call that Dune makes for itself.
pub(crate) const fn own_argument(number: RawFd) -> u64 {
    OWN | number as u32 as u64
}

/// Whether a call with this argument is Dune's own.
pub(crate) const fn is_own_argument(argument: u64) -> bool {
    argument & 0xffff_ffff << 32 == OWN
}

/// A descriptor of Dune's, closed when dropped. `OwnedFd` would do it through libc.
#[derive(Debug)]
pub(crate) struct Descriptor(RawFd);

impl Descriptor {
    /// Takes over `fd`.
    ///
    /// # Safety
    ///
    /// It is nobody else's.
    pub(crate) unsafe fn new(fd: RawFd) -> Descriptor {
        Descriptor(fd)
    }

    /// Opens `path`, seen from the directory with the number `from`, to be closed on exec (openat(2)).
    pub(crate) fn open(from: RawFd, path: &CStr, flags: u32) -> Result<Descriptor, Errno> {
        let flags = flags | O_CLOEXEC;
        // SAFETY: the call reads the path, which ends with a NUL.
        unsafe { sys::call(__NR_openat, [own_argument(from), path.as_ptr() as u64, flags.into(), 0, 0, 0]) }
            .map(|fd| Descriptor(fd as RawFd))
    }

    /// How many bytes are in `to` now (read(2)).
    pub(crate) fn read(&self, to: &mut [u8]) -> Result<usize, Errno> {
        self.read_by(__NR_read, to)
    }

    /// As [`read`](Self::read), the entries of a directory (getdents(2)).
    pub(crate) fn read_entries(&self, to: &mut [u8]) -> Result<usize, Errno> {
        self.read_by(__NR_getdents64, to)
    }

    fn read_by(&self, number: u32, to: &mut [u8]) -> Result<usize, Errno> {
        let arguments = [self.argument(), to.as_mut_ptr() as u64, to.len() as u64, 0, 0, 0];
        // SAFETY: the kernel writes at most `to.len()` bytes to what is borrowed mutably.
        unsafe { sys::call(number, arguments) }.map(|read| read as usize)
    }

    /// Its number; [`CLOSED`](Self::CLOSED) once closed.
    pub(crate) const fn number(&self) -> RawFd {
        self.0
    }

    /// Its number as an argument of Dune's own calls.
    pub(crate) const fn argument(&self) -> u64 {
        own_argument(self.0)
    }

    /// Hides it from the program as long as it is open.
    fn keep(self) -> Descriptor {
        if let Some((word, bit)) = bit(self.0) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
        self
    }

    /// Gives the descriptor up to whoever keeps the number.
    pub(crate) fn leak(self) -> RawFd {
        let fd = self.0;
        core::mem::forget(self);
        fd
    }

    /// What calls refuse with EBADF.
    pub(crate) const CLOSED: RawFd = -1;

    /// Gives the number back now. Nothing can be asked of it afterwards.
    pub(crate) fn close(&mut self) {
        let fd = core::mem::replace(&mut self.0, Self::CLOSED);
        if fd != Self::CLOSED {
            // SAFETY: the descriptor is this value's own.
            let _ = unsafe { sys::call(__NR_close, [own_argument(fd), 0, 0, 0, 0, 0]) };
            if let Some((word, bit)) = bit(fd) {
                word.fetch_and(!bit, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.close();
    }
}

/// The descriptor that `make` makes, out of the program's way. The limit stands in its way only where the program has used
/// its numbers up.
pub(crate) fn made_high<E: Copy + Into<Errno>>(
    make: impl Fn() -> Result<Descriptor, E>,
) -> Result<Descriptor, E> {
    let made = match make() {
        Err(error) if error.into().raw() == EMFILE as i32 => {
            let limit = RaisedLimit::new();
            return Ok(move_high(make()?, &limit).keep());
        }
        made => made?,
    };
    Ok(move_high(made, &RaisedLimit::new()).keep())
}

/// `fd`, which is closed on exec, beyond the program's reach, or where it stands if there is no other number.
fn move_high(fd: Descriptor, limit: &RaisedLimit) -> Descriptor {
    /// Linux keeps a table as long as the highest number.
    const HIGHEST: u64 = 1 << 16;
    /// Programs that lower their limit may still look at the numbers that they have used before.
    const LOWEST: u64 = 1000;
    let soft = limit.program().rlim_cur.min(HIGHEST);
    // Above the limit; in its upper half where it can not be raised.
    let candidates = [soft.max(LOWEST), soft, soft / 2];
    let candidates = &candidates[if limit.is_raised() { 0 } else { 2 }..];
    candidates.iter().find_map(|&lowest| duplicate(fd.number(), lowest)).unwrap_or(fd)
}

/// Whether a child of a fork, once it has closed `these`, can have two of its own. Numbers beyond a hard limit that the
/// program has lowered since are lost with them.
pub(crate) fn can_be_replaced(these: [RawFd; 2]) -> bool {
    let hard = limits().rlim_max;
    let mut lost = these.into_iter().filter(|&fd| fd as u64 >= hard);
    let Some(one) = lost.next() else { return true };
    let _limit = RaisedLimit::new();
    let first = duplicate(one, 0);
    let second = lost.next().map(|another| duplicate(another, 0));
    first.is_some() && second.is_none_or(|second| second.is_some())
}

/// A duplicate of `fd` at `lowest` or above, closed on exec, if a number is free.
fn duplicate(fd: RawFd, lowest: u64) -> Option<Descriptor> {
    let arguments = [own_argument(fd), F_DUPFD_CLOEXEC.into(), lowest, 0, 0, 0];
    // SAFETY: F_DUPFD_CLOEXEC touches no memory and gives a descriptor that is nobody else's.
    unsafe { sys::call(__NR_fcntl, arguments).map(|high| Descriptor::new(high as RawFd)) }.ok()
}
