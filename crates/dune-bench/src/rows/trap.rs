//! `trap` and `trap_lean`: from a store to a read-only page to the first instruction of its handler.
//!
//! The handler notes the time and resumes behind the store, so the page stays read-only and the next store faults
//! again. The way back happens but is not timed, as in the paper.

use std::sync::atomic::Ordering;

use super::{Row, Session};
use crate::cycles::{self, HANDLED_AT, STORED_TO};
use crate::error::BenchError;
use crate::linux::{self, Mapping, Pages};
use crate::ring0::Ring0;
use crate::stats::Summary;

const TRAPS: u32 = 1_000;

/// The loop of both sides.
fn traps(session: &Session, row: Row, page: &Mapping, traps: u32) -> Result<f64, BenchError> {
    STORED_TO.store(page.address() as u64, Ordering::Relaxed);
    let mut total = 0;
    for _ in 0..traps {
        let stored_at = cycles::store(page);
        let handled_at = HANDLED_AT.load(Ordering::Relaxed);
        if handled_at <= stored_at {
            return Err(row.untrue("a store to a read-only page reached no handler".to_string()));
        }
        total += session.clock.stamped(handled_at - stored_at);
    }
    Ok(total as f64 / f64::from(traps))
}

/// A page that is there, and read-only on `system`.
fn read_only_page(row: Row, system: impl Pages) -> Result<Mapping, BenchError> {
    let page = Mapping::private(1).map_err(|refused| row.refused(refused))?;
    page.touch(0);
    system.protect(page.address(), 1, false);
    Ok(page)
}

/// Linux: SIGSEGV. The kernel keeps vector state for every signal, so the lean row compares with the same.
pub(super) fn linux(session: &Session, row: Row) -> Result<Option<Summary>, BenchError> {
    let count = session.operations(TRAPS);
    let page = read_only_page(row, linux::Linux)?;
    let figure = linux::with_stamping_handler(|| session.repeat(|| traps(session, row, &page, count)))
        .map_err(|refused| row.refused(refused))?;
    linux::Linux.give_back(page.address(), 1);
    figure
}

/// Dune: #PF to a Rust handler, the interrupted code's vector state kept.
pub(super) fn dune(session: &Session, ring0: Ring0) -> Result<Option<Summary>, BenchError> {
    const ROW: Row = Row::Trap;
    let count = session.operations(TRAPS);
    let page = read_only_page(ROW, ring0)?;
    ring0.set_stamping_handler();
    let figure = session.repeat(|| traps(session, ROW, &page, count));
    ring0.clear_handler();
    ring0.give_back(page.address(), 1);
    figure
}

/// Dune: #PF to a handler that keeps to integer registers.
pub(super) fn dune_lean(session: &Session, ring0: Ring0) -> Result<Option<Summary>, BenchError> {
    const ROW: Row = Row::TrapLean;
    let count = session.operations(TRAPS);
    let page = read_only_page(ROW, ring0)?;
    ring0.set_lean_stamping_handler();
    let figure = session.repeat(|| traps(session, ROW, &page, count));
    ring0.clear_handler();
    ring0.give_back(page.address(), 1);
    figure
}
