//! What clone(2) and clone3(2) ask for.

use dune_syscalls::Memory;

use super::FS_LIMIT;
use crate::checked::{ProgramMemory, Request};

/// The signal that tells the parent of a child's end, among clone(2)'s flags.
const SIGNAL: u64 = 0xff;
/// CLONE_CLEAR_SIGHAND of `<linux/sched.h>`, for clone3(2) only.
pub(super) const CLEAR_SIGHAND: u64 = 1 << 32;
/// What a thread is, neither more nor less, and what may be said besides.
const OF_THREADS: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM) as u64;
const POSSIBLE: u64 = (libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_SETTID
    | libc::CLONE_CHILD_CLEARTID
    | libc::CLONE_DETACHED) as u64;
/// What a child may be. Its memory can be the parent's only as long as that waits.
const OF_CHILDREN: u64 = CLEAR_SIGHAND
    | (libc::CLONE_VM
        | libc::CLONE_VFORK
        | libc::CLONE_SETTLS
        | libc::CLONE_PIDFD
        | libc::CLONE_PARENT_SETTID
        | libc::CLONE_CHILD_SETTID
        | libc::CLONE_CHILD_CLEARTID) as u64;

/// A thread or child that is wanted: the words of `struct clone_args`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wish {
    flags: u64,
    /// Where the descriptor of the child is written to.
    pub(super) pidfd_word: u64,
    pub(super) child_word: u64,
    pub(super) parent_word: u64,
    signal: u64,
    /// The stack pointer, or 0 for the caller's.
    pub(super) stack: u64,
    /// The FS base. Below [`FS_LIMIT`] if it is to be set.
    pub(super) base: u64,
}

/// What is wanted.
pub(super) enum Kind {
    Thread,
    Child,
}

impl Wish {
    /// vfork(2).
    pub(super) const VFORK: Wish = Wish {
        flags: (libc::CLONE_VM | libc::CLONE_VFORK) as u64,
        signal: libc::SIGCHLD as u64,
        pidfd_word: 0,
        child_word: 0,
        parent_word: 0,
        stack: 0,
        base: 0,
    };

    /// The arguments of clone(2). The pidfd goes where the parent would be told the number.
    pub(super) fn of_clone([flags, stack, parent_word, child_word, base, _]: [u64; 6]) -> Wish {
        let (flags, signal) = (u64::from(flags as u32) & !SIGNAL, flags & SIGNAL);
        Wish { flags, signal, stack, parent_word, child_word, base, pidfd_word: parent_word }
    }

    /// The structure of clone3(2), of which the program knows `size` bytes; or an errno. What Linux refuses: `copy_clone_args_from_user` and
    /// `clone3_args_valid` of kernel/fork.c.
    pub(super) fn of_clone3(memory: ProgramMemory, address: u64, size: u64) -> Result<Wish, i32> {
        // CLONE_ARGS_SIZE_VER0 and _VER2, and PAGE_SIZE.
        const LEAST: usize = 64;
        const KNOWN: usize = 88;
        let mut bytes = match usize::try_from(size) {
            Ok(size) if size < LEAST => return Err(libc::EINVAL),
            Ok(size) if size <= 4096 => vec![0; size],
            _ => return Err(libc::E2BIG),
        };
        memory.read(address, &mut bytes).map_err(|_| libc::EFAULT)?;
        if bytes.iter().skip(KNOWN).any(|byte| *byte != 0) {
            return Err(libc::E2BIG);
        }
        bytes.resize(KNOWN, 0);
        let (words, _) = bytes.as_chunks();
        let word = |index: usize| u64::from_le_bytes(words[index]);
        let [flags, pidfd_word, child_word, parent_word, signal, start, length, base] =
            std::array::from_fn(word);
        let [chosen, chosen_length, _] = std::array::from_fn(|index| word(8 + index));
        let is_alone = flags & (libc::CLONE_THREAD | libc::CLONE_PARENT) as u64 != 0;
        if flags & (libc::CLONE_DETACHED as u64 | SIGNAL) != 0
            || signal > 64
            || is_alone && signal != 0
            || (start == 0) != (length == 0)
            || (chosen == 0) != (chosen_length == 0)
        {
            return Err(libc::EINVAL);
        }
        if chosen != 0 {
            // The number is chosen by who may do so only (CAP_CHECKPOINT_RESTORE).
            return Err(libc::EPERM);
        }
        let stack = start.checked_add(length).ok_or(libc::EINVAL)?;
        Ok(Wish { flags, pidfd_word, child_word, parent_word, signal, stack, base })
    }

    /// The clone(2) that it is.
    pub(super) fn request(&self) -> Request {
        let clone = dune_syscalls::by_number(libc::SYS_clone as u64).expect("a call of the table");
        let flags = self.flags | self.signal;
        let registers = [flags, self.stack, self.parent_word, self.child_word, self.base, 0];
        Request::of_registers(clone, &registers)
    }

    pub(super) fn has(&self, flag: i32) -> bool {
        self.flags & u64::from(flag as u32) != 0
    }

    /// Whether the child has no handlers of the parent's.
    pub(super) fn clears_handlers(&self) -> bool {
        self.flags & CLEAR_SIGHAND != 0
    }

    /// What it is, as far as that is implemented: threads as C libraries make them, and children. Else an errno.
    pub(super) fn kind(&self) -> Result<Kind, i32> {
        if self.has(libc::CLONE_SETTLS) && self.base >= FS_LIMIT {
            return Err(libc::EPERM);
        }
        if self.flags & !POSSIBLE == OF_THREADS {
            return Ok(Kind::Thread);
        }
        if self.flags & !OF_CHILDREN != 0 || self.has(libc::CLONE_VM) && !self.has(libc::CLONE_VFORK) {
            return Err(libc::ENOSYS);
        }
        match (self.signal as i32, self.has(libc::CLONE_PIDFD) && self.has(libc::CLONE_PARENT_SETTID)) {
            (libc::SIGCHLD, false) => Ok(Kind::Child),
            // With clone(2) both are one argument.
            (libc::SIGCHLD, true) if self.pidfd_word != self.parent_word => Ok(Kind::Child),
            _ => Err(libc::EINVAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_thread(flags: u64) -> bool {
        matches!(Wish::of_clone([flags, 0, 0, 0, 0, 0]).kind(), Ok(Kind::Thread))
    }

    fn child(flags: u64) -> Result<bool, i32> {
        Wish::of_clone([flags, 0, 8, 0, 0, 0]).kind().map(|kind| matches!(kind, Kind::Child))
    }

    #[test]
    fn threads_share_all_and_children_what_they_wait_for() {
        const SIGCHLD: u64 = libc::SIGCHLD as u64;
        let flag = |flag: i32| u64::from(flag as u32);
        assert!(is_thread(OF_THREADS) && is_thread(OF_THREADS | POSSIBLE));
        assert_eq!(child(SIGCHLD), Ok(true));
        assert_eq!(child(SIGCHLD | flag(libc::CLONE_VM | libc::CLONE_VFORK)), Ok(true));
        assert_eq!(child(SIGCHLD | flag(libc::CLONE_PIDFD)), Ok(true));
        assert_eq!(child(SIGCHLD | flag(libc::CLONE_PIDFD | libc::CLONE_PARENT_SETTID)), Err(libc::EINVAL));
        assert_eq!(child(SIGCHLD | flag(libc::CLONE_VM)), Err(libc::ENOSYS));
        for wrong in
            [libc::CLONE_FILES, libc::CLONE_FS, libc::CLONE_NEWPID, libc::CLONE_PARENT, libc::CLONE_PTRACE]
        {
            assert_eq!(child(SIGCHLD | flag(wrong)), Err(libc::ENOSYS), "{wrong:#x}");
        }
        assert_eq!(child(0), Err(libc::EINVAL));
        let base =
            Wish { flags: flag(libc::CLONE_SETTLS), signal: SIGCHLD, base: FS_LIMIT, ..Wish::default() };
        assert!(matches!(base.kind(), Err(libc::EPERM)));
    }
}
