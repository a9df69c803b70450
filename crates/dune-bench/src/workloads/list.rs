//! Lists of integers that grow at their ends, each longer than the one before, and their sums.

use std::cell::Cell;

use dune_gc::{Gc, Heap, Trace};

const LISTS: u64 = 50;
/// How much longer each is.
const STEP: u64 = 1000;

#[derive(Trace)]
struct Item<'h> {
    number: u64,
    next: Cell<Option<Gc<'h, Item<'h>>>>,
}

pub(super) fn run(heap: &Heap) -> u64 {
    (1..=LISTS).map(|list| sum(numbers(heap, list * STEP))).fold(0, u64::wrapping_add)
}

/// The list of the numbers below `count`.
fn numbers<'h>(heap: &'h Heap, count: u64) -> Gc<'h, Item<'h>> {
    let item = |number| heap.alloc(Item { number, next: Cell::new(None) });
    let first = item(0);
    let mut last = first;
    for number in 1..count {
        let next = item(number);
        last.next.set(Some(next));
        last = next;
    }
    first
}

fn sum(first: Gc<'_, Item<'_>>) -> u64 {
    let (mut sum, mut at) = (0, Some(first));
    while let Some(item) = at {
        sum += item.number;
        at = item.next.get();
    }
    sum
}

pub(super) fn expected() -> u64 {
    (1..=LISTS).map(|list| list * STEP * (list * STEP - 1) / 2).sum()
}
