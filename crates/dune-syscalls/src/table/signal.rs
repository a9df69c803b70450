use super::calls;
use crate::names::*;
use crate::structures::*;

calls! { Signal:
    13 Supervised rt_sigaction(signum: Signal, act: In(&SIGACTION, One), oldact: Out(&SIGACTION, One), sigsetsize: Size) -> Number;
    14 Supervised rt_sigprocmask(how: Flags(&SIGNAL_HOW), set: In(&SIGNALS, One), oldset: Out(&SIGNALS, One), sigsetsize: Size) -> Number;
    15 Supervised rt_sigreturn() -> Number;
    34 Supervised pause() -> Number;
    62 Forwarded kill(pid: Pid, sig: Signal) -> Number;
    127 Supervised rt_sigpending(set: Out(&BYTES, AtMost(sigsetsize, 8)), sigsetsize: Size) -> Number;
    128 Supervised rt_sigtimedwait(set: In(&SIGNALS, One), info: Out(&SIGINFO, One), timeout: In(&TIMESPEC, One), sigsetsize: Size) -> Number;
    129 Supervised rt_sigqueueinfo(pid: Pid, sig: Signal, info: In(&SIGINFO, One)) -> Number;
    130 Supervised rt_sigsuspend(mask: In(&SIGNALS, One), sigsetsize: Size) -> Number;
    131 Supervised sigaltstack(ss: In(&STACK, One), old_ss: Out(&STACK, One)) -> Number;
    200 Forwarded tkill(tid: Pid, sig: Signal) -> Number;
    219 Supervised restart_syscall() -> Number;
    234 Forwarded tgkill(tgid: Pid, tid: Pid, sig: Signal) -> Number;
    282 Supervised signalfd(fd: OptionalFd, mask: In(&SIGNALS, One), sizemask: Size) -> Descriptor;
    289 Supervised signalfd4(fd: OptionalFd, mask: In(&SIGNALS, One), sizemask: Size, flags: Flags(&SIGNALFD)) -> Descriptor;
    297 Supervised rt_tgsigqueueinfo(tgid: Pid, tid: Pid, sig: Signal, info: In(&SIGINFO, One)) -> Number;
    424 Forwarded pidfd_send_signal(pidfd: Fd, sig: Signal, info: In(&SIGINFO, One), flags: Hex) -> Number;
}
