//! What a heap can be told, and what it tells.

use crate::tracker::Tracker;

/// How a heap is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// How the collector is to know what has been written.
    pub tracker: Tracker,
    /// Bytes that the heap may have. Addresses are reserved, memory is used as it is needed.
    pub capacity: usize,
    /// Bytes for new objects from one collection to the next.
    pub young_bytes: usize,
    /// Every collection follows all edges once more, and panics if it finds one that the collector has missed.
    pub checked: bool,
    /// A collection at every allocation, for tests.
    pub at_every_allocation: bool,
}

impl Config {
    /// 1 GiB, a collection after each 2 MiB, and writes known by `tracker`.
    pub fn new(tracker: Tracker) -> Config {
        Config {
            tracker,
            capacity: 1 << 30,
            young_bytes: 2 << 20,
            checked: false,
            at_every_allocation: false,
        }
    }

    /// The same with another [`capacity`](Self::capacity).
    pub fn capacity(self, bytes: usize) -> Config {
        Config { capacity: bytes, ..self }
    }

    /// The same with other [`young_bytes`](Self::young_bytes).
    pub fn young_bytes(self, bytes: usize) -> Config {
        Config { young_bytes: bytes, ..self }
    }

    /// The same, [checked](Self::checked).
    pub fn checked(self) -> Config {
        Config { checked: true, ..self }
    }

    /// The same, checked, with a collection at every allocation.
    pub fn stressed(self) -> Config {
        Config { checked: true, at_every_allocation: true, ..self }
    }
}

/// What a collector has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Collections of the young objects.
    pub young_collections: u64,
    /// Collections of all objects.
    pub full_collections: u64,
    /// Those of the latter that were to be young, had the tracker known what was written.
    pub blind_collections: u64,
    /// Pages with old objects that had been written to when young collections began.
    pub written_pages: u64,
    /// Bytes for objects, with what their cells have to spare.
    pub allocated_bytes: u64,
    /// Bytes of cells that were in use after the last collection.
    pub old_bytes: usize,
    /// Bytes of blocks.
    pub heap_bytes: usize,
    /// Edges that the checker has followed.
    pub checked_edges: u64,
}
