//! The heap with the trackers that work everywhere.

use std::cell::{Cell, RefCell as Shared};
use std::hint::black_box;
use std::rc::Rc;

use super::*;
use crate::tracker::Knowledge;

#[derive(crate::Trace)]
pub(super) struct Node<'h> {
    value: u64,
    next: Cell<Option<Gc<'h, Node<'h>>>>,
}

impl Node<'_> {
    pub(super) fn value(&self) -> u64 {
        self.value
    }
}

pub(super) fn node<'h>(heap: &'h Heap, value: u64, next: Option<Gc<'h, Node<'h>>>) -> Gc<'h, Node<'h>> {
    heap.alloc(Node { value, next: Cell::new(next) })
}

/// Trackers of host mode, as far as this kernel has them.
pub(super) fn trackers() -> Vec<Tracker> {
    let is_there = |tracker: &Tracker| {
        // SAFETY: no object is made.
        let heap = unsafe { Heap::new(Config::new(*tracker).capacity(1 << 20)) };
        heap.is_ok()
    };
    let all: Vec<_> = Tracker::ALL.into_iter().filter(is_there).collect();
    println!("trackers here: {all:?}");
    assert!(all.contains(&Tracker::None) && all.contains(&Tracker::Mprotect), "{all:?}");
    all
}

/// Whether other tests, on other threads, can make the collector lose what it knows.
fn is_shared(tracker: Tracker) -> bool {
    tracker == Tracker::SoftDirty
}

pub(super) fn heap(config: Config) -> Heap {
    // SAFETY: the tests keep pointers on the stack and in objects, but where they say.
    unsafe { Heap::new(config) }.unwrap()
}

/// Overwrites what calls have left of the stack below.
#[inline(never)]
pub(super) fn scrub() {
    black_box([0usize; 4096]);
}

pub(super) fn sum(mut at: Option<Gc<'_, Node<'_>>>) -> u64 {
    let mut sum = 0;
    while let Some(node) = at {
        sum += node.value;
        at = node.next.get();
    }
    sum
}

#[test]
fn what_the_stack_leads_to_stays_and_the_rest_goes() {
    for tracker in trackers() {
        let heap = heap(Config::new(tracker).capacity(8 << 20).young_bytes(64 << 10).checked());
        let mut list = None;
        for value in 0..1000 {
            list = Some(node(&heap, value, list));
            // Garbage.
            for _ in 0..20 {
                node(&heap, value, None);
            }
        }
        let stats = heap.stats();
        assert!(stats.young_collections + stats.full_collections >= 10, "{tracker}: {stats:?}");
        let is_blind = stats.blind_collections > 1;
        assert!(is_shared(tracker) || is_blind == (tracker == Tracker::None), "{tracker}: {stats:?}");
        assert!(stats.heap_bytes < 512 << 10, "{tracker}: {stats:?}");
        assert_eq!(sum(list), 999 * 1000 / 2, "{tracker}");
        heap.check().unwrap();
    }
}

/// Old objects are made to lead to young ones that nothing else leads to.
fn write_to_old_objects(heap: &Heap) -> u64 {
    const COUNT: usize = 2000;
    let table = heap.alloc_slice(COUNT, |index| Cell::new(Some(node(heap, index as u64, None))));
    heap.collect(Collection::Full);
    let mut random = 7u64;
    for round in 0..30 {
        for _ in 0..50 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let place = (random >> 33) as usize % COUNT;
            let old = table[place].get();
            table[place].set(Some(node(heap, round, old)));
            scrub();
        }
        heap.collect(Collection::Young);
    }
    table.iter().map(|place| sum(place.get())).sum()
}

#[test]
fn writes_to_old_objects_are_known() {
    for tracker in trackers() {
        let heap = heap(Config::new(tracker).capacity(8 << 20).checked());
        let expected: u64 = (0..2000).sum::<u64>() + (0..30).map(|round| round * 50).sum::<u64>();
        assert_eq!(write_to_old_objects(&heap), expected, "{tracker}");
        let stats = heap.stats();
        let knows = tracker != Tracker::None && !is_shared(tracker);
        assert!(!knows || stats.young_collections == 30, "{tracker}: {stats:?}");
        assert!(stats.checked_edges > 30_000, "{tracker}: {stats:?}");
    }
}

/// A tracker that does not tell of some pages.
#[derive(Debug)]
struct Forgetful(Box<dyn WriteTracker>);

impl WriteTracker for Forgetful {
    fn written(&mut self, pages: usize, written: &mut PageSet) -> Result<Knowledge, TrackerError> {
        let known = self.0.written(pages, written)?;
        (0..pages).step_by(5).for_each(|page| written.remove(page));
        Ok(known)
    }

    fn begin(&mut self, old: &PageSet, pages: usize) -> Result<(), TrackerError> {
        self.0.begin(old, pages)
    }
}

#[test]
#[should_panic(expected = "its write was missed")]
fn the_checker_finds_what_a_tracker_misses() {
    let config = Config::new(Tracker::Mprotect).capacity(8 << 20).checked();
    write_to_old_objects(&Heap::with_tracker(config, |tracker| Box::new(Forgetful(tracker))));
}

/// A tracker that fails now and then.
#[derive(Debug)]
struct Failing(Box<dyn WriteTracker>, u32);

impl Failing {
    fn fail(&mut self) -> Result<(), TrackerError> {
        self.1 += 1;
        if self.1.is_multiple_of(3) { Err(TrackerError::NoMarks) } else { Ok(()) }
    }
}

impl WriteTracker for Failing {
    fn written(&mut self, pages: usize, written: &mut PageSet) -> Result<Knowledge, TrackerError> {
        self.fail()?;
        self.0.written(pages, written)
    }

    fn begin(&mut self, old: &PageSet, pages: usize) -> Result<(), TrackerError> {
        self.fail()?;
        self.0.begin(old, pages)
    }
}

#[test]
fn without_knowledge_a_collection_is_full() {
    let config = Config::new(Tracker::Mprotect).capacity(8 << 20).checked();
    let heap = Heap::with_tracker(config, |tracker| Box::new(Failing(tracker, 0)));
    write_to_old_objects(&heap);
    let stats = heap.stats();
    assert!(stats.blind_collections > 5 && stats.young_collections > 5, "{stats:?}");
}

#[test]
fn a_collection_at_every_allocation() {
    for tracker in trackers() {
        let heap = heap(Config::new(tracker).capacity(4 << 20).stressed());
        let roots: Vec<_> = (0..10).map(|value| heap.root(node(&heap, value, None))).collect();
        for value in 0..200u64 {
            let root = &roots[value as usize % 10];
            root.next.set(Some(node(&heap, value, root.next.get())));
        }
        let all: u64 = roots.iter().map(|root| sum(Some(root.get()))).sum();
        assert_eq!(all, 45 + 199 * 200 / 2, "{tracker}");
        let stats = heap.stats();
        assert!(stats.young_collections + stats.full_collections >= 210, "{tracker}: {stats:?}");
        let knows = tracker != Tracker::None && !is_shared(tracker);
        assert!(!knows || stats.young_collections >= 200, "{tracker}: {stats:?}");
    }
}

/// Tells when it is dropped.
struct Bell(Rc<Shared<Vec<u32>>>, u32);

impl Drop for Bell {
    fn drop(&mut self) {
        self.0.borrow_mut().push(self.1);
    }
}

// SAFETY: 1. and 2. it has no edges; 3. its drop knows nothing of the heap; 4. so it is.
unsafe impl Trace for Bell {
    const HAS_EDGES: bool = false;

    fn trace(&self, _: &mut crate::Tracer<'_>) {}
}

#[test]
fn the_dead_are_dropped_once() {
    let heard = Rc::new(Shared::new(Vec::new()));
    {
        let heap = heap(Config::new(Tracker::Mprotect).capacity(4 << 20).checked());
        let kept = heap.root(heap.alloc(Bell(heard.clone(), 1000)));
        #[inline(never)]
        fn ring(heap: &Heap, heard: &Rc<Shared<Vec<u32>>>) {
            for number in 0..100 {
                heap.alloc(Bell(heard.clone(), number));
            }
            for slice in 0..10 {
                // Of a block and more.
                heap.alloc_slice(3000, |number| Bell(heard.clone(), 2000 + slice * 3000 + number as u32));
            }
        }
        ring(&heap, &heard);
        scrub();
        heap.collect(Collection::Full);
        heap.collect(Collection::Full);
        // A word on the stack may still look like the address of one or two.
        assert!(heard.borrow().len() > 20_000, "{}", heard.borrow().len());
        assert_eq!(kept.1, 1000);
        assert!(!heard.borrow().contains(&1000));
    }
    let mut all = heard.borrow().clone();
    all.sort_unstable();
    let expected: Vec<u32> = (0..100).chain([1000]).chain(2000..32_000).collect();
    assert_eq!(all, expected);
}

#[test]
fn a_slice_is_whole_while_it_is_made() {
    let heap = heap(Config::new(Tracker::Mprotect).capacity(8 << 20).stressed());
    let slice = heap.alloc_slice(300, |index| (index as u64, node(&heap, index as u64, None)));
    assert!(slice.iter().all(|(index, node)| *index == node.value));
    assert_eq!(heap.alloc_slice(0, |_| 1u8).len(), 0);
    let nothing = heap.alloc(());
    heap.collect(Collection::Full);
    *nothing
}

#[test]
fn a_full_heap_is_an_error() {
    let heap = heap(Config::new(Tracker::None).capacity(256 << 10).young_bytes(1 << 20));
    #[inline(never)]
    fn fill(heap: &Heap) -> HeapError {
        let mut list = None;
        loop {
            match heap.try_alloc(Node { value: 1, next: Cell::new(list) }) {
                Ok(node) => list = Some(node),
                Err(error) => {
                    assert_eq!(sum(list), 8192, "all of 256 KiB, 32 bytes each");
                    return error;
                }
            }
        }
    }
    let error = fill(&heap);
    assert!(error.to_string().contains("raise Config::capacity"), "{error}");
    assert!(heap.try_alloc_slice(usize::MAX / 2, |_| 1u64).is_err());
    assert!(heap.try_alloc_slice(300 << 10, |_| 1u8).is_err());
    scrub();
    assert!(heap.try_alloc(Node { value: 1, next: Cell::new(None) }).is_ok());
}

#[test]
fn dune_modes_trackers_say_what_they_want() {
    for tracker in Tracker::ALL.into_iter().filter(|tracker| tracker.needs_dune_mode()) {
        // SAFETY: there will be no objects.
        let error = unsafe { Heap::new(Config::new(tracker)) }.unwrap_err();
        assert!(error.to_string().contains("dune::enter"), "{error}");
        assert_eq!(tracker.name().parse::<Tracker>().unwrap(), tracker);
    }
}

#[test]
fn roots_are_reused() {
    let heap = heap(Config::new(Tracker::None).capacity(1 << 20));
    let one = heap.root(node(&heap, 1, None));
    let two = one.clone();
    drop(one);
    let three = heap.root(node(&heap, 3, None));
    drop((two, three));
    (0..10).for_each(|value| drop(heap.root(node(&heap, value, None))));
    assert_eq!(heap.inner.borrow().roots.len(), 2);
}
