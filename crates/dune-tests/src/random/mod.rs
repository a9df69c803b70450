//! Random sequences of memory calls, accesses and forks, the same in host mode and in Dune mode.
//!
//! A [`Lane`](lane::Lane) is a thread with address ranges, a file and a generator of its own. What it does depends on the
//! seed and on what it has seen, never on the mode; what it sees is written down step by step ([`record`]). Host mode is the
//! model: it runs first, in a child, and Dune mode is compared with it. In Dune mode the page tables are compared with Linux's
//! mappings besides ([`tables`]).

pub mod access;
pub mod arena;
pub mod children;
pub mod generator;
pub mod lane;
pub mod record;
pub mod step;
pub mod tables;
