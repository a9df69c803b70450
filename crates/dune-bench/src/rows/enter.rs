//! `enter` and `enter_tables`: what a process of 1 GiB pays to get into Dune mode.
//!
//! A process enters once, so each repeat is a child of its own, made and measured in host mode. There is nothing
//! beside it on Linux.

use super::{Row, Session};
use crate::error::BenchError;
use crate::linux::{self, Mapping, PAGE};
use crate::ring0::Ring0;
use crate::stats::Summary;

const PAGES: usize = (1 << 30) / PAGE;

/// Ticks of entering, or KiB of page tables and what else entering takes of the library's frames. In host mode.
pub(super) fn dune(session: &Session, row: Row) -> Result<Option<Summary>, BenchError> {
    let memory = Mapping::private(PAGES).map_err(|refused| row.refused(refused))?;
    memory.touch(0);
    session.repeat(|| {
        let answer = linux::in_child(|| {
            let mut bytes = 0;
            let ticks = session.clock.time(|| bytes = Ring0::enter().map_or(0, Ring0::frame_bytes));
            [ticks, bytes]
        });
        let [ticks, bytes] = answer.map_err(|refused| row.refused(refused))?;
        if bytes == 0 {
            return Err(row.untrue("a child did not enter Dune mode".to_string()));
        }
        Ok(if row == Row::Enter { ticks as f64 } else { bytes as f64 / 1024.0 })
    })
}
