//! Programs that allocate from a garbage collector: those of the paper's table of collectors (§6.3, table 6), smaller.

mod list;
mod map;
mod trees;

use dune_gc::{Config, Heap, HeapError, Stats, Tracker};

/// A program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Workload {
    /// GCBench by Ellis, Kovac and Boehm: binary trees, some of which live long, and an array.
    Trees,
    /// Integer lists, each longer than the one before, summed up.
    List,
    /// A hash map whose entries come, change and go.
    Map,
}

/// What a run of a program has to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Done {
    /// Of the results of the program.
    pub(crate) sum: u64,
    pub(crate) stats: Stats,
}

impl Workload {
    pub(crate) const ALL: [Workload; 3] = [Workload::Trees, Workload::List, Workload::Map];

    /// Bytes that the heap may have.
    const CAPACITY: usize = 32 << 20;

    /// Bytes for new objects from one collection to the next: 5 to 10 % of what is in use, as in the paper's GCBench (6 %) and XML (10 %).
    const YOUNG_BYTES: usize = 256 << 10;

    /// Runs the program in a heap of its own, which is made and given back meanwhile.
    pub(crate) fn run(self, tracker: Tracker) -> Result<Done, HeapError> {
        // SAFETY: 1. the programs keep objects on the stack and in objects; 2. and 3. nothing here touches rights or marks of pages meanwhile,
        // and handlers for SIGSEGV are set and taken back by rows, one after the other.
        let heap = unsafe {
            Heap::new(Config::new(tracker).capacity(Self::CAPACITY).young_bytes(Self::YOUNG_BYTES))?
        };
        let sum = match self {
            Workload::Trees => trees::run(&heap),
            Workload::List => list::run(&heap),
            Workload::Map => map::run(&heap),
        };
        Ok(Done { sum, stats: heap.stats() })
    }

    /// The sum that a run has to have: what the same program computes without a heap of the collector's.
    pub(crate) fn expected(self) -> u64 {
        match self {
            Workload::Trees => trees::expected(),
            Workload::List => list::expected(),
            Workload::Map => map::expected(),
        }
    }
}
