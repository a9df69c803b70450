//! What both sides know of a thread in Dune mode: who runs on it, and what of it is Dune's own.

use core::ptr::null_mut;
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, Ordering};

use super::block::ThreadBlock;
use super::file_table::FileTable;
use super::process;

/// Who uses a [`Thread`], as its word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    /// Nobody: the next thread may take it.
    Nobody,
    /// A thread.
    Somebody,
    /// The thread with this id, which is about to be gone.
    Ending(u32),
    /// The thread with this id, which has left Dune mode for good, and takes its place with it when it ends.
    Left(u32),
}

impl User {
    /// No thread id, which is below 2^22 (proc(5), `pid_max`).
    const SOMEBODY: u32 = u32::MAX;
    const LEFT: u32 = 1 << 30;

    /// The word that stands for it.
    pub(crate) const fn word(self) -> u32 {
        match self {
            User::Nobody => 0,
            User::Somebody => User::SOMEBODY,
            User::Ending(id) => id,
            User::Left(id) => id | User::LEFT,
        }
    }

    /// What `word` stands for.
    pub(crate) const fn of(word: u32) -> User {
        match word {
            0 => User::Nobody,
            User::SOMEBODY => User::Somebody,
            id if id & User::LEFT != 0 => User::Left(id & !User::LEFT),
            id => User::Ending(id),
        }
    }
}

/// A place for a thread in Dune mode. The host side's own record of it follows in memory, which ring 0 knows nothing of. Lives
/// as long as the process: when the thread ends, the next one takes the place over.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Thread {
    /// Who uses it: a [`User`].
    pub user: AtomicU32,
    /// The engine's descriptor for it.
    pub descriptor: AtomicI32,
    /// The table in which that is: a [`FileTable`].
    pub table: AtomicU32,
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
            user: AtomicU32::new(User::Somebody.word()),
            descriptor: AtomicI32::new(descriptor),
            table: AtomicU32::new(FileTable::FIRST.word()),
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
        self.user.store(User::Nobody.word(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_told_apart_by_their_words() {
        for user in
            [User::Nobody, User::Somebody, User::Ending(1), User::Ending((1 << 22) - 1), User::Left(1)]
        {
            assert_eq!(User::of(user.word()), user);
        }
    }
}
