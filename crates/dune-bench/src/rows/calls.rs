//! `read_byte`, `openat` and `refused_call`: calls with pointers and paths in them, and one that a sandbox does not make.

use super::{Row, Session};
use crate::error::BenchError;
use crate::linux;
use crate::stats::Summary;

const CALLS: u32 = 500;

/// Either side: the calls are the same, and Linux makes them.
pub(super) fn measure(session: &Session, row: Row) -> Result<Option<Summary>, BenchError> {
    let count = session.operations(CALLS);
    let refused = |refused| row.refused(refused);
    match row {
        Row::ReadByte | Row::ReadByteMarked => {
            let zeros = linux::Opened::zeros().map_err(refused)?;
            let mut sum = 0;
            let figure = session.repeat(|| Ok(session.clock.per_call(count, || sum += zeros.read_byte())))?;
            let reads = u64::from(session.warm_up + session.repeats) * u64::from(count);
            row.expect("bytes read", sum, reads)?;
            Ok(figure)
        }
        Row::Openat => {
            let folder = linux::Folder::three_deep().map_err(refused)?;
            session.repeat(|| {
                // What is opened is closed outside of what is measured.
                let mut opened = Vec::with_capacity(count.min(200) as usize);
                let figure = session.clock.per_call(count.min(200), || opened.extend(folder.open()));
                row.expect("files opened", opened.len() as u64, count.min(200).into())?;
                Ok(figure)
            })
        }
        _ => session.repeat(|| {
            Ok(session.clock.per_call(count, || {
                linux::ask_personality();
            }))
        }),
    }
}
