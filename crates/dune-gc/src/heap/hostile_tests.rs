//! What a hostile user tries: destructors that panic, heaps that are mixed, ends of slices.

use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::tests::{Node, heap, node, scrub, sum, trackers};
use super::*;

/// Panics when it is dropped. It has blocks of its own, behind those of small objects: they are swept first.
struct Mine([u8; 40_000]);

impl Drop for Mine {
    fn drop(&mut self) {
        assert_eq!(self.0[7], 0);
        panic!("a mine");
    }
}

// SAFETY: 1. and 2. it has no edges; 3. its drop knows nothing of the heap; 4. so it is.
unsafe impl Trace for Mine {
    const HAS_EDGES: bool = false;

    fn trace(&self, _: &mut crate::Tracer<'_>) {}
}

type Table<'h> = Gc<'h, [std::cell::Cell<Option<Gc<'h, Node<'h>>>>]>;

#[inline(never)]
fn lay_mine(heap: &Heap) {
    heap.alloc(Mine([0; 40_000]));
}

#[inline(never)]
fn add_to<'h>(heap: &'h Heap, table: Table<'h>, value: u64) {
    for place in table.iter().step_by(7) {
        place.set(Some(node(heap, value, place.get())));
    }
}

#[inline(never)]
fn table(heap: &Heap) -> Table<'_> {
    heap.alloc_slice(500, |index| std::cell::Cell::new(Some(node(heap, index as u64, None))))
}

/// Collects, which may end with a mine; whether it does.
fn collect_on_mines(heap: &Heap) -> bool {
    let collected = catch_unwind(AssertUnwindSafe(|| heap.collect(Collection::Young)));
    collected.is_err_and(|panic| {
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"a mine"), "the checker's, perhaps");
        true
    })
}

/// Objects that the broken collection has marked, and not come to sweep, are written to afterwards.
#[test]
fn a_destructor_that_panics_loses_no_object() {
    for tracker in trackers() {
        let heap = heap(Config::new(tracker).capacity(8 << 20).checked());
        heap.collect(Collection::Full);
        let mut panics = 0;
        for round in 0..10 {
            let table = table(&heap);
            lay_mine(&heap);
            scrub();
            panics += u32::from(collect_on_mines(&heap));
            add_to(&heap, table, round);
            scrub();
            panics += u32::from(collect_on_mines(&heap));
            let all: u64 = table.iter().map(|place| sum(place.get())).sum();
            assert_eq!(all, (0..500).sum::<u64>() + round * 500u64.div_ceil(7), "{tracker}");
        }
        assert!(panics >= 5, "{tracker}: {panics}");
        heap.check().unwrap();
        // What a word on the stack has kept must not end the test.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(heap)));
    }
}

#[test]
#[should_panic(expected = "another heap")]
fn a_root_is_of_its_own_heap() {
    let one = heap(Config::new(Tracker::None).capacity(1 << 20));
    let two = heap(Config::new(Tracker::None).capacity(1 << 20));
    let object = one.alloc(1u8);
    two.root(object);
}

/// Of two heaps that know writes in the same way neither makes the other miss some.
#[test]
fn heaps_beside_each_other_miss_nothing() {
    for tracker in trackers() {
        let heaps = [(); 2].map(|()| heap(Config::new(tracker).capacity(8 << 20).checked()));
        let tables = heaps.each_ref().map(|heap| {
            let table =
                heap.alloc_slice(500, |index| std::cell::Cell::new(Some(node(heap, index as u64, None))));
            heap.collect(Collection::Full);
            table
        });
        for round in 0..10 {
            // One is written to before the other collects, and collects afterwards.
            for (one, other) in [(0, 1), (1, 0)] {
                add_to(&heaps[one], tables[one], round);
                scrub();
                heaps[other].collect(Collection::Young);
                heaps[one].collect(Collection::Young);
            }
        }
        for table in tables {
            let all: u64 = table.iter().map(|place| sum(place.get())).sum();
            assert_eq!(all, (0..500).sum::<u64>() + 45 * 500u64.div_ceil(7), "{tracker}");
        }
    }
}

/// A word that is the end of a slice, and nothing else, keeps it.
#[test]
fn the_end_of_a_slice_keeps_it() {
    const BYTES: usize = 112;
    let heap = heap(Config::new(Tracker::None).capacity(1 << 20));
    #[inline(never)]
    fn ends(heap: &Heap) -> Vec<usize> {
        // With its header a whole cell each.
        (0..20).map(|_| heap.alloc_slice(BYTES, |_| 7u8).as_ptr_range().end as usize ^ usize::MAX).collect()
    }
    let hidden = ends(&heap);
    scrub();
    let end = black_box(hidden[13] ^ usize::MAX);
    let place = black_box(&end);
    heap.collect(Collection::Full);
    let is_there = |end: usize| heap.inner.borrow().blocks.object_at(end - 1).is_some();
    assert!(is_there(*place));
    let kept = hidden.iter().filter(|&end| is_there(end ^ usize::MAX)).count();
    assert!(kept < 10, "{kept} of 20 are there");
}

#[test]
fn more_than_there_can_be_is_an_error() {
    // SAFETY: there will be no objects.
    let error = unsafe { Heap::new(Config::new(Tracker::None).capacity(usize::MAX)) }.unwrap_err();
    assert!(matches!(error, HeapError::NoMemory { .. }), "{error}");
    let heap = heap(Config::new(Tracker::None).capacity(1 << 20).young_bytes(usize::MAX));
    heap.collect(Collection::Full);
    assert_eq!(*heap.alloc(5u8), 5);
}

/// Types of no size, many of them, and of the most that a cell's alignment allows.
#[test]
fn sizes_and_alignments_at_their_ends() {
    #[derive(crate::Trace, Clone, Copy, PartialEq, Debug)]
    #[repr(align(16))]
    struct Aligned(u8);
    let heap = heap(Config::new(Tracker::Mprotect).capacity(8 << 20).stressed());
    let nothing = heap.alloc_slice(1000, |_| ());
    assert_eq!(nothing.len(), 1000);
    for count in [0, 1, 3, 100, 5000] {
        let slice = heap.alloc_slice(count, |index| Aligned(index as u8));
        assert!(slice.as_ptr().is_aligned());
        assert!(slice.iter().enumerate().all(|(index, value)| *value == Aligned(index as u8)));
    }
}
