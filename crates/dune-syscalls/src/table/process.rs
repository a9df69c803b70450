use super::{calls, variants};
use crate::names::*;
use crate::structures::*;

calls! { Process:
    24 Forwarded sched_yield() -> Number;
    39 Forwarded getpid() -> Pid;
    // The lowest byte of the flags is the signal that tells the parent of the end.
    56 Supervised clone(flags: LongFlags(&CLONE), stack: Code, parent_tid if any(flags, 0x0010_1000): Out(&INT, One), child_tid if any(flags, 0x0120_0000): Kept(4), tls if any(flags, 0x0008_0000): LongHex) -> Pid;
    57 Supervised fork() -> Pid;
    58 Supervised vfork() -> Pid;
    59 Supervised execve(pathname: Path, argv: In(&TEXT_ADDRESS, Null), envp: In(&TEXT_ADDRESS, Null)) -> Number;
    60 Supervised exit(status: Int) -> Never;
    61 Forwarded wait4(pid: Pid, wstatus: OutPositive(&INT), options: Flags(&WAIT), rusage: OutPositive(&RUSAGE)) -> Pid;
    97 Forwarded getrlimit(resource: Flags(&RESOURCE), rlim: Out(&RLIMIT, One)) -> Number;
    98 Forwarded getrusage(who: Flags(&RUSAGE_WHO), usage: Out(&RUSAGE, One)) -> Number;
    109 Forwarded setpgid(pid: Pid, pgid: Pid) -> Number;
    110 Forwarded getppid() -> Pid;
    111 Forwarded getpgrp() -> Pid;
    112 Forwarded setsid() -> Pid;
    121 Forwarded getpgid(pid: Pid) -> Pid;
    124 Forwarded getsid(pid: Pid) -> Pid;
    135 Refused personality(persona: Hex) -> Hex;
    154 Refused modify_ldt(func: Int, ptr: InOut(&BYTES, Count(bytecount)), bytecount: Size) -> Count by [&variants::MODIFY_LDT];
    157 Refused prctl(option: Int, arg2: Opaque, arg3: Opaque, arg4: Opaque, arg5: Opaque) -> Number by [&variants::PRCTL_SET_MM, &variants::PRCTL];
    158 Refused arch_prctl(option: Int, addr: Opaque) -> Number by [&variants::ARCH_PRCTL];
    160 Supervised setrlimit(resource: Flags(&RESOURCE), rlim: In(&RLIMIT, One)) -> Number;
    172 Refused iopl(level: Unsigned) -> Number;
    173 Refused ioperm(from: UnsignedLong, num: UnsignedLong, turn_on: Int) -> Number;
    186 Forwarded gettid() -> Pid;
    218 Supervised set_tid_address(tidptr: Kept(4)) -> Pid;
    231 Supervised exit_group(status: Int) -> Never;
    247 Forwarded waitid(idtype: Flags(&WAIT_FOR), id: Pid, infop: Out(&SIGINFO, One), options: Flags(&WAIT), rusage: Out(&RUSAGE, One)) -> Number by [&variants::WAITID];
    272 Refused unshare(flags: LongFlags(&UNSHARE)) -> Number;
    273 Supervised set_robust_list(head: KeptOf(len), len: Size) -> Number;
    274 Supervised get_robust_list(pid: Pid, head_ptr: Out(&ADDRESS, One), len_ptr: Out(&SIZE, One)) -> Number;
    302 Supervised prlimit64(pid: Pid, resource: Flags(&RESOURCE), new_limit: In(&RLIMIT, One), old_limit: Out(&RLIMIT, One)) -> Number;
    308 Refused setns(fd: Fd, nstype: Flags(&UNSHARE)) -> Number;
    309 Forwarded getcpu(cpu: Out(&UNSIGNED, One), node: Out(&UNSIGNED, One), tcache: Kept(0)) -> Number;
    322 Supervised execveat(dirfd: Directory, pathname: PathAt(dirfd), argv: In(&TEXT_ADDRESS, Null), envp: In(&TEXT_ADDRESS, Null), flags: Flags(&AT)) -> Number;
    324 Forwarded membarrier(cmd: Flags(&MEMBARRIER), flags: Hex, cpu_id: Int) -> Number;
    334 Supervised rseq(rseq: KeptOf(rseq_len), rseq_len: Unsigned, flags: Hex, sig: Hex) -> Number;
    434 Forwarded pidfd_open(pid: Pid, flags: Flags(&PIDFD)) -> Descriptor;
    435 Supervised clone3(cl_args: In(&CLONE_ARGS, Extensible(size)), size: Size) -> Pid;
}
