//! `gc_…`: programs with a garbage collector (`dune_gc`), which is told of writes in one way or another.

use dune_gc::Tracker;

use super::{Row, Session};
use crate::error::BenchError;
use crate::stats::Summary;
use crate::workloads::Workload;

/// Host mode, with the row's tracker. Nothing is measured where it is Dune mode's, or this kernel has it not.
pub(super) fn linux(
    session: &Session,
    row: Row,
    workload: Workload,
    tracker: Tracker,
) -> Result<Option<Summary>, BenchError> {
    if tracker.needs_dune_mode()
        || (tracker != Tracker::Mprotect && workload.run(tracker, &workload.input()).is_err())
    {
        return Ok(None);
    }
    measure(session, row, workload, tracker)
}

/// Dune mode: with the row's tracker if that is Dune mode's, else with the CPU's dirty marks.
pub(super) fn dune(
    session: &Session,
    row: Row,
    workload: Workload,
    tracker: Tracker,
) -> Result<Option<Summary>, BenchError> {
    measure(session, row, workload, if tracker.needs_dune_mode() { tracker } else { Tracker::DuneDirty })
}

/// Ticks of a whole run, from an empty heap to none.
fn measure(
    session: &Session,
    row: Row,
    workload: Workload,
    tracker: Tracker,
) -> Result<Option<Summary>, BenchError> {
    let input = workload.input();
    let expected = workload.expected(&input);
    session.repeat(|| {
        let mut done = None;
        let ticks = session.clock.time(|| done = Some(workload.run(tracker, &input)));
        let done = match done {
            Some(Ok(done)) => done,
            Some(Err(error)) => return Err(row.untrue(error.to_string())),
            None => return Err(row.untrue("it was not run".to_owned())),
        };
        row.expect("the program's result", done.sum, expected)?;
        let blind = if tracker == Tracker::None { 0 } else { done.stats.blind_collections };
        // The first one of a heap has nothing to go by.
        if blind > 1 {
            return Err(row.untrue(format!("{blind} collections without knowledge of writes")));
        }
        Ok(ticks as f64)
    })
}
