//! Priorities of process groups: KVM's task in a process has the rights that its maker had, and is no business of the program's.
//!
//! Linux sets and asks each task of each process of the group (kernel/sys.c). After setuid(2) it refuses the program KVM's task (EPERM),
//! and that keeps the priority which the program has changed for its own. So where KVM's may be among them they are asked one by one.

use linux_raw_sys::errno::{EPERM, ESRCH};
use linux_raw_sys::general::{
    __NR_getpgid as GETPGID, __NR_getpriority as GETPRIORITY, __NR_ioprio_set as IOPRIO_SET,
    __NR_setpriority as SETPRIORITY, O_DIRECTORY, O_RDONLY,
};

use super::syscall::error;
use crate::guest::hypercall::forward;
use crate::linux::task_stat::TaskStat;
use crate::linux::{proc, sys};

/// The calls that [`handle`] takes.
pub(crate) const NUMBERS: [u32; 3] = [GETPRIORITY, IOPRIO_SET, SETPRIORITY];

// getpriority(2), ioprio_set(2)
const PRIO_PROCESS: u64 = 0;
const PRIO_PGRP: u64 = 1;
const IOPRIO_WHO_PROCESS: u64 = 1;
const IOPRIO_WHO_PGRP: u64 = 2;

/// Makes the call if it is one of this module's; the kernel's raw return value.
pub(super) fn handle(number: u32, arguments: &[u64; 6]) -> Option<u64> {
    if !NUMBERS.contains(&number) {
        return None;
    }
    let [which, who, value, ..] = *arguments;
    let result = forward(number, arguments);
    let (group, process) =
        if number == IOPRIO_SET { (IOPRIO_WHO_PGRP, IOPRIO_WHO_PROCESS) } else { (PRIO_PGRP, PRIO_PROCESS) };
    let is_told = if number == GETPRIORITY { sys::result(result).is_ok() } else { result == error(EPERM) };
    if which as u32 != group as u32 || !is_told {
        return Some(result);
    }
    let mut all = None;
    let done = each_task(who as u32, |id| {
        let one = forward(number, &[process, id.into(), value, 0, 0, 0]);
        all = match (all, one) {
            // It has ended meanwhile.
            (before, one) if one == error(ESRCH) => before,
            // The highest priority.
            (Some(before), one) if number == GETPRIORITY && sys::result(one).is_ok() => Some(one.max(before)),
            // The last error.
            (Some(before), 0) => Some(before),
            (_, one) => Some(one),
        };
    });
    Some(all.filter(|_| done.is_some()).unwrap_or(result))
}

/// Calls `visit` with the id of each task in the process group `group`, 0 for the caller's, but for KVM's. `None` if /proc does not
/// tell.
fn each_task(group: u32, mut visit: impl FnMut(u32)) -> Option<()> {
    let group = match group {
        0 => sys::result(forward(GETPGID, &[0; 6])).ok()? as u32,
        group => group,
    };
    let processes = proc::open(c".", O_RDONLY | O_DIRECTORY).ok()?;
    proc::each_number(&processes, |process| {
        if !TaskStat::of(process, process).is_ok_and(|stat| stat.group == group) {
            return;
        }
        let _ = proc::open_tasks(process).map(|tasks| {
            proc::each_number(&tasks, |task| {
                if let (Ok(stat), Some(id)) = (TaskStat::of(process, task), proc::number(task))
                    && !stat.is_kvms
                {
                    visit(id);
                }
            })
        });
    })
}
