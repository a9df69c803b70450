//! `page_fault`: the first store to a page of fresh anonymous memory.

use super::{Row, Session};
use crate::error::BenchError;
use crate::linux::Mapping;
use crate::ring0::Ring0;
use crate::stats::Summary;

const ROW: Row = Row::PageFault;
const PAGES: u32 = 1_024;

/// The loop of both sides: only the stores are timed, not the mapping and not its end.
fn touch(session: &Session, pages: u32) -> Result<f64, BenchError> {
    let memory = Mapping::private(pages as usize).map_err(|refused| ROW.refused(refused))?;
    let mut page = 0;
    Ok(session.clock.per_call(pages, || {
        memory.touch(page);
        page += 1;
    }))
}

/// Host mode: one fault of Linux's page tables for each page.
pub(super) fn linux(session: &Session) -> Result<Option<Summary>, BenchError> {
    let pages = session.operations(PAGES);
    session.repeat(|| touch(session, pages))
}

/// Dune mode: the second level faults for each page, and where Dune's page tables mirror mappings, the first too.
pub(super) fn dune(session: &Session, _in_dune_mode: Ring0) -> Result<Option<Summary>, BenchError> {
    let pages = session.operations(PAGES);
    session.repeat(|| touch(session, pages))
}
