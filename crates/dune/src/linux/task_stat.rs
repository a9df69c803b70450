//! What `/proc/PID/task/TID/stat` tells of a task (proc_pid_stat(5)).

use core::ffi::CStr;

use linux_raw_sys::errno::{EINVAL, ENAMETOOLONG, ESRCH};
use linux_raw_sys::general::O_RDONLY;

use super::proc::{self, number};
use super::sys::Errno;

/// A task, as far as Dune asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TaskStat {
    /// Its process group.
    pub group: u32,
    /// Linux has made it, for KVM or io_uring.
    pub is_worker: bool,
    /// It is KVM's.
    pub is_kvms: bool,
}

impl TaskStat {
    /// Of the task `task` of `process`, both by their names in /proc.
    pub(crate) fn of(process: &[u8], task: &[u8]) -> Result<TaskStat, Errno> {
        let mut path = [0u8; 64];
        let mut length = 0;
        for part in [process, b"/task/", task, b"/stat"] {
            // One byte at least stays zero.
            let place =
                path[..63].get_mut(length..length + part.len()).ok_or(Errno::from_raw(ENAMETOOLONG))?;
            place.copy_from_slice(part);
            length += part.len();
        }
        let path = CStr::from_bytes_until_nul(&path).map_err(|_| Errno::from_raw(EINVAL))?;
        let mut text = [0u8; 256];
        let read = proc::open(path, O_RDONLY)?.read(&mut text)?;
        TaskStat::parse(&text[..read]).ok_or(Errno::from_raw(ESRCH))
    }

    fn parse(text: &[u8]) -> Option<TaskStat> {
        // <linux/sched.h>
        const PF_USER_WORKER: u32 = 0x4000;
        /// As KVM names its task (arch/x86/kvm/mmu/mmu.c, `kvm_mmu_start_lpage_recovery`), which Linux cuts short.
        const KVMS: &[u8] = b"(kvm-nx-lpage";
        // The name may have any characters in it.
        let name = text.iter().position(|&byte| byte == b'(')?;
        let end = text.iter().rposition(|&byte| byte == b')')?;
        // State, parent, group, session, terminal, its group, flags.
        let mut words = text[end + 1..].split(|&byte| byte == b' ').filter(|word| !word.is_empty());
        let group = number(words.nth(2)?)?;
        let is_worker = number(words.nth(3)?)? & PF_USER_WORKER != 0;
        Some(TaskStat { group, is_worker, is_kvms: is_worker && text[name..end].starts_with(KVMS) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_understood_whatever_the_name() {
        let read = |text: &str| TaskStat::parse(text.as_bytes());
        let thread = TaskStat { group: 41, is_worker: false, is_kvms: false };
        assert_eq!(read("42 (a) b) (c) S 1 41 40 0 -1 4194304 1 2"), Some(thread));
        let worker = TaskStat { is_worker: true, ..thread };
        assert_eq!(read("42 (iou-wrk-42) S 1 41 40 0 -1 16384 1 2"), Some(worker));
        assert_eq!(
            read("42 (kvm-nx-lpage-re) S 1 41 40 0 -1 16384 1 2"),
            Some(TaskStat { is_kvms: true, ..worker })
        );
        assert_eq!(read("42 (kvm-nx-lpage-re) S 1 41 40 0 -1 64 1 2"), Some(thread));
        for text in ["", "42", "42 (a) S 1", "42 (a) S 1 x 40 0 -1 64"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }
}
