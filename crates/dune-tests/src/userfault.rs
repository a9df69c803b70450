//! userfaultfd(2), as far as the cases use it (<linux/userfaultfd.h>).

use std::io::Error;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

pub const EVENT_FORK: u8 = 0x13;

/// For faults in user mode only: all that a process without privileges may have.
pub const USER_MODE_ONLY: i32 = 1;

pub const FEATURE_PAGEFAULT_FLAG_WP: u64 = 1 << 0;
pub const FEATURE_EVENT_FORK: u64 = 1 << 1;
pub const FEATURE_EVENT_REMAP: u64 = 1 << 2;
pub const FEATURE_EVENT_REMOVE: u64 = 1 << 3;
pub const FEATURE_EVENT_UNMAP: u64 = 1 << 6;
pub const FEATURE_SIGBUS: u64 = 1 << 7;
pub const FEATURE_MINOR_SHMEM: u64 = 1 << 10;

pub const MISSING: u64 = 1;
pub const WRITE_PROTECT: u64 = 2;
pub const MINOR: u64 = 4;

const fn request(number: u64, bytes: u64, both_ways: bool) -> u64 {
    (if both_ways { 3 } else { 2 }) << 30 | bytes << 16 | 0xaa << 8 | number
}

/// A message: its event, and its words as far as they are used.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Message {
    pub event: u8,
    reserved: [u8; 7],
    /// The flags of a fault; the descriptor of a fork.
    pub first: u64,
    /// The address of a fault.
    pub second: u64,
    third: u64,
}

/// What tells of the faults of a process.
#[derive(Debug)]
pub struct Userfault(OwnedFd);

impl Userfault {
    /// One with these flags and features.
    pub fn new(flags: i32, features: u64) -> Result<Userfault, Error> {
        // SAFETY: makes a descriptor.
        let made = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | flags) };
        if made < 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: the kernel has just made it.
        let userfault = Userfault(unsafe { OwnedFd::from_raw_fd(made as i32) });
        userfault.ask(request(0x3f, 24, true), &mut [0xaa, features, 0])?;
        Ok(userfault)
    }

    fn ask<const WORDS: usize>(&self, request: u64, words: &mut [u64; WORDS]) -> Result<(), Error> {
        // SAFETY: the call reads and writes the words of its structure.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), request, words.as_mut_ptr()) };
        if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
    }

    /// Tells of faults of this `mode` from `start` on.
    pub fn register(&self, start: u64, bytes: u64, mode: u64) -> Result<(), Error> {
        self.ask(request(0x00, 32, true), &mut [start, bytes, mode, 0])
    }

    /// Puts a copy of the page at `from` at `to`.
    pub fn copy(&self, to: u64, from: u64) -> Result<(), Error> {
        self.ask(request(0x03, 40, true), &mut [to, from, 4096, 0, 0])
    }

    /// Has the page at `start`, which its file has, be there.
    pub fn go_on(&self, start: u64) -> Result<(), Error> {
        self.ask(request(0x07, 32, true), &mut [start, 4096, 0, 0])
    }

    /// Makes the page at `start` one that is told of when it is written to, or one that is not.
    pub fn protect(&self, start: u64, protect: bool) -> Result<(), Error> {
        self.ask(request(0x06, 24, true), &mut [start, 4096, protect.into()])
    }

    /// Waits until there is something to read.
    pub fn wait(&self) -> bool {
        let mut one = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: the call writes to `one`.
        unsafe { libc::poll(&mut one, 1, -1) == 1 }
    }

    /// The next message, waiting for it.
    pub fn next(&self) -> Option<Message> {
        let mut message = Message::default();
        let bytes = size_of::<Message>();
        // SAFETY: the call writes a message.
        let read = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut message).cast(), bytes) };
        (read == bytes as isize).then_some(message)
    }
}
