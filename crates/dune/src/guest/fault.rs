//! Page faults that the page tables caused and Linux would not: what the mirror of the mappings has not seen.
//!
//! A mapping made by a thread in host mode, a stack that grows, an edit that had to wait: the tables say less than
//! Linux does. Such a fault is settled by asking Linux about the address and installing its answer; then the
//! instruction is tried again. What Linux would not permit either is the program's own fault, and reported.
//!
//! A fault that fault-around has arranged (`around.rs`) is settled there, and is not the program's business: there is none while
//! a handler is set.
//!
//! The program's handler for #PF comes first, since the entry stub calls it without knowing whose fault it is; that
//! is what keeps a fault fast. A handler returns [`TrapOutcome::Unhandled`](super::TrapOutcome) for addresses that
//! it knows nothing about, and the fault comes here. A *lean* handler cannot: a program with one takes all faults.

use linux_raw_sys::errno::ENOMEM;
use linux_raw_sys::general::__NR_mincore;
use x86_64::VirtAddr;
use x86_64::structures::idt::PageFaultErrorCode as Error;

use super::{around, window};
use crate::arch::frame::TrapFrame;
use crate::arch::page::{PAGE_BYTES, PagePermissions, PageRange, TASK_SIZE};
use crate::arch::token::Dune;
use crate::linux::{maps, sys};
use crate::memory::mirror::{MirrorMode, Ownership};
use crate::memory::{EditError, FrameError};

/// At most so much is installed by one fault, aligned: one level of tables on the largest pages.
const AROUND: u64 = 1 << 30;

/// Settles the page fault of `frame`. False if it is a fault for Linux too.
#[cold]
#[inline(never)]
pub(super) fn resolve(dune: Dune, frame: &TrapFrame) -> bool {
    let memory = dune.memory();
    let address = frame.fault_address();
    let is_full = memory.mapping() == MirrorMode::Full;
    if is_full && memory.windows().find(address).is_none() {
        return is_mapped(frame.words().cr2) && window::give(dune, address);
    }
    let error = frame.page_fault_error();
    if !is_full {
        if memory.has_streams()
            && around::follow(memory, frame.words().cr2, error.contains(Error::CAUSED_BY_WRITE))
        {
            return true;
        }
        if memory.has_missed() {
            let _calls = memory.try_hold_calls();
            memory.catch_up(|flush| flush.now(dune));
        }
    }
    if frame.words().cr2 >= TASK_SIZE || error.intersects(Error::MALFORMED_TABLE | Error::PROTECTION_KEY) {
        return false;
    }
    let wanted = wanted(error);
    let Ok(tables) = memory.active_tables() else { return may_retry_busy(dune, frame) };
    let known = tables.lookup(address).map_or(PagePermissions::empty(), |leaf| leaf.permissions);
    let owned = tables.is_owned(address);
    drop(tables);
    if known.intersects(wanted) {
        // The CPU had cached what was there before, which the fault has made it forget.
        return may_retry(dune, frame, 1);
    }
    if owned || is_full {
        return false;
    }
    match install(dune, frame.words().cr2, wanted) {
        Installed::Range(_) => true,
        Installed::Busy => may_retry_busy(dune, frame),
        Installed::Nothing => false,
    }
}

/// What has become of Linux's mapping at an address.
enum Installed {
    /// It is in the tables, around the address.
    Range(PageRange),
    /// Somebody has held the tables for seconds, or the interrupted code of this thread holds them.
    Busy,
    /// Linux has none that permits the access, or there is no room.
    Nothing,
}

/// Puts what Linux has at `address` into the tables, if it permits one of `wanted`.
fn install(dune: Dune, address: u64, wanted: PagePermissions) -> Installed {
    let memory = dune.memory();
    let ended = memory.ended_calls();
    let found = || mapping_at(address).filter(|(_, permissions)| permissions.intersects(wanted));
    let Some(mut mapping) = found() else { return Installed::Nothing };
    if !window::give(dune, VirtAddr::new_truncate(address)) {
        return Installed::Nothing;
    }
    // Edits come one after the other, and none that is older than another's.
    let _calls = memory.try_hold_calls();
    if memory.ended_calls() != ended {
        let Some(now) = found() else { return Installed::Nothing };
        mapping = now;
    }
    let (range, permissions) = mapping;
    let (start, end) = around(range, address);
    let Ok(range) = PageRange::new(VirtAddr::new_truncate(start), end - start) else {
        return Installed::Nothing;
    };
    match memory.mirror(range, permissions, Ownership::Respect) {
        Ok(flush) => {
            flush.now(dune);
            Installed::Range(range)
        }
        Err(EditError::Busy(_) | EditError::Frames(FrameError::Busy(_))) => Installed::Busy,
        Err(_) => Installed::Nothing,
    }
}

impl Dune {
    /// Puts what Linux has mapped at `address` into the page tables, where they do not show it yet, and tells what they show now around
    /// it. `None` if Linux has nothing there that can be accessed, or there is no room.
    ///
    /// Of a mapping that is longer than what fits, the rest comes when it is touched at ring 0. A supervisor whose ring-3 code touches it
    /// first asks so: its edits say [`EditError::OutsideWindows`] or [`EditError::NotMapped`].
    ///
    /// # Example
    ///
    /// ```no_run
    /// use dune::memory::{EditError, PagePermissions, PageRange, VirtAddr};
    ///
    /// # fn protect(dune: dune::Dune, page: PageRange, address: VirtAddr) -> Result<(), EditError> {
    /// let protect = || Ok(dune.page_tables()?.protect(page, PagePermissions::READ)?.now(dune));
    /// protect().or_else(|error| dune.reach(address).map_or(Err(error), |_| protect()))
    /// # }
    /// ```
    pub fn reach(self, address: VirtAddr) -> Option<PageRange> {
        if self.memory().mapping() == MirrorMode::Full {
            return (is_mapped(address.as_u64()) && window::give(self, address))
                .then(|| PageRange::page(address.align_down(PAGE_BYTES)));
        }
        let Installed::Range(range) = install(self, address.as_u64(), PagePermissions::ALL) else {
            return None;
        };
        // The mapping may reach further than the window.
        let window = self.memory().windows().find(address)?.range;
        let (start, end) = (range.first().max(window.first()), range.end().min(window.end()));
        PageRange::new(VirtAddr::new_truncate(start), end.checked_sub(start)?).ok()
    }

    /// Has `edit` edit the page tables of a mapping, of which they may not show all yet: each time that it misses something, they are made to
    /// show more.
    pub(crate) fn reaching<T>(self, mut edit: impl FnMut() -> Result<T, EditError>) -> Result<T, EditError> {
        let mut reached = 0;
        loop {
            let error = match edit() {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let missing = match error {
                EditError::OutsideWindows { address } => address,
                EditError::NotMapped { address } => address.as_u64(),
                _ => return Err(error),
            };
            if missing <= reached || self.reach(VirtAddr::new_truncate(missing)).is_none() {
                return Err(error);
            }
            reached = missing;
        }
    }
}

/// What the access of a fault with this error code takes: one of these.
fn wanted(error: Error) -> PagePermissions {
    if error.contains(Error::INSTRUCTION_FETCH) {
        PagePermissions::EXECUTE
    } else if error.contains(Error::CAUSED_BY_WRITE) {
        PagePermissions::WRITE
    } else {
        PagePermissions::ALL
    }
}

/// Whether the tables allow the access, so that the fault may be one of the second level.
pub(super) fn is_allowed(dune: Dune, frame: &TrapFrame) -> bool {
    let Ok(tables) = dune.memory().active_tables() else { return true };
    let leaf = tables.lookup(frame.fault_address());
    leaf.is_some_and(|leaf| leaf.permissions.intersects(wanted(frame.page_fault_error())))
}

/// Whether Linux has a mapping at `address`.
pub(super) fn is_mapped(address: u64) -> bool {
    residency(address).is_some()
}

/// Whether the page at `address` is in memory (mincore(2)), if Linux has a mapping there.
pub(super) fn residency(address: u64) -> Option<bool> {
    let mut residency = 0u8;
    let arguments = [address & !(PAGE_BYTES - 1), PAGE_BYTES, (&raw mut residency) as u64, 0, 0, 0];
    // Needs no descriptor, of which the program may have used up all.
    // SAFETY: the call writes a byte for the page to `residency`.
    match unsafe { sys::call(__NR_mincore, arguments) } {
        Ok(_) => Some(residency & 1 != 0),
        Err(errno) if errno.raw() == ENOMEM as i32 => None,
        // It may be.
        Err(_) => matches!(maps::find(address, |_| ()), Ok(Some(()))).then_some(true),
    }
}

/// So many times in a row are no coincidence. A CPU that has cached a page with fewer rights raises such a fault once
/// each time that rights were added, which a program may do in a loop; but then its registers change.
const MOST_RETRIES: u32 = 1 << 16;

/// Whether the fault of `frame`, which the tables allow, may be tried again. It counts `times` times.
fn may_retry(dune: Dune, frame: &TrapFrame, times: u32) -> bool {
    dune.block().retried.count(frame, times) <= MOST_RETRIES
}

/// [`may_retry`] where somebody has held the tables for seconds, or the interrupted code of this thread holds them.
fn may_retry_busy(dune: Dune, frame: &TrapFrame) -> bool {
    may_retry(dune, frame, MOST_RETRIES / 8)
}

/// The bounds and rights of the mapping at `address`, which a stack below may grow to.
fn mapping_at(address: u64) -> Option<((u64, u64), PagePermissions)> {
    let find = || maps::find(address, |mapping| ((mapping.start, mapping.end), mapping.permissions));
    match find() {
        Ok(None) if sys::can_be_read(address) => find().ok().flatten(),
        found => found.ok().flatten(),
    }
}

/// The part of `start..end` that is installed for a fault at `address`.
fn around((start, end): (u64, u64), address: u64) -> (u64, u64) {
    let low = address & !(AROUND - 1);
    (start.max(low), end.min(low + AROUND))
}
