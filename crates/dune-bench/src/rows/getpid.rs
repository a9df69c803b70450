//! `getpid`: the way of a system call, there and back.

use super::{Row, Session};
use crate::error::BenchError;
use crate::linux;
use crate::ring0::Ring0;
use crate::stats::Summary;

const ROW: Row = Row::Getpid;
const CALLS: u32 = 2_000;

/// The loop of both sides: the very same instructions, run in ring 3 of Linux and in ring 0 of Dune mode.
fn calls(session: &Session, calls: u32) -> f64 {
    session.clock.per_call(calls, || {
        linux::getpid();
    })
}

/// Host mode.
pub(super) fn linux(session: &Session) -> Result<Option<Summary>, BenchError> {
    let count = session.operations(CALLS);
    session.repeat(|| Ok(calls(session, count)))
}

/// Dune mode: every call leaves it and is made by Linux, which Dune's own count has to confirm.
pub(super) fn dune(session: &Session, ring0: Ring0) -> Result<Option<Summary>, BenchError> {
    let count = session.operations(CALLS);
    session.repeat(|| {
        let before = ring0.forwarded_calls();
        let figure = calls(session, count);
        ROW.expect("calls forwarded", ring0.forwarded_calls() - before, count.into())?;
        Ok(figure)
    })
}
