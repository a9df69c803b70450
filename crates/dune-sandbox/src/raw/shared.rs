//! A number that a process shares with its child.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{atomics, system_call};
use crate::part::PAGE;

/// A number in a page of its own, which a child of fork(2) has, too.
#[derive(Debug)]
pub(crate) struct SharedNumber {
    page: &'static AtomicU32,
}

impl SharedNumber {
    /// 0; or the raw error.
    pub(crate) fn new() -> Result<SharedNumber, i64> {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let arguments = [0, PAGE, rights as u64, flags as u64, u64::MAX, 0];
        // SAFETY: a new mapping, where Linux finds room.
        let start = super::result(unsafe { system_call(libc::SYS_mmap, arguments) })?;
        // SAFETY: the page is mapped until `drop`, begins with zeros, and is used as this number only, here and in the child.
        let page = unsafe { &*std::ptr::with_exposed_provenance::<AtomicU32>(start as usize) };
        Ok(SharedNumber { page })
    }

    pub(crate) fn get(&self) -> u32 {
        self.page.load(Ordering::Acquire)
    }

    /// Sets the number, and wakes the process that waits: of the two that have it the other one.
    pub(crate) fn set(&self, value: u32) {
        self.page.store(value, Ordering::Release);
        atomics::wake(self.page);
    }

    /// Waits for the number not to be `value`, at most for so long.
    pub(crate) fn wait(&self, value: u32, limit: Duration) {
        atomics::wait(self.page, value, limit);
    }
}

impl Drop for SharedNumber {
    fn drop(&mut self) {
        let address = std::ptr::from_ref(self.page).expose_provenance() as u64;
        // SAFETY: the reference to the page ends with `self`.
        unsafe { system_call(libc::SYS_munmap, [address, PAGE, 0, 0, 0, 0]) };
    }
}
