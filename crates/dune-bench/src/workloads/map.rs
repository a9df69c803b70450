//! A hash map with chains, from numbers to boxed numbers: entries come, go, and get other values.

use std::cell::Cell;
use std::collections::HashMap;

use dune_gc::{Gc, Heap, Trace};

const BUCKETS: usize = 1 << 13;
/// Keys that there can be.
const KEYS: u64 = 1 << 15;
const TURNS: u32 = 400_000;

type Link<'h> = Cell<Option<Gc<'h, Entry<'h>>>>;

#[derive(Trace)]
struct Entry<'h> {
    key: u64,
    value: Cell<Gc<'h, u64>>,
    next: Link<'h>,
}

/// What is asked of a map.
trait Map {
    fn get(&mut self, key: u64) -> u64;
    fn insert(&mut self, key: u64, value: u64);
    fn remove(&mut self, key: u64);
}

struct Chained<'h> {
    heap: &'h Heap,
    buckets: Gc<'h, [Link<'h>]>,
}

impl<'h> Chained<'h> {
    fn bucket(&self, key: u64) -> &Link<'h> {
        let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.buckets[(hash >> 40) as usize % BUCKETS]
    }

    fn find(&self, key: u64) -> Option<Gc<'h, Entry<'h>>> {
        let mut at = self.bucket(key).get();
        while let Some(entry) = at
            && entry.key != key
        {
            at = entry.next.get();
        }
        at
    }
}

impl Map for Chained<'_> {
    fn get(&mut self, key: u64) -> u64 {
        self.find(key).map_or(0, |entry| *entry.value.get())
    }

    fn insert(&mut self, key: u64, value: u64) {
        let value = self.heap.alloc(value);
        if let Some(entry) = self.find(key) {
            return entry.value.set(value);
        }
        let next = Cell::new(self.bucket(key).get());
        let entry = self.heap.alloc(Entry { key, value: Cell::new(value), next });
        self.bucket(key).set(Some(entry));
    }

    fn remove(&mut self, key: u64) {
        let mut before: Option<Gc<'_, Entry<'_>>> = None;
        let mut at = self.bucket(key).get();
        while let Some(entry) = at {
            if entry.key == key {
                let link = before.as_deref().map_or(self.bucket(key), |before| &before.next);
                return link.set(entry.next.get());
            }
            (before, at) = (at, entry.next.get());
        }
    }
}

impl Map for HashMap<u64, u64> {
    fn get(&mut self, key: u64) -> u64 {
        HashMap::get(self, &key).copied().unwrap_or(0)
    }

    fn insert(&mut self, key: u64, value: u64) {
        HashMap::insert(self, key, value);
    }

    fn remove(&mut self, key: u64) {
        HashMap::remove(self, &key);
    }
}

/// Half of the turns set keys, an eighth removes them, and the rest looks them up.
fn work(map: &mut impl Map) -> u64 {
    let (mut random, mut sum) = (0x2545_f491_4f6c_dd1du64, 0u64);
    for turn in 0..TURNS {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let key = (random >> 8) % KEYS;
        match random & 7 {
            0..4 => map.insert(key, turn.into()),
            4 => map.remove(key),
            _ => sum = sum.wrapping_mul(31).wrapping_add(map.get(key)),
        }
    }
    sum
}

pub(super) fn run(heap: &Heap) -> u64 {
    let buckets = heap.alloc_slice(BUCKETS, |_| Cell::new(None));
    work(&mut Chained { heap, buckets })
}

pub(super) fn expected() -> u64 {
    work(&mut HashMap::new())
}
