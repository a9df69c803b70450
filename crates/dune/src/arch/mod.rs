//! What the CPU defines: registers, frames, vectors, descriptors, pages. Knows nothing of Linux or of the engine.

pub(crate) mod atomic;
pub mod cpu;
pub(crate) mod descriptors;
pub(crate) mod frame;
pub(crate) mod instruction;
pub(crate) mod page;
pub(crate) mod registers;
pub(crate) mod state;
pub(crate) mod thread_words;
pub(crate) mod token;
pub(crate) mod user_context;
pub(crate) mod vector;
