//! Counters: what Dune mode cost so far. Part of the API, shown by every tool.

use core::sync::atomic::Ordering;

use crate::arch::token::Dune;
use crate::arch::vector::Vector;
use crate::contract::request::Kind;
use crate::guest::hypercall::hypercall;
use crate::memory::flush_counts::{CONTEXT_FLUSHES, FULL_FLUSHES, PAGE_FLUSHES};

/// What the calling thread did in Dune mode, and what the process flushed. A snapshot.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// System calls forwarded to Linux; each is one exit.
    pub forwarded_syscalls: u64,
    /// System calls of ring 3 that came to ring 0; no exits.
    pub intercepted_syscalls: u64,
    /// Exits for Dune's own requests: windows, interrupts, counters.
    pub other_requests: u64,
    /// Exits because a signal was pending.
    pub interrupted: u64,
    /// Exits because an interrupt could be taken at last.
    pub interrupt_windows: u64,
    /// Faults of the second level of address translation, served by the engine; `None` where it does not count.
    pub second_level_faults: Option<u64>,
    /// Translations of single pages flushed, in the process.
    pub page_flushes: u64,
    /// Flushes of one address space, in the process.
    pub context_flushes: u64,
    /// Flushes of everything, in the process.
    pub full_flushes: u64,
    /// Times that the other threads' CPUs were made to flush, in the process.
    pub shootdowns: u64,
    /// Times that 2 MiB were populated ahead of a sequential first touch, in the process.
    pub populated_ahead: u64,
    /// Times that a thread waited for seconds for one of Dune's locks, in the process: its holder was stopped, or the program kept
    /// the page tables.
    pub lock_overruns: u64,
    traps: [u64; 256],
}

impl Counters {
    /// Traps taken with `vector`.
    pub fn traps(&self, vector: Vector) -> u64 {
        self.traps[usize::from(vector.number())]
    }

    /// Traps taken in all.
    pub fn all_traps(&self) -> u64 {
        self.traps.iter().sum()
    }

    /// Exits to the host loop in all.
    pub fn exits(&self) -> u64 {
        self.forwarded_syscalls + self.other_requests + self.interrupted + self.interrupt_windows
    }
}

impl core::fmt::Debug for Counters {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let traps = |f: &mut core::fmt::Formatter<'_>| {
            let taken = self.traps.iter().enumerate().filter(|(_, count)| **count != 0);
            f.debug_map().entries(taken.map(|(vector, count)| (Vector(vector as u8), count))).finish()
        };
        f.debug_struct("Counters")
            .field("exits", &self.exits())
            .field("forwarded_syscalls", &self.forwarded_syscalls)
            .field("intercepted_syscalls", &self.intercepted_syscalls)
            .field("other_requests", &self.other_requests)
            .field("interrupted", &self.interrupted)
            .field("interrupt_windows", &self.interrupt_windows)
            .field("second_level_faults", &self.second_level_faults)
            .field("page_flushes", &self.page_flushes)
            .field("context_flushes", &self.context_flushes)
            .field("full_flushes", &self.full_flushes)
            .field("shootdowns", &self.shootdowns)
            .field("populated_ahead", &self.populated_ahead)
            .field("lock_overruns", &self.lock_overruns)
            .field("traps", &core::fmt::from_fn(traps))
            .finish()
    }
}

impl Dune {
    /// The counters as they are now. Costs one exit, which is not in them.
    pub fn counters(self) -> Counters {
        // SAFETY: ring 0, by the token; the request takes no argument.
        let faults = unsafe { hypercall(Kind::SecondLevelFaults, 0, 0) };
        let counters = &self.block().counters;
        Counters {
            forwarded_syscalls: counters.forwarded_syscalls.get(),
            intercepted_syscalls: counters.intercepted_syscalls.get(),
            other_requests: counters.other_requests.get(),
            interrupted: counters.interrupted.get(),
            interrupt_windows: counters.interrupt_windows.get(),
            second_level_faults: (faults != u64::MAX).then_some(faults),
            page_flushes: PAGE_FLUSHES.load(Ordering::Relaxed),
            context_flushes: CONTEXT_FLUSHES.load(Ordering::Relaxed),
            full_flushes: FULL_FLUSHES.load(Ordering::Relaxed),
            shootdowns: crate::memory::shootdown::count(),
            populated_ahead: self.memory().populated_ahead(),
            lock_overruns: crate::lock::overruns(),
            traps: counters.traps.get(),
        }
    }
}
