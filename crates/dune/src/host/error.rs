//! What can go wrong, with the numbers and the remedy.

use thiserror::Error;

use crate::arch::vector::Vector;
use crate::doctor::DoctorError;
use crate::linux::sys::Errno;
use crate::memory::MemoryError;

/// Why [`enter`](crate::enter) did not enter. The process is as it was before, in host mode.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EnterError {
    /// The thread runs in Dune mode already.
    #[error("this thread is in Dune mode already; call dune::enter() once and pass the token on")]
    AlreadyInDuneMode,
    /// This computer can not run Dune mode.
    #[error(transparent)]
    Host(#[from] DoctorError),
    /// The address space could not be set up.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Linux gave no memory.
    #[error(
        "no {bytes} bytes of address space for {what}: {errno}; raise RLIMIT_AS (ulimit -v) or free memory"
    )]
    OutOfMemory {
        /// What it was for.
        what: &'static str,
        /// How many bytes.
        bytes: u64,
        /// Why not.
        errno: Errno,
    },
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The CPU did not start Dune mode.
    #[error("the CPU did not enter Dune mode ({exit}); run `dune doctor` and report its output")]
    Refused {
        /// What the engine said instead.
        exit: String,
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

/// An operation of the engine that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the engine's {operation} failed: {errno}; run `dune doctor` to see what this computer lacks")]
pub struct EngineError {
    /// The operation, in the engine's words.
    pub operation: &'static str,
    /// Linux's error number.
    pub errno: Errno,
}

impl From<EngineError> for Errno {
    fn from(error: EngineError) -> Errno {
        error.errno
    }
}

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
    /// The vector belongs to an exception.
    #[error("vector {vector} belongs to an exception; raise interrupts with vectors from 32 to 255")]
    VectorReserved {
        /// What was asked for.
        vector: Vector,
    },
}

/// Why ring 3 was not entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UserError {
    /// An instruction pointer that would fault in ring 0.
    #[error("rip = {rip:#x} is not an address below 2^47; set it to the address of ring-3 code")]
    NotCanonical {
        /// The instruction pointer.
        rip: u64,
    },
    /// The CPU lacks the instruction.
    #[error(
        "{instruction} in 64-bit code is not supported by this CPU ({cpu}); use ReturnBy::Sysret or ReturnBy::Iret"
    )]
    Unsupported {
        /// The instruction.
        instruction: &'static str,
        /// The CPU's vendor.
        cpu: &'static str,
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

/// Why a new mapping got no window.
#[derive(Debug, Error)]
pub(crate) enum GrowError {
    #[error(transparent)]
    Plan(#[from] crate::memory::PlanError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl From<GrowError> for EnterError {
    fn from(error: GrowError) -> EnterError {
        match error {
            GrowError::Plan(error) => EnterError::Memory(error.into()),
            GrowError::Engine(error) => EnterError::Engine(error),
            GrowError::Memory(error) => EnterError::Memory(error),
        }
    }
}
