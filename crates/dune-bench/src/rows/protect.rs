//! `mprotect`: one page's rights taken and given back, by the system call.

use super::{Row, Session};
use crate::error::BenchError;
use crate::linux::{self, Mapping};
use crate::ring0::Ring0;
use crate::stats::Summary;

const ROW: Row = Row::Mprotect;
const CALLS: u32 = 1_000;
/// The page is in the middle of its mapping, so that Linux divides and joins mappings as it mostly has to.
const PAGES: usize = 16;

fn calls(session: &Session, count: u32) -> Result<f64, BenchError> {
    let memory = Mapping::private(PAGES).map_err(|refused| ROW.refused(refused))?;
    (0..PAGES).for_each(|page| memory.touch(page));
    let page = memory.address() + PAGES / 2 * linux::PAGE;
    let (mut writable, mut failure) = (true, None);
    let figure = session.clock.per_call(count, || {
        writable = !writable;
        if let Err(error) = linux::protect(page, 1, writable) {
            failure = Some(error);
        }
    });
    match failure {
        None => Ok(figure),
        Some(error) => Err(BenchError::System { row: ROW, call: "mprotect", error }),
    }
}

/// Host mode.
pub(super) fn linux(session: &Session) -> Result<Option<Summary>, BenchError> {
    let count = session.operations(CALLS);
    session.repeat(|| calls(session, count))
}

/// Dune mode: the call is forwarded, then the page tables follow.
pub(super) fn dune(session: &Session, ring0: Ring0) -> Result<Option<Summary>, BenchError> {
    let count = session.operations(CALLS);
    session.repeat(|| {
        let before = ring0.forwarded_calls();
        let figure = calls(session, count)?;
        let forwarded = ring0.forwarded_calls() - before;
        if forwarded < count.into() {
            return Err(ROW.untrue(format!("{forwarded} calls were forwarded instead of {count}")));
        }
        Ok(figure)
    })
}
