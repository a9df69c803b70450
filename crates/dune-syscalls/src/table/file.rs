use super::calls;
use crate::build::{In, InOutAlways};
use crate::kind::{Kind, Length};
use crate::names::*;
use crate::structures::*;

/// The bytes after the header are as many as it says; if they are too few, it is written with how many there are (EOVERFLOW).
const SIZED: Length = Length::Own { at: 0, plus: 8, default: 0, most: 128 };
const HANDLE: Kind = InOutAlways(&FILE_HANDLE, SIZED);
const HANDLE_IN: Kind = In(&FILE_HANDLE, SIZED);

calls! { File:
    2 Forwarded open(pathname: Path, flags: Flags(&OPEN), mode if any(flags, 0o20_000_100): Mode) -> Descriptor;
    4 Forwarded stat(pathname: Path, statbuf: Out(&STAT, One)) -> Number;
    6 Forwarded lstat(pathname: Path, statbuf: Out(&STAT, One)) -> Number;
    21 Forwarded access(pathname: Path, mode: Flags(&ACCESS)) -> Number;
    76 Forwarded truncate(path: Path, length: Offset) -> Number;
    79 Forwarded getcwd(buf: Out(&BYTES, Filled(size)), size: Size) -> Count;
    80 Forwarded chdir(path: Path) -> Number;
    82 Forwarded rename(oldpath: Path, newpath: Path) -> Number;
    83 Forwarded mkdir(pathname: Path, mode: Mode) -> Number;
    84 Forwarded rmdir(pathname: Path) -> Number;
    85 Forwarded creat(pathname: Path, mode: Mode) -> Descriptor;
    86 Forwarded link(oldpath: Path, newpath: Path) -> Number;
    87 Forwarded unlink(pathname: Path) -> Number;
    88 Forwarded symlink(target: TextOf(4096), linkpath: Path) -> Number;
    89 Forwarded readlink(pathname: Path, buf: Out(&BYTES, Filled(bufsiz)), bufsiz: Int) -> Count;
    90 Forwarded chmod(pathname: Path, mode: Mode) -> Number;
    92 Forwarded chown(pathname: Path, owner: Uid, group: Gid) -> Number;
    94 Forwarded lchown(pathname: Path, owner: Uid, group: Gid) -> Number;
    132 Forwarded utime(filename: Path, times: In(&UTIMBUF, One)) -> Number;
    133 Forwarded mknod(pathname: Path, mode: FileMode, dev if any(mode, 0o20_000): Device) -> Number;
    137 Forwarded statfs(path: Path, buf: Out(&STATFS, One)) -> Number;
    161 Refused chroot(path: Path) -> Number;
    188 Forwarded setxattr(path: Path, name: TextOf(256), value: In(&BYTES, Count(size)), size: Size, flags: Flags(&XATTR)) -> Number;
    189 Forwarded lsetxattr(path: Path, name: TextOf(256), value: In(&BYTES, Count(size)), size: Size, flags: Flags(&XATTR)) -> Number;
    191 Forwarded getxattr(path: Path, name: TextOf(256), value: Out(&BYTES, Filled(size)), size: Size) -> Count;
    192 Forwarded lgetxattr(path: Path, name: TextOf(256), value: Out(&BYTES, Filled(size)), size: Size) -> Count;
    194 Forwarded listxattr(path: Path, list: Out(&BYTES, Filled(size)), size: Size) -> Count;
    195 Forwarded llistxattr(path: Path, list: Out(&BYTES, Filled(size)), size: Size) -> Count;
    197 Forwarded removexattr(path: Path, name: TextOf(256)) -> Number;
    198 Forwarded lremovexattr(path: Path, name: TextOf(256)) -> Number;
    235 Forwarded utimes(filename: Path, times: In(&TIMEVAL, Exactly(2))) -> Number;
    257 Forwarded openat(dirfd: Directory, pathname: PathAt(dirfd), flags: Flags(&OPEN), mode if any(flags, 0o20_000_100): Mode) -> Descriptor;
    258 Forwarded mkdirat(dirfd: Directory, pathname: PathAt(dirfd), mode: Mode) -> Number;
    259 Forwarded mknodat(dirfd: Directory, pathname: PathAt(dirfd), mode: FileMode, dev if any(mode, 0o20_000): Device) -> Number;
    260 Forwarded fchownat(dirfd: Directory, pathname: PathAt(dirfd), owner: Uid, group: Gid, flags: Flags(&AT)) -> Number;
    261 Forwarded futimesat(dirfd: Directory, pathname: PathAt(dirfd), times: In(&TIMEVAL, Exactly(2))) -> Number;
    262 Forwarded newfstatat(dirfd: Directory, pathname: PathAt(dirfd), statbuf: Out(&STAT, One), flags: Flags(&AT)) -> Number;
    263 Forwarded unlinkat(dirfd: Directory, pathname: PathAt(dirfd), flags: Flags(&AT_UNLINK)) -> Number;
    264 Forwarded renameat(olddirfd: Directory, oldpath: PathAt(olddirfd), newdirfd: Directory, newpath: PathAt(newdirfd)) -> Number;
    265 Forwarded linkat(olddirfd: Directory, oldpath: PathAt(olddirfd), newdirfd: Directory, newpath: PathAt(newdirfd), flags: Flags(&AT)) -> Number;
    266 Forwarded symlinkat(target: TextOf(4096), newdirfd: Directory, linkpath: PathAt(newdirfd)) -> Number;
    267 Forwarded readlinkat(dirfd: Directory, pathname: PathAt(dirfd), buf: Out(&BYTES, Filled(bufsiz)), bufsiz: Int) -> Count;
    268 Forwarded fchmodat(dirfd: Directory, pathname: PathAt(dirfd), mode: Mode) -> Number;
    269 Forwarded faccessat(dirfd: Directory, pathname: PathAt(dirfd), mode: Flags(&ACCESS)) -> Number;
    280 Forwarded utimensat(dirfd: Directory, pathname: PathAt(dirfd), times: In(&TIMESPEC, Exactly(2)), flags: Flags(&AT)) -> Number;
    303 Forwarded name_to_handle_at(dirfd: Directory, pathname: PathAt(dirfd), handle: HANDLE, mount_id: Out(&LONG, One), flags: Hex) -> Number;
    // Opens files by number, past every path that is hidden.
    304 Refused open_by_handle_at(mount_fd: Directory, handle: HANDLE_IN, flags: Flags(&OPEN)) -> Descriptor;
    316 Forwarded renameat2(olddirfd: Directory, oldpath: PathAt(olddirfd), newdirfd: Directory, newpath: PathAt(newdirfd), flags: Flags(&RENAME)) -> Number;
    332 Forwarded statx(dirfd: Directory, pathname: PathAt(dirfd), flags: Flags(&AT), mask: Flags(&STATX_MASK), statxbuf: Out(&STATX, One)) -> Number;
    437 Forwarded openat2(dirfd: Directory, pathname: PathAt(dirfd), how: In(&OPEN_HOW, Extensible(size)), size: Size) -> Descriptor;
    439 Forwarded faccessat2(dirfd: Directory, pathname: PathAt(dirfd), mode: Flags(&ACCESS), flags: Flags(&AT_ACCESS)) -> Number;
    452 Forwarded fchmodat2(dirfd: Directory, pathname: PathAt(dirfd), mode: Mode, flags: Flags(&AT)) -> Number;
    // Newer than Linux 6.12.
    463 Forwarded setxattrat(dirfd: Directory, pathname: PathAt(dirfd), at_flags: Flags(&AT), name: TextOf(256), uargs: In(&XATTR_ARGS_IN, Extensible(usize)), usize: Size) -> Number;
    464 Forwarded getxattrat(dirfd: Directory, pathname: PathAt(dirfd), at_flags: Flags(&AT), name: TextOf(256), uargs: In(&XATTR_ARGS_OUT, Extensible(usize)), usize: Size) -> Count;
    465 Forwarded listxattrat(dirfd: Directory, pathname: PathAt(dirfd), at_flags: Flags(&AT), list: Out(&BYTES, Filled(size)), size: Size) -> Count;
    466 Forwarded removexattrat(dirfd: Directory, pathname: PathAt(dirfd), at_flags: Flags(&AT), name: TextOf(256)) -> Number;
    468 Forwarded file_getattr(dirfd: Directory, pathname: PathAt(dirfd), ufattr: Out(&FILE_ATTR, Extensible(usize)), usize: Size, at_flags: Flags(&AT)) -> Number;
    469 Forwarded file_setattr(dirfd: Directory, pathname: PathAt(dirfd), ufattr: In(&FILE_ATTR, Extensible(usize)), usize: Size, at_flags: Flags(&AT)) -> Number;
}
