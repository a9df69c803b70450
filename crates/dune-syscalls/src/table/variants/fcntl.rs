//! `<linux/fcntl.h>`, `<asm-generic/fcntl.h>`.

use crate::names::{DESCRIPTOR_FLAGS, OPEN};
use crate::structures::*;
use crate::table::forms;
use linux_raw_sys::general as linux;

forms! {
    /// fcntl(2)
    FCNTL by 1 & 0xffff_ffff >> 0: {
        linux::F_DUPFD => Forwarded F_DUPFD(fd: Fd, cmd: Unsigned, arg: Int) -> Descriptor;
        linux::F_GETFD => Forwarded F_GETFD(fd: Fd, cmd: Unsigned) -> Hex;
        linux::F_SETFD => Forwarded F_SETFD(fd: Fd, cmd: Unsigned, arg: Flags(&DESCRIPTOR_FLAGS)) -> Number;
        linux::F_GETFL => Forwarded F_GETFL(fd: Fd, cmd: Unsigned) -> Hex;
        linux::F_SETFL => Forwarded F_SETFL(fd: Fd, cmd: Unsigned, arg: Flags(&OPEN)) -> Number;
        linux::F_GETLK => Forwarded F_GETLK(fd: Fd, cmd: Unsigned, arg: InOut(&FLOCK, One)) -> Number;
        linux::F_SETLK => Forwarded F_SETLK(fd: Fd, cmd: Unsigned, arg: In(&FLOCK, One)) -> Number;
        linux::F_SETLKW => Forwarded F_SETLKW(fd: Fd, cmd: Unsigned, arg: In(&FLOCK, One)) -> Number;
        // Signals go to that process.
        linux::F_SETOWN => Forwarded F_SETOWN(fd: Fd, cmd: Unsigned, arg: Pid) -> Number;
        linux::F_GETOWN => Forwarded F_GETOWN(fd: Fd, cmd: Unsigned) -> Number;
        linux::F_SETSIG => Forwarded F_SETSIG(fd: Fd, cmd: Unsigned, arg: Signal) -> Number;
        linux::F_GETSIG => Forwarded F_GETSIG(fd: Fd, cmd: Unsigned) -> Number;
        linux::F_SETOWN_EX => Forwarded F_SETOWN_EX(fd: Fd, cmd: Unsigned, arg: In(&F_OWNER_EX, One)) -> Number;
        linux::F_GETOWN_EX => Forwarded F_GETOWN_EX(fd: Fd, cmd: Unsigned, arg: Out(&F_OWNER_EX, One)) -> Number;
        linux::F_GETOWNER_UIDS => Forwarded F_GETOWNER_UIDS(fd: Fd, cmd: Unsigned, arg: Out(&USER, Exactly(2))) -> Number;
        linux::F_OFD_GETLK => Forwarded F_OFD_GETLK(fd: Fd, cmd: Unsigned, arg: InOut(&FLOCK, One)) -> Number;
        linux::F_OFD_SETLK => Forwarded F_OFD_SETLK(fd: Fd, cmd: Unsigned, arg: In(&FLOCK, One)) -> Number;
        linux::F_OFD_SETLKW => Forwarded F_OFD_SETLKW(fd: Fd, cmd: Unsigned, arg: In(&FLOCK, One)) -> Number;
        linux::F_SETLEASE => Forwarded F_SETLEASE(fd: Fd, cmd: Unsigned, arg: Int) -> Number;
        linux::F_GETLEASE => Forwarded F_GETLEASE(fd: Fd, cmd: Unsigned) -> Number;
        linux::F_NOTIFY => Forwarded F_NOTIFY(fd: Fd, cmd: Unsigned, arg: Hex) -> Number;
        // Since 6.10 (include/uapi/linux/fcntl.h).
        1027 => Forwarded F_DUPFD_QUERY(fd: Fd, cmd: Unsigned, arg: Fd) -> Number;
        1028 => Forwarded F_CREATED_QUERY(fd: Fd, cmd: Unsigned) -> Number;
        linux::F_DUPFD_CLOEXEC => Forwarded F_DUPFD_CLOEXEC(fd: Fd, cmd: Unsigned, arg: Int) -> Descriptor;
        linux::F_SETPIPE_SZ => Forwarded F_SETPIPE_SZ(fd: Fd, cmd: Unsigned, arg: Unsigned) -> Number;
        linux::F_GETPIPE_SZ => Forwarded F_GETPIPE_SZ(fd: Fd, cmd: Unsigned) -> Number;
        linux::F_ADD_SEALS => Forwarded F_ADD_SEALS(fd: Fd, cmd: Unsigned, arg: Hex) -> Number;
        linux::F_GET_SEALS => Forwarded F_GET_SEALS(fd: Fd, cmd: Unsigned) -> Hex;
        linux::F_GET_RW_HINT => Forwarded F_GET_RW_HINT(fd: Fd, cmd: Unsigned, arg: Out(&LONG, One)) -> Number;
        linux::F_SET_RW_HINT => Forwarded F_SET_RW_HINT(fd: Fd, cmd: Unsigned, arg: In(&LONG, One)) -> Number;
        linux::F_GET_FILE_RW_HINT => Forwarded F_GET_FILE_RW_HINT(fd: Fd, cmd: Unsigned, arg: Out(&LONG, One)) -> Number;
        linux::F_SET_FILE_RW_HINT => Forwarded F_SET_FILE_RW_HINT(fd: Fd, cmd: Unsigned, arg: In(&LONG, One)) -> Number;
    }
}
