//! userfaultfd(2) with write protection, for both trackers that use it.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::TrackerError;
use crate::heap::Space;

/// <linux/userfaultfd.h>
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_WRITEPROTECT: u64 = 0xc018_aa06;
const MODE_WP: u64 = 1 << 1;
const USER_MODE_ONLY: i32 = 1;
pub(super) const FEATURE_SIGBUS: u64 = 1 << 7;
pub(super) const FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
pub(super) const FEATURE_WP_ASYNC: u64 = 1 << 15;

const REMEDY: &str = "take mprotect, or a kernel of 6.7 or newer with CONFIG_USERFAULTFD";

/// A descriptor under which the pages of a heap can be protected.
#[derive(Debug)]
pub(super) struct Protector {
    descriptor: OwnedFd,
    tracker: &'static str,
    /// Whose memory it protects: a child's is not.
    process: u32,
}

impl Protector {
    pub(super) fn of(space: &Space, tracker: &'static str, features: u64) -> Result<Protector, TrackerError> {
        let refused = |call| refused(tracker, call);
        // SAFETY: a new descriptor, nobody else's.
        let descriptor = unsafe {
            let made = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | USER_MODE_ONLY);
            if made < 0 {
                return Err(refused("userfaultfd"));
            }
            OwnedFd::from_raw_fd(made as i32)
        };
        let protector = Protector { descriptor, tracker, process: std::process::id() };
        let mut api = [0xaa, features, 0];
        // SAFETY: structures of these sizes, which live as long; memory of the heap.
        unsafe {
            if !protector.call(UFFDIO_API, &mut api) {
                return Err(refused("UFFDIO_API"));
            }
            let mut register = [space.start() as u64, space.bytes() as u64, MODE_WP, 0];
            if !protector.call(UFFDIO_REGISTER, &mut register) {
                return Err(refused("UFFDIO_REGISTER"));
            }
        }
        Ok(protector)
    }

    /// # Safety
    ///
    /// The request is one with such a structure.
    unsafe fn call<const N: usize>(&self, request: u64, structure: &mut [u64; N]) -> bool {
        // SAFETY: the caller's.
        unsafe { libc::ioctl(self.descriptor.as_raw_fd(), request, structure.as_mut_ptr()) == 0 }
    }

    /// The process is a child of the one whose memory is protected. The descriptor protects the parent's, and must be left alone.
    pub(super) fn is_anothers(&self) -> bool {
        std::process::id() != self.process
    }

    /// The descriptor's number, for a handler.
    pub(super) fn number(&self) -> i32 {
        self.descriptor.as_raw_fd()
    }

    /// Protects pages of the heap against writing, or lets them be written to.
    pub(super) fn protect(&self, start: usize, bytes: usize, writable: bool) -> Result<(), TrackerError> {
        if protect(self.number(), start, bytes, writable) {
            Ok(())
        } else {
            Err(refused(self.tracker, "UFFDIO_WRITEPROTECT"))
        }
    }
}

/// The same, in a handler.
pub(super) fn protect(descriptor: i32, start: usize, bytes: usize, writable: bool) -> bool {
    let mut structure = [start as u64, bytes as u64, u64::from(!writable)];
    // SAFETY: the request has such a structure; whoever writes to the pages meets the handler.
    unsafe { libc::ioctl(descriptor, UFFDIO_WRITEPROTECT, structure.as_mut_ptr()) == 0 }
}

pub(super) fn refused(tracker: &'static str, call: &'static str) -> TrackerError {
    TrackerError::Refused { tracker, call, error: io::Error::last_os_error(), remedy: REMEDY }
}
