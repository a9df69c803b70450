//! `<linux/quota.h>`, `<linux/dqblk_xfs.h>`, `<linux/mount.h>`; fs/filesystems.c.

use crate::structures::*;
use crate::table::forms;

forms! {
    /// quotactl(2): the command is above the lowest byte.
    QUOTACTL by 0 & 0xffff_ff00 >> 8: {
        0x0080_0001 => Refused Q_SYNC(cmd: Hex, special: Path) -> Number;
        0x0080_0002 => Refused Q_QUOTAON(cmd: Hex, special: Path, id: Unsigned, addr: Path) -> Number;
        0x0080_0003 => Refused Q_QUOTAOFF(cmd: Hex, special: Path) -> Number;
        0x0080_0004 => Refused Q_GETFMT(cmd: Hex, special: Path, id: Unsigned, addr: Out(&UNSIGNED, One)) -> Number;
        0x0080_0005 => Refused Q_GETINFO(cmd: Hex, special: Path, id: Unsigned, addr: Out(&IF_DQINFO, One)) -> Number;
        0x0080_0006 => Refused Q_SETINFO(cmd: Hex, special: Path, id: Unsigned, addr: In(&IF_DQINFO, One)) -> Number;
        0x0080_0007 => Refused Q_GETQUOTA(cmd: Hex, special: Path, id: Unsigned, addr: Out(&IF_DQBLK, One)) -> Number;
        0x0080_0008 => Refused Q_SETQUOTA(cmd: Hex, special: Path, id: Unsigned, addr: In(&IF_DQBLK, One)) -> Number;
        0x5803 => Refused Q_XGETQUOTA(cmd: Hex, special: Path, id: Unsigned, addr: Out(&FS_DISK_QUOTA, One)) -> Number;
        0x5804 => Refused Q_XSETQLIM(cmd: Hex, special: Path, id: Unsigned, addr: In(&FS_DISK_QUOTA, One)) -> Number;
    }
    /// quotactl_fd(2)
    QUOTACTL_FD by 1 & 0xffff_ff00 >> 8: {
        0x0080_0001 => Refused Q_SYNC(fd: Fd, cmd: Hex) -> Number;
        0x0080_0003 => Refused Q_QUOTAOFF(fd: Fd, cmd: Hex) -> Number;
        0x0080_0004 => Refused Q_GETFMT(fd: Fd, cmd: Hex, id: Unsigned, addr: Out(&UNSIGNED, One)) -> Number;
        0x0080_0005 => Refused Q_GETINFO(fd: Fd, cmd: Hex, id: Unsigned, addr: Out(&IF_DQINFO, One)) -> Number;
        0x0080_0006 => Refused Q_SETINFO(fd: Fd, cmd: Hex, id: Unsigned, addr: In(&IF_DQINFO, One)) -> Number;
        0x0080_0007 => Refused Q_GETQUOTA(fd: Fd, cmd: Hex, id: Unsigned, addr: Out(&IF_DQBLK, One)) -> Number;
        0x0080_0008 => Refused Q_SETQUOTA(fd: Fd, cmd: Hex, id: Unsigned, addr: In(&IF_DQBLK, One)) -> Number;
    }
    /// sysfs(2)
    SYSFS by 0 & 0xffff_ffff >> 0: {
        1 => Refused fs_index(option: Int, fsname: TextOf(4096)) -> Number;
        // The buffer is as large as the longest name, whatever that is.
        2 => Refused fs_name(option: Int, fs_index: UnsignedLong, buf: Opaque) -> Number;
        3 => Refused fs_maxindex(option: Int) -> Number;
    }
    /// fsconfig(2)
    FSCONFIG by 1 & 0xffff_ffff >> 0: {
        0 => Refused FSCONFIG_SET_FLAG(fd: Fd, cmd: Unsigned, key: TextOf(256)) -> Number;
        1 => Refused FSCONFIG_SET_STRING(fd: Fd, cmd: Unsigned, key: TextOf(256), value: TextOf(256)) -> Number;
        2 => Refused FSCONFIG_SET_BINARY(fd: Fd, cmd: Unsigned, key: TextOf(256), value: In(&BYTES, AtMost(aux, 1_048_576)), aux: Int) -> Number;
        3 => Refused FSCONFIG_SET_PATH(fd: Fd, cmd: Unsigned, key: TextOf(256), value: PathAt(aux), aux: Directory) -> Number;
        4 => Refused FSCONFIG_SET_PATH_EMPTY(fd: Fd, cmd: Unsigned, key: TextOf(256), value: PathAt(aux), aux: Directory) -> Number;
        5 => Refused FSCONFIG_SET_FD(fd: Fd, cmd: Unsigned, key: TextOf(256), value: LongHex, aux: Fd) -> Number;
        6 => Refused FSCONFIG_CMD_CREATE(fd: Fd, cmd: Unsigned) -> Number;
        7 => Refused FSCONFIG_CMD_RECONFIGURE(fd: Fd, cmd: Unsigned) -> Number;
        8 => Refused FSCONFIG_CMD_CREATE_EXCL(fd: Fd, cmd: Unsigned) -> Number;
    }
}
