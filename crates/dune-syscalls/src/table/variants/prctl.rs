//! `<linux/prctl.h>`: what x86-64 has. All is the supervisor's: much of it is about the thread, which is the supervisor's as well.

use crate::structures::*;
use crate::table::forms;
use linux_raw_sys::prctl as linux;

forms! {
    /// prctl(PR_SET_MM): by its own option, before [`PRCTL`].
    PRCTL_SET_MM by 1 & 0xffff_ffff >> 0 where 0 is 35: {
        linux::PR_SET_MM_AUXV => Refused PR_SET_MM_AUXV(option: Int, mm: UnsignedLong, addr: In(&BYTES, Count(size)), size: Size) -> Number;
        linux::PR_SET_MM_EXE_FILE => Refused PR_SET_MM_EXE_FILE(option: Int, mm: UnsignedLong, fd: Fd) -> Number;
        linux::PR_SET_MM_MAP => Refused PR_SET_MM_MAP(option: Int, mm: UnsignedLong, map: In(&PRCTL_MM_MAP, One), size: Size) -> Number;
        linux::PR_SET_MM_MAP_SIZE => Refused PR_SET_MM_MAP_SIZE(option: Int, mm: UnsignedLong, size: Out(&UNSIGNED, One)) -> Number;
    }
    /// prctl(2)
    PRCTL by 0 & 0xffff_ffff >> 0: {
        linux::PR_SET_PDEATHSIG => Supervised PR_SET_PDEATHSIG(option: Int, sig: Signal) -> Number;
        linux::PR_GET_PDEATHSIG => Supervised PR_GET_PDEATHSIG(option: Int, sig: Out(&INT, One)) -> Number;
        linux::PR_GET_DUMPABLE => Supervised PR_GET_DUMPABLE(option: Int) -> Number;
        linux::PR_SET_DUMPABLE => Supervised PR_SET_DUMPABLE(option: Int, dumpable: UnsignedLong) -> Number;
        linux::PR_GET_KEEPCAPS => Supervised PR_GET_KEEPCAPS(option: Int) -> Number;
        linux::PR_SET_KEEPCAPS => Supervised PR_SET_KEEPCAPS(option: Int, state: UnsignedLong) -> Number;
        linux::PR_GET_TIMING => Supervised PR_GET_TIMING(option: Int) -> Number;
        linux::PR_SET_TIMING => Supervised PR_SET_TIMING(option: Int, timing: UnsignedLong) -> Number;
        linux::PR_SET_NAME => Supervised PR_SET_NAME(option: Int, name: TextOf(16)) -> Number;
        linux::PR_GET_NAME => Supervised PR_GET_NAME(option: Int, name: Out(&BYTES, Exactly(16))) -> Number;
        linux::PR_GET_SECCOMP => Supervised PR_GET_SECCOMP(option: Int) -> Number;
        linux::PR_SET_SECCOMP => Supervised PR_SET_SECCOMP(option: Int, mode: UnsignedLong, filter if is(mode, 2): In(&SOCK_FPROG, One)) -> Number;
        linux::PR_CAPBSET_READ => Supervised PR_CAPBSET_READ(option: Int, cap: UnsignedLong) -> Number;
        linux::PR_CAPBSET_DROP => Supervised PR_CAPBSET_DROP(option: Int, cap: UnsignedLong) -> Number;
        linux::PR_GET_TSC => Supervised PR_GET_TSC(option: Int, flag: Out(&INT, One)) -> Number;
        linux::PR_SET_TSC => Supervised PR_SET_TSC(option: Int, flag: UnsignedLong) -> Number;
        linux::PR_GET_SECUREBITS => Supervised PR_GET_SECUREBITS(option: Int) -> Number;
        linux::PR_SET_SECUREBITS => Supervised PR_SET_SECUREBITS(option: Int, flags: LongHex) -> Number;
        linux::PR_SET_TIMERSLACK => Supervised PR_SET_TIMERSLACK(option: Int, ns: UnsignedLong) -> Number;
        linux::PR_GET_TIMERSLACK => Supervised PR_GET_TIMERSLACK(option: Int) -> Number;
        linux::PR_TASK_PERF_EVENTS_DISABLE => Refused PR_TASK_PERF_EVENTS_DISABLE(option: Int) -> Number;
        linux::PR_TASK_PERF_EVENTS_ENABLE => Refused PR_TASK_PERF_EVENTS_ENABLE(option: Int) -> Number;
        linux::PR_MCE_KILL => Refused PR_MCE_KILL(option: Int, op: UnsignedLong, policy: UnsignedLong) -> Number;
        linux::PR_MCE_KILL_GET => Refused PR_MCE_KILL_GET(option: Int) -> Number;
        linux::PR_SET_PTRACER => Refused PR_SET_PTRACER(option: Int, pid: Pid) -> Number;
        linux::PR_SET_CHILD_SUBREAPER => Supervised PR_SET_CHILD_SUBREAPER(option: Int, set: UnsignedLong) -> Number;
        linux::PR_GET_CHILD_SUBREAPER => Supervised PR_GET_CHILD_SUBREAPER(option: Int, isset: Out(&INT, One)) -> Number;
        linux::PR_SET_NO_NEW_PRIVS => Supervised PR_SET_NO_NEW_PRIVS(option: Int, value: UnsignedLong, arg3: UnsignedLong, arg4: UnsignedLong, arg5: UnsignedLong) -> Number;
        linux::PR_GET_NO_NEW_PRIVS => Supervised PR_GET_NO_NEW_PRIVS(option: Int, arg2: UnsignedLong, arg3: UnsignedLong, arg4: UnsignedLong, arg5: UnsignedLong) -> Number;
        linux::PR_GET_TID_ADDRESS => Supervised PR_GET_TID_ADDRESS(option: Int, addrp: Out(&ADDRESS, One)) -> Number;
        linux::PR_SET_THP_DISABLE => Supervised PR_SET_THP_DISABLE(option: Int, flag: UnsignedLong, arg3: UnsignedLong, arg4: UnsignedLong, arg5: UnsignedLong) -> Number;
        linux::PR_GET_THP_DISABLE => Supervised PR_GET_THP_DISABLE(option: Int, arg2: UnsignedLong, arg3: UnsignedLong, arg4: UnsignedLong, arg5: UnsignedLong) -> Number;
        linux::PR_CAP_AMBIENT => Supervised PR_CAP_AMBIENT(option: Int, op: UnsignedLong, cap: UnsignedLong, arg4: UnsignedLong, arg5: UnsignedLong) -> Number;
        linux::PR_GET_SPECULATION_CTRL => Supervised PR_GET_SPECULATION_CTRL(option: Int, misfeature: UnsignedLong, arg3: UnsignedLong, arg4: UnsignedLong, arg5: UnsignedLong) -> Number;
        linux::PR_SET_SPECULATION_CTRL => Supervised PR_SET_SPECULATION_CTRL(option: Int, misfeature: UnsignedLong, val: UnsignedLong, arg4: UnsignedLong, arg5: UnsignedLong) -> Number;
        linux::PR_SET_IO_FLUSHER => Refused PR_SET_IO_FLUSHER(option: Int, state: UnsignedLong, arg3: UnsignedLong, arg4: UnsignedLong, arg5: UnsignedLong) -> Number;
        linux::PR_GET_IO_FLUSHER => Refused PR_GET_IO_FLUSHER(option: Int, arg2: UnsignedLong, arg3: UnsignedLong, arg4: UnsignedLong, arg5: UnsignedLong) -> Number;
        linux::PR_SET_SYSCALL_USER_DISPATCH => Refused PR_SET_SYSCALL_USER_DISPATCH(option: Int, mode: UnsignedLong, off: LongHex, size: Size, switch: Kept(1)) -> Number;
        linux::PR_SCHED_CORE => Refused PR_SCHED_CORE(option: Int, op: UnsignedLong, pid: Pid, r#type: UnsignedLong, cookie if is(op, 0): Out(&LONG, One)) -> Number;
        linux::PR_SET_MDWE => Supervised PR_SET_MDWE(option: Int, mask: LongHex, arg3: UnsignedLong, arg4: UnsignedLong, arg5: UnsignedLong) -> Number;
        linux::PR_GET_MDWE => Supervised PR_GET_MDWE(option: Int, arg2: UnsignedLong, arg3: UnsignedLong, arg4: UnsignedLong, arg5: UnsignedLong) -> Number;
        linux::PR_SET_MEMORY_MERGE => Refused PR_SET_MEMORY_MERGE(option: Int, flag: UnsignedLong, arg3: UnsignedLong, arg4: UnsignedLong, arg5: UnsignedLong) -> Number;
        linux::PR_GET_MEMORY_MERGE => Refused PR_GET_MEMORY_MERGE(option: Int, arg2: UnsignedLong, arg3: UnsignedLong, arg4: UnsignedLong, arg5: UnsignedLong) -> Number;
        linux::PR_GET_AUXV => Supervised PR_GET_AUXV(option: Int, auxv: Out(&BYTES, Filled(size)), size: Size, arg4: UnsignedLong, arg5: UnsignedLong) -> Count;
        linux::PR_SET_VMA => Supervised PR_SET_VMA(option: Int, attr: UnsignedLong, addr: Place(size), size: Size, val: TextOf(80)) -> Number;
    }
}
