//! `page_walk`: what a TLB miss costs, with one level of page tables and with two.
//!
//! The paper divides the CPU's count of walk cycles by the references of a random walk. The counter is not there in
//! a virtual machine, so the walk is timed against the same walk over a single page, which hits the TLB. Only the
//! walks remain in the difference: pages that are read and never written all show the one page of zeros, so the data
//! stays in the first-level cache on both walks.

use std::hint::black_box;

use super::{Row, Session};
use crate::cycles::Unit;
use crate::error::BenchError;
use crate::linux::{Mapping, PAGE};
use crate::ring0::Ring0;
use crate::stats::Summary;

const ROW: Row = Row::PageWalk;
const PAGES: u32 = 1 << 16;

/// One reference to each page in an order of full period, `stride` bytes apart. Each address needs the word before.
#[inline(never)]
fn walk(memory: &Mapping, stride: usize) -> usize {
    let mut page = 0;
    for _ in 0..PAGES {
        // Period 2^16 by Hull and Dobell: the factor is 1 modulo 4, the addend odd.
        page = (page * 25_173 + 13_849 + memory.load(page * stride)) & (PAGES as usize - 1);
    }
    page
}

/// The measurement of both sides.
fn misses(session: &Session) -> Result<Option<Summary>, BenchError> {
    if session.clock.unit() == Unit::Instructions {
        // A walk is no instruction.
        return Ok(None);
    }
    let memory = Mapping::private(PAGES as usize).map_err(|refused| ROW.refused(refused))?;
    walk(&memory, PAGE);
    session.repeat(|| {
        let ticks = |stride| {
            session.clock.time(|| {
                black_box(walk(&memory, black_box(stride)));
            })
        };
        let (far, near) = (ticks(PAGE), ticks(0));
        // Signed: a repeat that was disturbed on the near walk must not pass for a free miss.
        Ok((far as f64 - near as f64) / f64::from(PAGES))
    })
}

/// Host mode. In a virtual machine this is a two-dimensional walk already.
pub(super) fn linux(session: &Session) -> Result<Option<Summary>, BenchError> {
    misses(session)
}

/// Dune mode.
pub(super) fn dune(session: &Session, _in_dune_mode: Ring0) -> Result<Option<Summary>, BenchError> {
    misses(session)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walk_visits_every_page_once() {
        let mut seen = vec![false; PAGES as usize];
        let mut page = 0;
        for _ in 0..PAGES {
            assert!(!seen[page]);
            seen[page] = true;
            page = (page * 25_173 + 13_849) & (PAGES as usize - 1);
        }
        assert_eq!(page, 0);
    }
}
