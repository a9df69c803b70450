//! Programs that allocate from a garbage collector: those of the paper's table of collectors (§6.3, table 6), smaller.

mod list;
mod map;
mod trees;
mod xml;

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
    /// A generated XML file, parsed into a tree.
    Xml,
}

/// What a run of a program has to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Done {
    /// Of the results of the program.
    pub(crate) sum: u64,
    pub(crate) stats: Stats,
}

impl Workload {
    pub(crate) const ALL: [Workload; 4] = [Workload::Trees, Workload::List, Workload::Map, Workload::Xml];

    /// Bytes that the heap may have.
    const CAPACITY: usize = 32 << 20;

    /// Bytes of the XML file. The paper's has 150 MB.
    const FILE: usize = 2 << 20;

    /// Bytes for new objects from one collection to the next: 5 to 10 % of what is in use, as in the paper's GCBench (6 %) and XML (10 %).
    const YOUNG_BYTES: usize = 256 << 10;

    /// What the program reads.
    pub(crate) fn input(self) -> Vec<u8> {
        if self == Workload::Xml { xml::file(Self::FILE) } else { Vec::new() }
    }

    /// Runs the program on its input in a heap of its own, which is made and given back meanwhile.
    pub(crate) fn run(self, tracker: Tracker, input: &[u8]) -> Result<Done, HeapError> {
        // SAFETY: 1. the programs keep objects on the stack and in objects; 2. and 3. nothing here touches rights or marks of pages meanwhile,
        // and handlers for SIGSEGV are set and taken back by rows, one after the other.
        let heap = unsafe {
            Heap::new(Config::new(tracker).capacity(Self::CAPACITY).young_bytes(Self::YOUNG_BYTES))?
        };
        let sum = match self {
            Workload::Trees => trees::run(&heap),
            Workload::List => list::run(&heap),
            Workload::Map => map::run(&heap),
            Workload::Xml => xml::run(&heap, input),
        };
        Ok(Done { sum, stats: heap.stats() })
    }

    /// The sum that a run has to have: what the same program computes without a heap of the collector's.
    pub(crate) fn expected(self, input: &[u8]) -> u64 {
        match self {
            Workload::Trees => trees::expected(),
            Workload::List => list::expected(),
            Workload::Map => map::expected(),
            Workload::Xml => xml::expected(input),
        }
    }
}
