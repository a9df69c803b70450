//! `snapshot_…` and `first_write`: what memory was at one moment, by a fork and by `dune::snapshot`.

use super::{Row, Session};
use crate::error::BenchError;
use crate::linux::{Mapping, PAGE, View, has_memory};
use crate::ring0::Ring0;
use crate::stats::Summary;

/// Pages of a table, which are written to one after the other.
const WRITTEN: usize = 512;

/// The pages of `mib` MiB that the program has: all, or of more than 1 GiB one in each 2 MiB.
fn pages(mib: u32) -> impl Iterator<Item = usize> + Clone {
    let step = if mib > 1024 { 512 } else { 1 };
    (0..mib as usize * 256).step_by(step)
}

/// Whether this computer has the memory for the row.
fn fits(mib: u32) -> bool {
    has_memory((pages(mib).count() * PAGE) as u64)
}

/// Host mode: the time that fork(2) takes. The child waits, and is ended after that.
pub(super) fn pause_linux(session: &Session, row: Row, mib: u32) -> Result<Option<Summary>, BenchError> {
    if !fits(mib) {
        return Ok(None);
    }
    let memory = Mapping::private(mib as usize * 256).map_err(|refused| row.refused(refused))?;
    pages(mib).for_each(|page| memory.touch(page));
    session.repeat(|| {
        let mut view = None;
        let ticks = session.clock.time(|| view = Some(View::take()));
        view.transpose().map_err(|refused| row.refused(refused))?;
        Ok(ticks as f64)
    })
}

/// Dune mode: the time that a snapshot takes.
pub(super) fn pause_dune(
    session: &Session,
    ring0: Ring0,
    row: Row,
    mib: u32,
) -> Result<Option<Summary>, BenchError> {
    if !fits(mib) {
        return Ok(None);
    }
    let memory = ring0.snapshot_memory(u64::from(mib) << 20).map_err(|failure| row.failed(failure))?;
    pages(mib).for_each(|page| memory.touch(page));
    session.repeat(|| {
        let mut snapshot = None;
        let ticks = session.clock.time(|| snapshot = Some(memory.snapshot()));
        snapshot.transpose().map_err(|failure| row.failed(failure))?;
        Ok(ticks as f64)
    })
}

/// Host mode: the first stores after a fork, to pages that the child has, too.
pub(super) fn write_linux(session: &Session, row: Row) -> Result<Option<Summary>, BenchError> {
    let memory = Mapping::under_one_table(WRITTEN).map_err(|refused| row.refused(refused))?;
    (0..WRITTEN).for_each(|page| memory.touch(page));
    session.repeat(|| {
        let _view = View::take().map_err(|refused| row.refused(refused))?;
        let ticks = session.clock.time(|| (0..WRITTEN).for_each(|page| memory.touch(page)));
        Ok(ticks as f64 / WRITTEN as f64)
    })
}

/// Dune mode: the first stores after a snapshot.
pub(super) fn write_dune(session: &Session, ring0: Ring0, row: Row) -> Result<Option<Summary>, BenchError> {
    let bytes = (WRITTEN * PAGE) as u64;
    let memory = ring0.snapshot_memory(bytes).map_err(|failure| row.failed(failure))?;
    (0..WRITTEN).for_each(|page| memory.touch(page));
    session.repeat(|| {
        let snapshot = memory.snapshot().map_err(|failure| row.failed(failure))?;
        let ticks = session.clock.time(|| (0..WRITTEN).for_each(|page| memory.touch(page)));
        row.expect("bytes kept", snapshot.bytes_kept(), bytes)?;
        Ok(ticks as f64 / WRITTEN as f64)
    })
}
