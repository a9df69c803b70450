//! `<linux/perf_event.h>`, `<linux/io_uring.h>`, `<linux/kexec.h>`, `<linux/quota.h>`, `<linux/dqblk_xfs.h>`, `<linux/lsm.h>`,
//! `<linux/ptrace.h>`, `<linux/keyctl.h>`, `<asm/ptrace.h>`.

use super::{BYTES, structures};

structures! {
    /// Its first two fields; it tells its size.
    PERF_EVENT_ATTR: "perf_event_attr" 8 { 0 r#type: Unsigned, 4 size: Unsigned }
    IO_URING_PARAMS: "io_uring_params" 120 { 0 sq_entries: Unsigned, 4 cq_entries: Unsigned, 8 flags: Hex, 24 wq_fd if any(flags, 0x20): Fd }
    KEXEC_SEGMENT: "kexec_segment" 32 { 0 buf: In(&BYTES, Count(bufsz)), 8 bufsz: Size, 16 mem: LongHex, 24 memsz: Size }
    IF_DQBLK: "if_dqblk" 72 {}
    IF_DQINFO: "if_dqinfo" 24 {}
    FS_DISK_QUOTA: "fs_disk_quota" 112 {}
    LSM_CTX: "lsm_ctx" 1 { 0 bytes: Byte }
    KCMP_EPOLL_SLOT: "kcmp_epoll_slot" 12 { 0 efd: Unsigned, 4 tfd: Unsigned, 8 toff: Unsigned }
    USER_REGISTERS: "user_regs_struct" 216 {}
    USER_FP_REGISTERS: "user_fpregs_struct" 512 {}
}
