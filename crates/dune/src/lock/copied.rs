//! Whether a fork that is under way has copied the memory of the process.
//!
//! Who forks holds the locks, so that the child finds what they protect whole. Linux has copied the memory long before the call
//! returns, if it has its caller wait: for whoever is told of the fork by userfaultfd(2), or for a tracer (ptrace(2),
//! PTRACE_O_TRACEFORK). They may be threads of the same process that need a lock. So whoever finds a lock held by a fork looks
//! whether the copy has been made, and then takes the lock away from the parent; the child has it in its own copy.
//!
//! What tells is a page that is written to before the fork, so that nobody shares it then; when the memory has been copied the child
//! does (proc_pid_pagemap(5), bit 56). Linux lets nobody look between (`dup_mmap` in kernel/fork.c holds what a reader of
//! that file waits for).

use core::sync::atomic::{AtomicU64, Ordering};

use crate::linux::proc;

#[repr(align(4096))]
struct Page([AtomicU64; 512]);

/// The page that tells. Whoever forks writes to it, and nobody else.
static PAGE: Page = Page([const { AtomicU64::new(0) }; 512]);

/// Before a fork, by its caller, who has kept others from forking: the number of this fork.
pub(super) fn begin() -> u64 {
    PAGE.0[0].fetch_add(1, Ordering::SeqCst) + 1
}

/// Whether the memory has been copied since [`begin`]. False where Linux does not say.
///
/// A fork of a thread in host mode at the same moment may be mistaken for the one that is meant. The child finds out.
pub(super) fn is_made() -> bool {
    const PRESENT: u64 = 1 << 63;
    const EXCLUSIVE: u64 = 1 << 56;
    let place = (&raw const PAGE) as u64 / size_of::<Page>() as u64;
    proc::pagemap_entry(place).is_some_and(|entry| entry & PRESENT != 0 && entry & EXCLUSIVE == 0)
}
