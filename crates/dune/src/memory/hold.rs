//! Holding all of a process's memory still, for a fork.

use super::table::Edits;
use super::{Memory, frames, streams};
use crate::lock::Guard;

/// The locks of [`Memory::hold`].
#[derive(Debug)]
#[must_use]
pub(crate) struct Held<'m> {
    _calls: Option<Guard<'m, ()>>,
    _windows: Option<Guard<'m, ()>>,
    _streams: Option<Guard<'m, streams::List>>,
    _edits: Option<Guard<'m, Edits>>,
    _frames: Option<Guard<'m, frames::Ledger>>,
}

impl Memory {
    /// The right to change mappings; `None` if another thread has had it for seconds.
    pub(crate) fn take_turn(&self) -> Option<Guard<'_, ()>> {
        self.calls.lock().ok()
    }

    /// Keeps other threads from editing, so that the child of a fork finds tables and lists whole and its locks free. What
    /// stays taken is in use by the code that this thread has interrupted, which goes on in the child, too.
    pub(crate) fn hold(&self) -> Held<'_> {
        // In the order in which edits take them.
        Held {
            _calls: self.take_turn(),
            _windows: self.windows.hold().ok(),
            _streams: self.streams.hold(),
            _edits: self.edits.lock().ok(),
            _frames: self.frames.hold(),
        }
    }

    /// Frees what holders have that are gone: entries and lists change one word at a time, so at worst some frames are lost.
    pub(crate) fn free_if(&self, is_gone: impl Fn(u64) -> bool + Copy) {
        self.calls.free_if(is_gone);
        self.windows.free_if(is_gone);
        self.streams.free_if(is_gone);
        self.edits.free_if(is_gone);
        self.frames.free_if(is_gone);
    }
}
