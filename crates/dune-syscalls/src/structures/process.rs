//! `<linux/sched.h>`, `<linux/resource.h>`, `<linux/sched/types.h>`, `<linux/utsname.h>`, `<linux/sysinfo.h>`, `<linux/futex.h>`,
//! `<linux/rseq.h>`, `<linux/capability.h>`, `<linux/filter.h>`, `<linux/seccomp.h>`, `<linux/landlock.h>`, `<asm/ldt.h>`.

use super::{INT, TIMEVAL, structures};
use crate::kind::Kind;
use crate::names::CLONE;

structures! {
    CLONE_ARGS: "clone_args" 88 {
        0 flags: LongFlags(&CLONE),
        8 pidfd if any(flags, 0x1000): Out(&INT, One),
        16 child_tid if any(flags, 0x0120_0000): Kept(4),
        24 parent_tid if any(flags, 0x0010_0000): Out(&INT, One),
        32 exit_signal: UnsignedLong,
        40 stack: KeptOf(stack_size),
        48 stack_size: Size,
        56 tls if any(flags, 0x0008_0000): LongHex,
        64 set_tid: In(&INT, AtMost(set_tid_size, 32)),
        72 set_tid_size: Size,
        80 cgroup if any(flags, 0x2_0000_0000): LongFd,
    }
    RLIMIT: "rlimit" 16 { 0 rlim_cur: UnsignedLong, 8 rlim_max: UnsignedLong }
    RUSAGE: "rusage" 144 { 0 ru_utime: Kind::Inline(&TIMEVAL), 16 ru_stime: Kind::Inline(&TIMEVAL), 32 ru_maxrss: Long }
    SCHED_PARAM: "sched_param" 4 { 0 sched_priority: Int }
    SCHED_ATTR: "sched_attr" 56 {
        0 size: Unsigned, 4 sched_policy: Unsigned, 8 sched_flags: LongHex, 16 sched_nice: Int, 20 sched_priority: Unsigned,
        24 sched_runtime: UnsignedLong, 32 sched_deadline: UnsignedLong, 40 sched_period: UnsignedLong,
        48 sched_util_min: Unsigned, 52 sched_util_max: Unsigned,
    }
    /// Its first field, which tells its size.
    SCHED_ATTR_SIZE: "sched_attr" 4 { 0 size: Unsigned }
    /// `struct new_utsname`: six texts of 65 bytes.
    UTSNAME: "utsname" 390 {}
    SYSINFO: "sysinfo" 112 {
        0 uptime: Long, 32 totalram: UnsignedLong, 40 freeram: UnsignedLong, 48 sharedram: UnsignedLong, 56 bufferram: UnsignedLong,
        64 totalswap: UnsignedLong, 72 freeswap: UnsignedLong, 80 procs: Short, 88 totalhigh: UnsignedLong, 96 freehigh: UnsignedLong,
        104 mem_unit: Unsigned,
    }
    ROBUST_LIST_HEAD: "robust_list_head" 24 { 0 list: LongHex, 8 futex_offset: Long, 16 list_op_pending: LongHex }
    RSEQ: "rseq" 32 { 0 cpu_id_start: Unsigned, 4 cpu_id: Unsigned, 8 rseq_cs: LongHex, 16 flags: Hex, 20 node_id: Unsigned, 24 mm_cid: Unsigned }
    CAPABILITY_HEADER: "cap_user_header_t" 8 { 0 version: Hex, 4 pid: Pid }
    CAPABILITY_DATA: "cap_user_data_t" 12 { 0 effective: Hex, 4 permitted: Hex, 8 inheritable: Hex }
    USER_DESC: "user_desc" 16 { 0 entry_number: Unsigned, 4 base_addr: Hex, 8 limit: Hex, 12 bits: Hex }
    SOCK_FILTER: "sock_filter" 8 { 0 code: Short, 2 jt: Byte, 3 jf: Byte, 4 k: Hex }
    SOCK_FPROG: "sock_fprog" 16 { 0 len: Short, 8 filter: In(&SOCK_FILTER, AtMost(len, 4096)) }
    SECCOMP_NOTIF_SIZES: "seccomp_notif_sizes" 6 { 0 seccomp_notif: Short, 2 seccomp_notif_resp: Short, 4 seccomp_data: Short }
    LANDLOCK_RULESET_ATTR: "landlock_ruleset_attr" 24 { 0 handled_access_fs: LongHex, 8 handled_access_net: LongHex, 16 scoped: LongHex }
    /// Packed.
    LANDLOCK_PATH_BENEATH_ATTR: "landlock_path_beneath_attr" 12 { 0 allowed_access: LongHex, 8 parent_fd: Fd }
    LANDLOCK_NET_PORT_ATTR: "landlock_net_port_attr" 16 { 0 allowed_access: LongHex, 8 port: UnsignedLong }
    PRCTL_MM_MAP: "prctl_mm_map" 104 {
        0 start_code: LongHex, 8 end_code: LongHex, 16 start_data: LongHex, 24 end_data: LongHex, 32 start_brk: LongHex, 40 brk: LongHex,
        48 start_stack: LongHex, 56 arg_start: LongHex, 64 arg_end: LongHex, 72 env_start: LongHex, 80 env_end: LongHex,
        88 auxv: In(&super::BYTES, Count(auxv_size)), 96 auxv_size: Unsigned, 100 exe_fd: OptionalFd,
    }
}
