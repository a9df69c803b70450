//! The collector frees nothing that is in use, in whichever way it knows of writes.

use std::cell::Cell;
use std::hint::black_box;
use std::panic;

use dune::memory::{PageRange, VirtAddr};
use dune_gc::{Collection, Config, Gc, Heap, Trace, Tracker, Weak};

use crate::case::{Case, CaseResult};
use crate::probe;

pub const CASES: &[Case] = &[
    Case::new("collector::writes_to_old_objects_are_known", writes_to_old_objects),
    Case::new("collector::linux_trackers_in_dune_mode", linux_trackers),
    Case::new("collector::at_every_allocation", at_every_allocation),
    Case::new("collector::what_linux_writes_counts", what_linux_writes),
    Case::new("collector::a_mark_that_is_cleared_is_a_write_missed", cleared_marks),
    Case::new("collector::a_child_goes_on_with_the_heap", in_a_child),
    Case::new("collector::heaps_come_and_go", heaps_come_and_go),
    Case::new("collector::heaps_beside_each_other", heaps_beside_each_other),
    Case::new("collector::weak_references_and_finalizers", weak_references_and_finalizers),
];

const OF_DUNE: [Tracker; 3] = [Tracker::DuneDirty, Tracker::DuneTraps, Tracker::DuneTrapsInvlpg];

#[derive(Trace)]
struct Node<'h> {
    value: u64,
    next: Cell<Option<Gc<'h, Node<'h>>>>,
}

type Link<'h> = Cell<Option<Gc<'h, Node<'h>>>>;

fn node<'h>(heap: &'h Heap, value: u64, next: Option<Gc<'h, Node<'h>>>) -> Gc<'h, Node<'h>> {
    heap.alloc(Node { value, next: Cell::new(next) })
}

fn heap(config: Config) -> Result<Heap, Box<dyn std::error::Error>> {
    // SAFETY: the cases keep objects on the stack and in objects, but where they say, and leave the heap's pages alone.
    Ok(unsafe { Heap::new(config.capacity(8 << 20)) }?)
}

/// Overwrites what calls have left of the stack below.
#[inline(never)]
fn scrub() {
    black_box([0usize; 4096]);
}

fn sum(mut at: Option<Gc<'_, Node<'_>>>) -> u64 {
    let mut sum = 0;
    while let Some(node) = at {
        sum += node.value;
        at = node.next.get();
    }
    sum
}

const COUNT: usize = 3000;
const TURNS: u64 = 40;

/// An old table of old objects, over some dozens of pages.
fn table(heap: &Heap) -> Gc<'_, [Link<'_>]> {
    let table = heap.alloc_slice(COUNT, |index| Cell::new(Some(node(heap, index as u64, None))));
    heap.collect(Collection::Full);
    table
}

/// Has old objects lead to new ones, to which nothing else leads.
#[inline(never)]
fn write_to<'h>(heap: &'h Heap, table: Gc<'h, [Link<'h>]>, random: &mut u64, value: u64) {
    for _ in 0..TURNS {
        *random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let place = &table[(*random >> 33) as usize % COUNT];
        if *random & 1 << 20 == 0 {
            place.set(Some(node(heap, value, place.get())));
        } else if let Some(first) = place.get() {
            first.next.set(Some(node(heap, value, first.next.get())));
        }
    }
}

/// Collects `rounds` times after such writes; whether everything is there then.
fn rounds(heap: &Heap, rounds: u64) -> CaseResult {
    let (table, mut random) = (table(heap), 7);
    for round in 0..rounds {
        write_to(heap, table, &mut random, round);
        scrub();
        heap.collect(Collection::Young);
    }
    let all: u64 = table.iter().map(|place| sum(place.get())).sum();
    assert_eq!(all, (0..COUNT as u64).sum::<u64>() + (0..rounds).sum::<u64>() * TURNS);
    Ok(())
}

fn writes_to_old_objects() -> CaseResult {
    dune::enter()?;
    for tracker in OF_DUNE {
        let heap = heap(Config::new(tracker).checked())?;
        rounds(&heap, 15)?;
        let stats = heap.stats();
        assert_eq!(stats.young_collections, 15, "{tracker}: {stats:?}");
        assert!(stats.written_pages > 15 * 10 && stats.written_pages < 15 * 45, "{tracker}: {stats:?}");
    }
    Ok(())
}

fn linux_trackers() -> CaseResult {
    let mut heaps = Vec::new();
    for tracker in Tracker::ALL {
        if !tracker.needs_dune_mode() {
            match heap(Config::new(tracker).checked()) {
                Ok(heap) => heaps.push(heap),
                // Not every kernel has all.
                Err(error) if tracker != Tracker::None && tracker != Tracker::Mprotect => println!("{error}"),
                Err(error) => return Err(error),
            }
        }
    }
    heaps.iter().try_for_each(|heap| rounds(heap, 3))?;
    dune::enter()?;
    heaps.iter().try_for_each(|heap| rounds(heap, 3))?;
    for heap in &heaps {
        let (tracker, stats) = (heap.tracker(), heap.stats());
        assert!(tracker == Tracker::None || stats.young_collections == 6, "{tracker}: {stats:?}");
    }
    Ok(())
}

fn at_every_allocation() -> CaseResult {
    dune::enter()?;
    for tracker in OF_DUNE {
        let heap = heap(Config::new(tracker).stressed())?;
        let roots: Vec<_> = (0..5).map(|value| heap.root(node(&heap, value, None))).collect();
        for value in 0..60u64 {
            let root = &roots[value as usize % 5];
            root.next.set(Some(node(&heap, value, root.next.get())));
        }
        assert_eq!(
            roots.iter().map(|root| sum(Some(root.get()))).sum::<u64>(),
            10 + 59 * 60 / 2,
            "{tracker}"
        );
        assert!(heap.stats().young_collections >= 60, "{tracker}: {:?}", heap.stats());
    }
    Ok(())
}

/// An old object comes to lead to a new one by a read(2), and by nothing else.
fn what_linux_writes() -> CaseResult {
    dune::enter()?;
    let heap = heap(Config::new(Tracker::DuneDirty).checked())?;
    let old = node(&heap, 1, None);
    heap.collect(Collection::Young);
    heap.collect(Collection::Young);
    let mut ends = [0; 2];
    // SAFETY: writes two numbers.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    #[inline(never)]
    fn send(heap: &Heap, end: i32) {
        let new = Some(node(heap, 2, None));
        // SAFETY: reads the pointer.
        assert_eq!(unsafe { libc::write(end, (&raw const new).cast(), size_of_val(&new)) }, 8);
    }
    send(&heap, ends[1]);
    // SAFETY: what comes is a pointer of this type. Nothing is collected before it is in the object.
    assert_eq!(unsafe { libc::read(ends[0], old.next.as_ptr().cast(), 8) }, 8);
    scrub();
    heap.collect(Collection::Young);
    // Others would come where it was.
    for _ in 0..100 {
        node(&heap, 99, None);
    }
    assert_eq!(sum(Some(old)), 3);
    assert!(heap.stats().written_pages > 0);
    Ok(())
}

/// That the marks are what the collector knows writes by, and that the checker sees one that is missed.
fn cleared_marks() -> CaseResult {
    let dune = dune::enter()?;
    let heap = heap(Config::new(Tracker::DuneDirty).checked())?;
    let (table, mut random) = (table(&heap), 7);
    write_to(&heap, table, &mut random, 1);
    let range = PageRange::covering(VirtAddr::from_ptr(&*table), 1 << 20)?;
    dune.page_tables()?.harvest_dirty(range, |_, _| ()).now(dune);
    scrub();
    let collected = panic::catch_unwind(panic::AssertUnwindSafe(|| heap.collect(Collection::Young)));
    let message = collected.expect_err("the collector has not needed the marks");
    let message = message.downcast_ref::<String>().cloned().unwrap_or_default();
    // Its objects are in no state to be dropped; there is nothing to drop in them.
    std::mem::forget(heap);
    if message.contains("its write was missed") { Ok(()) } else { probe::fail(message) }
}

fn in_a_child() -> CaseResult {
    dune::enter()?;
    for tracker in [
        Tracker::DuneDirty,
        Tracker::DuneTrapsInvlpg,
        Tracker::Mprotect,
        Tracker::PageScan,
        Tracker::Userfaultfd,
        Tracker::SoftDirty,
    ] {
        let heap = match heap(Config::new(tracker).checked()) {
            Ok(heap) => heap,
            // Not every kernel has all.
            Err(_) if !tracker.needs_dune_mode() && tracker != Tracker::Mprotect => continue,
            Err(error) => return Err(error),
        };
        let (table, mut random) = (table(&heap), 7);
        write_to(&heap, table, &mut random, 1);
        let before: u64 = table.iter().map(|place| sum(place.get())).sum();
        // SAFETY: one thread. The child goes on as the parent does.
        let child = unsafe { libc::fork() };
        for _ in 0..3 {
            write_to(&heap, table, &mut random, 1);
            scrub();
            heap.collect(Collection::Young);
        }
        let after: u64 = table.iter().map(|place| sum(place.get())).sum();
        assert_eq!(after, before + 3 * TURNS, "{tracker}");
        if child == 0 {
            std::process::exit(0);
        }
        let mut status = 0;
        // SAFETY: writes a number.
        unsafe { libc::waitpid(child, &mut status, 0) };
        assert_eq!(status, 0, "{tracker}: the child's end");
    }
    Ok(())
}

fn heaps_come_and_go() -> CaseResult {
    dune::enter()?;
    for _ in 0..5 {
        for tracker in OF_DUNE {
            let (one, two) = (heap(Config::new(tracker).checked())?, heap(Config::new(tracker).checked())?);
            let kept = node(&one, 1, None);
            node(&two, 2, Some(node(&two, 3, None)));
            one.collect(Collection::Young);
            drop(two);
            kept.next.set(Some(node(&one, 4, None)));
            one.collect(Collection::Young);
            assert_eq!(sum(Some(kept)), 5);
        }
    }
    Ok(())
}

/// Of two heaps that know writes in the same way neither makes the other miss some.
fn heaps_beside_each_other() -> CaseResult {
    dune::enter()?;
    let mut tried = 0;
    for tracker in Tracker::ALL {
        let (one, two) = match (heap(Config::new(tracker).checked()), heap(Config::new(tracker).checked())) {
            (Ok(one), Ok(two)) => (one, two),
            // Not every kernel has all.
            (Err(_), _) if !tracker.needs_dune_mode() && tracker != Tracker::Mprotect => continue,
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        let (tables, mut random) = ([table(&one), table(&two)], 7);
        for round in 0..2 {
            for (table, [heap, other]) in tables.iter().zip([[&one, &two], [&two, &one]]) {
                write_to(heap, *table, &mut random, round);
                scrub();
                other.collect(Collection::Young);
                heap.collect(Collection::Young);
            }
        }
        let all: u64 = tables.iter().flat_map(|table| table.iter().map(|place| sum(place.get()))).sum();
        assert_eq!(all, 2 * ((0..COUNT as u64).sum::<u64>() + TURNS), "{tracker}");
        let young = one.stats().young_collections;
        let is_shared = matches!(tracker, Tracker::None | Tracker::SoftDirty);
        assert!(is_shared || young >= 3, "{tracker}: {young}");
        tried += 1;
    }
    println!("{tried} trackers");
    if tried >= 5 { Ok(()) } else { probe::fail(format!("only {tried} trackers")) }
}

/// Weak references and finalizers in objects that are old, and written to.
fn weak_references_and_finalizers() -> CaseResult {
    dune::enter()?;
    const COUNT: usize = 200;
    /// Words on the stack that happen to be addresses may keep so many.
    const BY_CHANCE: usize = 8;
    type Weaks<'h> = Gc<'h, [Cell<Option<Weak<'h, Node<'h>>>>]>;
    #[inline(never)]
    fn make<'h>(heap: &'h Heap, kept: Gc<'h, [Link<'h>]>, weak: Weaks<'h>) {
        for (place, weak) in weak.iter().enumerate() {
            let object = node(heap, place as u64, None);
            weak.set(Some(heap.downgrade(object)));
            if place % 2 == 0 {
                kept[place].set(Some(object));
            } else {
                heap.add_finalizer(node(heap, 1, Some(object)), |heap, gone| {
                    gone.next.set(Some(node(heap, 1, gone.next.get())));
                });
            }
        }
    }
    for tracker in OF_DUNE {
        let heap = heap(Config::new(tracker).checked())?;
        let kept = heap.alloc_slice(COUNT, |_| Cell::new(None));
        let weak: Weaks<'_> = heap.alloc_slice(COUNT, |_| Cell::new(None));
        heap.collect(Collection::Full);
        make(&heap, kept, weak);
        scrub();
        heap.collect(Collection::Young);
        let upgraded = |odd: usize| {
            let all = weak.iter().skip(odd).step_by(2).filter_map(Cell::get);
            all.filter_map(|weak| weak.upgrade(&heap)).map(|node| node.value as usize % 2).collect::<Vec<_>>()
        };
        assert_eq!(upgraded(0), vec![0; COUNT / 2], "{tracker}: what is kept is there");
        assert!(upgraded(1).len() <= BY_CHANCE, "{tracker}: {}", upgraded(1).len());
        let due = heap.run_finalizers();
        assert!(due >= COUNT / 2 - BY_CHANCE, "{tracker}: {due}");
        // Old ones die in a full collection.
        kept.iter().for_each(|place| place.set(None));
        scrub();
        heap.collect(Collection::Full);
        assert!(upgraded(0).len() <= BY_CHANCE, "{tracker}: {}", upgraded(0).len());
    }
    Ok(())
}
