//! Address space that belongs to an image.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

use crate::elf::Protection;

/// A range of addresses that nothing else uses. All edits stay within it.
#[derive(Debug)]
pub(crate) struct Reservation {
    start: u64,
    length: u64,
}

impl Reservation {
    /// Exactly at `start`, whole pages; EEXIST if something is there.
    pub(crate) fn at(start: u64, length: u64) -> io::Result<Reservation> {
        let reservation = Reservation::new(start, length, libc::MAP_FIXED_NOREPLACE)?;
        if reservation.start == start {
            return Ok(reservation);
        }
        // Linux before 4.17 takes the address for a hint.
        Err(io::Error::from_raw_os_error(libc::EEXIST))
    }

    /// Where the kernel likes.
    pub(crate) fn anywhere(length: u64) -> io::Result<Reservation> {
        Reservation::new(0, length, 0)
    }

    fn new(start: u64, length: u64, flags: i32) -> io::Result<Reservation> {
        let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: without MAP_FIXED no mapping is replaced.
        let address = unsafe { libc::mmap(start as *mut _, length as usize, libc::PROT_NONE, flags, -1, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Reservation { start: address.addr() as u64, length })
    }

    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// The end of the range; panics unless `length` bytes from `start` lie within.
    #[track_caller]
    fn check(&self, start: u64, length: u64) {
        let inside =
            start >= self.start && length <= self.length && start - self.start <= self.length - length;
        assert!(inside, "{length:#x} bytes at {start:#x} are not within {self:x?}");
    }

    /// Gives back all but `length` bytes from `start`.
    pub(crate) fn shrink(&mut self, start: u64, length: u64) {
        self.check(start, length);
        let (old, end) = (self.start, self.start + self.length);
        (self.start, self.length) = (start, length);
        for (from, to) in [(old, start), (start + length, end)] {
            if from < to {
                // SAFETY: nobody uses the reserved range yet.
                unsafe { libc::munmap(from as *mut _, (to - from) as usize) };
            }
        }
    }

    /// Maps pages of `file` from `offset`, a multiple of the page size.
    pub(crate) fn map_file(
        &mut self,
        start: u64,
        length: u64,
        protection: Protection,
        file: &File,
        offset: u64,
    ) -> io::Result<()> {
        self.map(start, length, protection, libc::MAP_PRIVATE, file.as_raw_fd(), offset)
    }

    /// Maps pages of zeros.
    pub(crate) fn map_zeros(&mut self, start: u64, length: u64, protection: Protection) -> io::Result<()> {
        self.map(start, length, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    fn map(
        &mut self,
        start: u64,
        length: u64,
        protection: Protection,
        flags: i32,
        file: i32,
        offset: u64,
    ) -> io::Result<()> {
        self.check(start, length);
        let flags = flags | libc::MAP_FIXED;
        // SAFETY: the range is this value's own, and nothing of Rust's lies in it.
        let address = unsafe {
            libc::mmap(start as *mut _, length as usize, protection.bits(), flags, file, offset as i64)
        };
        if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Writes zeros to bytes that are mapped with the right to write.
    pub(crate) fn zero(&mut self, start: u64, length: u64) {
        self.check(start, length);
        // SAFETY: the range is this value's own; the caller has mapped it from a file that is long enough.
        unsafe { ptr::write_bytes(start as *mut u8, 0, length as usize) };
    }

    /// Unmaps a part.
    pub(crate) fn release(&mut self, start: u64, length: u64) -> io::Result<()> {
        self.check(start, length);
        // SAFETY: the range is this value's own, and nothing of Rust's lies in it.
        if unsafe { libc::munmap(start as *mut _, length as usize) } == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Leaves everything mapped.
    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: the range is this value's own. Parts that were released have not been used by anybody since, as the process has
        // one thread that maps other things elsewhere only.
        unsafe { libc::munmap(self.start as *mut _, self.length as usize) };
    }
}
