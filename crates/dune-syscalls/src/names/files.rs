use super::names;
use linux_raw_sys::general as linux;

names! {
    /// open(2): `flags`.
    OPEN "O_" choice in 0o3 [O_RDONLY, O_WRONLY, O_RDWR]
        flags [O_TMPFILE, O_SYNC, O_CREAT, O_EXCL, O_NOCTTY, O_TRUNC, O_APPEND, O_NONBLOCK, O_DSYNC, FASYNC, O_DIRECT,
            O_LARGEFILE, O_DIRECTORY, O_NOFOLLOW, O_NOATIME, O_CLOEXEC, O_PATH];
    /// The flags of open(2) where there is no access mode: pipe2(2), dup3(2).
    OPEN_ONLY "O_" flags [O_EXCL, O_NONBLOCK, O_DIRECT, O_CLOEXEC];
    /// openat2(2): `resolve`.
    RESOLVE "RESOLVE_" flags [RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT,
        RESOLVE_CACHED];
    /// fstatat(2), linkat(2), execveat(2) and others: `flags`.
    AT "AT_" flags [AT_SYMLINK_NOFOLLOW, AT_SYMLINK_FOLLOW, AT_NO_AUTOMOUNT, AT_EMPTY_PATH, AT_STATX_FORCE_SYNC,
        AT_STATX_DONT_SYNC];
    /// unlinkat(2): `flags`.
    AT_UNLINK "AT_" flags [AT_REMOVEDIR];
    /// faccessat2(2): `flags`.
    AT_ACCESS "AT_" flags [AT_EACCESS, AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH];
    /// access(2): `mode`.
    ACCESS "?_OK" choice in 0 [F_OK] flags [R_OK, W_OK, X_OK];
    /// lseek(2): `whence`.
    WHENCE "SEEK_" choice in 0xffff_ffff [SEEK_SET, SEEK_CUR, SEEK_END, SEEK_DATA, SEEK_HOLE];
    /// flock(2): `operation`.
    LOCK "LOCK_" flags [LOCK_SH, LOCK_EX, LOCK_NB, LOCK_UN];
    /// renameat2(2): `flags`.
    RENAME "RENAME_" flags [RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT];
    /// statx(2): `mask`.
    STATX_MASK "STATX_" flags [STATX_BASIC_STATS, STATX_TYPE, STATX_MODE, STATX_NLINK, STATX_UID, STATX_GID, STATX_ATIME,
        STATX_MTIME, STATX_CTIME, STATX_INO, STATX_SIZE, STATX_BLOCKS, STATX_BTIME, STATX_MNT_ID, STATX_DIOALIGN];
    /// fallocate(2): `mode`.
    FALLOCATE "FALLOC_FL_" flags [FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_NO_HIDE_STALE, FALLOC_FL_COLLAPSE_RANGE,
        FALLOC_FL_ZERO_RANGE, FALLOC_FL_INSERT_RANGE, FALLOC_FL_UNSHARE_RANGE];
    /// posix_fadvise(2): `advice`.
    FILE_ADVICE "POSIX_FADV_" choice in 0xffff_ffff [POSIX_FADV_NORMAL, POSIX_FADV_RANDOM, POSIX_FADV_SEQUENTIAL,
        POSIX_FADV_WILLNEED, POSIX_FADV_DONTNEED, POSIX_FADV_NOREUSE];
    /// setxattr(2): `flags`.
    XATTR "XATTR_" flags [XATTR_CREATE, XATTR_REPLACE];
    /// preadv2(2): `flags`.
    READ_WRITE "RWF_" flags [RWF_HIPRI, RWF_DSYNC, RWF_SYNC, RWF_NOWAIT, RWF_APPEND, RWF_NOAPPEND = 0x20];
    /// splice(2): `flags`.
    SPLICE "SPLICE_F_" flags [SPLICE_F_MOVE, SPLICE_F_NONBLOCK, SPLICE_F_MORE, SPLICE_F_GIFT];
    /// fcntl(2) with F_SETFD.
    DESCRIPTOR_FLAGS "FD_" flags [FD_CLOEXEC];
    /// close_range(2): `flags`. `<linux/close_range.h>`
    CLOSE_RANGE "CLOSE_RANGE_" flags [CLOSE_RANGE_UNSHARE = 2, CLOSE_RANGE_CLOEXEC = 4];
    /// poll(2): `events`.
    POLL "POLL" flags [POLLIN, POLLPRI, POLLOUT, POLLERR, POLLHUP, POLLNVAL, POLLRDNORM, POLLRDBAND, POLLWRNORM, POLLWRBAND,
        POLLMSG, POLLRDHUP];
    /// epoll_ctl(2): `event.events`.
    EPOLL_EVENTS "EPOLL" flags [EPOLLIN, EPOLLPRI, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDNORM, EPOLLRDBAND, EPOLLWRNORM,
        EPOLLWRBAND, EPOLLMSG, EPOLLRDHUP, EPOLLEXCLUSIVE, EPOLLWAKEUP, EPOLLONESHOT, EPOLLET];
    /// epoll_ctl(2): `op`.
    EPOLL_OPERATION "EPOLL_CTL_" choice in 0xffff_ffff [EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD];
    /// epoll_create1(2): `flags`.
    EPOLL_CREATE "EPOLL_" flags [EPOLL_CLOEXEC = 0o2000000];
    /// eventfd(2): `flags`. `<linux/eventfd.h>`
    EVENTFD "EFD_" flags [EFD_SEMAPHORE = 1, EFD_NONBLOCK = 0o4000, EFD_CLOEXEC = 0o2000000];
    /// signalfd(2): `flags`. `<linux/signalfd.h>`
    SIGNALFD "SFD_" flags [SFD_NONBLOCK = 0o4000, SFD_CLOEXEC = 0o2000000];
    /// timerfd_create(2): `flags`. `<linux/timerfd.h>`
    TIMERFD "TFD_" flags [TFD_NONBLOCK = 0o4000, TFD_CLOEXEC = 0o2000000];
    /// timerfd_settime(2): `flags`.
    TIMERFD_SET "TFD_" flags [TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET];
    /// inotify_init1(2): `flags`. `<linux/inotify.h>`
    INOTIFY "IN_" flags [IN_NONBLOCK = 0o4000, IN_CLOEXEC = 0o2000000];
    /// inotify_add_watch(2): `mask`.
    INOTIFY_EVENTS "IN_" flags [IN_ACCESS, IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE, IN_CLOSE_NOWRITE, IN_OPEN, IN_MOVED_FROM,
        IN_MOVED_TO, IN_CREATE, IN_DELETE, IN_DELETE_SELF, IN_MOVE_SELF, IN_ONLYDIR, IN_DONT_FOLLOW, IN_EXCL_UNLINK,
        IN_MASK_CREATE, IN_MASK_ADD, IN_ISDIR, IN_ONESHOT];
}
