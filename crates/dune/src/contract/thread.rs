//! What both sides know of a thread in Dune mode: who runs on it, and what of it is Dune's own.

use core::ptr::null_mut;
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, Ordering};

use super::block::ThreadBlock;
use super::process;

/// A value of [`Thread::user`]: nobody uses it.
pub(crate) const FREE: u32 = 0;
/// A value of [`Thread::user`]: a thread uses it. Not a thread id, which is below 2^22 (proc(5), `pid_max`).
pub(crate) const TAKEN: u32 = u32::MAX;
/// In a value of [`Thread::user`]: the thread has left Dune mode for good, and takes its place with it when it ends.
pub(crate) const LEFT: u32 = 1 << 30;

/// A place for a thread in Dune mode. The host side's own record of it follows in memory, which ring 0 knows nothing of. Lives
/// as long as the process: when the thread ends, the next one takes the place over.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Thread {
    /// Whether the next thread may use this: [`FREE`], [`TAKEN`], or the id of a thread that is about to be gone, or that has
    /// [`LEFT`].
    pub user: AtomicU32,
    /// The engine's descriptor for it.
    pub descriptor: AtomicI32,
    /// Its block.
    pub block: *mut ThreadBlock,
    /// Lowest address and size of the stack that the host loop runs on.
    pub loop_stack: (u64, u64),
    /// The next on the process's list.
    pub next: AtomicPtr<Thread>,
}

// SAFETY: all that changes is atomic; the address of the block is no access to it.
unsafe impl Sync for Thread {}

impl Thread {
    /// One that is taken, on no list.
    pub(crate) fn new(descriptor: i32, block: *mut ThreadBlock, loop_stack: (u64, u64)) -> Thread {
        Thread {
            user: AtomicU32::new(TAKEN),
            descriptor: AtomicI32::new(descriptor),
            block,
            loop_stack,
            next: AtomicPtr::new(null_mut()),
        }
    }

    /// Whether code with the stack pointer `rsp` is its host loop.
    pub(crate) fn is_in_host_loop(&self, rsp: u64) -> bool {
        let (start, bytes) = self.loop_stack;
        rsp > start && rsp <= start + bytes
    }

    /// Leaves the place to the next thread, as the call that was to start this one has failed.
    pub(crate) fn give_back(&self) {
        process::process().depart();
        self.user.store(FREE, Ordering::Release);
    }
}
