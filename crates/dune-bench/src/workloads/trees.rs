//! GCBench (John Ellis, Pete Kovac, Hans Boehm), with trees that are four levels lower.

use std::cell::Cell;

use dune_gc::{Gc, Heap, Trace};

const STRETCH: u32 = 14;
const LONG_LIVED: u32 = 12;
const ARRAY: usize = 32_000;
const LEAST: u32 = 4;
const MOST: u32 = 12;

type Link<'h> = Cell<Option<Gc<'h, Node<'h>>>>;

#[derive(Trace)]
struct Node<'h> {
    left: Link<'h>,
    right: Link<'h>,
    _numbers: [u32; 2],
}

fn node<'h>(
    heap: &'h Heap,
    left: Option<Gc<'h, Node<'h>>>,
    right: Option<Gc<'h, Node<'h>>>,
) -> Gc<'h, Node<'h>> {
    heap.alloc(Node { left: Cell::new(left), right: Cell::new(right), _numbers: [0; 2] })
}

/// Nodes of a tree of `depth`.
const fn size(depth: u32) -> u64 {
    (1 << (depth + 1)) - 1
}

/// Builds downwards: writes to nodes that are there.
fn populate<'h>(heap: &'h Heap, depth: u32, of: Gc<'h, Node<'h>>) {
    if depth == 0 {
        return;
    }
    let (left, right) = (node(heap, None, None), node(heap, None, None));
    of.left.set(Some(left));
    of.right.set(Some(right));
    populate(heap, depth - 1, left);
    populate(heap, depth - 1, right);
}

/// Builds upwards: writes to new nodes alone.
fn make<'h>(heap: &'h Heap, depth: u32) -> Gc<'h, Node<'h>> {
    if depth == 0 {
        return node(heap, None, None);
    }
    let left = make(heap, depth - 1);
    let right = make(heap, depth - 1);
    node(heap, Some(left), Some(right))
}

fn count(of: Option<Gc<'_, Node<'_>>>) -> u64 {
    of.map_or(0, |node| 1 + count(node.left.get()) + count(node.right.get()))
}

/// How many trees of `depth` are built in each way.
const fn trees(depth: u32) -> u64 {
    2 * size(STRETCH) / size(depth)
}

pub(super) fn run(heap: &Heap) -> u64 {
    let mut sum = count(Some(make(heap, STRETCH)));
    let long_lived = node(heap, None, None);
    populate(heap, LONG_LIVED, long_lived);
    let array = heap.alloc_slice(ARRAY, |index| 1.0 / (index + 1) as f64);
    for depth in (LEAST..=MOST).step_by(2) {
        for _ in 0..trees(depth) {
            let down = node(heap, None, None);
            populate(heap, depth, down);
            sum += count(Some(down));
        }
        for _ in 0..trees(depth) {
            sum += count(Some(make(heap, depth)));
        }
    }
    sum + count(Some(long_lived)) + (1.0 / array[1000]).round() as u64
}

pub(super) fn expected() -> u64 {
    let depths = (LEAST..=MOST).step_by(2);
    let built: u64 = depths.map(|depth| 2 * trees(depth) * size(depth)).sum();
    size(STRETCH) + built + size(LONG_LIVED) + 1001
}
