//! Descriptors of Dune's own, which are not there for the program's calls.
//!
//! They stand where programs do not look (`linux/descriptor.rs`), but some look at all numbers, by close_range(2), fcntl(2), or the list in
//! `/proc/self/fd`. The entry stub sends a call here that names one of them in a register. It is made with a number that nobody has in
//! its place, so that Linux judges all else first: a path that is absolute, a bad address.

use linux_raw_sys::errno::{EBADF, EBUSY};
use linux_raw_sys::general::{
    self as linux, __NR_close_range as CLOSE_RANGE, __NR_mmap as MMAP, MAP_ANONYMOUS, RLIMIT_NOFILE,
};

use super::syscall::error;
use crate::contract::block::SYSCALL_NUMBERS;
use crate::contract::process::Process;
use crate::guest::hypercall::{forward, forward_unless_signalled};
use crate::linux::descriptor::{is_kept, is_own_argument};
use crate::linux::sys;

/// The calls that always come to [`handle`]: their descriptors are where the stub does not look.
pub(crate) const NUMBERS: [u32; 5] = [
    CLOSE_RANGE,
    linux::__NR_fanotify_mark,
    linux::__NR_fsconfig,
    linux::__NR_kcmp,
    linux::__NR_perf_event_open,
];

/// The calls whose first argument is a descriptor, and no other is.
const FIRST: &[u32] = &[
    linux::__NR_read,
    linux::__NR_write,
    linux::__NR_close,
    linux::__NR_fstat,
    linux::__NR_lseek,
    linux::__NR_ioctl,
    linux::__NR_pread64,
    linux::__NR_pwrite64,
    linux::__NR_readv,
    linux::__NR_writev,
    linux::__NR_dup,
    linux::__NR_connect,
    linux::__NR_accept,
    linux::__NR_sendto,
    linux::__NR_recvfrom,
    linux::__NR_sendmsg,
    linux::__NR_recvmsg,
    linux::__NR_shutdown,
    linux::__NR_bind,
    linux::__NR_listen,
    linux::__NR_getsockname,
    linux::__NR_getpeername,
    linux::__NR_setsockopt,
    linux::__NR_getsockopt,
    linux::__NR_fcntl,
    linux::__NR_flock,
    linux::__NR_fsync,
    linux::__NR_fdatasync,
    linux::__NR_ftruncate,
    linux::__NR_getdents,
    linux::__NR_fchdir,
    linux::__NR_fchmod,
    linux::__NR_fchown,
    linux::__NR_fstatfs,
    linux::__NR_readahead,
    linux::__NR_fsetxattr,
    linux::__NR_fgetxattr,
    linux::__NR_flistxattr,
    linux::__NR_fremovexattr,
    linux::__NR_getdents64,
    linux::__NR_fadvise64,
    linux::__NR_epoll_wait,
    linux::__NR_mq_timedsend,
    linux::__NR_mq_timedreceive,
    linux::__NR_mq_notify,
    linux::__NR_mq_getsetattr,
    linux::__NR_inotify_add_watch,
    linux::__NR_inotify_rm_watch,
    linux::__NR_openat,
    linux::__NR_mkdirat,
    linux::__NR_mknodat,
    linux::__NR_fchownat,
    linux::__NR_futimesat,
    linux::__NR_newfstatat,
    linux::__NR_unlinkat,
    linux::__NR_readlinkat,
    linux::__NR_fchmodat,
    linux::__NR_faccessat,
    linux::__NR_sync_file_range,
    linux::__NR_vmsplice,
    linux::__NR_utimensat,
    linux::__NR_epoll_pwait,
    linux::__NR_signalfd,
    linux::__NR_fallocate,
    linux::__NR_timerfd_settime,
    linux::__NR_timerfd_gettime,
    linux::__NR_accept4,
    linux::__NR_signalfd4,
    linux::__NR_preadv,
    linux::__NR_pwritev,
    linux::__NR_recvmmsg,
    linux::__NR_name_to_handle_at,
    linux::__NR_open_by_handle_at,
    linux::__NR_syncfs,
    linux::__NR_sendmmsg,
    linux::__NR_setns,
    linux::__NR_finit_module,
    linux::__NR_execveat,
    linux::__NR_preadv2,
    linux::__NR_pwritev2,
    linux::__NR_statx,
    linux::__NR_pidfd_send_signal,
    linux::__NR_io_uring_enter,
    linux::__NR_io_uring_register,
    linux::__NR_open_tree,
    linux::__NR_fsmount,
    linux::__NR_fspick,
    linux::__NR_openat2,
    linux::__NR_faccessat2,
    linux::__NR_process_madvise,
    linux::__NR_epoll_pwait2,
    linux::__NR_mount_setattr,
    linux::__NR_quotactl_fd,
    linux::__NR_landlock_add_rule,
    linux::__NR_landlock_restrict_self,
    linux::__NR_process_mrelease,
    linux::__NR_cachestat,
    linux::__NR_fchmodat2,
    linux::__NR_setxattrat,
    linux::__NR_getxattrat,
    linux::__NR_listxattrat,
    linux::__NR_removexattrat,
    linux::__NR_open_tree_attr,
    linux::__NR_file_getattr,
    linux::__NR_file_setattr,
];

/// Calls with descriptors in other places, and which arguments those are.
const OTHERS: &[(u32, &[usize])] = &[
    (linux::__NR_copy_file_range, &[0, 2]),
    (linux::__NR_dup2, &[0, 1]),
    (linux::__NR_dup3, &[0, 1]),
    (linux::__NR_epoll_ctl, &[0, 2]),
    (linux::__NR_fanotify_mark, &[0, 3]),
    (linux::__NR_fsconfig, &[0, 4]),
    (linux::__NR_kcmp, &[3, 4]),
    (linux::__NR_kexec_file_load, &[0, 1]),
    (linux::__NR_linkat, &[0, 2]),
    (linux::__NR_move_mount, &[0, 2]),
    (linux::__NR_perf_event_open, &[3]),
    (linux::__NR_pidfd_getfd, &[0]),
    (linux::__NR_renameat, &[0, 2]),
    (linux::__NR_renameat2, &[0, 2]),
    (linux::__NR_sendfile, &[0, 1]),
    (linux::__NR_splice, &[0, 2]),
    (linux::__NR_symlinkat, &[1]),
    (linux::__NR_tee, &[0, 1]),
];

/// For the stub: one bit for each call that has a descriptor in RDI, RSI or RDX.
pub(super) static IN_REGISTERS: [u64; SYSCALL_NUMBERS / 64] = bits(true);
/// For the stub: of those the ones that may have it in RSI or RDX.
pub(super) static NOT_ONLY_FIRST: [u64; SYSCALL_NUMBERS / 64] = bits(false);

const fn bits(with_first: bool) -> [u64; SYSCALL_NUMBERS / 64] {
    let mut bits = [0; SYSCALL_NUMBERS / 64];
    let mut index = 0;
    while with_first && index < FIRST.len() {
        bits[FIRST[index] as usize / 64] |= 1 << (FIRST[index] % 64);
        index += 1;
    }
    index = 0;
    while index < OTHERS.len() {
        let (number, places) = OTHERS[index];
        if places[places.len() - 1] <= 2 {
            bits[number as usize / 64] |= 1 << (number % 64);
        }
        index += 1;
    }
    bits
}

/// The arguments of call `number` that are descriptors.
fn places(number: u32) -> &'static [usize] {
    let in_registers =
        IN_REGISTERS.get(number as usize / 64).is_some_and(|word| word & 1 << (number % 64) != 0);
    if !in_registers && !NUMBERS.contains(&number) {
        return &[];
    }
    OTHERS.iter().find(|(other, _)| *other == number).map_or(&[0], |(_, places)| places)
}

/// Makes the call if it names a descriptor of Dune's; the kernel's raw return value, or, where the calling code `may_restart` it,
/// [`RESTART`](crate::contract::request::RESTART) if a signal came first. Other calls are other modules', or [`pass_on`]'s.
#[inline]
pub(super) fn handle(process: &Process, number: u32, arguments: &[u64; 6], may_restart: bool) -> Option<u64> {
    match number {
        CLOSE_RANGE => {
            let [first, last, flags, ..] = *arguments;
            // No thread is just being made, whose descriptor is on no list yet.
            let _births = process.hold_births();
            Some(close_range(process, (first as u32, last as u32), flags))
        }
        MMAP => (arguments[3] as u32 & MAP_ANONYMOUS == 0 && is_ours(arguments[4])).then(|| error(EBADF)),
        _ => {
            let places = places(number);
            let names_ours = places.iter().any(|&place| is_ours(arguments[place]));
            names_ours.then(|| without_ours(number, arguments, places, may_restart))
        }
    }
}

/// Whether an argument is a descriptor of Dune's, and the call the program's.
fn is_ours(argument: u64) -> bool {
    is_kept(argument as u32) && !is_own_argument(argument)
}

/// Makes the call with descriptors that nobody has in place of Dune's, which are among the arguments at `places`.
#[cold]
fn without_ours(number: u32, arguments: &[u64; 6], places: &[usize], may_restart: bool) -> u64 {
    /// Above what `fs.nr_open` may be.
    const NOBODYS: u64 = i32::MAX as u64;
    let is_copy = matches!(number, linux::__NR_dup2 | linux::__NR_dup3);
    if is_copy && is_ours(arguments[1]) && arguments[1] < sys::soft_limit(RLIMIT_NOFILE) {
        // A number that the program could have: as dup2(2) says of a descriptor that another thread is opening.
        return error(EBUSY);
    }
    let mut changed = *arguments;
    for &place in places.iter().filter(|&&place| is_ours(arguments[place])) {
        changed[place] = NOBODYS;
    }
    make(number, &changed, may_restart)
}

/// Makes the call, which names no descriptor of Dune's, if it is one that came only for that.
pub(super) fn pass_on(number: u32, arguments: &[u64; 6], may_restart: bool) -> Option<u64> {
    (!places(number).is_empty()).then(|| make(number, arguments, may_restart))
}

fn make(number: u32, arguments: &[u64; 6], may_restart: bool) -> u64 {
    let call = if may_restart { forward_unless_signalled } else { forward };
    call(number, arguments)
}

/// close_range(2), in pieces between Dune's descriptors.
fn close_range(process: &Process, (first, last): (u32, u32), flags: u64) -> u64 {
    // <linux/close_range.h>
    const CLOSE_RANGE_CLOEXEC: u32 = 1 << 2;
    let close = |first: u32, last: u32| forward(CLOSE_RANGE, &[first.into(), last.into(), flags, 0, 0, 0]);
    if first > last || flags as u32 & CLOSE_RANGE_CLOEXEC != 0 {
        // An error, or what Dune's descriptors are already.
        return close(first, last);
    }
    let mut next = first;
    loop {
        match process.held_descriptor(next).filter(|&descriptor| descriptor <= last) {
            None => return close(next, last),
            Some(descriptor) => {
                if descriptor > next {
                    let result = close(next, descriptor - 1);
                    if result != 0 {
                        return result;
                    }
                }
                if descriptor == last {
                    return 0;
                }
                next = descriptor + 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stub_looks_where_descriptors_are() {
        let has = |bits: &[u64], number: u32| bits[number as usize / 64] & 1 << (number % 64) != 0;
        for &(number, places) in OTHERS {
            let in_registers = places.iter().all(|&place| place <= 2);
            let always = NUMBERS.contains(&number);
            assert!(in_registers != always, "{number}");
            assert_eq!(
                (has(&IN_REGISTERS, number), has(&NOT_ONLY_FIRST, number)),
                (in_registers, in_registers)
            );
            assert!(!FIRST.contains(&number), "{number} is in both lists");
        }
        assert!(has(&IN_REGISTERS, linux::__NR_read) && !has(&NOT_ONLY_FIRST, linux::__NR_read));
        assert!(!has(&IN_REGISTERS, linux::__NR_getpid));
        assert_eq!(
            (places(linux::__NR_fstat), places(linux::__NR_tee), places(linux::__NR_stat)),
            (&[0][..], &[0, 1][..], &[][..])
        );
    }
}
