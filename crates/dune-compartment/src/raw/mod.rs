//! The crate's unsafe code.

pub(crate) mod code;
pub(crate) mod entry;
mod memory_functions;
pub(crate) mod run;
mod slice;
