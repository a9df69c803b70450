use super::{calls, variants};
use crate::names::*;
use crate::structures::*;

calls! { Descriptor:
    0 Forwarded read(fd: Fd, buf: Out(&BYTES, Filled(count)), count: Size) -> Count;
    1 Forwarded write(fd: Fd, buf: In(&BYTES, Count(count)), count: Size) -> Count;
    3 Forwarded close(fd: Fd) -> Number;
    5 Forwarded fstat(fd: Fd, statbuf: Out(&STAT, One)) -> Number;
    8 Forwarded lseek(fd: Fd, offset: Offset, whence: Flags(&WHENCE)) -> Offset;
    16 Refused ioctl(fd: Fd, request: Hex, argp: Opaque) -> Number
        by [&variants::IOCTL, &variants::IOCTL_BLOCK, &variants::IOCTL_SOCKET, &variants::IOCTL_REFUSED];
    17 Forwarded pread64(fd: Fd, buf: Out(&BYTES, Filled(count)), count: Size, offset: Offset) -> Count;
    18 Forwarded pwrite64(fd: Fd, buf: In(&BYTES, Count(count)), count: Size, offset: Offset) -> Count;
    19 Forwarded readv(fd: Fd, iov: In(&IOVEC_OUT, AtMost(iovcnt, 1024)), iovcnt: Size) -> Count;
    20 Forwarded writev(fd: Fd, iov: In(&IOVEC_IN, AtMost(iovcnt, 1024)), iovcnt: Size) -> Count;
    22 Forwarded pipe(pipefd: Out(&DESCRIPTOR, Exactly(2))) -> Number;
    32 Forwarded dup(oldfd: Fd) -> Descriptor;
    33 Forwarded dup2(oldfd: Fd, newfd: NewFd) -> Descriptor;
    40 Forwarded sendfile(out_fd: Fd, in_fd: Fd, offset: InOut(&OFFSET, One), count: Size) -> Count;
    72 Refused fcntl(fd: Fd, cmd: Unsigned, arg: Opaque) -> Number by [&variants::FCNTL];
    73 Forwarded flock(fd: Fd, operation: Flags(&LOCK)) -> Number;
    74 Forwarded fsync(fd: Fd) -> Number;
    75 Forwarded fdatasync(fd: Fd) -> Number;
    77 Forwarded ftruncate(fd: Fd, length: Offset) -> Number;
    78 Forwarded getdents(fd: Fd, dirp: Out(&BYTES, Filled(count)), count: Unsigned) -> Count;
    81 Forwarded fchdir(fd: Fd) -> Number;
    91 Forwarded fchmod(fd: Fd, mode: Mode) -> Number;
    93 Forwarded fchown(fd: Fd, owner: Uid, group: Gid) -> Number;
    138 Forwarded fstatfs(fd: Fd, buf: Out(&STATFS, One)) -> Number;
    162 Forwarded sync() -> Number;
    187 Forwarded readahead(fd: Fd, offset: Offset, count: Size) -> Number;
    190 Forwarded fsetxattr(fd: Fd, name: TextOf(256), value: In(&BYTES, Count(size)), size: Size, flags: Flags(&XATTR)) -> Number;
    193 Forwarded fgetxattr(fd: Fd, name: TextOf(256), value: Out(&BYTES, Filled(size)), size: Size) -> Count;
    196 Forwarded flistxattr(fd: Fd, list: Out(&BYTES, Filled(size)), size: Size) -> Count;
    199 Forwarded fremovexattr(fd: Fd, name: TextOf(256)) -> Number;
    217 Forwarded getdents64(fd: Fd, dirp: Out(&BYTES, Filled(count)), count: Unsigned) -> Count;
    221 Forwarded fadvise64(fd: Fd, offset: Offset, len: Size, advice: Flags(&FILE_ADVICE)) -> Number;
    275 Forwarded splice(fd_in: Fd, off_in: InOut(&OFFSET, One), fd_out: Fd, off_out: InOut(&OFFSET, One), len: Size, flags: Flags(&SPLICE)) -> Count;
    276 Forwarded tee(fd_in: Fd, fd_out: Fd, len: Size, flags: Flags(&SPLICE)) -> Count;
    277 Forwarded sync_file_range(fd: Fd, offset: Offset, nbytes: Offset, flags: Hex) -> Number;
    // From a pipe to memory or the other way, as the descriptor is: both.
    278 Forwarded vmsplice(fd: Fd, iov: In(&IOVEC_BOTH, AtMost(nr_segs, 1024)), nr_segs: Size, flags: Flags(&SPLICE)) -> Count;
    285 Forwarded fallocate(fd: Fd, mode: Flags(&FALLOCATE), offset: Offset, len: Offset) -> Number;
    292 Forwarded dup3(oldfd: Fd, newfd: NewFd, flags: Flags(&OPEN_ONLY)) -> Descriptor;
    293 Forwarded pipe2(pipefd: Out(&DESCRIPTOR, Exactly(2)), flags: Flags(&OPEN_ONLY)) -> Number;
    295 Forwarded preadv(fd: Fd, iov: In(&IOVEC_OUT, AtMost(iovcnt, 1024)), iovcnt: Size, pos_l: UnsignedLong, pos_h: UnsignedLong) -> Count;
    296 Forwarded pwritev(fd: Fd, iov: In(&IOVEC_IN, AtMost(iovcnt, 1024)), iovcnt: Size, pos_l: UnsignedLong, pos_h: UnsignedLong) -> Count;
    306 Forwarded syncfs(fd: Fd) -> Number;
    319 Forwarded memfd_create(name: TextOf(250), flags: Flags(&MEMFD)) -> Descriptor;
    326 Forwarded copy_file_range(fd_in: Fd, off_in: InOut(&OFFSET, One), fd_out: Fd, off_out: InOut(&OFFSET, One), len: Size, flags: Hex) -> Count;
    327 Forwarded preadv2(fd: Fd, iov: In(&IOVEC_OUT, AtMost(iovcnt, 1024)), iovcnt: Size, pos_l: UnsignedLong, pos_h: UnsignedLong, flags: Flags(&READ_WRITE)) -> Count;
    328 Forwarded pwritev2(fd: Fd, iov: In(&IOVEC_IN, AtMost(iovcnt, 1024)), iovcnt: Size, pos_l: UnsignedLong, pos_h: UnsignedLong, flags: Flags(&READ_WRITE)) -> Count;
    436 Supervised close_range(first: Unsigned, last: Unsigned, flags: Flags(&CLOSE_RANGE)) -> Number;
    447 Forwarded memfd_secret(flags: Flags(&OPEN_ONLY)) -> Descriptor;
    451 Forwarded cachestat(fd: Fd, cstat_range: In(&CACHESTAT_RANGE, One), cstat: Out(&CACHESTAT, One), flags: Hex) -> Number;
}
