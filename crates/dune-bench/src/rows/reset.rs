//! `reset_…`: writes to some pages of 4 MiB, and the way back to what was there.

use super::{Row, Session};
use crate::error::BenchError;
use crate::linux::{Resettable, Way};
use crate::ring0::Ring0;
use crate::stats::Summary;

/// 4 MiB.
const PAGES: usize = 1_024;
const ROUNDS: u32 = 20;

/// The page that is written as number `index` of `written`: here and there, all over the memory.
fn place(index: u32, written: u32) -> usize {
    index as usize * (PAGES / written.max(1) as usize)
}

/// Host mode. Nothing is measured where Linux has no PAGEMAP_SCAN (before 6.7).
pub(super) fn linux(
    session: &Session,
    row: Row,
    written: u32,
    way: Way,
) -> Result<Option<Summary>, BenchError> {
    let made = Resettable::new(PAGES, way);
    if way == Way::Scan && made.is_err() {
        return Ok(None);
    }
    let mut memory = made.map_err(|refused| row.refused(refused))?;
    let count = session.operations(ROUNDS);
    let figure = session.repeat(|| {
        Ok(session.clock.per_call(count, || {
            (0..written).for_each(|index| memory.memory().touch(place(index, written)));
            memory.reset();
        }))
    })?;
    if memory.is_clean() { Ok(figure) } else { Err(row.untrue("a byte has survived the reset".to_owned())) }
}

/// Dune mode: the same stores to memory of ring 3's, and a `dune_snapshot::Checkpoint`.
pub(super) fn dune(
    session: &Session,
    ring0: Ring0,
    row: Row,
    written: u32,
) -> Result<Option<Summary>, BenchError> {
    let count = session.operations(ROUNDS);
    let failed = |failure| row.failed(failure);
    ring0
        .with_checkpoint(PAGES, |run| {
            let figure = session.repeat(|| {
                let mut pages = 0;
                let figure = session.clock.per_call(count, || {
                    pages += run.reset_after((0..written).map(|index| place(index, written)));
                });
                row.expect("pages reset", pages, u64::from(count) * u64::from(written))?;
                Ok(figure)
            })?;
            if run.is_clean() {
                Ok(figure)
            } else {
                Err(row.untrue("a byte has survived the reset".to_owned()))
            }
        })
        .map_err(failed)?
}
