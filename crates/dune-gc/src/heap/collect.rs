//! A collection: mark what roots lead to, sweep the rest.
//!
//! In a young collection what is marked stays so, and its edges are not followed again, but for those on pages that have been written
//! to: only there can an edge to a young object be that was not there before.

use super::blocks::Swept;
use super::finalizers::Finalizers;
use super::{Inner, PAGE, RootPlace, object};
use crate::stack::Bounds;
use crate::tracker::Knowledge;

/// What to collect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collection {
    /// Objects that have come since the last collection.
    Young,
    /// All.
    Full,
}

/// A block with less room than a quarter is not filled up before the next full collection: a page with old objects that is written
/// to costs more than it gives.
const ROOM: usize = super::BLOCK / 4;

impl Inner {
    /// Collects, on a stack that is the caller's. If a young collection `may_be_full`, it is where that is less work.
    pub(super) fn collect(&mut self, which: Collection, may_be_full: bool, stack: &Bounds) {
        self.put_back_cursors();
        // A destructor that panics leaves this half done. Then what has been written is lost, as are edges of what is marked.
        let is_blind = std::mem::replace(&mut self.is_blind, true);
        self.pending.clear();
        let pages = self.blocks.pages();
        self.written.clear(pages);
        // What the tracker knows is asked for in any case: it begins anew.
        let known = self.tracker.written(pages, &mut self.written);
        let is_known = matches!(known, Ok(Knowledge::Exact)) && !is_blind;
        let is_blind = which == Collection::Young && !is_known;
        let mut is_full = which == Collection::Full || is_blind;
        let written = if is_full { Vec::new() } else { self.old.both(&self.written, pages) };
        // Objects on most of the pages are looked at in either case, and a full collection leaves fewer.
        is_full |= may_be_full && 2 * written.len() > self.old.len(pages);
        if is_full {
            self.stats.full_collections += 1;
            self.stats.blind_collections += u64::from(is_blind);
            self.blocks.clear_marks();
        } else {
            self.stats.young_collections += 1;
            self.trace_written(&written);
        }
        self.mark_roots(stack);
        self.after_marking();
        if self.config.checked
            && let Err(error) = self.check(stack, true)
        {
            panic!("dune-gc: {error}");
        }
        self.sweep(is_full);
        if is_full {
            self.used_after_full = self.used;
        }
        self.is_blind = self.tracker.begin(&self.old, self.blocks.pages()).is_err();
        self.allocated = 0;
    }

    /// Follows the edges of old objects on pages that have been written to.
    fn trace_written(&mut self, written: &[usize]) {
        self.stats.written_pages += written.len() as u64;
        let mut cells = Vec::new();
        for &page in written {
            cells.clear();
            self.blocks.each_old_on(page, |cell| cells.push(cell));
            let address = self.space.start() + page * PAGE;
            for &cell in &cells {
                // SAFETY: marked cells have objects.
                unsafe { object::mark_from_page(cell, address, &mut self.blocks, &mut self.pending) };
            }
        }
        object::drain(&mut self.blocks, &mut self.pending);
    }

    fn mark_roots(&mut self, stack: &Bounds) {
        let (blocks, pending) = (&mut self.blocks, &mut self.pending);
        each_root(&self.roots, &self.finalizers, stack, |word| pending.extend(blocks.mark(word)));
        object::drain(blocks, pending);
    }

    /// Drops what is not marked, and finds out where there is room.
    pub(super) fn sweep(&mut self, is_full: bool) {
        self.partial.iter_mut().for_each(Vec::clear);
        self.free.clear();
        self.used = 0;
        let mut dead = Vec::new();
        // The first blocks come last, and are filled first.
        for number in (0..self.blocks.len()).rev() {
            match self.blocks.sweep(number, is_full, &mut self.old, |cell| dead.push(cell)) {
                Swept::Free | Swept::Part => (),
                Swept::Small { class, free, used } => {
                    self.used += used;
                    if free >= ROOM {
                        self.partial[class].push(number as u32);
                    }
                }
                Swept::Large { used } => self.used += used,
            }
            for cell in dead.drain(..) {
                // SAFETY: nothing leads to the object, and its cell has not been given to another.
                unsafe { object::drop_in_place(cell) };
            }
        }
        self.free.extend(self.blocks.free().rev());
    }
}

/// Gives all that may be the address of an object to `found`: roots, what finalizers are to get, and words of stack and registers.
///
/// A word of the stack may be the end of a slice, which is where the next cell begins: what goes through a slice backwards may keep that
/// alone. So the byte before counts, too. (Nothing leads to the first byte of a cell otherwise: headers are there.)
pub(super) fn each_root(
    roots: &[RootPlace],
    finalizers: &Finalizers,
    stack: &Bounds,
    mut found: impl FnMut(usize),
) {
    finalizers.due().for_each(&mut found);
    for place in roots {
        if let RootPlace::Taken(object) = *place {
            found(object);
        }
    }
    stack.each_word(|word| {
        found(word);
        // Cells begin at multiples of 16.
        if word.is_multiple_of(16) {
            found(word.wrapping_sub(1));
        }
    });
}
