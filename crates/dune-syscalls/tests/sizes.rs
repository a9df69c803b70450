//! Sizes of structures, and where their fields are, against `linux-raw-sys`.

use dune_syscalls::structures::*;
use linux_raw_sys::{general, io_uring, landlock, net, prctl, system};
use std::mem::{offset_of, size_of};

macro_rules! same {
    ($($ours:ident: $theirs:ty { $($field:ident),* $(,)? })*) => {$(
        assert_eq!($ours.size as usize, size_of::<$theirs>(), "{}", stringify!($ours));
        $(
            let name = stringify!($field).trim_start_matches("r#");
            let field = $ours.fields.iter().find(|field| field.name == name).expect(name);
            assert_eq!(
                usize::from(field.offset),
                offset_of!($theirs, $field),
                "{}.{name}", stringify!($ours)
            );
        )*
    )*};
}

#[test]
fn structures_are_those_of_the_headers() {
    same! {
        TIMESPEC: general::__kernel_timespec { tv_sec, tv_nsec }
        TIMEVAL: general::__kernel_old_timeval { tv_sec, tv_usec }
        ITIMERVAL: general::__kernel_old_itimerval { it_interval, it_value }
        ITIMERSPEC: general::__kernel_itimerspec { it_interval, it_value }
        TIMEZONE: general::timezone { tz_minuteswest, tz_dsttime }
        STAT: general::stat { st_dev, st_ino, st_nlink, st_mode, st_uid, st_gid, st_rdev, st_size, st_blksize, st_blocks }
        STATX: general::statx { stx_mask, stx_nlink, stx_mode, stx_ino, stx_size }
        STATFS: general::statfs64 { f_type, f_bsize, f_namelen, f_flags }
        OPEN_HOW: general::open_how { flags, mode, resolve }
        FLOCK: general::flock { l_type, l_whence, l_start, l_len, l_pid }
        F_OWNER_EX: general::f_owner_ex { pid }
        MNT_ID_REQ: general::mnt_id_req { size, mnt_id, param, mnt_ns_id }
        XATTR_ARGS_IN: general::xattr_args { value, size, flags }
        XATTR_ARGS_OUT: general::xattr_args { value, size, flags }
        USER_DESC: general::user_desc { entry_number, base_addr, limit }
        CACHESTAT_RANGE: general::cachestat_range { off, len }
        CACHESTAT: general::cachestat { nr_cache, nr_recently_evicted }
        MOUNT_ATTR: general::mount_attr { attr_set, attr_clr, propagation, userns_fd }
        FILE_CLONE_RANGE: general::file_clone_range { src_fd, src_offset, src_length, dest_offset }
        FSXATTR: general::fsxattr { fsx_xflags, fsx_extsize, fsx_nextents, fsx_projid, fsx_cowextsize }
        FSTRIM_RANGE: general::fstrim_range { start, len, minlen }
        FILE_ATTR: general::file_attr { fa_xflags, fa_cowextsize }
        IOVEC_IN: general::iovec { iov_base, iov_len }
        IOVEC_OUT: general::iovec { iov_base, iov_len }
        POLLFD: general::pollfd { fd, events, revents }
        EPOLL_EVENT: general::epoll_event { events, data }
        CLONE_ARGS: general::clone_args {
            flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup,
        }
        RLIMIT: general::rlimit { rlim_cur, rlim_max }
        RUSAGE: general::rusage { ru_utime, ru_stime, ru_maxrss }
        CAPABILITY_HEADER: general::__user_cap_header_struct { version, pid }
        CAPABILITY_DATA: general::__user_cap_data_struct { effective, permitted, inheritable }
        SIGACTION: general::kernel_sigaction { sa_flags, sa_restorer, sa_mask }
        SIGINFO: general::siginfo_t {}
        STACK: general::stack_t { ss_sp, ss_flags, ss_size }
        SIGEVENT: general::sigevent { sigev_value, sigev_signo, sigev_notify }
        FUTEX_WAITV: general::futex_waitv { val, uaddr, flags }
        ROBUST_LIST_HEAD: general::robust_list_head { list, futex_offset, list_op_pending }
        TERMIOS: general::termios { c_iflag, c_oflag, c_cflag, c_lflag }
        TERMIOS2: general::termios2 { c_iflag, c_oflag, c_cflag, c_lflag }
        TERMIO: general::termio { c_iflag, c_oflag, c_cflag, c_lflag }
        WINSIZE: general::winsize { ws_row, ws_col, ws_xpixel, ws_ypixel }
        MSGHDR_IN: net::msghdr { msg_name, msg_namelen, msg_iov, msg_iovlen, msg_control, msg_controllen, msg_flags }
        MSGHDR_OUT: net::msghdr { msg_name, msg_namelen, msg_iov, msg_iovlen, msg_control, msg_controllen, msg_flags }
        MMSGHDR_IN: net::mmsghdr { msg_hdr, msg_len }
        MMSGHDR_OUT: net::mmsghdr { msg_hdr, msg_len }
        CMSGHDR: net::cmsghdr { cmsg_len, cmsg_level, cmsg_type }
        TCP_ZEROCOPY_RECEIVE: net::tcp_zerocopy_receive {
            address, length, recv_skip_hint, inq, err, copybuf_address, copybuf_len, flags, msg_control, msg_controllen, msg_flags,
        }
        IO_URING_PARAMS: io_uring::io_uring_params { sq_entries, cq_entries, flags, wq_fd }
        LANDLOCK_PATH_BENEATH_ATTR: landlock::landlock_path_beneath_attr { allowed_access, parent_fd }
        LANDLOCK_NET_PORT_ATTR: landlock::landlock_net_port_attr { allowed_access, port }
        LANDLOCK_RULESET_ATTR: landlock::landlock_ruleset_attr { handled_access_fs, handled_access_net, scoped }
        PRCTL_MM_MAP: prctl::prctl_mm_map { start_code, auxv, auxv_size, exe_fd }
        UTSNAME: system::new_utsname {}
        SYSINFO: system::sysinfo { uptime, totalram, freeram, procs, totalhigh, mem_unit }
    }
}

#[test]
fn structures_are_those_of_the_c_library() {
    same! {
        TIMEX: libc::timex { modes, offset, freq, maxerror, esterror, status }
        TMS: libc::tms { tms_utime, tms_stime, tms_cutime, tms_cstime }
        UTIMBUF: libc::utimbuf { actime, modtime }
        SEMBUF: libc::sembuf { sem_num, sem_op, sem_flg }
        SEMID_DS: libc::semid_ds {}
        SHMID_DS: libc::shmid_ds {}
        MSQID_DS: libc::msqid_ds {}
        MQ_ATTR: libc::mq_attr { mq_flags, mq_maxmsg, mq_msgsize, mq_curmsgs }
        USER_REGISTERS: libc::user_regs_struct {}
        USER_FP_REGISTERS: libc::user_fpregs_struct {}
        IF_DQBLK: libc::dqblk {}
        SCHED_PARAM: libc::sched_param { sched_priority }
        IOCB: libc::iocb { aio_data, aio_key, aio_rw_flags, aio_lio_opcode, aio_reqprio, aio_fildes, aio_nbytes, aio_offset, aio_flags, aio_resfd }
        SOCK_FILTER: libc::sock_filter { code, jt, jf, k }
        SOCK_FPROG: libc::sock_fprog { len, filter }
        IFREQ: libc::ifreq {}
        IFCONF: libc::ifconf { ifc_len }
        ARPREQ: libc::arpreq {}
        SECCOMP_NOTIF_SIZES: libc::seccomp_notif_sizes { seccomp_notif, seccomp_notif_resp, seccomp_data }
    }
}
