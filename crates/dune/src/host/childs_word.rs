//! What the parent of a fork waits for where Linux may refuse the child's machine.
//!
//! KVM starts a thread of its own for each machine, at the first KVM_RUN. Since Linux 6.13, and in stable kernels that took
//! the change (6.12.117 has it), that thread is a task of the process (`vhost_task_create` in kernel/vhost_task.c), and
//! counts where processes are limited. So Linux may grant the fork and refuse what the child needs to go on in Dune mode,
//! when the program has seen neither: then there shall be no child, and fork fails with EAGAIN as it does one task later.
//!
//! The program's parent waits for its child's word only if RLIMIT_NPROC may be near: all tasks of the computer, which are no
//! fewer than its user's, come close to it. The limits of cgroups (`pids.max`) are not looked at.

use linux_raw_sys::errno::EAGAIN;
use linux_raw_sys::general::{
    __NR_clone, __NR_clone3, __NR_close, __NR_eventfd2, __NR_exit_group, __NR_poll, __NR_read, __NR_sysinfo,
    __NR_waitid, __NR_write, __WALL, CLONE_FILES, P_PID, POLLIN, RLIMIT_NPROC, WEXITED, WNOHANG, WNOWAIT,
    pollfd,
};

use crate::contract::birth::Birth;
use crate::engine::{Engine, Machine};
use crate::linux::sys;

/// Where a child tells its parent whether it lives: an eventfd, which both have.
#[derive(Debug)]
pub(super) struct ChildsWord {
    descriptor: u64,
}

/// What a child may say.
const ALIVE: u64 = 1;
const STILLBORN: u64 = 2;
/// How often the parent looks whether the child has died of something else, in milliseconds.
const LOOK: u64 = 20;
/// And how often at most: then the child is on its own.
const LOOKS: u64 = 500;

impl ChildsWord {
    /// A word to wait for, if the child may be refused its machine. Made before the fork.
    pub(super) fn expected(birth: &Birth) -> Option<ChildsWord> {
        const EFD_CLOEXEC: u64 = 0o2_000_000;
        // With a table of descriptors in common, closing here is closing there.
        if !Engine::HAS_TASK || flags(birth) & u64::from(CLONE_FILES) != 0 || !tasks_are_scarce() {
            return None;
        }
        // SAFETY: makes a descriptor. Without one, nobody waits.
        let descriptor = unsafe { sys::call(__NR_eventfd2, [0, EFD_CLOEXEC, 0, 0, 0, 0]) }.ok()?;
        Some(ChildsWord { descriptor })
    }

    /// In the child: it goes on.
    pub(super) fn lives(self) {
        self.say(ALIVE);
    }

    /// In the child: it does not, and nobody shall know that it was there.
    pub(super) fn dies(self) -> ! {
        self.say(STILLBORN);
        loop {
            // SAFETY: ends the process.
            unsafe { sys::raw(__NR_exit_group, [0; 6]) };
        }
    }

    fn say(&self, word: u64) {
        // SAFETY: the call reads eight bytes.
        unsafe { sys::raw(__NR_write, [self.descriptor, (&raw const word) as u64, 8, 0, 0, 0]) };
    }

    /// In the parent, whose call has returned `child`: the call's result for the program.
    pub(super) fn wait_for(self, child: u64) -> u64 {
        if sys::result(child).is_err() {
            return child;
        }
        for _ in 0..LOOKS {
            match self.heard() {
                Some(STILLBORN) => {
                    let _ = wait(child, 0);
                    return u64::from(EAGAIN).wrapping_neg();
                }
                Some(_) => break,
                // Killed before it could say anything: a child all the same.
                None if wait(child, WNOHANG | WNOWAIT) == Some(child) => break,
                None => (),
            }
        }
        child
    }

    /// What the child has said, or nothing after a while.
    fn heard(&self) -> Option<u64> {
        let mut word = 0u64;
        let mut one = pollfd { fd: self.descriptor as i32, events: POLLIN as i16, revents: 0 };
        // SAFETY: the calls write to `one` and `word`.
        unsafe {
            let ready = sys::call(__NR_poll, [(&raw mut one) as u64, 1, LOOK, 0, 0, 0]).ok()?;
            if ready == 0 {
                return None;
            }
            sys::call(__NR_read, [self.descriptor, (&raw mut word) as u64, 8, 0, 0, 0]).ok()?;
        }
        Some(word)
    }
}

impl Drop for ChildsWord {
    fn drop(&mut self) {
        // SAFETY: the descriptor is this value's own.
        let _ = unsafe { sys::raw(__NR_close, [self.descriptor, 0, 0, 0, 0, 0]) };
    }
}

/// Waits for the end of `child`, of whatever kind; which child has ended, if one has.
fn wait(child: u64, options: u32) -> Option<u64> {
    /// `siginfo_t`: `si_pid` is the fourth number (sigaction(2)).
    const PID: usize = 3;
    let mut info = [0u32; 32];
    let options = WEXITED | __WALL | options;
    let arguments = [P_PID.into(), child, (&raw mut info) as u64, options.into(), 0, 0];
    // SAFETY: the call writes 128 bytes.
    unsafe { sys::call(__NR_waitid, arguments) }.ok()?;
    Some(info[PID].into())
}

/// Whether RLIMIT_NPROC may be near.
fn tasks_are_scarce() -> bool {
    /// Tasks that others may start before this child's machine has its own.
    const MARGIN: u64 = 64;
    /// `struct sysinfo` (sysinfo(2)): the tasks are the low half of this word's low half.
    const TASKS: usize = 10;
    let mut computer = [0u64; 14];
    // SAFETY: the call writes to `computer`, which is as large as it writes.
    unsafe { sys::raw(__NR_sysinfo, [(&raw mut computer) as u64, 0, 0, 0, 0, 0]) };
    (computer[TASKS] & 0xffff) + MARGIN > sys::soft_limit(RLIMIT_NPROC)
}

/// The flags of the call that is to be made.
fn flags(birth: &Birth) -> u64 {
    let [first, ..] = birth.arguments;
    if birth.number == u64::from(__NR_clone) {
        first
    } else if birth.number == u64::from(__NR_clone3) {
        // SAFETY: ring 0's copy of the structure, which has the flags first, lives until the call is made.
        unsafe { (first as *const u64).read() }
    } else {
        0
    }
}
