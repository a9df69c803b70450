//! The crate's unsafe code.

pub(crate) mod c_library;
pub(crate) mod code;
pub(crate) mod entry;
mod memory_functions;
pub(crate) mod run;
mod slice;
pub(crate) mod thread_block;
