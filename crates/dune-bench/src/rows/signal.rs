//! `signal`: a signal sent to oneself, its handler, and the return from it.

use super::{Row, Session};
use crate::error::BenchError;
use crate::linux;
use crate::ring0::Ring0;
use crate::stats::Summary;

const ROW: Row = Row::Signal;
const SIGNALS: u32 = 500;

/// The loop of both sides. The handler is set in the mode in which it is measured.
fn signals(session: &Session) -> Result<Option<Summary>, BenchError> {
    let count = session.operations(SIGNALS);
    let (process, thread) = (linux::getpid(), linux::gettid());
    linux::with_counting_handler(|| {
        session.repeat(|| {
            let before = linux::signals_handled();
            let figure = session.clock.per_call(count, || linux::send_signal(process, thread));
            ROW.expect("signals handled", linux::signals_handled() - before, count.into())?;
            Ok(figure)
        })
    })
    .map_err(|refused| ROW.refused(refused))?
}

/// Host mode.
pub(super) fn linux(session: &Session) -> Result<Option<Summary>, BenchError> {
    signals(session)
}

/// Dune mode.
pub(super) fn dune(session: &Session, _: Ring0) -> Result<Option<Summary>, BenchError> {
    signals(session)
}
