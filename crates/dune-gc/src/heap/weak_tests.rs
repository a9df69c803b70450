//! Weak references and finalizers.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::tests::{Node, heap, node, scrub, sum, trackers};
use super::*;

/// Words on the stack that happen to be addresses may keep so many.
const BY_CHANCE: usize = 8;

type Slots<'h, T> = Gc<'h, [Cell<Option<T>>]>;

fn slots<'h, T: Trace + Copy + 'h>(heap: &'h Heap, count: usize) -> Slots<'h, T> {
    heap.alloc_slice(count, |_| Cell::new(None))
}

/// Strong slots come and go at random; weak ones remember whoever was there.
#[inline(never)]
fn change<'h>(
    heap: &'h Heap,
    strong: Slots<'h, Gc<'h, Node<'h>>>,
    weak: Slots<'h, Weak<'h, Node<'h>>>,
    random: &mut u64,
) {
    for place in 0..strong.len() {
        *random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        match *random >> 60 {
            0..4 => strong[place].set(None),
            4..8 => {
                let new = node(heap, place as u64, None);
                strong[place].set(Some(new));
                weak[place].set(Some(heap.downgrade(new)));
            }
            _ => (),
        }
    }
}

/// How many weak references lead to what nothing else leads to.
#[inline(never)]
fn too_many<'h>(
    heap: &'h Heap,
    strong: Slots<'h, Gc<'h, Node<'h>>>,
    weak: Slots<'h, Weak<'h, Node<'h>>>,
) -> usize {
    let mut found = 0;
    for (place, (strong, weak)) in strong.iter().zip(weak.iter()).enumerate() {
        let target = weak.get().and_then(|weak| weak.upgrade(heap));
        match strong.get() {
            Some(strong) => {
                assert!(target.is_some_and(|target| target.ptr_eq(strong)), "{place} is there");
                assert_eq!(sum(target), place as u64);
            }
            None => found += usize::from(target.is_some()),
        }
    }
    found
}

#[test]
fn weak_references_tell_whether_the_object_is_there() {
    for tracker in trackers() {
        let heap = heap(Config::new(tracker).capacity(8 << 20).checked());
        let (strong, weak) = (slots(&heap, 300), slots(&heap, 300));
        let mut random = 7;
        for round in 0..20 {
            change(&heap, strong, weak, &mut random);
            scrub();
            // What has become old stays until a full one.
            heap.collect(if round % 3 == 2 { Collection::Full } else { Collection::Young });
            too_many(&heap, strong, weak);
            heap.collect(Collection::Full);
            assert!(too_many(&heap, strong, weak) <= BY_CHANCE, "{tracker}");
        }
        let places = heap.inner.borrow().weaks.len();
        assert!(places < 900, "{tracker}: {places} places for 300 weak references");
    }
}

#[test]
fn weak_references_in_a_stressed_heap() {
    let heap = heap(Config::new(Tracker::Mprotect).capacity(4 << 20).stressed());
    let (strong, weak) = (slots(&heap, 20), slots(&heap, 20));
    let mut random = 3;
    (0..10).for_each(|_| change(&heap, strong, weak, &mut random));
    too_many(&heap, strong, weak);
}

#[test]
fn a_slice_has_weak_references_too() {
    let heap = heap(Config::new(Tracker::None).capacity(1 << 20));
    let slice = heap.root(heap.alloc_copy(&[1u16, 2, 3]));
    let weak = heap.downgrade(slice.get());
    heap.collect(Collection::Full);
    assert_eq!(*weak.upgrade(&heap).unwrap(), [1, 2, 3]);
    assert!(weak.ptr_eq(heap.downgrade(slice.get())));
}

#[test]
#[should_panic(expected = "another heap")]
fn a_weak_reference_is_of_its_own_heap() {
    let (one, two) = (Config::new(Tracker::None).capacity(1 << 20), Config::new(Tracker::None));
    let (one, two) = (heap(one), heap(two));
    one.downgrade(one.alloc(1u8)).upgrade(&two);
}

thread_local! {
    /// What finalizers of this thread have been called with.
    static CALLED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

fn note(value: u64) {
    CALLED.with_borrow_mut(|called| called.push(value));
}

fn called() -> Vec<u64> {
    CALLED.take()
}

/// Pairs of which the first leads to the second, which has its finalizer first.
#[inline(never)]
fn make_pairs(heap: &Heap, count: u64) {
    for value in 0..count {
        let second = node(heap, 2 * value + 1, None);
        let first = node(heap, 2 * value, Some(second));
        heap.add_finalizer(second, |_, second| note(second.value()));
        heap.add_finalizer(first, |heap, first| {
            // All is whole, and the heap is there to be used.
            node(heap, 1, None);
            heap.collect(Collection::Full);
            note(sum(Some(first)));
        });
    }
}

#[test]
fn finalizers_are_called_once_in_their_order_with_whole_objects() {
    for tracker in trackers() {
        let heap = heap(Config::new(tracker).capacity(8 << 20).young_bytes(64 << 10).checked());
        make_pairs(&heap, 100);
        scrub();
        heap.collect(Collection::Young);
        assert_eq!(called(), []);
        // Other objects would come where they were.
        for value in 0..5000 {
            node(&heap, 1_000_000 + value, None);
        }
        let due = heap.due_finalizers();
        assert!(due >= 200 - 2 * BY_CHANCE, "{tracker}: {due}");
        assert_eq!(heap.run_finalizers(), due);
        assert!(heap.due_finalizers() <= 2 * BY_CHANCE);
        let called = called();
        assert_eq!(called.len(), due);
        // 1, 0 + 1, 3, 2 + 3, …
        let all: Vec<u64> = (0..100).flat_map(|pair| [2 * pair + 1, 4 * pair + 1]).collect();
        let mut rest = all.iter();
        assert!(called.iter().all(|value| rest.any(|other| other == value)), "{called:?}");
        scrub();
        let before = heap.stats().full_collections;
        heap.collect(Collection::Full);
        heap.run_finalizers();
        assert!(heap.stats().full_collections > before);
        assert!(self::called().len() + due <= 200);
    }
}

#[test]
fn an_object_can_be_brought_back() {
    let heap = heap(Config::new(Tracker::Mprotect).capacity(8 << 20).checked());
    let shelf: Slots<'_, Gc<'_, Node<'_>>> = slots(&heap, 100);
    #[inline(never)]
    fn make<'h>(heap: &'h Heap, shelf: Slots<'h, Gc<'h, Node<'h>>>, weak: Slots<'h, Weak<'h, Holder<'h>>>) {
        for place in 0..100 {
            let holder = heap.alloc(Holder { shelf, place, node: node(heap, place as u64, None) });
            weak[place].set(Some(heap.downgrade(holder)));
            heap.add_finalizer(holder, |_, holder| holder.shelf[holder.place].set(Some(holder.node)));
        }
    }
    #[derive(crate::Trace)]
    struct Holder<'h> {
        shelf: Slots<'h, Gc<'h, Node<'h>>>,
        place: usize,
        node: Gc<'h, Node<'h>>,
    }
    let weak = slots(&heap, 100);
    make(&heap, shelf, weak);
    scrub();
    heap.collect(Collection::Full);
    let due = heap.due_finalizers();
    assert!(due >= 100 - BY_CHANCE, "{due}");
    // Before the finalizers are called, weak references are cleared.
    let gone = |weak: &&Cell<Option<Weak<'_, Holder<'_>>>>| weak.get().unwrap().upgrade(&heap).is_none();
    assert_eq!(weak.iter().filter(gone).count(), due);
    heap.run_finalizers();
    scrub();
    (0..3).for_each(|_| heap.collect(Collection::Full));
    let back: Vec<u64> = shelf.iter().filter_map(Cell::get).map(|node| node.value()).collect();
    assert!(back.len() >= due, "{back:?}");
    assert!(back.iter().all(|&value| shelf[value as usize].get().unwrap().value() == value));
}

/// A weak reference that only an object leads to which a finalizer gets.
#[test]
fn what_a_finalizer_gets_has_its_weak_references() {
    #[derive(crate::Trace)]
    struct Watcher<'h> {
        weak: Weak<'h, Node<'h>>,
    }
    let heap = heap(Config::new(Tracker::None).capacity(4 << 20).checked());
    let target = heap.root(node(&heap, 5, None));
    #[inline(never)]
    fn make<'h>(heap: &'h Heap, target: Gc<'h, Node<'h>>) {
        for _ in 0..50 {
            let watcher = heap.alloc(Watcher { weak: heap.downgrade(target) });
            heap.add_finalizer(watcher, |heap, watcher| {
                note(watcher.weak.upgrade(heap).map_or(0, |node| node.value()));
            });
        }
    }
    make(&heap, target.get());
    scrub();
    heap.collect(Collection::Full);
    let other = heap.root(node(&heap, 6, None));
    // New ones would get the places of some of the old ones, were these free.
    let more: Vec<_> = (0..20).map(|_| heap.root(heap.alloc(heap.downgrade(other.get())))).collect();
    let due = heap.run_finalizers();
    assert!(due >= 50 - BY_CHANCE, "{due}");
    assert_eq!(called(), vec![5; due]);
    assert!(more.iter().all(|weak| weak.upgrade(&heap).unwrap().value() == 6));
}

#[test]
fn a_finalizer_that_panics_leaves_the_others() {
    let heap = heap(Config::new(Tracker::Mprotect).capacity(4 << 20).checked());
    #[inline(never)]
    fn make(heap: &Heap) {
        for value in 0..60 {
            heap.add_finalizer(node(heap, value, None), |_, node| {
                note(node.value());
                assert!(!node.value().is_multiple_of(10), "a tenth");
            });
        }
    }
    make(&heap);
    scrub();
    heap.collect(Collection::Young);
    let due = heap.due_finalizers();
    let mut panics = 0;
    while heap.due_finalizers() > 0 {
        panics += usize::from(catch_unwind(AssertUnwindSafe(|| heap.run_finalizers())).is_err());
    }
    assert!((1..=6).contains(&panics), "{panics}");
    let mut called = called();
    assert_eq!(called.len(), due);
    called.dedup();
    assert_eq!(called.len(), due);
    assert!(due >= 60 - BY_CHANCE);
}
