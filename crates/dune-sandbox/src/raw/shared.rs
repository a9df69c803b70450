//! A number that a process shares with its child.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::system_call;
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

    /// Sets the number, and wakes who waits.
    pub(crate) fn set(&self, value: u32) {
        self.page.store(value, Ordering::Release);
        self.futex(libc::FUTEX_WAKE, i32::MAX as u64, None);
    }

    /// Waits for the number not to be `value`, at most for so long.
    pub(crate) fn wait(&self, value: u32, limit: Duration) {
        let limit = [limit.as_secs(), limit.subsec_nanos().into()];
        self.futex(libc::FUTEX_WAIT, value.into(), Some(&limit));
    }

    fn futex(&self, operation: i32, value: u64, limit: Option<&[u64; 2]>) {
        let limit = limit.map_or(0, |limit| std::ptr::from_ref(limit).expose_provenance() as u64);
        let address = std::ptr::from_ref(self.page).expose_provenance() as u64;
        // SAFETY: the call reads the number and a `struct timespec`.
        unsafe { system_call(libc::SYS_futex, [address, operation as u64, value, limit, 0, 0]) };
    }
}

impl Drop for SharedNumber {
    fn drop(&mut self) {
        let address = std::ptr::from_ref(self.page).expose_provenance() as u64;
        // SAFETY: the reference to the page ends with `self`.
        unsafe { system_call(libc::SYS_munmap, [address, PAGE, 0, 0, 0, 0]) };
    }
}
