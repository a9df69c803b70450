//! What can go wrong on the way to ring 3.

use thiserror::Error;

use crate::linux::sys::Errno;

/// Why ring 3 was not entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UserError {
    /// A thread can not have more time limits at once.
    #[error("this thread has {most} time limits already; drop one, or share one between the runs")]
    TooManyLimits {
        /// How many it can have.
        most: usize,
    },
    /// Linux gave no timer for a time limit.
    #[error("Linux has no timer for the time limit: {errno}; raise RLIMIT_SIGPENDING")]
    NoTimer {
        /// What Linux said.
        errno: Errno,
    },
    /// The thread is in an [`AddressSpace`](crate::memory::AddressSpace).
    #[error(
        "this thread is in an address space that is not the process's own: drop its ActiveSpace, and run ring 3 in a UserSpace then"
    )]
    InAnotherSpace,
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
