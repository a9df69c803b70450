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

use core::sync::atomic::{AtomicU64, Ordering};

use linux_raw_sys::errno::EFAULT;
use linux_raw_sys::general::__NR_rt_sigprocmask;
use x86_64::VirtAddr;
use x86_64::structures::idt::PageFaultErrorCode as Error;

use super::around;
use super::frame::TrapFrame;
use super::grow;
use crate::memory::mirror::{Mapping, Ownership};
use crate::memory::plan::TASK_SIZE;
use crate::memory::{Memory, PagePermissions, PageRange, maps};
use crate::{Dune, sys};

/// At most so much is installed by one fault, aligned: one level of tables on the largest pages.
const AROUND: u64 = 1 << 30;

/// The fault that was last tried again although the tables allowed it already, as [`name`] has it, and how often in
/// a row.
static RETRIED: AtomicU64 = AtomicU64::new(0);
static RETRIES: AtomicU64 = AtomicU64::new(0);
/// So many times in a row are no coincidence. A CPU that has cached a page with fewer rights raises such a fault once
/// each time that rights were added, which a program may do in a loop.
const MOST_RETRIES: u64 = 1 << 16;

/// Settles the page fault of `frame`. False if it is a fault for Linux too.
#[cold]
#[inline(never)]
pub(super) fn resolve(dune: Dune, frame: &TrapFrame) -> bool {
    let memory = dune.memory();
    let address = frame.fault_address();
    if memory.mapping() == Mapping::Full {
        return grow::to(dune, address);
    }
    let error = frame.page_fault_error();
    if memory.has_streams() && around::follow(memory, frame.cr2, error.contains(Error::CAUSED_BY_WRITE)) {
        return true;
    }
    memory.catch_up(|flush| flush.now(dune));
    if frame.cr2 >= TASK_SIZE || error.intersects(Error::MALFORMED_TABLE | Error::PROTECTION_KEY) {
        return false;
    }
    let wanted = if error.contains(Error::INSTRUCTION_FETCH) {
        PagePermissions::EXECUTE
    } else if error.contains(Error::CAUSED_BY_WRITE) {
        PagePermissions::WRITE
    } else {
        PagePermissions::ALL
    };
    // Busy: another thread edits the tables. The instruction is tried again until it is done.
    let Ok(tables) = memory.active_tables() else { return may_retry(name(frame)) };
    let known = tables.lookup(address).map_or(PagePermissions::empty(), |leaf| leaf.permissions);
    let owned = tables.is_owned(address);
    drop(tables);
    if known.intersects(wanted) {
        // The CPU had cached what was there before, which the fault has made it forget.
        return may_retry(name(frame));
    }
    if owned {
        return false;
    }
    let Some((range, permissions)) = mapping_at(frame.cr2) else { return false };
    if !permissions.intersects(wanted) || !grow::window(dune, address) {
        return false;
    }
    install(dune, memory, around(range, frame.cr2), permissions)
}

/// Whether Linux has a mapping at `address`.
pub(super) fn is_mapped(address: u64) -> bool {
    matches!(maps::find(address, |_| ()), Ok(Some(())))
}

/// Whether the fault `name`, which the tables allow, may be tried again.
fn may_retry(name: u64) -> bool {
    if RETRIED.swap(name, Ordering::Relaxed) != name {
        RETRIES.store(0, Ordering::Relaxed);
    }
    RETRIES.fetch_add(1, Ordering::Relaxed) < MOST_RETRIES
}

/// The bounds and rights of the mapping at `address`, which a stack below may grow to.
fn mapping_at(address: u64) -> Option<((u64, u64), PagePermissions)> {
    let find = || maps::find(address, |mapping| ((mapping.start, mapping.end), mapping.permissions));
    match find() {
        Ok(None) if linux_reads(address) => find().ok().flatten(),
        found => found.ok().flatten(),
    }
}

/// Whether Linux can read at `address`. Where a stack is near, Linux grows it for that.
fn linux_reads(address: u64) -> bool {
    /// No meaning to sigprocmask(2): the call ends with EINVAL after reading the new mask.
    const NOTHING: u64 = u64::MAX;
    // SAFETY: the call reads eight bytes at the address, or fails, and changes nothing.
    let refused = unsafe { sys::call(__NR_rt_sigprocmask, [NOTHING, address & !7, 0, 8, 0, 0]) };
    refused.is_err_and(|errno| errno.raw() != EFAULT as i32)
}

/// The part of `start..end` that is installed for a fault at `address`.
fn around((start, end): (u64, u64), address: u64) -> (u64, u64) {
    let low = address & !(AROUND - 1);
    (start.max(low), end.min(low + AROUND))
}

/// Makes the pages of the range present with `permissions`, but for the program's own.
fn install(dune: Dune, memory: &Memory, (start, end): (u64, u64), permissions: PagePermissions) -> bool {
    let Ok(range) = PageRange::new(VirtAddr::new_truncate(start), end - start) else { return false };
    match memory.mirror(range, permissions, Ownership::Respect) {
        Ok(flush) => {
            flush.now(dune);
            true
        }
        Err(_) => false,
    }
}

/// A word that tells faults apart, never 0.
fn name(frame: &TrapFrame) -> u64 {
    (frame.cr2.rotate_left(24) ^ frame.rip ^ frame.error_code << 56) | 1
}
