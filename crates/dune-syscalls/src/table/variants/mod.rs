//! The calls of which one argument chooses what the others are.

mod administration;
mod credential;
mod fcntl;
mod ioctl;
mod ipc;
mod network;
mod prctl;
mod process;

pub(super) use administration::*;
pub(super) use credential::*;
pub(super) use fcntl::*;
pub(super) use ioctl::*;
pub(super) use ipc::*;
pub(super) use network::*;
pub(super) use prctl::*;
pub(super) use process::*;
