//! All of the crate's unsafe code: mappings, the state of the process, the jump.

#![expect(unsafe_code, reason = "the crate replaces the program of its own process")]

mod executable;
pub(crate) mod execution;
pub(crate) mod heap;
pub(crate) mod jump;
mod launch;
pub(crate) mod layout;
pub(crate) mod mapping;
pub(crate) mod state;
