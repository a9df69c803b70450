//! The process that the program is to be.

use std::ffi::{CStr, CString};
use std::io;

use super::trust::Trust;

/// Closes all descriptors but the standard streams.
///
/// For the start of a process that becomes the program, which owns no other descriptors yet.
pub(crate) fn close_inherited() -> io::Result<()> {
    // SAFETY: touches no memory. Whoever opened descriptors before is not used any more, says the caller of `Sandbox::run`.
    checked(unsafe { libc::close_range(3, u32::MAX, 0) })
}

/// No core dumps: they would hold the runtime's memory.
///
/// A limit of 0 does not stop those that go to a program (core(5)), and one of 1 does, and no file is so small (`do_coredump` of
/// fs/coredump.c). Where the hard limit is 0 already, the process is not to be dumped at all.
pub(crate) fn forbid_core_dumps() -> io::Result<()> {
    let least = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
    // SAFETY: the call reads the structure.
    let limited = checked(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const least) });
    // SAFETY: touches no memory.
    limited.or_else(|_| checked(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }))
}

/// Calls `body` while files in `/proc` about the process are its user's, also where it is not to be dumped: a child has to open some.
pub(crate) fn with_own_files<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: touches no memory.
    let set = |dumpable: i32| unsafe { libc::prctl(libc::PR_SET_DUMPABLE, dumpable, 0, 0, 0) };
    // SAFETY: touches no memory.
    if unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) } != 0 {
        return body();
    }
    set(1);
    let result = body();
    set(0);
    result
}

/// The user's ID and the group's: each if the real, the effective and the saved one, and that for files, are one.
pub(crate) fn identities() -> [Option<u32>; 2] {
    let [mut users, mut groups] = [[0u32; 4]; 2];
    // SAFETY: the calls write three numbers each; what is no ID is not set, and the one that is there is told (setfsuid(2)).
    unsafe {
        libc::getresuid(&raw mut users[0], &raw mut users[1], &raw mut users[2]);
        libc::getresgid(&raw mut groups[0], &raw mut groups[1], &raw mut groups[2]);
        users[3] = libc::setfsuid(u32::MAX) as u32;
        groups[3] = libc::setfsgid(u32::MAX) as u32;
    }
    [users, groups].map(|all| all.iter().all(|id| *id == all[0]).then_some(all[0]))
}

/// Whether it is the limit that forbids core dumps.
pub(crate) fn has_core_limit() -> bool {
    limit_of(libc::RLIMIT_CORE).is_ok_and(|limit| limit.rlim_cur == 1)
}

/// A limit of the process's.
fn limit_of(resource: libc::__rlimit_resource_t) -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call writes the structure.
    checked(unsafe { libc::getrlimit(resource, &raw mut limit) }).map(|()| limit)
}

/// Sets limits, or lower ones that there are.
pub(crate) fn limit(limits: crate::policy::Limits) -> io::Result<()> {
    let all = [(libc::RLIMIT_CPU, limits.cpu_seconds, 1), (libc::RLIMIT_FSIZE, limits.file_bytes, 0)];
    for (resource, limit, more) in all {
        let Some(limit) = limit else { continue };
        let old = limit_of(resource)?;
        let hard = limit.saturating_add(more).min(old.rlim_max);
        let new = libc::rlimit { rlim_cur: limit.min(old.rlim_cur).min(hard), rlim_max: hard };
        // SAFETY: the call reads the structure.
        checked(unsafe { libc::setrlimit(resource, &raw const new) })?;
    }
    if let Some(limit) = limits.open_files {
        let done = limit_descriptors(limit.min(descriptor_limit()));
        super::result(done).map_err(|errno| io::Error::from_raw_os_error(-errno as i32))?;
    }
    Ok(())
}

/// The soft limit of descriptors.
pub(crate) fn descriptor_limit() -> u64 {
    limit_of(libc::RLIMIT_NOFILE).map_or(u64::MAX, |limit| limit.rlim_cur)
}

/// Sets the soft limit of descriptors, or the hard one if that is lower. The hard one stays: the runtime needs some above. The raw result.
pub(crate) fn limit_descriptors(soft: u64) -> i64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call writes the structure.
    let mut result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if result == 0 {
        limit.rlim_cur = soft.min(limit.rlim_max);
        // SAFETY: the call reads the structure.
        result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
    match result {
        0 => 0,
        _ => -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EPERM)),
    }
}

/// No execve(2) will give the process rights that it does not have: set-user-ID, file capabilities.
pub(crate) fn forbid_new_privileges() -> io::Result<()> {
    // SAFETY: touches no memory.
    checked(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
}

/// The version of Landlock's ABI (landlock_create_ruleset(2)), if the kernel has it.
pub(crate) fn landlock_version() -> Option<i64> {
    const VERSION: u64 = 1 << 0;
    // SAFETY: with the flag the call looks at no memory.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, VERSION) };
    (version > 0).then_some(version)
}

/// Whether the kernel has filters of system calls that answer with an error (seccomp(2)).
pub(crate) fn has_filters() -> bool {
    let action: u32 = libc::SECCOMP_RET_ERRNO;
    let call = libc::SECCOMP_GET_ACTION_AVAIL;
    // SAFETY: the call reads the action.
    unsafe { libc::syscall(libc::SYS_seccomp, call, 0, &raw const action) == 0 }
}

fn checked(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Writes to standard error, as far as that takes it. No lock is held: whoever reads it may not do so.
pub(crate) fn write_error(text: &[u8]) {
    // SAFETY: the call reads the bytes.
    unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
}

/// The soft limit of the stack's size, if there is one.
pub(crate) fn stack_limit() -> Option<u64> {
    let limit = limit_of(libc::RLIMIT_STACK).ok()?.rlim_cur;
    (limit != libc::RLIM_INFINITY).then_some(limit)
}

/// Sets the thread's name to the last part of `file`, as execve(2) does.
pub(crate) fn set_name(file: &CStr) {
    let bytes = file.to_bytes_with_nul();
    let start = bytes.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    // SAFETY: reads at most 16 bytes of a C string.
    unsafe { libc::prctl(libc::PR_SET_NAME, bytes[start..].as_ptr()) };
}

/// exit_group(2).
pub(crate) fn exit(status: i32) -> ! {
    // SAFETY: ends the process, without the destructors of a library.
    unsafe { libc::_exit(status) }
}

/// Ends the process by `signal`, as if the program had not handled it.
pub(crate) fn die(signal: i32) -> ! {
    // SAFETY: 1. no handler is installed; 2. the set is initialised before it is used.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::signal(signal, libc::SIG_DFL);
        libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
        libc::kill(libc::getpid(), signal);
    }
    // A signal that ends nobody, or that is on its way.
    exit(128 + signal)
}

/// Has Linux take `action` for `signal`: SIG_DFL or SIG_IGN. The raw result.
pub(crate) fn set_disposition(signal: i32, ignored: bool) -> i64 {
    let action = [if ignored { libc::SIG_IGN } else { libc::SIG_DFL } as u64, 0, 0, 0];
    let arguments = [signal as u64, (&raw const action).expose_provenance() as u64, 0, 8, 0, 0];
    // SAFETY: the call reads a `struct kernel_sigaction`, which has no handler.
    unsafe { super::system_call(libc::SYS_rt_sigaction, arguments) }
}

/// rt_sigprocmask(2): the raw result, and the mask before.
pub(crate) fn change_mask(how: u64, new: Option<u64>) -> (i64, u64) {
    let mut old = 0u64;
    let new = new.as_ref().map_or(0, |new| std::ptr::from_ref(new).expose_provenance() as u64);
    let arguments = [how, new, (&raw mut old).expose_provenance() as u64, 8, 0, 0];
    // SAFETY: the call reads and writes 8 bytes each.
    let result = unsafe { super::system_call(libc::SYS_rt_sigprocmask, arguments) };
    (result, old)
}

/// Whether Linux ignores `signal` for this process.
pub(crate) fn is_ignored(signal: i32) -> bool {
    let mut action = [0u64; 4];
    let arguments = [signal as u64, 0, (&raw mut action).expose_provenance() as u64, 8, 0, 0];
    // SAFETY: the call writes a `struct kernel_sigaction`.
    let result = unsafe { super::system_call(libc::SYS_rt_sigaction, arguments) };
    result == 0 && action[0] == libc::SIG_IGN as u64
}

/// The calling thread's number (gettid(2)).
pub(crate) fn thread_number() -> i32 {
    super::call::plain(libc::SYS_gettid, [0; 6]) as i32
}

/// Whether the calling thread is the first one of its process, which has the process's number.
pub(crate) fn is_first_thread() -> bool {
    thread_number() == std::process::id() as i32
}

/// fork(2): the raw result.
pub(crate) fn fork() -> i64 {
    // SAFETY: the caller holds the locks of the supervisor, and the C library its own, so the child finds none that somebody holds who is
    // not there.
    let result = unsafe { libc::fork() };
    if result >= 0 {
        result.into()
    } else {
        -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EAGAIN))
    }
}

/// execve(2): Linux's reason, if it refuses. Signals that are not ignored get their default action, and all descriptors stay that are not to be
/// closed then: the program goes on in host mode, without the supervisor.
pub(crate) fn execute(_: Trust, program: &CStr, words: &[CString], environment: &[CString]) -> i32 {
    let pointers = |strings: &[CString]| -> Vec<_> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (words, environment) = (pointers(words), pointers(environment));
    // SAFETY: a C string, and two arrays of such that end with null; their owners live.
    unsafe { libc::execve(program.as_ptr(), words.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::ENOEXEC)
}

/// Whether `id` is a child of this process that has not been waited for.
pub(crate) fn is_child(id: i32) -> bool {
    // SAFETY: all zero bytes are a `siginfo_t`.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the call writes a `siginfo_t`.
    u32::try_from(id).is_ok_and(|id| unsafe { libc::waitid(libc::P_PID, id, &raw mut info, options) } == 0)
}

/// Sends the process `signal` (again).
pub(crate) fn raise(signal: i32) {
    // SAFETY: no handler of Rust's is called.
    unsafe { libc::kill(libc::getpid(), signal) };
}

/// Waits for a signal, unless one waits already.
pub(crate) fn pause() {
    // SAFETY: touches no memory.
    unsafe { super::signals::system_call(libc::SYS_pause, &[0; 6]) };
}

/// exit(2): ends the calling thread alone, without any destructor.
pub(crate) fn exit_thread(status: i32) -> ! {
    loop {
        // SAFETY: the thread's stack and storage stay, and nobody else uses them.
        unsafe { super::system_call(libc::SYS_exit, [status as u64, 0, 0, 0, 0, 0]) };
    }
}
