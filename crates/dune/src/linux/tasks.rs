//! Who else is in the process: for the last thread, whose end is the process's.
//!
//! Since Linux 6.13 (and 6.12.117) a machine of KVM's has a task in the process that made it (`host/childs_word.rs`), which ends with
//! the machine, which ends with the process, which ends with its last task. So a process whose last thread ends by exit(2), as those
//! do whose main function calls pthread_exit(3), would stay for ever: its last thread ends it by exit_group(2).

use linux_raw_sys::errno::{ENOENT, ESRCH};
use linux_raw_sys::general::{O_DIRECTORY, O_RDONLY};

use super::descriptor_limit::RaisedLimit;
use super::proc::{self, number};
use super::sys;
use super::task_stat::TaskStat;

/// Whether the calling thread is the only one, but for tasks that Linux has made for it and threads of which `is_ending` says that
/// they are about to end.
pub(crate) fn nobody_else(is_ending: impl Fn(u32) -> bool) -> bool {
    others(&is_ending).is_some_and(|others| others.threads == 0)
}

/// The same; where the list can not be read, perhaps since a tracer wants it so, all but one are taken for tasks that Linux has made.
pub(crate) fn nobody_else_as_far_as_known(is_ending: impl Fn(u32) -> bool) -> bool {
    others(&is_ending).map_or_else(|| count().is_some_and(|count| count <= 2), |others| others.threads == 0)
}

/// Whether there are such tasks, and nobody else.
pub(crate) fn has_workers_only(is_ending: impl Fn(u32) -> bool) -> bool {
    others(&is_ending).is_some_and(|others| others.threads == 0 && others.workers > 0)
}

/// Waits until there are no such tasks any more, for a second at most: KVM's ends soon after its machine.
pub(crate) fn wait_for_workers(is_ending: impl Fn(u32) -> bool) {
    const TRIES: u32 = 1000;
    for _ in 0..TRIES {
        let are_there = match others(&is_ending) {
            Some(others) => others.workers > 0,
            None => count().is_some_and(|count| count > 1),
        };
        if !are_there {
            return;
        }
        sys::pause();
    }
}

/// The other tasks of the process.
#[derive(Debug, Default)]
struct Others {
    /// Threads of the program's, but for those that are about to end.
    threads: u32,
    /// Tasks that Linux has made.
    workers: u32,
}

/// Counts them, if they can be counted.
fn others(is_ending: &impl Fn(u32) -> bool) -> Option<Others> {
    // The program may have used its numbers up.
    let _limit = RaisedLimit::new();
    let own = proc::own_task().unwrap_or_else(sys::thread_id);
    let directory = proc::open(c"self/task", O_RDONLY | O_DIRECTORY).ok()?;
    let mut others = Others::default();
    proc::each_number(&directory, |name| {
        if number(name).is_some_and(|id| id != own && !is_ending(id)) {
            match kind(name) {
                Kind::Thread => others.threads += 1,
                Kind::Worker => others.workers += 1,
                Kind::Gone => (),
            }
        }
    })?;
    Some(others)
}

/// How many there are with the calling thread: the directory has a link per task (fs/proc/base.c, `proc_task_getattr`).
fn count() -> Option<u64> {
    proc::links(c"self/task")?.checked_sub(2)
}

/// What a task is.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Thread,
    /// Linux has made it, as for KVM or io_uring.
    Worker,
    Gone,
}

/// What the task `id` is; a thread if that can not be told.
fn kind(id: &[u8]) -> Kind {
    match TaskStat::of(b"self", id) {
        Ok(stat) if stat.is_worker => Kind::Worker,
        Err(errno) if [ENOENT, ESRCH].contains(&(errno.raw() as u32)) => Kind::Gone,
        _ => Kind::Thread,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_no_workers() {
        proc::keep();
        let id = sys::thread_id().to_string();
        assert_eq!(kind(id.as_bytes()), Kind::Thread);
        assert_eq!(count().map(|count| count > 0), Some(true));
        assert_eq!(kind(b"4294967295"), Kind::Gone);
        assert_eq!(kind(&[b'1'; 60]), Kind::Thread, "no number of a task");
    }
}
