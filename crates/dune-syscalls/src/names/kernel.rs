use super::names;
use linux_raw_sys::general as linux;

names! {
    /// mount(2): `mountflags`.
    MOUNT "MS_" flags [MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_SYNCHRONOUS, MS_REMOUNT, MS_MANDLOCK, MS_DIRSYNC, MS_NOSYMFOLLOW,
        MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_MOVE, MS_REC, MS_SILENT, MS_POSIXACL, MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED,
        MS_RELATIME, MS_KERNMOUNT, MS_I_VERSION, MS_STRICTATIME, MS_LAZYTIME];
    /// umount2(2): `flags`.
    UNMOUNT "MNT_" flags [MNT_FORCE, MNT_DETACH, MNT_EXPIRE, UMOUNT_NOFOLLOW];
    /// landlock_create_ruleset(2): `flags`. `<linux/landlock.h>`
    LANDLOCK_CREATE "LANDLOCK_" flags [LANDLOCK_CREATE_RULESET_VERSION = 1];
    /// seccomp(2): `flags`. `<linux/seccomp.h>`
    SECCOMP "SECCOMP_FILTER_FLAG_" flags [SECCOMP_FILTER_FLAG_TSYNC = 1, SECCOMP_FILTER_FLAG_LOG = 2,
        SECCOMP_FILTER_FLAG_SPEC_ALLOW = 4, SECCOMP_FILTER_FLAG_NEW_LISTENER = 8, SECCOMP_FILTER_FLAG_TSYNC_ESRCH = 16];
    /// pidfd_open(2), pidfd_send_signal(2): `flags`. `<linux/pidfd.h>`
    PIDFD "PIDFD_" flags [PIDFD_NONBLOCK = 0o4000, PIDFD_THREAD = 0o200];
    /// Flags of which no name is known here, or none is defined.
    UNNAMED "0x" flags [];
}
