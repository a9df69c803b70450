//! What ring 0 and the host side agree on: the thread block, requests, signals on their way, what the program wants.

pub(crate) mod actions;
pub(crate) mod alternate_stack;
pub(crate) mod block;
pub(crate) mod config;
pub(crate) mod launcher;
pub(crate) mod repeated;
pub(crate) mod request;
pub(crate) mod signal_frame;
pub(crate) mod signal_queue;
pub(crate) mod thread_counters;
pub(crate) mod trap_table;
