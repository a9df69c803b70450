//! Who else is in the process: for the last thread, whose end is the process's.
//!
//! Since Linux 6.13 (and 6.12.117) a machine of KVM's has a task in the process that made it (`host/childs_word.rs`), which ends with
//! the machine, which ends with the process, which ends with its last task. So a process whose last thread ends by exit(2), as those
//! do whose main function calls pthread_exit(3), would stay for ever: its last thread ends it by exit_group(2).

use core::ffi::CStr;

use linux_raw_sys::errno::ENOENT;
use linux_raw_sys::general::{O_DIRECTORY, O_RDONLY};

use super::descriptor_limit::RaisedLimit;
use super::proc::{self, number};
use super::sys;

/// Whether the calling thread is the only one, but for tasks that Linux has made for it and threads of which `is_ending` says that
/// they are about to end.
pub(crate) fn nobody_else(is_ending: impl Fn(u32) -> bool) -> bool {
    others(&is_ending).is_some_and(|others| others.threads == 0)
}

/// Whether there are such tasks, and nobody else.
pub(crate) fn has_workers_only(is_ending: impl Fn(u32) -> bool) -> bool {
    others(&is_ending).is_some_and(|others| others.threads == 0 && others.workers > 0)
}

/// Waits until there are no such tasks any more, for a second at most: KVM's ends soon after its machine.
pub(crate) fn wait_for_workers(is_ending: impl Fn(u32) -> bool) {
    const TRIES: u32 = 1000;
    for _ in 0..TRIES {
        if others(&is_ending).is_none_or(|others| others.workers == 0) {
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
    /// `struct linux_dirent64` (getdents(2)): the length of the entry, and its name.
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    // The program may have used its numbers up.
    let _limit = RaisedLimit::new();
    let own = proc::own_task().unwrap_or_else(sys::thread_id);
    let directory = proc::open(c"self/task", O_RDONLY | O_DIRECTORY).ok()?;
    let mut others = Others::default();
    let mut entries = [0u8; 2048];
    loop {
        let read = directory.read_entries(&mut entries).unwrap_or(0);
        if read == 0 {
            return Some(others);
        }
        let mut rest = &entries[..read];
        while rest.len() > NAME {
            let length = usize::from(u16::from_ne_bytes([rest[LENGTH], rest[LENGTH + 1]]));
            let name = CStr::from_bytes_until_nul(&rest[NAME..]).ok()?;
            if number(name.to_bytes()).is_some_and(|id| id != own && !is_ending(id)) {
                match kind(name) {
                    Kind::Thread => others.threads += 1,
                    Kind::Worker => others.workers += 1,
                    Kind::Gone => (),
                }
            }
            rest = &rest[length.clamp(1, rest.len())..];
        }
    }
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
fn kind(id: &CStr) -> Kind {
    // <linux/sched.h>
    const PF_USER_WORKER: u32 = 0x4000;
    /// The place of the flags behind the name (proc_pid_stat(5)).
    const FLAGS: usize = 6;
    let mut path = [0u8; 40];
    let mut length = 0;
    for part in [b"self/task/", id.to_bytes(), b"/stat"] {
        // One byte at least stays zero.
        let Some(place) = path[..39].get_mut(length..length + part.len()) else { return Kind::Thread };
        place.copy_from_slice(part);
        length += part.len();
    }
    let Ok(path) = CStr::from_bytes_until_nul(&path) else { return Kind::Thread };
    let file = match proc::open(path, O_RDONLY) {
        Ok(file) => file,
        Err(errno) if errno.raw() == ENOENT as i32 => return Kind::Gone,
        Err(_) => return Kind::Thread,
    };
    let mut text = [0u8; 256];
    let read = file.read(&mut text).unwrap_or(0);
    let text = &text[..read];
    if read == 0 {
        return Kind::Gone;
    }
    // The name may have any characters in it.
    let name_end = text.iter().rposition(|&byte| byte == b')').unwrap_or(0);
    let mut words = text[name_end + 1..].split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    let flags = words.nth(FLAGS).and_then(number);
    if flags.is_some_and(|flags| flags & PF_USER_WORKER != 0) { Kind::Worker } else { Kind::Thread }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_no_workers() {
        proc::keep();
        let id = std::ffi::CString::new(sys::thread_id().to_string()).unwrap();
        assert_eq!(kind(&id), Kind::Thread);
        assert_eq!(kind(c"4294967295"), Kind::Gone);
        assert_eq!(kind(c"1234567890123456789012345678901234567890"), Kind::Thread, "no number of a task");
    }
}
