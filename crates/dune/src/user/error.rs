//! What can go wrong on the way to ring 3.

use thiserror::Error;

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
