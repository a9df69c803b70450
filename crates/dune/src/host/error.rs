//! What can go wrong with entering, with the numbers and the remedy.

use thiserror::Error;

use crate::doctor::DoctorError;
use crate::engine::error::EngineError;
use crate::linux::mapped::OutOfMemory;
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
    /// Another process, whose memory this one shares, has a machine around it.
    #[error(
        "this process shares its memory with another one that is in Dune mode (clone with CLONE_VM); enter in a process with memory of its own"
    )]
    SharedMemory,
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

impl From<OutOfMemory> for EnterError {
    fn from(OutOfMemory { what, bytes, errno }: OutOfMemory) -> EnterError {
        EnterError::OutOfMemory { what, bytes, errno }
    }
}
