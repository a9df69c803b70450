//! What of the engine's can go wrong.

use thiserror::Error;

use crate::linux::sys::Errno;

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
