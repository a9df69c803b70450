//! Children, as ring 0 asks the host loop for them.

use super::signal_frame::SignalFrame;
use super::thread::Thread;
use crate::arch::registers::{Registers, VectorArea};

/// A thread that ring 0 wants prepared: its first act in Dune mode is to return from the system call that made it.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Preparation {
    /// The registers that it starts with.
    pub first: Registers,
    /// Its vector state.
    pub vector_area: VectorArea,
    /// Its FS base.
    pub fs_base: u64,
    /// It is a process of its own that shares its parent's memory, while the parent waits.
    pub is_vfork_child: bool,
    /// It has a copy of its parent's table of descriptors, instead of sharing it.
    pub copies_descriptors: bool,
}

/// What child the host loop is asked to make.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Birth {
    /// The system call to make, without a stack for the child: it starts on the host loop's.
    pub number: u64,
    /// Its arguments.
    pub arguments: [u64; 6],
    /// What becomes of the child.
    pub child: Child,
}

/// What a child starts with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Child {
    /// A process of its own, in Dune mode.
    Fork,
    /// A thread in Dune mode; the arguments give it its loop stack.
    Thread(*const Thread),
    /// A thread in host mode, or a child whose parent waits until it execs. It starts as if it returned from the signal
    /// handler of this frame on its own stack; the host loop fills in the mask.
    InHostMode(*mut SignalFrame),
}
