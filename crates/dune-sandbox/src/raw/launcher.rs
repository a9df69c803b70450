//! A launcher that stays beside the program: the program's first process is its child.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

/// The process that signals are handed on to.
static CHILD: AtomicI32 = AtomicI32::new(0);

/// Signals that somebody may send to the launcher and mean the program.
const HANDED_ON: [i32; 6] =
    [libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2];

/// How a process ended, with what it and its children took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// The status of wait(2).
    pub(crate) status: i32,
    pub(crate) user_time: Duration,
    pub(crate) system_time: Duration,
    /// The most that was resident, in KiB.
    pub(crate) resident: u64,
}

/// Makes the child that is to be the program's process, which ends when the launcher does: `None` is returned there.
pub(crate) fn split() -> io::Result<Option<i32>> {
    // SAFETY: touches no memory.
    let parent = unsafe { libc::getpid() };
    // SAFETY: the launcher has one thread, says the caller of `Sandbox::run_observed`, so the child has no locks of others'.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: touches no memory.
            if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: touches no memory. The parent may have ended before it could be told.
            if unsafe { libc::getppid() } != parent {
                super::process::exit(1);
            }
            Ok(None)
        }
        child => {
            CHILD.store(child, Ordering::Relaxed);
            HANDED_ON.iter().for_each(|signal| handle(*signal, hand_on as *const ()));
            // Only so that a wait ends when the child has.
            notice(libc::SIGCHLD);
            Ok(Some(child))
        }
    }
}

/// A wait ends when `signal` comes, and nothing else is done.
pub(super) fn notice(signal: i32) {
    handle(signal, ignore as *const ());
}

fn handle(signal: i32, handler: *const ()) {
    // SAFETY: 1. zeros are a `struct sigaction`; 2. the handlers call what signal-safety(7) lists, and keep errno.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler.expose_provenance();
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut());
    }
}

/// What a terminal sends, it sends to the program, too.
extern "C" fn hand_on(signal: i32, info: *const libc::siginfo_t, _: *const ()) {
    // SAFETY: 1. Linux hands over a siginfo_t; 2. kill(2) touches no memory; 3. errno is put back.
    unsafe {
        if (*info).si_code <= 0 {
            let errno = *libc::__errno_location();
            libc::kill(CHILD.load(Ordering::Relaxed), signal);
            *libc::__errno_location() = errno;
        }
    }
}

extern "C" fn ignore(_: i32, _: *const libc::siginfo_t, _: *const ()) {}

/// A child that has ended, if there is one, and how: `child`, or any if that is `None`. An error if there are no children.
pub(crate) fn ended(child: Option<i32>) -> io::Result<Option<(i32, Ended)>> {
    let mut status = 0;
    // SAFETY: zeros are a `struct rusage`.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let options = libc::WNOHANG | libc::__WALL;
    // SAFETY: the call writes both.
    match unsafe { libc::wait4(child.unwrap_or(-1), &raw mut status, options, &raw mut usage) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        child => {
            let time = |time: libc::timeval| {
                Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
            };
            let ended = Ended {
                status,
                user_time: time(usage.ru_utime),
                system_time: time(usage.ru_stime),
                resident: usage.ru_maxrss as u64,
            };
            Ok(Some((child, ended)))
        }
    }
}

/// From now on processes whose parents have ended are this process's children, if their parents were below it (PR_SET_CHILD_SUBREAPER(2const)).
pub(crate) fn adopt_orphans() -> io::Result<()> {
    // SAFETY: touches no memory.
    match unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends a child that has not been waited for, so that the number is its.
pub(crate) fn kill(child: i32) {
    // SAFETY: touches no memory.
    unsafe { libc::kill(child, libc::SIGKILL) };
}
