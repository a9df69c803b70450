use super::calls;
use crate::build::InOutAlways;
use crate::kind::{Kind, Length};
use crate::names::*;
use crate::structures::*;

/// The size is in the structure; 0 stands for the first one that there was (kernel/sched/syscalls.c, sched_copy_attr).
const SCHEDULER: Kind =
    InOutAlways(&SCHED_ATTR_SIZE, Length::Own { at: 0, plus: 0, default: 48, most: 4096 });

calls! { Schedule:
    140 Forwarded getpriority(which: Flags(&PRIORITY), who: Int) -> Number;
    141 Forwarded setpriority(which: Flags(&PRIORITY), who: Int, prio: Int) -> Number;
    142 Forwarded sched_setparam(pid: Pid, param: In(&SCHED_PARAM, One)) -> Number;
    143 Forwarded sched_getparam(pid: Pid, param: Out(&SCHED_PARAM, One)) -> Number;
    144 Forwarded sched_setscheduler(pid: Pid, policy: Flags(&POLICY), param: In(&SCHED_PARAM, One)) -> Number;
    145 Forwarded sched_getscheduler(pid: Pid) -> Number;
    146 Forwarded sched_get_priority_max(policy: Flags(&POLICY)) -> Number;
    147 Forwarded sched_get_priority_min(policy: Flags(&POLICY)) -> Number;
    148 Forwarded sched_rr_get_interval(pid: Pid, tp: Out(&TIMESPEC, One)) -> Number;
    203 Forwarded sched_setaffinity(pid: Pid, cpusetsize: Unsigned, mask: In(&BYTES, Count(cpusetsize))) -> Number;
    204 Forwarded sched_getaffinity(pid: Pid, cpusetsize: Unsigned, mask: Out(&BYTES, Filled(cpusetsize))) -> Count;
    251 Forwarded ioprio_set(which: Int, who: Int, ioprio: Int) -> Number;
    252 Forwarded ioprio_get(which: Int, who: Int) -> Number;
    // The size is written if it is wrong.
    314 Forwarded sched_setattr(pid: Pid, attr: SCHEDULER, flags: Hex) -> Number;
    315 Forwarded sched_getattr(pid: Pid, attr: Out(&SCHED_ATTR, Extensible(size)), size: Unsigned, flags: Hex) -> Number;
}
