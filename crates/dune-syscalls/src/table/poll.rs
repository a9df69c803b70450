use super::calls;
use crate::names::*;
use crate::structures::*;

// poll(2) takes as many as RLIMIT_NOFILE says, which is 2^20 at most where `fs.nr_open` was not raised.
calls! { Poll:
    7 Forwarded poll(fds: InOut(&POLLFD, AtMost(nfds, 1 << 20)), nfds: Unsigned, timeout: Int) -> Count;
    23 Forwarded select(nfds: Int, readfds: InOut(&FD_SET, Bits(nfds)), writefds: InOut(&FD_SET, Bits(nfds)), exceptfds: InOut(&FD_SET, Bits(nfds)), timeout: InOutAlways(&TIMEVAL, One)) -> Count;
    213 Forwarded epoll_create(size: Int) -> Descriptor;
    232 Forwarded epoll_wait(epfd: Fd, events: Out(&EPOLL_EVENT, Filled(maxevents)), maxevents: Int, timeout: Int) -> Count;
    233 Forwarded epoll_ctl(epfd: Fd, op: Flags(&EPOLL_OPERATION), fd: Fd, event if not(op, 2): In(&EPOLL_EVENT, One)) -> Number;
    253 Forwarded inotify_init() -> Descriptor;
    254 Forwarded inotify_add_watch(fd: Fd, pathname: Path, mask: Flags(&INOTIFY_EVENTS)) -> Number;
    255 Forwarded inotify_rm_watch(fd: Fd, wd: Int) -> Number;
    270 Forwarded pselect6(nfds: Int, readfds: InOut(&FD_SET, Bits(nfds)), writefds: InOut(&FD_SET, Bits(nfds)), exceptfds: InOut(&FD_SET, Bits(nfds)), timeout: InOutAlways(&TIMESPEC, One), sigmask: In(&SIGNALS_ARGUMENT, One)) -> Count;
    271 Forwarded ppoll(fds: InOut(&POLLFD, AtMost(nfds, 1 << 20)), nfds: Unsigned, tmo_p: InOutAlways(&TIMESPEC, One), sigmask: In(&SIGNALS, One), sigsetsize: Size) -> Count;
    281 Forwarded epoll_pwait(epfd: Fd, events: Out(&EPOLL_EVENT, Filled(maxevents)), maxevents: Int, timeout: Int, sigmask: In(&SIGNALS, One), sigsetsize: Size) -> Count;
    284 Forwarded eventfd(initval: Unsigned) -> Descriptor;
    290 Forwarded eventfd2(initval: Unsigned, flags: Flags(&EVENTFD)) -> Descriptor;
    291 Forwarded epoll_create1(flags: Flags(&EPOLL_CREATE)) -> Descriptor;
    294 Forwarded inotify_init1(flags: Flags(&INOTIFY)) -> Descriptor;
    // Tells of what other users do, and needs capabilities.
    300 Refused fanotify_init(flags: Hex, event_f_flags: Flags(&OPEN)) -> Descriptor;
    301 Refused fanotify_mark(fanotify_fd: Fd, flags: Hex, mask: LongHex, dirfd: Directory, pathname: PathAt(dirfd)) -> Number;
    441 Forwarded epoll_pwait2(epfd: Fd, events: Out(&EPOLL_EVENT, Filled(maxevents)), maxevents: Int, timeout: In(&TIMESPEC, One), sigmask: In(&SIGNALS, One), sigsetsize: Size) -> Count;
}
