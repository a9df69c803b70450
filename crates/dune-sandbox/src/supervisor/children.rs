//! Children: fork(2) and its relatives.
//!
//! A child is a process of Linux's, in Dune mode from its first instruction, whose supervisor goes on where the parent's was: it is a copy,
//! as all else. Children that are to share the parent's memory until they exec (vfork, posix_spawn) get a copy, too, and the parent does
//! not wait: it sees nothing of what they do to their memory.

use super::{Answer, FS_LIMIT, Thread, error, threads};
use crate::checked::Request;
use crate::raw::signals;

/// fork(2), vfork(2).
pub(super) fn fork(thread: &mut Thread, _: Request) -> Answer {
    new_process(thread)
}

fn new_process(thread: &mut Thread) -> i64 {
    let result = thread.process.fork();
    if result == 0 {
        signals::forget();
        // What has been forgotten has left all signals blocked.
        let mask = thread.signals.mask();
        thread.signals.begin(mask);
        thread.cleared = 0;
    }
    result
}

/// clone(2) of a process.
pub(super) fn clone(thread: &mut Thread, request: Request) -> Answer {
    /// The signal that tells the parent of the end.
    const SIGNAL: u64 = 0xff;
    const SHARES: u64 = (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
    const KNOWN: u64 = SIGNAL
        | (libc::CLONE_VFORK
            | libc::CLONE_SETTLS
            | libc::CLONE_PARENT_SETTID
            | libc::CLONE_CHILD_SETTID
            | libc::CLONE_CHILD_CLEARTID) as u64;
    let [flags, stack, parent_word, child_word, base, _] = *request.arguments();
    if threads::is_thread(flags) {
        return threads::start(thread, &request);
    }
    let has = |flag: i32| flags & flag as u64 != 0;
    // Sharing memory for longer is what threads do.
    let is_child = flags & !(KNOWN | SHARES) == 0 && (!has(libc::CLONE_VM) || has(libc::CLONE_VFORK));
    if !is_child {
        thread.process.log(
            "clone with other flags than those of threads and children",
            "is not implemented yet, and answered with ENOSYS",
        );
        return error(libc::ENOSYS);
    }
    if flags & SIGNAL != libc::SIGCHLD as u64 || has(libc::CLONE_SETTLS) && base >= FS_LIMIT {
        return error(libc::EINVAL);
    }
    let result = new_process(thread);
    if result != 0 {
        if result > 0 && has(libc::CLONE_PARENT_SETTID) {
            // Linux does not say where that fails, either.
            let _ = thread.memory().write(parent_word, &(result as u32).to_le_bytes());
        }
        return result;
    }
    threads::set_registers(&mut thread.context, flags, stack, base);
    if has(libc::CLONE_CHILD_SETTID) {
        let _ = thread.memory().write(child_word, &std::process::id().to_le_bytes());
    }
    0
}
