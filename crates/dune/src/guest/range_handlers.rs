//! Handlers of #PF for ranges of addresses, so that several parts of a program have one each.
//!
//! A thread finds the one for an address without lock or allocation: the ranges stand in order in a table of which there are two
//! copies. Who changes them writes to the copy that is not in use and makes that the other one. A thread that has been slow, so
//! that its copy was written to meanwhile, sees so by the copy's version and looks again; the code that a handler
//! interrupted may be about a change and leaves the copy in use alone.
//!
//! With the first range [`RANGES`] takes the place of the process's handler for #PF, which stands behind it from then on: a process
//! without ranges does not pay for them.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

use super::error::HandlerError;
use super::handlers::{Handler, TrapHandler, TrapOutcome, call, full, process_slot};
use crate::arch::frame::TrapFrame;
use crate::arch::page::PageRange;
use crate::arch::token::Dune;
use crate::arch::vector::Vector;
use crate::contract::trap_table::{Entry, Slot};
use crate::lock::holder::Holder;
use crate::lock::{Rank, SpinLock};

/// How many ranges can have a handler at a time.
const MOST: usize = 1024;

/// A range with its handler.
struct Place {
    start: AtomicU64,
    /// Where it ends: the first address that does not belong to it.
    end: AtomicU64,
    handler: Slot,
}

/// One of the two copies of the table.
struct Copy {
    /// Odd while it is written to.
    version: AtomicU64,
    length: AtomicUsize,
    /// In the order of their addresses.
    places: [Place; MOST],
}

/// The values of a [`Place`].
type Range = (u64, u64, Entry);

impl Copy {
    const fn new() -> Copy {
        let places = [const { Place::new() }; MOST];
        Copy { version: AtomicU64::new(0), length: AtomicUsize::new(0), places }
    }

    fn places(&self) -> &[Place] {
        &self.places[..self.length.load(Ordering::Relaxed).min(MOST)]
    }

    /// The values of the places, for who holds [`CHANGES`].
    fn ranges(&self) -> impl Iterator<Item = Range> {
        self.places().iter().map(Place::get)
    }

    /// Writes `ranges` to this copy, which is not in use; the caller holds [`CHANGES`].
    fn write(&self, ranges: impl Iterator<Item = Range>) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        let mut length = 0;
        for (place, (start, end, handler)) in self.places.iter().zip(ranges) {
            place.start.store(start, Ordering::Relaxed);
            place.end.store(end, Ordering::Relaxed);
            place.handler.store(handler);
            length += 1;
        }
        self.length.store(length, Ordering::Relaxed);
        self.version.store(version + 2, Ordering::Release);
    }
}

impl Place {
    const fn new() -> Place {
        Place { start: AtomicU64::new(0), end: AtomicU64::new(0), handler: Slot::new() }
    }

    fn get(&self) -> Range {
        (self.start.load(Ordering::Relaxed), self.end.load(Ordering::Relaxed), self.handler.load())
    }
}

/// Two copies of the table, and which of them is in use.
struct Table {
    copies: [Copy; 2],
    used: AtomicUsize,
}

impl Table {
    const fn new() -> Table {
        Table { copies: [const { Copy::new() }; 2], used: AtomicUsize::new(0) }
    }

    fn in_use(&self) -> &Copy {
        &self.copies[self.used.load(Ordering::Acquire) % 2]
    }

    /// The handler for `address`.
    fn find(&self, address: u64) -> Entry {
        loop {
            let copy = self.in_use();
            let version = copy.version.load(Ordering::Acquire);
            let places = copy.places();
            let after = places.partition_point(|place| place.start.load(Ordering::Relaxed) <= address);
            let (_, end, handler) = after.checked_sub(1).map_or((0, 0, Entry::NONE), |at| places[at].get());
            fence(Ordering::Acquire);
            if version.is_multiple_of(2) && version == copy.version.load(Ordering::Relaxed) {
                return if address < end { handler } else { Entry::NONE };
            }
        }
    }

    /// Adds a range; the caller holds [`CHANGES`].
    fn add(&self, range: PageRange, handler: Entry) -> Result<(), HandlerError> {
        let (start, end) = bounds(range);
        let now = self.in_use();
        if let Some((start, end, _)) = now.ranges().find(|&(from, to, _)| from < end && start < to) {
            return Err(HandlerError::RangeTaken { start, end });
        }
        if now.places().len() == MOST {
            return Err(HandlerError::TooManyRanges { most: MOST });
        }
        let before = now.ranges().take_while(|&(from, ..)| from < start);
        let behind = now.ranges().skip_while(|&(from, ..)| from < start);
        self.put_in_use(before.chain([(start, end, handler)]).chain(behind));
        Ok(())
    }

    /// Takes a range out; the caller holds [`CHANGES`].
    fn remove(&self, range: PageRange) -> Result<(), HandlerError> {
        let (start, end) = bounds(range);
        let now = self.in_use();
        let is_it = |&(from, to, _): &Range| (from, to) == (start, end);
        if !now.ranges().any(|range| is_it(&range)) {
            return Err(HandlerError::NoSuchRange { start, end });
        }
        self.put_in_use(now.ranges().filter(|range| !is_it(range)));
        Ok(())
    }

    fn put_in_use(&self, ranges: impl Iterator<Item = Range>) {
        let other = 1 - self.used.load(Ordering::Relaxed) % 2;
        self.copies[other].write(ranges);
        self.used.store(other, Ordering::Release);
    }

    fn is_empty(&self) -> bool {
        self.in_use().places().is_empty()
    }
}

fn bounds(range: PageRange) -> (u64, u64) {
    let start = range.start().as_u64();
    (start, start + range.bytes())
}

static TABLE: Table = Table::new();
/// Held by who changes the table.
static CHANGES: SpinLock<()> = SpinLock::new(Rank::Handlers, ());

/// The process's handler for #PF where there are ranges.
static RANGES: Handler<Ranges> = Handler::new(Ranges);
/// The program's own behind it.
static BEHIND: Slot = Slot::new();

struct Ranges;

impl TrapHandler for Ranges {
    fn handle(&self, _: Dune, frame: &mut TrapFrame) -> TrapOutcome {
        for entry in [TABLE.find(frame.words().cr2), BEHIND.load()] {
            // SAFETY: 1. ring 0, in the trap of this frame, by the arguments; who called this has kept the vector state; 2. both are.
            if unsafe { call(entry, frame) } == TrapOutcome::Resume {
                return TrapOutcome::Resume;
            }
        }
        TrapOutcome::Unhandled
    }
}

/// Makes `entry` the process's handler for #PF.
pub(super) fn set_process_handler(entry: Entry) {
    let slot = process_slot(Vector::PAGE_FAULT);
    loop {
        let now = slot.load();
        if now == full(&RANGES) {
            // There for good.
            return BEHIND.store(entry);
        }
        if slot.replace(now, entry) {
            return;
        }
    }
}

/// Has [`RANGES`] come before the process's handler; the caller holds [`CHANGES`].
fn install() {
    let slot = process_slot(Vector::PAGE_FAULT);
    loop {
        let now = slot.load();
        if now == full(&RANGES) {
            return;
        }
        BEHIND.store(now);
        if slot.replace(now, full(&RANGES)) {
            return;
        }
    }
}

/// Sets `handler` for `range`. `before` is called when that is about to be done.
pub(super) fn add(range: PageRange, handler: Entry, before: impl FnOnce()) -> Result<(), HandlerError> {
    let _changes = CHANGES.lock()?;
    before();
    TABLE.add(range, handler)?;
    install();
    Ok(())
}

/// Takes the handler for `range` away. `at_last` is called if it was the last.
pub(super) fn remove(range: PageRange, at_last: impl FnOnce()) -> Result<(), HandlerError> {
    let _changes = CHANGES.lock()?;
    TABLE.remove(range)?;
    if TABLE.is_empty() {
        at_last();
    }
    Ok(())
}

/// Frees the lock if its holder `is_gone`. The copy in use is whole at any time.
pub(crate) fn free_if(is_gone: impl Fn(Holder) -> bool) {
    CHANGES.free_if(is_gone);
}

#[cfg(test)]
mod tests {
    use super::*;
    use x86_64::VirtAddr;

    fn page(number: u64, pages: u64) -> PageRange {
        PageRange::new(VirtAddr::new(number << 12), pages << 12).expect("a range of pages")
    }

    /// A handler that only its address tells from others.
    fn handler() -> Entry {
        full(Handler::leak(|_: Dune, _: &mut TrapFrame| TrapOutcome::Unhandled))
    }

    /// As the test's threads have no block, the lock would be one thread's after another's only.
    fn leaked() -> &'static Table {
        Box::leak(Box::new(Table::new()))
    }

    #[test]
    fn an_address_finds_the_handler_of_its_range_only() {
        let (table, [one, two]) = (leaked(), [handler(), handler()]);
        assert_eq!(table.add(page(8, 2), two), Ok(()));
        assert_eq!(table.add(page(2, 1), one), Ok(()));
        let found = [0x1fff, 0x2000, 0x2fff, 0x3000, 0x7fff, 0x8000, 0x9fff, 0xa000].map(|at| table.find(at));
        let (no, expected) = (Entry::NONE, [one, one, two, two]);
        assert!(found == [no, expected[0], expected[1], no, no, expected[2], expected[3], no]);
        assert_eq!(table.remove(page(2, 1)), Ok(()));
        assert!(table.find(0x2000) == no && table.find(0x8000) == two);
    }

    #[test]
    fn ranges_do_not_overlap_and_are_cleared_whole() {
        let table = leaked();
        assert_eq!(table.add(page(4, 4), handler()), Ok(()));
        for taken in [page(4, 4), page(3, 2), page(7, 9), page(5, 1), page(1, 20)] {
            let error = HandlerError::RangeTaken { start: 0x4000, end: 0x8000 };
            assert_eq!(table.add(taken, handler()), Err(error));
        }
        assert_eq!(table.add(page(8, 1), handler()), Ok(()));
        assert_eq!(table.add(page(3, 1), handler()), Ok(()));
        let part = HandlerError::NoSuchRange { start: 0x4000, end: 0x5000 };
        assert_eq!(table.remove(page(4, 1)), Err(part));
    }

    #[test]
    fn a_full_table_says_so() {
        let table = leaked();
        let one = handler();
        for number in (0..MOST as u64).rev() {
            assert_eq!(table.add(page(2 * number + 1, 1), one), Ok(()));
        }
        assert_eq!(table.add(page(2, 1), one), Err(HandlerError::TooManyRanges { most: MOST }));
        assert_eq!(table.remove(page(1, 1)), Ok(()));
        assert_eq!(table.add(page(2, 1), one), Ok(()));
    }

    /// Whoever looks while others change the table finds what was there all the time.
    #[test]
    fn what_is_not_changed_is_found_at_any_time() {
        use std::sync::atomic::AtomicBool;
        let (table, steady) = (leaked(), handler());
        let done = AtomicBool::new(false);
        assert_eq!(table.add(page(500, 1), steady), Ok(()));
        std::thread::scope(|scope| {
            let looks = [(); 2].map(|()| {
                scope.spawn(|| {
                    let mut looks = 0u64;
                    while !done.load(Ordering::Relaxed) || looks == 0 {
                        assert!(table.find(500 << 12) == steady);
                        assert!(table.find(501 << 12) == Entry::NONE);
                        looks += 1;
                    }
                })
            });
            let other = handler();
            // Some stay, so that the steady one moves. Whether a range is there already is of no interest.
            for round in 0..2000u64 {
                let _ = table.add(page(round % 7 * 71, 1), other);
                let _ = table.remove(page(round % 5 * 71, 1));
            }
            done.store(true, Ordering::Relaxed);
            for look in looks {
                look.join().expect("a look found something else");
            }
        });
    }
}
