//! What ring 0 and the host side agree on: the thread block, requests, signals on their way.

pub(crate) mod block;
pub(crate) mod launcher;
pub(crate) mod request;
pub(crate) mod signal_frame;
pub(crate) mod signal_queue;
