//! mprotect(2) and SIGSEGV.

use std::ffi::{c_int, c_void};
use std::io;

use super::signals::Signal;
use super::watch::{self, Watch};
use super::{Knowledge, TrackerError, WriteTracker};
use crate::heap::{PAGE, PageSet, Space};

const NAME: &str = "mprotect";
static SEGV: Signal = Signal::new(libc::SIGSEGV);

/// [`Tracker::Mprotect`](super::Tracker::Mprotect).
#[derive(Debug)]
pub(super) struct Mprotect(Watch);

impl Mprotect {
    pub(super) fn start(space: &Space) -> Result<Mprotect, TrackerError> {
        let watch = Watch::new(space)?;
        SEGV.set_handler(NAME, on_segv)?;
        Ok(Mprotect(watch))
    }
}

impl WriteTracker for Mprotect {
    fn written(&mut self, pages: usize, written: &mut PageSet) -> Result<Knowledge, TrackerError> {
        self.0.written(pages, written);
        Ok(Knowledge::Exact)
    }

    fn begin(&mut self, old: &PageSet, pages: usize) -> Result<(), TrackerError> {
        self.0.begin(old, pages, |start, bytes, writable| {
            if protect(start, bytes, writable) {
                return Ok(());
            }
            let (call, error) = ("mprotect", io::Error::last_os_error());
            let remedy = "raise vm.max_map_count, or take another tracker";
            Err(TrackerError::Refused { tracker: NAME, call, error, remedy })
        })
    }
}

fn protect(start: usize, bytes: usize, writable: bool) -> bool {
    let rights = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
    // SAFETY: pages of a heap. Who writes to them meets the handler, and they stay readable.
    unsafe { libc::mprotect(start as *mut _, bytes, rights) == 0 }
}

extern "C" fn on_segv(_: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: Linux gives the handler a whole structure; for a fault it has the address.
    let (address, kernel) = unsafe { ((*info).si_addr() as usize, (*info).si_code > 0) };
    let page = if kernel { watch::find(address) } else { None };
    let Some(page) = page else {
        // SAFETY: the handler's own arguments.
        return unsafe { SEGV.pass_on(info, context) };
    };
    if protect(page.address, PAGE, true) {
        return page.opened();
    }
    // Too many mappings to make one more of it: then all of the heap is one.
    let (start, bytes) = page.heap();
    if protect(start, bytes, true) {
        return page.all_opened();
    }
    // SAFETY: as above.
    unsafe { SEGV.pass_on(info, context) };
}
