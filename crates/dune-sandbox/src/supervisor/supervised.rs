//! The calls that the supervisor does itself, by number: those that the table has as supervised, and the few that it forwards in
//! another form. A supervised call without a line here is answered with ENOSYS.

use std::sync::atomic::Ordering;

use dune::memory::VirtAddr;

use super::{
    Answer, FS_LIMIT, Thread, accepting, children, descriptors, error, exec, filters, open, resources,
    robust, sending, signals, threads,
};
use crate::checked::Request;
use crate::raw::process;

/// Makes a call in the supervisor's own way.
pub(super) type Handler = fn(&mut Thread, &mut Request) -> Answer;

static HANDLERS: &[(i64, Handler)] = &[
    (libc::SYS_open, open::open),
    (libc::SYS_creat, open::creat),
    (libc::SYS_readlink, readlink),
    (libc::SYS_readlinkat, readlinkat),
    (libc::SYS_openat, open::openat),
    (libc::SYS_openat2, open::openat2),
    (libc::SYS_mmap, descriptors::mmap),
    (libc::SYS_munmap, munmap),
    (libc::SYS_mprotect, mprotect),
    (libc::SYS_mremap, mremap),
    (libc::SYS_madvise, madvise),
    (libc::SYS_brk, brk),
    (libc::SYS_shmat, shmat),
    (libc::SYS_shmdt, shmdt),
    (libc::SYS_fork, children::fork),
    (libc::SYS_vfork, children::vfork),
    (libc::SYS_clone, children::clone),
    (libc::SYS_execve, exec::execve),
    (libc::SYS_execveat, exec::execveat),
    (libc::SYS_exit, threads::exit),
    (libc::SYS_exit_group, exit),
    (libc::SYS_arch_prctl, arch_prctl),
    (libc::SYS_prctl, prctl),
    (libc::SYS_seccomp, filters::seccomp),
    (libc::SYS_landlock_restrict_self, landlock_restrict_self),
    (libc::SYS_set_tid_address, set_tid_address),
    (libc::SYS_set_robust_list, robust::set_robust_list),
    (libc::SYS_get_robust_list, robust::get_robust_list),
    (libc::SYS_rseq, |_, _| error(libc::ENOSYS)),
    (libc::SYS_prlimit64, resources::prlimit64),
    (libc::SYS_setrlimit, resources::setrlimit),
    (libc::SYS_getrlimit, resources::getrlimit),
    // As on a CPU without protection keys (pkey_alloc(2)).
    (libc::SYS_pkey_alloc, |_, _| error(libc::ENOSPC)),
    (libc::SYS_sched_setparam, about_itself),
    (libc::SYS_sched_setscheduler, about_itself),
    (libc::SYS_sched_setaffinity, about_itself),
    (libc::SYS_sched_setattr, about_itself),
    (libc::SYS_getpgid, about_itself),
    (libc::SYS_getsid, about_itself),
    (libc::SYS_rt_sigaction, signals::rt_sigaction),
    (libc::SYS_rt_sigprocmask, signals::rt_sigprocmask),
    (libc::SYS_rt_sigreturn, signals::rt_sigreturn),
    (libc::SYS_rt_sigsuspend, signals::rt_sigsuspend),
    (libc::SYS_rt_sigtimedwait, forwarded),
    (libc::SYS_signalfd, forwarded),
    (libc::SYS_signalfd4, forwarded),
    (libc::SYS_sigaltstack, signals::sigaltstack),
    (libc::SYS_futex, forwarded),
    (libc::SYS_pause, forwarded),
    (libc::SYS_rt_sigpending, forwarded),
    (libc::SYS_listen, accepting::listen),
    (libc::SYS_accept, accepting::accept),
    (libc::SYS_accept4, accepting::accept),
    (libc::SYS_close_range, descriptors::close_range),
    (libc::SYS_pidfd_send_signal, sending::pidfd_send_signal),
    (libc::SYS_rt_sigqueueinfo, sending::rt_sigqueueinfo),
    (libc::SYS_rt_tgsigqueueinfo, sending::rt_tgsigqueueinfo),
];

const NUMBERS: usize = dune_syscalls::NUMBERS;

static BY_NUMBER: [Option<Handler>; NUMBERS] = {
    let mut table: [Option<Handler>; NUMBERS] = [None; NUMBERS];
    let mut index = 0;
    while index < HANDLERS.len() {
        let (number, handler) = HANDLERS[index];
        assert!(table[number as usize].is_none(), "two handlers have the same number");
        table[number as usize] = Some(handler);
        index += 1;
    }
    table
};

/// The handler of a call, if it has one.
pub(super) fn handler(number: u32) -> Option<Handler> {
    BY_NUMBER.get(number as usize).copied().flatten()
}

/// Calls that change nothing of the supervisor's, as far as their arguments have been checked.
pub(super) fn forwarded(thread: &mut Thread, request: &mut Request) -> Answer {
    let call = request.call();
    let answer = thread.check_and_forward(request);
    thread.interrupted(answer, call)
}

fn readlink(thread: &mut Thread, request: &mut Request) -> Answer {
    let [_, buffer, size, ..] = *request.arguments();
    link(thread, request, 0, buffer, size)
}

fn readlinkat(thread: &mut Thread, request: &mut Request) -> Answer {
    let [_, _, buffer, size, ..] = *request.arguments();
    link(thread, request, 1, buffer, size)
}

/// To Linux `/proc/self/exe` is the launcher.
fn link(thread: &mut Thread, request: &mut Request, argument: u8, buffer: u64, size: u64) -> Answer {
    if request.path(argument) != Some(c"/proc/self/exe") {
        return thread.forward(request);
    }
    let executable = thread.process.executable();
    let length = usize::try_from(size as i32).unwrap_or(0).min(executable.as_bytes().len());
    match &executable.as_bytes()[..length] {
        [] => error(libc::EINVAL),
        bytes if thread.memory().write(buffer, bytes).is_ok() => bytes.len() as i64,
        _ => error(libc::EFAULT),
    }
}

fn munmap(thread: &mut Thread, request: &mut Request) -> Answer {
    let [start, length, ..] = *request.arguments();
    thread.process.space.munmap(start, length)
}

fn mprotect(thread: &mut Thread, request: &mut Request) -> Answer {
    let [start, length, rights, ..] = *request.arguments();
    thread.process.space.mprotect(thread.dune, start, length, rights)
}

fn mremap(thread: &mut Thread, request: &mut Request) -> Answer {
    thread.process.space.mremap(thread.dune, request.arguments())
}

fn madvise(thread: &mut Thread, request: &mut Request) -> Answer {
    let [start, length, advice, ..] = *request.arguments();
    thread.process.space.madvise(start, length, advice)
}

fn brk(thread: &mut Thread, request: &mut Request) -> Answer {
    thread.process.space.brk(thread.dune, request.arguments()[0])
}

fn shmat(thread: &mut Thread, request: &mut Request) -> Answer {
    thread.process.space.attach(thread.dune, request.arguments())
}

fn shmdt(thread: &mut Thread, request: &mut Request) -> Answer {
    thread.process.space.detach(request.arguments()[0])
}

/// Linux has it for all of the thread, the runtime's own files included: a child's start is what needs some (`children.rs`).
fn landlock_restrict_self(thread: &mut Thread, request: &mut Request) -> Answer {
    let answer = thread.forward(request);
    if answer == 0 {
        thread.process.is_restricted.store(true, Ordering::Relaxed);
    }
    answer
}

/// exit_group(2).
fn exit(thread: &mut Thread, request: &mut Request) -> Answer {
    thread.end_process(request.arguments()[0] as i32)
}

fn arch_prctl(thread: &mut Thread, request: &mut Request) -> Answer {
    let [_, address, ..] = *request.arguments();
    let is_base = address < FS_LIMIT;
    let context = &mut thread.context;
    match request.form().name {
        "ARCH_SET_FS" | "ARCH_SET_GS" if !is_base => return error(libc::EPERM),
        "ARCH_SET_FS" => context.set_fs_base(VirtAddr::new_truncate(address)),
        "ARCH_SET_GS" => context.set_gs_base(VirtAddr::new_truncate(address)),
        "ARCH_GET_FS" | "ARCH_GET_GS" => {
            let is_fs = request.form().name == "ARCH_GET_FS";
            let base = if is_fs { context.fs_base() } else { context.gs_base() };
            if thread.memory().write_words(address, &[base.as_u64()]).is_err() {
                return error(libc::EFAULT);
            }
        }
        // As a kernel without them: shadow stacks, CPUID faults, large vector states.
        _ => return error(libc::EINVAL),
    }
    0
}

/// Those that are about the thread's name, what becomes of it without its parent, rights that it gives up or keeps, and harmless questions;
/// the others are answered as by a kernel that does not have them.
fn prctl(thread: &mut Thread, request: &mut Request) -> Answer {
    match request.form().name {
        "PR_SET_NAME"
        | "PR_GET_NAME"
        | "PR_GET_DUMPABLE"
        | "PR_GET_NO_NEW_PRIVS"
        | "PR_SET_NO_NEW_PRIVS"
        | "PR_CAPBSET_READ"
        | "PR_GET_TIMERSLACK"
        | "PR_SET_TIMERSLACK"
        | "PR_GET_PDEATHSIG"
        | "PR_GET_CHILD_SUBREAPER"
        | "PR_SET_CHILD_SUBREAPER"
        | "PR_CAPBSET_DROP"
        | "PR_GET_SECUREBITS"
        | "PR_GET_KEEPCAPS"
        | "PR_SET_KEEPCAPS"
        | "PR_GET_THP_DISABLE"
        | "PR_SET_THP_DISABLE"
        | "PR_SET_SECUREBITS"
        | "PR_CAP_AMBIENT"
        | "PR_GET_SPECULATION_CTRL"
        | "PR_SET_SPECULATION_CTRL" => forwarded(thread, request),
        // The launcher's end is to be that of its child.
        "PR_SET_PDEATHSIG" if !thread.process.is_child_of_launcher() => forwarded(thread, request),
        "PR_GET_TID_ADDRESS" => {
            let [_, address, ..] = *request.arguments();
            let written = thread.memory().write_words(address, &[thread.cleared]);
            written.map_or(error(libc::EFAULT), |()| 0)
        }
        "PR_SET_SECCOMP" | "PR_GET_SECCOMP" => filters::by_prctl(thread, request),
        // Where nothing else forbids core dumps, the process stays one that is not dumped: see `forbid_core_dumps`.
        "PR_SET_DUMPABLE" if request.arguments()[1] == 1 && !process::has_core_limit() => 0,
        "PR_SET_DUMPABLE" => forwarded(thread, request),
        name => {
            thread.process.log(&format!("prctl {name}"), "is not implemented yet, and answered with EINVAL");
            error(libc::EINVAL)
        }
    }
}

fn set_tid_address(thread: &mut Thread, request: &mut Request) -> Answer {
    thread.cleared = request.arguments()[0];
    process::thread_number().into()
}

/// A first thread that names itself by its number asks Linux by 0, which the second wall lets through in children, too.
pub(super) fn about_itself(thread: &mut Thread, request: &mut Request) -> Answer {
    let own: u64 = std::process::id().into();
    if request.arguments()[0] == own && process::is_first_thread() {
        request.set_argument(0, 0);
    }
    forwarded(thread, request)
}
