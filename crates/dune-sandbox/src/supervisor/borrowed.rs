//! Children that borrow the parent's memory until they exec or exit (vfork(2), posix_spawn(3)).
//!
//! Such a child has a copy, as all children have. Its parent waits, as on Linux, until the child has executed something, or ends. What a
//! child that ends has changed on the stack of the thread that made it, near to the stack pointer, is then changed for the parent, too: by
//! this C libraries tell why an exec has failed.

use std::time::Duration;

use dune_syscalls::Memory;

use super::Thread;
use crate::raw::call;
use crate::raw::shared::SharedNumber;

/// What a child is at: it runs; has executed something, or has ended and been looked at; ends, and is to be looked at.
const RUNS: u32 = 0;
const RELEASED: u32 = 1;
const ENDS: u32 = 2;

/// How many bytes from the stack pointer on are given back.
const GIVEN_BACK: usize = 16 << 10;
const WORD: usize = 8;

/// Between looks whether the other process is there at all.
const LOOK: Duration = Duration::from_millis(20);

/// The memory of a parent that waits.
#[derive(Debug)]
pub(super) struct Borrowed {
    state: SharedNumber,
    stack: u64,
    /// What was there.
    before: Vec<u8>,
}

impl Borrowed {
    /// To be made before the child is; or the raw error.
    pub(super) fn new(thread: &Thread) -> Result<Borrowed, i64> {
        let stack = thread.context.registers.rsp & !(WORD as u64 - 1);
        let mut before = vec![0; GIVEN_BACK];
        // The end of the stack may be nearer.
        while !before.is_empty() && thread.memory().read(stack, &mut before).is_err() {
            before.truncate(before.len() / 2 / WORD * WORD);
        }
        Ok(Borrowed { state: SharedNumber::new()?, stack, before })
    }

    /// Waits in the parent for the child, and takes over what it has changed.
    pub(super) fn wait_for(self, thread: &Thread, child: i32) {
        let is_open = || thread.process.succession.is_open();
        while self.state.get() == RUNS && call::is_running(child) && !is_open() {
            self.state.wait(RUNS, LOOK);
        }
        if self.state.get() == ENDS {
            self.take_over(thread, child);
            self.state.set(RELEASED);
        }
    }

    fn take_over(&self, thread: &Thread, child: i32) {
        let mut after = self.before.clone();
        if !call::read_child(child, self.stack, &mut after) {
            return;
        }
        let (old, _) = self.before.as_chunks::<WORD>();
        let (new, _) = after.as_chunks::<WORD>();
        for (index, (_, new)) in old.iter().zip(new).enumerate().filter(|(_, (old, new))| old != new) {
            // A stack that is not there any more is nobody's loss.
            let _ = thread.memory().write(self.stack + (index * WORD) as u64, new);
        }
    }

    /// The child has executed another program.
    pub(super) fn release(self) {
        self.state.set(RELEASED);
    }

    /// The child is to end, when the parent, `parent`, has looked at it.
    pub(super) fn give_back(self, parent: i64) {
        self.state.set(ENDS);
        while self.state.get() == ENDS && call::plain(libc::SYS_getppid, [0; 6]) == parent {
            self.state.wait(ENDS, LOOK);
        }
    }
}
