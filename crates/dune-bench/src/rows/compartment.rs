//! `compartment_…`: a function that sees only what it was granted, against what Linux has for that: another process, or a thread, which
//! sees all.

use super::{Row, Session, children};
use crate::error::BenchError;
use crate::linux::Echo;
use crate::ring0::Ring0;
use crate::stats::Summary;

const CALLS: u32 = 200;
const MADE: u32 = 50;

/// What a new compartment is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Made {
    /// A process, to its end.
    Process,
    /// A thread, to its end.
    Thread,
}

impl Made {
    /// The row that measures it.
    fn row(self) -> Row {
        match self {
            Made::Process => Row::ForkWait,
            Made::Thread => Row::Thread,
        }
    }
}

/// Host mode: a byte to another process and back.
pub(super) fn call_linux(session: &Session) -> Result<Option<Summary>, BenchError> {
    let row = Row::CompartmentCall;
    let echo = Echo::start().map_err(|refused| row.refused(refused))?;
    let count = session.operations(CALLS);
    session.repeat(|| {
        let (mut sum, mut failure) = (0, None);
        let figure = session.clock.per_call(count, || match echo.ask(3) {
            Ok(byte) => sum += u64::from(byte),
            Err(refused) => failure = Some(refused),
        });
        if let Some(refused) = failure {
            return Err(row.refused(refused));
        }
        row.expect("the sum of the answers", sum, 3 * u64::from(count))?;
        Ok(figure)
    })
}

/// Dune mode: a number to a compartment and back.
pub(super) fn call_dune(session: &Session, ring0: Ring0) -> Result<Option<Summary>, BenchError> {
    let row = Row::CompartmentCall;
    let compartments = ring0.compartments().map_err(|failure| row.failed(failure))?;
    let one = compartments.create().map_err(|failure| row.failed(failure))?;
    let count = session.operations(CALLS);
    session.repeat(|| {
        let (mut sum, mut failure) = (0, None);
        let figure = session.clock.per_call(count, || match compartments.ask(&one, 3) {
            Ok(number) => sum += number,
            Err(failed) => failure = Some(failed),
        });
        if let Some(failure) = failure {
            return Err(row.failed(failure));
        }
        row.expect("the sum of the answers", sum, 4 * u64::from(count))?;
        Ok(figure)
    })
}

/// Host mode.
pub(super) fn make_linux(session: &Session, made: Made) -> Result<Option<Summary>, BenchError> {
    children::linux(session, made.row())
}

/// Dune mode: a compartment that is made and dropped.
pub(super) fn make_dune(session: &Session, ring0: Ring0, row: Row) -> Result<Option<Summary>, BenchError> {
    let compartments = ring0.compartments().map_err(|failure| row.failed(failure))?;
    let count = session.operations(MADE);
    session.repeat(|| {
        let mut failure = None;
        let figure = session.clock.per_call(count, || {
            if let Err(failed) = compartments.create() {
                failure = Some(failed);
            }
        });
        failure.map_or(Ok(figure), |failure| Err(row.failed(failure)))
    })
}
