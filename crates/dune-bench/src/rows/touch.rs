//! `touch_in_order` and `touch_isolated`: the first store to fresh pages as programs make them, one after the other in
//! memory that Linux may back as it likes, and here and there.

use super::{Row, Session};
use crate::error::BenchError;
use crate::linux::{Mapping, Refused};
use crate::ring0::Ring0;
use crate::stats::Summary;

/// 16 MiB.
const IN_ORDER: u32 = 4_096;
const ISOLATED: u32 = 256;
/// Pages from one isolated store to the next, in an order that knows no neighbours.
const STRIDE: u32 = 37;

/// The loop of both sides: only the stores are timed.
fn stores(
    session: &Session,
    row: Row,
    memory: Result<Mapping, Refused>,
    pages: u32,
    page: impl Fn(u32) -> u32,
) -> Result<f64, BenchError> {
    let memory = memory.map_err(|refused| row.refused(refused))?;
    let mut at = 0;
    Ok(session.clock.per_call(pages, || {
        memory.touch(page(at) as usize);
        at += 1;
    }))
}

fn in_order(session: &Session) -> Result<Option<Summary>, BenchError> {
    session
        .repeat(|| stores(session, Row::TouchInOrder, Mapping::plain(IN_ORDER as usize), IN_ORDER, |at| at))
}

fn isolated(session: &Session) -> Result<Option<Summary>, BenchError> {
    session.repeat(|| {
        let memory = Mapping::private((ISOLATED * STRIDE) as usize);
        // Odd, so each place comes once.
        stores(session, Row::TouchIsolated, memory, ISOLATED, |at| at * 85 % ISOLATED * STRIDE)
    })
}

/// Host mode.
pub(super) fn linux(session: &Session, row: Row) -> Result<Option<Summary>, BenchError> {
    if row == Row::TouchInOrder { in_order(session) } else { isolated(session) }
}

/// Dune mode: what is touched in order may be populated ahead (`dune::FaultAround`).
pub(super) fn dune(session: &Session, _: Ring0, row: Row) -> Result<Option<Summary>, BenchError> {
    linux(session, row)
}
