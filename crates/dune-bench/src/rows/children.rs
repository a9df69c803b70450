//! `fork_wait` and `thread`: children of either kind, from their making to their end.

use std::hint::black_box;

use super::{Row, Session};
use crate::error::BenchError;
use crate::linux;
use crate::ring0::Ring0;
use crate::stats::Summary;

/// Each fork in Dune mode makes a virtual machine: few are enough.
const FORKS: u32 = 10;
const THREADS: u32 = 20;

fn forks(session: &Session) -> Result<Option<Summary>, BenchError> {
    session.repeat(|| {
        let mut failure = None;
        let figure = session.clock.per_call(FORKS, || {
            if let Err(refused) = linux::fork_and_wait() {
                failure = Some(refused);
            }
        });
        failure.map_or(Ok(figure), |refused| Err(Row::ForkWait.refused(refused)))
    })
}

fn threads(session: &Session) -> Result<Option<Summary>, BenchError> {
    session.repeat(|| {
        let mut sum = 0;
        let mut failure = None;
        let figure = session.clock.per_call(THREADS, || {
            match std::thread::Builder::new().spawn(|| black_box(1_u64)) {
                Ok(thread) => sum += thread.join().unwrap_or(0),
                Err(error) => failure = Some(error),
            }
        });
        if let Some(error) = failure {
            return Err(BenchError::System { row: Row::Thread, call: "clone", error });
        }
        Row::Thread.expect("threads that ran", sum, THREADS.into())?;
        Ok(figure)
    })
}

/// Host mode.
pub(super) fn linux(session: &Session, row: Row) -> Result<Option<Summary>, BenchError> {
    if row == Row::ForkWait { forks(session) } else { threads(session) }
}

/// Dune mode: the child of a fork gets a machine of its own, a thread a vCPU that an earlier one has left.
pub(super) fn dune(session: &Session, _: Ring0, row: Row) -> Result<Option<Summary>, BenchError> {
    linux(session, row)
}
