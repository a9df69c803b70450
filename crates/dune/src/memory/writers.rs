//! What Linux writes for the program: by its own tables, so that no page of ours is marked dirty by it.
//!
//! While somebody wants to know (`guest/linux_writes.rs`), each system call that writes the program's memory is a *writer*: before it
//! is made it says here where it may write, and when it has returned it marks the pages that it has written as the CPU would have. So
//! nothing is missed:
//!
//! * Who collects marks while a writer is under way finds all pages marked that it may write, for it may have written them already.
//! * What it writes after that is marked when it returns, and found the next time.
//!
//! No lock is held over a call, and none is taken by who looks: a writer takes a place, and gives it back when its marks are set.
//! Memory that comes into the tables meanwhile is marked, too: it replaces what was there.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

use x86_64::PhysAddr;

use super::Memory;
use super::entry::Entry;
use super::frames::FrameAllocator;
use super::table::{PageTables, find, part_end};
use crate::arch::atomic::AtomicU64;
use crate::arch::page::{PAGE_BYTES, PageRange, TASK_SIZE};
use crate::lock::holder::Holder;

/// How many writers have a place each. One that finds none may write anywhere, for who looks.
const MOST: usize = 256;

/// A range of addresses of the program's, in whole pages.
pub(crate) type Span = (u64, u64);

/// The pages that `length` bytes from `start` touch, as far as they are the program's.
pub(crate) fn pages(start: u64, length: u64) -> Span {
    let end = start.saturating_add(length).min(TASK_SIZE);
    let start = start.min(end);
    (start & !(PAGE_BYTES - 1), end.next_multiple_of(PAGE_BYTES))
}

/// A place for a writer.
#[derive(Debug)]
struct Place {
    /// The [`Holder`]'s word; 0 for nobody.
    caller: AtomicU64,
    start: AtomicU64,
    end: AtomicU64,
}

impl Place {
    const fn free() -> Place {
        Place { caller: AtomicU64::new(0), start: AtomicU64::new(0), end: AtomicU64::new(0) }
    }
}

/// The writers that are under way.
#[derive(Debug)]
pub(crate) struct Writers {
    /// How many want to know of them.
    watchers: AtomicU32,
    /// How many places are taken, at least.
    taken: AtomicU32,
    without_place: AtomicU32,
    /// There was no place for one of which nobody says when it has returned.
    unknown: AtomicBool,
    places: [Place; MOST],
}

/// What a writer has on the list while it is under way.
#[derive(Debug)]
#[must_use = "the writer has to mark what it has written"]
pub(crate) struct Writer<'m> {
    memory: &'m Memory,
    place: Option<(&'m Place, Holder)>,
}

impl Writers {
    pub(super) const fn new() -> Writers {
        Writers {
            watchers: AtomicU32::new(0),
            taken: AtomicU32::new(0),
            without_place: AtomicU32::new(0),
            unknown: AtomicBool::new(false),
            places: [const { Place::free() }; MOST],
        }
    }

    /// Whether anybody wants to know.
    #[inline]
    pub(crate) fn are_watched(&self) -> bool {
        self.watchers.load(Ordering::SeqCst) != 0
    }

    /// Somebody wants to know from now on; whether it is the first.
    pub(crate) fn watch(&self) -> bool {
        self.watchers.fetch_add(1, Ordering::SeqCst) == 0
    }

    /// Somebody does not any more; whether it was the last.
    pub(crate) fn unwatch(&self) -> bool {
        let is_last = self.watchers.fetch_sub(1, Ordering::SeqCst) == 1;
        if is_last {
            self.unknown.store(false, Ordering::SeqCst);
        }
        is_last
    }

    /// See [`Memory::suppose_write`].
    fn suppose(&self, caller: Holder, span: Span) {
        if self.take(caller, span).is_none() {
            self.unknown.store(true, Ordering::SeqCst);
        }
    }

    /// A free place for `caller`, with `span` on it.
    fn take(&self, caller: Holder, (start, end): Span) -> Option<&Place> {
        self.taken.fetch_add(1, Ordering::SeqCst);
        let free = self.places.iter().find(|place| {
            let is_free = place.caller.load(Ordering::Relaxed) == 0;
            is_free
                && place
                    .caller
                    .compare_exchange(0, caller.word(), Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
        });
        let Some(place) = free else {
            self.taken.fetch_sub(1, Ordering::SeqCst);
            return None;
        };
        place.start.store(start, Ordering::Relaxed);
        place.end.store(end, Ordering::Release);
        Some(place)
    }

    /// Takes the place back, if there is nobody on it but `caller`.
    fn leave(&self, place: &Place, caller: Holder) {
        let left = place.caller.compare_exchange(caller.word(), 0, Ordering::AcqRel, Ordering::Relaxed);
        if left.is_ok() {
            self.taken.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Takes the places of callers that are gone.
    pub(crate) fn forget(&self, is_gone: impl Fn(Holder) -> bool) {
        if self.taken.load(Ordering::SeqCst) == 0 {
            return;
        }
        for place in &self.places {
            let caller = place.caller.load(Ordering::Relaxed);
            if caller != 0 && is_gone(Holder::of(caller)) {
                self.leave(place, Holder::of(caller));
            }
        }
    }

    /// In the child of a fork, whose only thread is none of them.
    pub(super) fn forget_all_without_place(&self) {
        if self.without_place.load(Ordering::Relaxed) != 0 {
            self.without_place.store(0, Ordering::Relaxed);
        }
    }

    /// Whether one of those under way may write anywhere.
    pub(super) fn may_be_anywhere(&self) -> bool {
        self.without_place.load(Ordering::SeqCst) != 0 || self.unknown.load(Ordering::SeqCst)
    }

    /// The parts of `range` that writers under way may write.
    pub(super) fn under_way(&self, range: PageRange) -> impl Iterator<Item = Span> {
        // After the edits before, in the sight of all: a writer that is not on the list yet marks after them.
        fence(Ordering::SeqCst);
        let (first, end) = (range.first(), range.end());
        let anywhere = self.may_be_anywhere().then_some((first, end));
        let most = if self.taken.load(Ordering::SeqCst) == 0 { 0 } else { MOST };
        let of_places = self.places[..most].iter().filter(|place| place.caller.load(Ordering::Acquire) != 0);
        let spans = of_places.map(|place| {
            let end = place.end.load(Ordering::Acquire);
            (place.start.load(Ordering::Relaxed), end)
        });
        let within = spans.map(move |(from, to)| (from.max(first), to.min(end)));
        anywhere.into_iter().chain(within.filter(|(from, to)| from < to))
    }
}

impl Memory {
    /// The system calls that write memory.
    pub(crate) fn writers(&self) -> &Writers {
        &self.writers
    }

    /// A system call of `caller` is about to be made that may write within `span`.
    pub(crate) fn begin_write(&self, caller: Holder, span: Span) -> Writer<'_> {
        let place = self.writers.take(caller, span);
        if place.is_none() {
            self.writers.without_place.fetch_add(1, Ordering::SeqCst);
        }
        // Before the call, in the sight of all.
        fence(Ordering::SeqCst);
        Writer { memory: self, place: place.map(|place| (place, caller)) }
    }

    /// A system call of another thread may be under way that writes within `span`. Nobody says when it has returned: the place is
    /// taken until `caller` begins another one. Without a place it may write anywhere, until nobody wants to know any more.
    pub(crate) fn suppose_write(&self, caller: Holder, span: Span) {
        self.writers.suppose(caller, span);
    }

    /// Marks the pages of `span` as the CPU does on a write, in the process's own tables and in those that the CPU uses now. Whether
    /// it could: not while another thread keeps the tables locked for seconds.
    fn mark_written(&self, (start, end): Span) -> bool {
        if start >= end {
            return true;
        }
        let Ok(_edits) = self.edits.lock_unless_mine() else { return false };
        mark(&self.frames, self.root, (start, end));
        if let Some(root) = self.foreign_root() {
            mark(&self.frames, root, (start, end));
        }
        true
    }
}

impl Writer<'_> {
    /// The call has returned, and has written within `spans`.
    pub(crate) fn wrote(self, spans: impl Iterator<Item = Span>) {
        let mut is_marked = true;
        for span in spans {
            is_marked &= self.memory.mark_written(span);
        }
        match self.place {
            // For ever on the list: what could not be marked is found each time.
            _ if !is_marked => {}
            Some((place, caller)) => self.memory.writers.leave(place, caller),
            None => {
                self.memory.writers.without_place.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}

impl PageTables<'_> {
    /// Marks what system calls under way may have written of `range`.
    pub(super) fn mark_under_way(&self, range: PageRange) {
        if self.writers.are_watched() {
            for span in self.writers.under_way(range) {
                mark(self.frames, self.root, span);
            }
        }
    }
}

/// Marks the pages of `span` that `root` maps as the CPU does on a write. The caller holds the lock of the tables, or the code does
/// that it has interrupted.
fn mark(frames: &FrameAllocator, root: PhysAddr, (mut at, end): Span) {
    while at < end {
        let (level, table, _) = find(frames, root, at);
        table.update(level.index(at), |entry| {
            if entry.is_empty() { entry } else { entry.edited(0, Entry::DIRTY | Entry::ACCESSED) }
        });
        at = part_end(level, at, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Span = (0x1000, 0x3000);

    fn range(first: u64, end: u64) -> PageRange {
        PageRange::known(first, end)
    }

    #[test]
    fn spans_are_whole_pages_of_the_programs() {
        assert_eq!(pages(0x1fff, 2), (0x1000, 0x3000));
        assert_eq!(pages(0x1000, 0x1000), (0x1000, 0x2000));
        assert_eq!(pages(TASK_SIZE - 1, u64::MAX), (TASK_SIZE - PAGE_BYTES, TASK_SIZE));
        let (start, end) = pages(u64::MAX, 5);
        assert!(start >= end);
    }

    #[test]
    fn writers_are_found_where_they_may_write() {
        let writers = Writers::new();
        let all = |first, end| writers.under_way(range(first, end)).collect::<Vec<_>>();
        assert_eq!(all(0, 0x10000), []);
        let place = writers.take(Holder::of(8), SPAN).unwrap();
        assert_eq!(all(0, 0x10000), [SPAN]);
        assert_eq!(all(0x2000, 0x10000), [(0x2000, 0x3000)]);
        assert_eq!(all(0x3000, 0x10000), []);
        writers.leave(place, Holder::of(9));
        assert_eq!(all(0, 0x10000), [SPAN], "it is another's");
        writers.leave(place, Holder::of(8));
        assert_eq!(all(0, 0x10000), []);
    }

    #[test]
    fn one_without_a_place_may_write_anywhere() {
        let writers = Writers::new();
        for caller in 1..=MOST as u64 {
            assert!(writers.take(Holder::of(caller), SPAN).is_some());
        }
        assert!(writers.take(Holder::of(100), SPAN).is_none());
        writers.without_place.store(1, Ordering::SeqCst);
        assert!(writers.under_way(range(0x8000, 0x9000)).eq([(0x8000, 0x9000)]));
        writers.forget(|holder| holder.word() > 1);
        writers.forget_all_without_place();
        assert_eq!(writers.under_way(range(0, 0x9000)).count(), 1);
    }

    #[test]
    fn one_that_is_supposed_without_a_place_may_write_until_nobody_asks() {
        let writers = Writers::new();
        writers.watch();
        for caller in 1..=MOST as u64 + 1 {
            writers.suppose(Holder::of(caller), SPAN);
        }
        writers.forget(|_| true);
        assert!(writers.under_way(range(0x8000, 0x9000)).eq([(0x8000, 0x9000)]));
        assert!(writers.unwatch());
        assert_eq!(writers.under_way(range(0x8000, 0x9000)).count(), 0);
    }
}
