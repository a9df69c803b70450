//! `compute`: no files, no network, no other processes.

use dune_syscalls::{Call, Class, Form, NUMBERS};

use super::{Decision, Policy};
use crate::checked::Request;
use crate::command::Recipe;
use crate::identities;
use crate::wall::Wall;

/// A program that only computes: it reads and writes its standard streams, and has memory, clocks and threads of its own.
///
/// Files can not be opened, so only static programs start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compute;

/// Calls that reach nothing but the program itself and the descriptors that it has.
static ALLOWED: [bool; NUMBERS] = {
    let numbers = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_close,
        libc::SYS_fstat,
        libc::SYS_lseek,
        libc::SYS_pread64,
        libc::SYS_pwrite64,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_pipe,
        libc::SYS_dup,
        libc::SYS_dup2,
        libc::SYS_sendfile,
        libc::SYS_fsync,
        libc::SYS_fdatasync,
        libc::SYS_ftruncate,
        libc::SYS_fstatfs,
        libc::SYS_readahead,
        libc::SYS_fadvise64,
        libc::SYS_splice,
        libc::SYS_tee,
        libc::SYS_sync_file_range,
        libc::SYS_vmsplice,
        libc::SYS_fallocate,
        libc::SYS_dup3,
        libc::SYS_pipe2,
        libc::SYS_preadv,
        libc::SYS_pwritev,
        libc::SYS_copy_file_range,
        libc::SYS_preadv2,
        libc::SYS_pwritev2,
        libc::SYS_close_range,
        libc::SYS_flock,
        libc::SYS_poll,
        libc::SYS_select,
        libc::SYS_epoll_create,
        libc::SYS_epoll_wait,
        libc::SYS_epoll_ctl,
        libc::SYS_pselect6,
        libc::SYS_ppoll,
        libc::SYS_epoll_pwait,
        libc::SYS_eventfd,
        libc::SYS_eventfd2,
        libc::SYS_epoll_create1,
        libc::SYS_epoll_pwait2,
        libc::SYS_sched_yield,
        libc::SYS_getpid,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_getrusage,
        libc::SYS_getppid,
        libc::SYS_getpgrp,
        libc::SYS_gettid,
        libc::SYS_set_tid_address,
        libc::SYS_set_robust_list,
        libc::SYS_getcpu,
        libc::SYS_rseq,
        libc::SYS_prctl,
        libc::SYS_arch_prctl,
        libc::SYS_sched_get_priority_max,
        libc::SYS_sched_get_priority_min,
        libc::SYS_getrlimit,
        libc::SYS_wait4,
        libc::SYS_waitid,
        libc::SYS_membarrier,
        libc::SYS_futex,
        // futex_wait
        455,
        // futex_wake
        454,
        // futex_requeue
        456,
        // futex_waitv
        449,
        libc::SYS_uname,
        libc::SYS_sysinfo,
        libc::SYS_getrandom,
        libc::SYS_umask,
    ];
    let (mut table, mut index) = ([false; NUMBERS], 0);
    while index < numbers.len() {
        table[numbers[index] as usize] = true;
        index += 1;
    }
    table
};

/// Of fcntl(2): descriptors of its own, flags and locks of their files. Not who gets signals for them.
const FCNTL: [&str; 19] = [
    "F_DUPFD",
    "F_DUPFD_CLOEXEC",
    "F_GETFD",
    "F_SETFD",
    "F_GETFL",
    "F_SETFL",
    "F_GETLK",
    "F_SETLK",
    "F_SETLKW",
    "F_OFD_GETLK",
    "F_OFD_SETLK",
    "F_OFD_SETLKW",
    "F_DUPFD_QUERY",
    "F_CREATED_QUERY",
    "F_GETPIPE_SZ",
    "F_SETPIPE_SZ",
    "F_GET_SEALS",
    "F_GETOWN",
    "F_GETSIG",
];

/// Of ioctl(2): what a terminal is like, and how much waits.
const IOCTL: [&str; 9] =
    ["TCGETS", "TCGETS2", "TCGETA", "TIOCGWINSZ", "FIONREAD", "FIONBIO", "FIOCLEX", "FIONCLEX", "TIOCOUTQ"];

/// About a thread or process that is the first argument: the program's own.
const ABOUT_ONE: [&str; 16] = [
    "getpgid",
    "getsid",
    "prlimit64",
    "kill",
    "tgkill",
    "rt_sigqueueinfo",
    "rt_tgsigqueueinfo",
    "sched_setparam",
    "sched_getparam",
    "sched_setscheduler",
    "sched_getscheduler",
    "sched_rr_get_interval",
    "sched_setaffinity",
    "sched_getaffinity",
    "sched_getattr",
    "sched_setattr",
];

impl Policy for Compute {
    fn name(&self) -> &str {
        "compute"
    }

    fn decide(&self, request: &Request) -> Decision {
        let call = request.call();
        // Most calls: neither their names nor their arguments need be looked at.
        let is_allowed =
            ALLOWED[call.number as usize] || self.may_allow(call, request.form()) && is_allowed(request);
        if is_allowed { Decision::Allow } else { Decision::Deny(libc::EACCES) }
    }

    fn may_allow(&self, call: &Call, form: &Form) -> bool {
        if ALLOWED[call.number as usize] {
            return true;
        }
        match call.name() {
            "readlink" | "readlinkat" | "newfstatat" | "statx" | "clone" | "setpriority" | "getpriority" => {
                true
            }
            "fcntl" => FCNTL.contains(&form.name),
            "ioctl" => IOCTL.contains(&form.name),
            name if ABOUT_ONE.contains(&name) => true,
            name => match call.class {
                Class::Memory | Class::Time => true,
                Class::Signal => !matches!(name, "tkill" | "pidfd_send_signal"),
                // Filters of its own are the supervisor's to run.
                Class::Credential => {
                    name.starts_with("get")
                        || name == "seccomp"
                        || identities::allowed(call.class, form).is_some()
                }
                _ => false,
            },
        }
    }

    fn wall(&self) -> Option<Wall> {
        Some(Wall::new())
    }

    fn recipe(&self) -> Option<Recipe> {
        Some(Recipe::shipped(self.name()))
    }
}

/// Whether the arguments are right, of a call that may be allowed.
fn is_allowed(request: &Request) -> bool {
    let (call, arguments) = (request.call(), request.arguments());
    let is_own = |id: u64| [0, u64::from(std::process::id())].contains(&id);
    match call.name() {
        // The program's own name.
        "readlink" | "readlinkat" => {
            request.paths().iter().all(|path| path.path.as_c_str() == c"/proc/self/exe")
        }
        // fstat(2), as libraries make it today.
        name @ ("newfstatat" | "statx") => {
            request.path(1).is_some_and(|path| path.is_empty())
                && arguments[if name == "statx" { 2 } else { 3 }] & libc::AT_EMPTY_PATH as u64 != 0
                && arguments[0] as i32 >= 0
        }
        "clone" => arguments[0] & libc::CLONE_THREAD as u64 != 0,
        "fcntl" => request.form().name != "F_SETFL" || arguments[2] & libc::O_ASYNC as u64 == 0,
        // A process, by its number.
        "setpriority" | "getpriority" => arguments[0] == 0 && is_own(arguments[1]),
        // As libraries ask for limits; they are not set by it.
        name if ABOUT_ONE.contains(&name) => {
            is_own(arguments[0]) && !(matches!(name, "kill" | "tgkill") && arguments[0] == 0)
        }
        _ if identities::sets(call.class, request.form()) => identities::stay(request),
        _ => !matches!(call.class, Class::Memory | Class::Time) || request.paths().is_empty(),
    }
}
