//! Holding all of a process's memory still, for a fork.

use super::table::Edits;
use super::turns::{self, Span, Turn};
use super::{Memory, flush, frames, streams};
use crate::lock::holder::Holder;
use crate::lock::{Busy, Fork, ForkGuard, Guard};

/// The locks of [`Memory::hold`]; none for one that the code holds which this thread has interrupted: it goes on in the child, too.
#[derive(Debug)]
#[must_use]
pub(crate) struct Held<'m> {
    calls: Option<ForkGuard<'m, turns::List>>,
    windows: Option<ForkGuard<'m, ()>>,
    streams: Option<ForkGuard<'m, streams::List>>,
    edits: Option<ForkGuard<'m, Edits>>,
    frames: Option<ForkGuard<'m, frames::Ledger>>,
}

impl Held<'_> {
    /// In the child: whether the copy is of a moment when nobody else had one of the locks.
    #[inline]
    pub(crate) fn is_whole(&self) -> bool {
        fn is_held<T>(lock: &Option<ForkGuard<'_, T>>) -> bool {
            lock.as_ref().is_none_or(ForkGuard::is_held)
        }
        let lists = is_held(&self.calls) && is_held(&self.windows) && is_held(&self.streams);
        lists && is_held(&self.edits) && is_held(&self.frames)
    }
}

impl Memory {
    /// Begins a memory call that changes `span`, and if it `is_open` what Linux gives it.
    #[inline]
    pub(crate) fn begin_call(&self, span: Span, is_open: bool) -> Turn<'_> {
        self.begin_call_of_two([span, Span::NONE], is_open)
    }

    /// As [`begin_call`](Self::begin_call), of one that changes two ranges.
    #[inline]
    pub(crate) fn begin_call_of_two(&self, spans: [Span; 2], is_open: bool) -> Turn<'_> {
        let turn = self.turns.begin(spans, is_open);
        self.keep(spans.iter().map(|span| span.addresses()));
        turn
    }

    /// Keeps others from editing after their memory calls; `None` if the interrupted code of this thread does.
    pub(crate) fn hold_calls(&self) -> Option<Guard<'_, turns::List>> {
        self.turns.hold().ok()
    }

    /// As [`hold_calls`](Self::hold_calls), for a fault, which waits for some seconds at most.
    pub(crate) fn try_hold_calls(&self) -> Option<Guard<'_, turns::List>> {
        self.turns.try_hold()
    }

    /// How many memory calls have ended: what is the same as before has had no edits between.
    pub(crate) fn ended_calls(&self) -> u64 {
        self.turns.ended()
    }

    /// Keeps other threads from editing, so that the child of `fork` finds tables and lists whole and its locks free.
    ///
    /// # Errors
    ///
    /// The program, or a thread that is stopped, has held one of those for seconds that have a limit.
    pub(crate) fn hold(&self, fork: Fork) -> Result<Held<'_>, Busy> {
        // In the order in which edits take them.
        Ok(Held {
            calls: self.turns.hold_across(fork)?,
            windows: self.windows.hold_across(fork)?,
            streams: self.streams.hold_across(fork)?,
            edits: self.edits.lock_across(fork)?,
            frames: self.frames.hold_across(fork)?,
        })
    }

    /// In the child of a fork, whose only thread is `survivor`: gives the locks back and forgets the calls of its parent's other
    /// threads.
    #[inline]
    pub(crate) fn go_on_alone(&self, held: Held<'_>, survivor: Holder) {
        if let Some(mut list) = held.calls.and_then(ForkGuard::back) {
            list.forget(&self.missed, |caller| caller != survivor);
            list.forget_all_without_place();
        }
    }

    /// In the child of a fork: frees what threads of its parent had, all but the block of the one that goes on.
    pub(crate) fn survive(&self, is_gone: impl Fn(Holder) -> bool + Copy) {
        self.free_if(is_gone);
        self.writers.forget(is_gone);
        self.writers.forget_all_without_place();
        flush::start_over();
    }

    /// Frees what holders have that are gone: entries and lists change one word at a time, so at worst some frames are lost.
    pub(crate) fn free_if(&self, is_gone: impl Fn(Holder) -> bool + Copy) {
        self.turns.free_if(is_gone);
        self.windows.free_if(is_gone);
        self.streams.free_if(is_gone);
        self.edits.free_if(is_gone);
        self.frames.free_if(is_gone);
    }

    /// Forgets the memory calls of callers that are gone.
    pub(crate) fn forget_calls(&self, is_gone: impl Fn(Holder) -> bool) {
        if let Some(mut list) = self.hold_calls() {
            list.forget(&self.missed, &is_gone);
        }
        self.writers.forget(is_gone);
    }
}
