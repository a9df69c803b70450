//! What ring 0 refuses, with the numbers and the remedy.

use thiserror::Error;

use crate::arch::vector::Vector;

/// Why a handler or an interrupt was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HandlerError {
    /// There are 256 vectors.
    #[error("vector {number} is out of range; vectors go from 0 to 255")]
    OutOfRange {
        /// What was asked for.
        number: u16,
    },
    /// Part of the range has a handler.
    #[error(
        "the range {start:#x}..{end:#x} has a handler already; clear it, or set yours for addresses beside it"
    )]
    RangeTaken {
        /// Where the range that has one starts.
        start: u64,
        /// Where it ends.
        end: u64,
    },
    /// The table of ranges is full.
    #[error("{most} ranges have handlers, more there can not be; let neighbours share one, or clear some")]
    TooManyRanges {
        /// How many there can be.
        most: usize,
    },
    /// No handler was set for this range.
    #[error("there is no handler for {start:#x}..{end:#x}; clear ranges as they were set, not parts of them")]
    NoSuchRange {
        /// Where the range starts.
        start: u64,
        /// Where it ends.
        end: u64,
    },
    /// The table of ranges is being changed.
    #[error(transparent)]
    Busy(#[from] crate::lock::Busy),
    /// The vector belongs to an exception.
    #[error("vector {vector} belongs to an exception; raise interrupts with vectors from 32 to 255")]
    VectorReserved {
        /// What was asked for.
        vector: Vector,
    },
}

/// Why a descriptor or a table of them was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// No free entry.
    #[error("all {entries} entries of the GDT are taken; put further descriptors into an LDT (load_ldt)")]
    TableFull {
        /// Entries of the table.
        entries: usize,
    },
    /// A gate, TSS or LDT descriptor.
    #[error("descriptor {descriptor:#018x} is a system descriptor; only code and data segments can be added")]
    SystemDescriptor {
        /// The descriptor.
        descriptor: u64,
    },
    /// More entries than a selector can name.
    #[error("an LDT of {entries} entries is too long; a selector can name 8,192")]
    TooLong {
        /// Entries of the table.
        entries: usize,
    },
}

/// Why [`leave`](crate::leave) did not leave. The thread is in the mode that it was in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LeaveError {
    /// There is nothing to leave.
    #[error("this thread is not in Dune mode; only call dune::leave() after dune::enter()")]
    NotInDuneMode,
    /// In a trap handler, or between `set_interrupts(false)` and `set_interrupts(true)`.
    #[error("interrupts are off; call dune::leave() outside of trap handlers, with interrupts on")]
    InterruptsOff,
    /// The thread has entered an address space of its own making.
    #[error("another address space is active; call dune::leave() in the one that the process had")]
    OtherAddressSpace,
}
