//! Memory calls of several threads at once: system calls that change mappings, and the edits after them.
//!
//! Linux may have the caller of such a call wait for another thread: for whoever is told of it by userfaultfd(2), for the server of
//! a file system. So no lock is held over the call. Edits take turns, but may come in another order than Linux's changes. So
//! each call that is under way is on a list here with the addresses that it may change. One that has met another on them does not
//! edit what it knows, but what Linux says when its turn comes. So the last of those that have met tells the truth: all of them have
//! been made by then.
//!
//! A call that lets Linux choose an address learns it late. Until then it keeps a range that holds those of all that were
//! under way with it.
//!
//! Threads in host mode are not on the list; what they change is found by faults.

use core::sync::atomic::Ordering;

use super::missed::Missed;
use crate::arch::atomic::AtomicU64;
use crate::arch::page::PageRange;
use crate::lock::holder::Holder;
use crate::lock::{Busy, Fork, ForkGuard, Guard, Rank, SpinLock};

/// Addresses from the first to the one after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    start: u64,
    end: u64,
}

impl Span {
    /// No address.
    pub const NONE: Span = Span { start: u64::MAX, end: 0 };

    /// The pages that `length` bytes from `start` on touch.
    pub const fn new(start: u64, length: u64) -> Span {
        Span { start: start & !4095, end: start.saturating_add(length).saturating_add(4095) & !4095 }
    }

    /// One that holds both.
    pub fn and(self, other: Span) -> Span {
        Span { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    /// From the first address to the end.
    pub fn addresses(self) -> (u64, u64) {
        (self.start, self.end)
    }

    fn meets(self, other: Span) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// How many calls the list has room for. One that finds none has met all others.
const MOST: usize = 64;

/// A call that is under way.
#[derive(Clone, Copy, Debug)]
struct Entry {
    caller: Holder,
    /// What it may change, as far as it is known: the second range is that of a call that names two, or what one was given.
    spans: [Span; 2],
    /// Holds the spans of all others that were under way with it, as long as it may get addresses that are not known.
    others: Option<Span>,
    has_met: bool,
}

const NOBODY: Entry = Entry { caller: Holder::of(0), spans: [Span::NONE; 2], others: None, has_met: false };

/// The calls that are under way.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct List {
    /// A bit for each place that is taken.
    taken: u64,
    /// How many found no place.
    without_place: u32,
    /// Last, for they are as large as a page, and a fork looks only at those that are taken.
    entries: [Entry; MOST],
}

impl List {
    const fn new() -> List {
        List { taken: 0, entries: [NOBODY; MOST], without_place: 0 }
    }

    /// The places that are taken, in a word that `skipped` is not in.
    fn others(&self, skipped: Option<usize>) -> impl Iterator<Item = usize> + use<> {
        let mut left = self.taken & !skipped.map_or(0, |place| 1 << place);
        core::iter::from_fn(move || {
            let place = left.trailing_zeros() as usize;
            left &= left.wrapping_sub(1);
            (place < MOST).then_some(place)
        })
    }

    /// Notes for all others that a call changes `span`; whether that meets one.
    fn tell(&mut self, span: Span, skipped: Option<usize>) -> bool {
        let mut has_met = false;
        for place in self.others(skipped) {
            let other = &mut self.entries[place];
            let meets = other.spans.iter().any(|own| own.meets(span));
            other.has_met |= meets;
            has_met |= meets;
            other.others = other.others.map(|others| others.and(span));
        }
        has_met
    }

    fn tell_all(&mut self, spans: [Span; 2]) -> bool {
        let [first, second] = spans.map(|span| self.tell(span, None));
        first || second
    }

    #[inline]
    fn enter(&mut self, caller: Holder, spans: [Span; 2], is_open: bool) -> Option<usize> {
        if self.taken != 0 || self.without_place != 0 {
            return self.enter_beside_others(caller, spans, is_open);
        }
        self.entries[0] = Entry { caller, spans, others: is_open.then_some(Span::NONE), has_met: false };
        self.taken = 1;
        Some(0)
    }

    #[cold]
    #[inline(never)]
    fn enter_beside_others(&mut self, caller: Holder, spans: [Span; 2], is_open: bool) -> Option<usize> {
        let place = (!self.taken).trailing_zeros() as usize;
        if place == MOST {
            self.without_place += 1;
            self.entries.iter_mut().for_each(|entry| entry.has_met = true);
            return None;
        }
        let has_met = self.tell_all(spans) || self.without_place != 0;
        let others = is_open.then(|| {
            self.others(None).fold(Span::NONE, |all, other| {
                self.entries[other].spans.iter().fold(all, |all, span| all.and(*span))
            })
        });
        self.entries[place] = Entry { caller, spans, others, has_met };
        self.taken |= 1 << place;
        Some(place)
    }

    /// The call at `place` has got `span`.
    fn get(&mut self, place: usize, span: Span) {
        let has_met = self.tell(span, Some(place));
        let entry = &mut self.entries[place];
        entry.has_met |= has_met || entry.others.is_some_and(|others| others.meets(span));
        entry.spans[1] = entry.spans[1].and(span);
    }

    fn leave(&mut self, place: Option<usize>) {
        match place {
            Some(place) => self.taken &= !(1 << place),
            // A child of a fork has forgotten those of its parent's other threads.
            None => self.without_place = self.without_place.saturating_sub(1),
        }
    }

    /// Forgets the calls of callers that are gone. Whether Linux has made them nobody knows: `missed` notes what they may have
    /// changed.
    #[inline]
    pub(super) fn forget(&mut self, missed: &Missed, is_gone: impl Fn(Holder) -> bool) {
        for place in self.others(None) {
            let Entry { caller, spans, .. } = self.entries[place];
            if !is_gone(caller) {
                continue;
            }
            for span in spans.iter().filter(|span| span.start < span.end) {
                missed.add(PageRange::known(span.start, span.end));
            }
            self.leave(Some(place));
        }
    }

    /// In the child of a fork: those without a place are the parent's.
    pub fn forget_all_without_place(&mut self) {
        if self.without_place != 0 {
            self.without_place = 0;
        }
    }
}

/// The list, and who may edit.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Turns {
    /// How many calls have ended.
    ended: AtomicU64,
    list: SpinLock<List>,
}

impl Turns {
    pub const fn new() -> Turns {
        Turns { list: SpinLock::new(Rank::Calls, List::new()), ended: AtomicU64::new(0) }
    }

    /// Begins a call that changes `spans`, and if it `is_open` what Linux gives it.
    #[inline]
    pub fn begin(&self, spans: [Span; 2], is_open: bool) -> Turn<'_> {
        let mut turn = Turn { turns: self, list: None, place: None };
        if let Ok(mut list) = self.list.lock_without_limit() {
            let caller = list.owner();
            turn.place = Some(list.enter(caller, spans, is_open));
            turn.list = Some(list);
        }
        turn
    }

    /// Keeps others from editing.
    pub fn hold(&self) -> Result<Guard<'_, List>, Busy> {
        self.list.lock_without_limit()
    }

    /// As [`hold`](Self::hold), for a fork.
    pub fn hold_across(&self, fork: Fork) -> Result<Option<ForkGuard<'_, List>>, Busy> {
        self.list.lock_across_without_limit(fork)
    }

    /// As [`hold`](Self::hold), for a handler, which may have interrupted who holds it; that waits for nobody.
    pub fn try_hold(&self) -> Option<Guard<'_, List>> {
        self.list.lock().ok()
    }

    /// How many calls have ended. If it is the same later, no edit has come between.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Acquire)
    }

    /// Frees the lock from a holder that `is_gone`.
    pub fn free_if(&self, is_gone: impl Fn(Holder) -> bool) {
        self.list.free_if(is_gone);
    }
}

/// A memory call that is under way, and the turn to edit.
#[derive(Debug)]
pub(crate) struct Turn<'m> {
    turns: &'m Turns,
    /// None while Linux makes the call, and for a call of a handler that has interrupted this thread in its turn.
    list: Option<Guard<'m, List>>,
    /// Its place on the list, if there was one; `None` for such a call.
    place: Option<Option<usize>>,
}

impl Turn<'_> {
    /// Makes the call, without the turn.
    #[inline]
    pub fn outside<T>(&mut self, call: impl FnOnce() -> T) -> T {
        self.list = None;
        let result = call();
        if self.place.is_some() {
            self.list = self.turns.list.lock_without_limit().ok();
        }
        result
    }

    /// Linux has given it `span`.
    pub fn get(&mut self, span: Span) {
        if let (Some(Some(place)), Some(list)) = (self.place, &mut self.list) {
            list.get(place, span);
        }
    }

    /// Whether nobody has changed the same addresses meanwhile: what the call has done is what holds.
    #[inline]
    pub fn is_alone(&self) -> bool {
        match (self.place, &self.list) {
            (Some(Some(place)), Some(list)) => !list.entries[place].has_met,
            _ => false,
        }
    }

    /// Whether it is a call of a handler that has interrupted this thread in its turn, and whose edits would be in the way of
    /// those.
    pub fn is_nested(&self) -> bool {
        self.place.is_none()
    }
}

impl Drop for Turn<'_> {
    #[inline]
    fn drop(&mut self) {
        if let (Some(place), Some(list)) = (self.place, &mut self.list) {
            list.leave(place);
            self.turns.ended.store(self.turns.ended.load(Ordering::Relaxed) + 1, Ordering::Release);
        }
    }
}
