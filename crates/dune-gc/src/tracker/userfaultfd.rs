//! userfaultfd(2) with write protection, and SIGBUS for its faults.

use std::ffi::{c_int, c_void};

use super::signals::Signal;
use super::uffd::{self, FEATURE_SIGBUS, FEATURE_WP_UNPOPULATED, Protector};
use super::watch::{self, Watch};
use super::{Knowledge, TrackerError, WriteTracker};
use crate::heap::{PAGE, PageSet, Space};

const NAME: &str = "userfaultfd";
static BUS: Signal = Signal::new(libc::SIGBUS);

/// [`Tracker::Userfaultfd`](super::Tracker::Userfaultfd).
#[derive(Debug)]
pub(super) struct Userfaultfd {
    watch: Watch,
    protector: Protector,
}

impl Userfaultfd {
    pub(super) fn start(space: &Space) -> Result<Userfaultfd, TrackerError> {
        let watch = Watch::new(space)?;
        let protector = Protector::of(space, NAME, FEATURE_SIGBUS | FEATURE_WP_UNPOPULATED)?;
        watch.open_by(protector.number());
        BUS.set_handler(NAME, on_bus)?;
        Ok(Userfaultfd { watch, protector })
    }
}

impl WriteTracker for Userfaultfd {
    fn written(&mut self, pages: usize, written: &mut PageSet) -> Result<Knowledge, TrackerError> {
        if self.protector.is_anothers() {
            // A child's memory is not protected.
            return Ok(Knowledge::Nothing);
        }
        self.watch.written(pages, written);
        Ok(Knowledge::Exact)
    }

    fn begin(&mut self, old: &PageSet, pages: usize) -> Result<(), TrackerError> {
        if self.protector.is_anothers() {
            return Ok(());
        }
        let protector = &self.protector;
        self.watch.begin(old, pages, |start, bytes, writable| protector.protect(start, bytes, writable))
    }
}

extern "C" fn on_bus(_: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: Linux gives the handler a whole structure; for a fault it has the address.
    let (address, kernel) = unsafe { ((*info).si_addr() as usize, (*info).si_code > 0) };
    let page = if kernel { watch::find(address) } else { None };
    match page {
        Some(page) if uffd::protect(page.descriptor(), page.address, PAGE, true) => page.opened(),
        // SAFETY: the handler's own arguments.
        _ => unsafe { BUS.pass_on(info, context) },
    }
}
