//! `<linux/stat.h>`, `<asm/stat.h>`, `<asm/statfs.h>`, `<linux/openat2.h>`, `<linux/fcntl.h>`, `<linux/mount.h>`, `<linux/uio.h>`,
//! `<linux/mman.h>`, `<linux/poll.h>`, `<linux/eventpoll.h>`, `<linux/aio_abi.h>`, `<linux/xattr.h>`, `<linux/fs.h>`.

use super::{BYTES, structures};
use crate::names::{EPOLL_EVENTS, OPEN, POLL, RESOLVE, STATX_MASK};

structures! {
    STAT: "stat" 144 {
        0 st_dev: UnsignedLong, 8 st_ino: UnsignedLong, 16 st_nlink: UnsignedLong, 24 st_mode: FileMode, 28 st_uid: Uid,
        32 st_gid: Gid, 40 st_rdev: UnsignedLong, 48 st_size: Offset, 56 st_blksize: Long, 64 st_blocks: Long,
    }
    /// Its mode has 16 bits, and 16 after it are 0.
    STATX: "statx" 256 {
        0 stx_mask: Flags(&STATX_MASK), 4 stx_blksize: Unsigned, 8 stx_attributes: LongHex, 16 stx_nlink: Unsigned, 20 stx_uid: Uid,
        24 stx_gid: Gid, 28 stx_mode: FileMode, 32 stx_ino: UnsignedLong, 40 stx_size: UnsignedLong, 48 stx_blocks: UnsignedLong,
    }
    STATFS: "statfs" 120 {
        0 f_type: LongHex, 8 f_bsize: Long, 16 f_blocks: UnsignedLong, 24 f_bfree: UnsignedLong, 32 f_bavail: UnsignedLong,
        40 f_files: UnsignedLong, 48 f_ffree: UnsignedLong, 56 f_fsid: LongHex, 64 f_namelen: Long, 72 f_frsize: Long, 80 f_flags: LongHex,
    }
    USTAT: "ustat" 32 { 0 f_tfree: Int, 8 f_tinode: UnsignedLong }
    OPEN_HOW: "open_how" 24 { 0 flags: LongFlags(&OPEN), 8 mode: LongHex, 16 resolve: LongFlags(&RESOLVE) }
    FILE_HANDLE: "file_handle" 8 { 0 handle_bytes: Unsigned, 4 handle_type: Int }
    FLOCK: "flock" 32 { 0 l_type: Short, 2 l_whence: Short, 8 l_start: Offset, 16 l_len: Offset, 24 l_pid: Pid }
    F_OWNER_EX: "f_owner_ex" 8 { 0 r#type: Int, 4 pid: Pid }
    CACHESTAT_RANGE: "cachestat_range" 16 { 0 off: UnsignedLong, 8 len: UnsignedLong }
    CACHESTAT: "cachestat" 40 {
        0 nr_cache: UnsignedLong, 8 nr_dirty: UnsignedLong, 16 nr_writeback: UnsignedLong, 24 nr_evicted: UnsignedLong,
        32 nr_recently_evicted: UnsignedLong,
    }
    MOUNT_ATTR: "mount_attr" 32 {
        0 attr_set: LongHex, 8 attr_clr: LongHex, 16 propagation: LongHex, 24 userns_fd if any(attr_set, 0x0010_0000): LongFd,
    }
    MNT_ID_REQ: "mnt_id_req" 32 { 0 size: Unsigned, 8 mnt_id: UnsignedLong, 16 param: UnsignedLong, 24 mnt_ns_id: UnsignedLong }
    /// Its first field, which tells its size.
    MNT_ID_REQ_SIZE: "mnt_id_req" 4 { 0 size: Unsigned }
    STATMOUNT: "statmount" 1 { 0 buffer: Byte }
    XATTR_ARGS_IN: "xattr_args" 16 { 0 value: In(&BYTES, Count(size)), 8 size: Unsigned, 12 flags: Hex }
    XATTR_ARGS_OUT: "xattr_args" 16 { 0 value: Out(&BYTES, Filled(size)), 8 size: Unsigned, 12 flags: Hex }
    FILE_ATTR: "file_attr" 24 {
        0 fa_xflags: LongHex, 8 fa_extsize: Unsigned, 12 fa_nextents: Unsigned, 16 fa_projid: Unsigned, 20 fa_cowextsize: Unsigned,
    }
    FSXATTR: "fsxattr" 28 {
        0 fsx_xflags: Hex, 4 fsx_extsize: Unsigned, 8 fsx_nextents: Unsigned, 12 fsx_projid: Unsigned, 16 fsx_cowextsize: Unsigned,
    }
    FILE_CLONE_RANGE: "file_clone_range" 32 {
        0 src_fd: LongFd, 8 src_offset: UnsignedLong, 16 src_length: UnsignedLong, 24 dest_offset: UnsignedLong,
    }
    FSTRIM_RANGE: "fstrim_range" 24 { 0 start: UnsignedLong, 8 len: UnsignedLong, 16 minlen: UnsignedLong }

    /// To be written from.
    IOVEC_IN: "iovec" 16 { 0 iov_base: In(&BYTES, Count(iov_len)), 8 iov_len: Size }
    /// To be read into.
    IOVEC_OUT: "iovec" 16 { 0 iov_base: Out(&BYTES, Count(iov_len)), 8 iov_len: Size }
    /// To be written from or read into.
    IOVEC_BOTH: "iovec" 16 { 0 iov_base: InOut(&BYTES, Count(iov_len)), 8 iov_len: Size }
    /// Of another process.
    IOVEC_FOREIGN: "iovec" 16 { 0 iov_base: Foreign, 8 iov_len: Size }

    POLLFD: "pollfd" 8 { 0 fd: OptionalFd, 4 events: ShortFlags(&POLL), 6 revents: ShortFlags(&POLL) }
    /// Packed on x86-64.
    EPOLL_EVENT: "epoll_event" 12 { 0 events: Flags(&EPOLL_EVENTS), 4 data: LongHex }

    IO_EVENT: "io_event" 32 { 0 data: LongHex, 8 obj: LongHex, 16 res: Long, 24 res2: Long }
    /// What `aio_buf` is depends on the operation: pread, pwrite, poll, preadv, pwritev.
    IOCB: "iocb" 64 {
        0 aio_data: LongHex, 8 aio_key: Unsigned, 12 aio_rw_flags: Hex, 16 aio_lio_opcode: Short, 18 aio_reqprio: Short,
        20 aio_fildes: Fd,
        24 aio_pread if is(aio_lio_opcode, 0): Out(&BYTES, Count(aio_nbytes)),
        24 aio_pwrite if is(aio_lio_opcode, 1): In(&BYTES, Count(aio_nbytes)),
        24 aio_poll if is(aio_lio_opcode, 5): LongHex,
        24 aio_preadv if is(aio_lio_opcode, 7): In(&IOVEC_OUT, AtMost(aio_nbytes, 1024)),
        24 aio_pwritev if is(aio_lio_opcode, 8): In(&IOVEC_IN, AtMost(aio_nbytes, 1024)),
        32 aio_nbytes: Size, 40 aio_offset: Offset, 56 aio_flags: Hex, 60 aio_resfd if any(aio_flags, 1): Fd,
    }
    /// As io_submit(2) takes it: an element of an array of addresses.
    IOCB_ADDRESS: "iocb *" 8 { 0 iocb: In(&IOCB, One) }
}
