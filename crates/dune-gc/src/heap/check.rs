//! The checker: follows all edges once more, without marks and without what was written.

use std::collections::HashSet;

use thiserror::Error;

use super::collect::each_root;
use super::{Inner, object};
use crate::stack::Bounds;
use crate::trace::Tracer;

/// An edge that leads nowhere, or that the collector has missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CheckError {
    /// No object is there.
    #[error(
        "the object at {from:#x} leads to {to:#x}, where no object is: a Gc was kept where the collector does not look, or the \
         collector has a fault"
    )]
    Dangling {
        /// The object with the edge.
        from: usize,
        /// Where it leads.
        to: usize,
    },
    /// The object is not marked, and would be swept.
    #[error(
        "the collector has not found the object at {to:#x}, to which that at {from:#x} leads: its write was missed"
    )]
    Missed {
        /// The object with the edge.
        from: usize,
        /// Where it leads.
        to: usize,
    },
}

impl Inner {
    /// Follows all edges from all roots; how many there are. With `marked`, after marking and before the sweep, all objects have to be
    /// marked.
    pub(super) fn check(&mut self, stack: &Bounds, marked: bool) -> Result<u64, CheckError> {
        let (mut seen, mut next, mut edges) = (HashSet::new(), Vec::new(), 0);
        each_root(&self.roots, &self.finalizers, stack, |word| {
            // What looked like an address in a frame of this check's own was none when the roots were marked.
            if let Some((cell, is_marked)) = self.blocks.object_at(word)
                && (is_marked || !marked)
                && seen.insert(cell)
            {
                next.push(cell);
            }
        });
        let mut listed = Vec::new();
        let mut none = Vec::new();
        while let Some(from) = next.pop() {
            let mut tracer =
                Tracer { marks: self.blocks.marks(), pending: &mut none, listed: Some(&mut listed) };
            // SAFETY: an object has been found there.
            unsafe { object::trace(from, &mut tracer) };
            for to in listed.drain(..) {
                edges += 1;
                let Some((cell, is_marked)) = self.blocks.object_at(to) else {
                    return Err(CheckError::Dangling { from, to });
                };
                if marked && !is_marked {
                    return Err(CheckError::Missed { from, to });
                }
                if seen.insert(cell) {
                    next.push(cell);
                }
            }
        }
        self.stats.checked_edges += edges;
        Ok(edges)
    }
}
