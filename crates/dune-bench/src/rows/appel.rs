//! `appel1` and `appel2`: what garbage collectors, checkpointers and distributed memories do with page protection
//! (Appel and Li, ASPLOS'91), over 100 pages.
//!
//! The programs are written once, for a [`Pages`] system; the handlers of both sides call the same code. Per round,
//! untimed: all 200 pages are made writable and stored to, and for `appel1` the first 100 are made read-only.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::{Row, Session};
use crate::error::BenchError;
use crate::linux::{self, Linux, Mapping, PAGE, Pages, ServesFaults};
use crate::ring0::Ring0;
use crate::stats::Summary;

/// Pages that fault in each round.
const PAGES: usize = 100;
const ROUNDS: u32 = 5;

/// The first address of the memory in use: handlers have no other way to learn it.
static MEMORY: AtomicUsize = AtomicUsize::new(0);

/// Faults served.
static FAULTS: AtomicU64 = AtomicU64::new(0);

/// One of the two programs.
pub(super) trait Program: ServesFaults {
    const ROW: Row;

    /// Protection that is set up before the clock starts.
    fn prepare(system: impl Pages, memory: usize);

    /// Protection whose cost is part of the round.
    fn begin(system: impl Pages, memory: usize);
}

/// PROT1+TRAP+UNPROT: each handler opens its page and protects another one.
pub(super) enum One {}

/// PROTN+TRAP+UNPROT: all pages are protected at once, each handler opens its page.
pub(super) enum All {}

impl Program for One {
    const ROW: Row = Row::Appel1;

    fn prepare(system: impl Pages, memory: usize) {
        system.protect(memory, PAGES, false);
    }

    fn begin(_: impl Pages, _: usize) {}
}

impl ServesFaults for One {
    #[inline(always)]
    fn serve<P: Pages>(system: P, address: usize) -> bool {
        let Some(page) = faulted(address) else { return false };
        system.protect(page, 1, true);
        system.protect(page + PAGES * PAGE, 1, false);
        true
    }
}

impl Program for All {
    const ROW: Row = Row::Appel2;

    fn prepare(_: impl Pages, _: usize) {}

    #[inline(always)]
    fn begin(system: impl Pages, memory: usize) {
        system.protect(memory, PAGES, false);
    }
}

impl ServesFaults for All {
    #[inline(always)]
    fn serve<P: Pages>(system: P, address: usize) -> bool {
        let Some(page) = faulted(address) else { return false };
        system.protect(page, 1, true);
        true
    }
}

/// The page of a fault among the first 100, counted.
#[inline(always)]
fn faulted(address: usize) -> Option<usize> {
    let offset = address.wrapping_sub(MEMORY.load(Ordering::Relaxed));
    if offset >= PAGES * PAGE {
        return None;
    }
    FAULTS.store(FAULTS.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    Some(address & !(PAGE - 1))
}

/// Some rounds of a program, in ticks per round of 100 pages: the loop of both sides.
fn rounds<P: Program>(
    session: &Session,
    system: impl Pages,
    memory: &Mapping,
    rounds: u32,
) -> Result<f64, BenchError> {
    let start = memory.address();
    MEMORY.store(start, Ordering::Relaxed);
    let before = FAULTS.load(Ordering::Relaxed);
    let mut ticks = 0;
    for _ in 0..rounds {
        system.protect(start, 2 * PAGES, true);
        for page in 0..2 * PAGES {
            memory.touch(page);
        }
        P::prepare(system, start);
        ticks += session.clock.time(|| {
            P::begin(system, start);
            for page in 0..PAGES {
                memory.touch(page);
            }
        });
    }
    let faults = FAULTS.load(Ordering::Relaxed) - before;
    P::ROW.expect("faults served", faults, u64::from(rounds) * PAGES as u64)?;
    Ok(ticks as f64 / f64::from(rounds))
}

fn memory<P: Program>() -> Result<Mapping, BenchError> {
    Mapping::under_one_table(2 * PAGES).map_err(|refused| P::ROW.refused(refused))
}

/// Linux: mprotect and SIGSEGV.
pub(super) fn linux<P: Program>(session: &Session) -> Result<Option<Summary>, BenchError> {
    let (memory, count) = (memory::<P>()?, session.operations(ROUNDS));
    let figure =
        linux::with_fault_handler::<P, _>(|| session.repeat(|| rounds::<P>(session, Linux, &memory, count)))
            .map_err(|refused| P::ROW.refused(refused))?;
    Linux.give_back(memory.address(), 2 * PAGES);
    figure
}

/// Dune: page-table entries and #PF.
pub(super) fn dune<P: Program>(session: &Session, ring0: Ring0) -> Result<Option<Summary>, BenchError> {
    let (memory, count) = (memory::<P>()?, session.operations(ROUNDS));
    ring0.set_fault_handler::<P>();
    let figure = session.repeat(|| rounds::<P>(session, ring0, &memory, count));
    ring0.clear_handler();
    ring0.give_back(memory.address(), 2 * PAGES);
    figure
}
