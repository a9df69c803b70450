//! Children as C libraries make them: what a program sees of them is the same natively and in a sandbox.

use std::ffi::c_void;
use std::process::Command;

use crate::call;

/// `struct clone_args`, as far as Linux 5.5 knows it, and a word more.
type Arguments = [u64; 9];

pub fn all() {
    // posix_spawn(3): why an exec fails comes from the child's memory.
    let error = |program: &str| Command::new(program).spawn().map(drop).map_err(|error| error.kind());
    println!("missing {:?}", error("/nothing/there"));
    println!("a directory {:?}", error("/"));
    let status = Command::new("busybox").args(["sh", "-c", "exit 5"]).status();
    println!("spawned {:?}", status.map(|status| status.code()).map_err(|error| error.kind()));
    println!("borrowed {:?}", borrowed());
    for (what, answer) in wrong() {
        println!("{what} {answer}");
    }
    println!("clone3 {:?}", cloned());
}

extern "C" fn late(told: *mut c_void) -> i32 {
    // SAFETY: the parent's variable, which waits.
    unsafe {
        libc::usleep(50_000);
        *told.cast::<u64>() = 7;
        libc::_exit(3)
    }
}

/// What a child has told that has its parent's memory, known when clone(2) returns, and its status.
fn borrowed() -> (u64, i32, i32) {
    let mut told = 0u64;
    let mut stack = vec![0u128; 4096];
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let mut status = 0;
    // SAFETY: the child has a stack of its own, which ends before this function does.
    let (told, child) = unsafe {
        let child = libc::clone(late, stack.as_mut_ptr().add(4096).cast(), flags, (&raw mut told).cast());
        ((&raw const told).read_volatile(), libc::waitpid(child, &raw mut status, 0) == child)
    };
    (told, child.into(), libc::WEXITSTATUS(status))
}

/// Structures that Linux refuses.
fn wrong() -> Vec<(&'static str, i64)> {
    let clone3 = |arguments: &Arguments, size: u64| {
        call(libc::SYS_clone3 as u64, [arguments.as_ptr() as u64, size, 0, 0, 0, 0])
    };
    let with = |index: usize, value: u64| {
        let mut arguments = [0; 9];
        (arguments[4], arguments[index]) = (libc::SIGCHLD as u64, value);
        arguments
    };
    let mut long = [0u64; 513];
    long[4] = libc::SIGCHLD as u64;
    let mut unknown = [0u64; 16];
    (unknown[4], unknown[15]) = (libc::SIGCHLD as u64, 1);
    let raw =
        |words: &[u64], size: u64| call(libc::SYS_clone3 as u64, [words.as_ptr() as u64, size, 0, 0, 0, 0]);
    vec![
        ("too short", clone3(&with(0, 0), 63)),
        ("too long", raw(&long, 4097)),
        ("unknown words", raw(&unknown, 128)),
        ("nowhere", call(libc::SYS_clone3 as u64, [8, 64, 0, 0, 0, 0])),
        ("a signal among the flags", clone3(&with(0, 17), 64)),
        ("detached", clone3(&with(0, libc::CLONE_DETACHED as u64), 64)),
        ("no signal", clone3(&with(4, 65), 64)),
        ("a stack without length", clone3(&with(5, 4096), 64)),
        ("a length without stack", clone3(&with(6, 4096), 64)),
    ]
}

/// A child by clone3(2): its descriptor, its number, its handlers.
fn cloned() -> (bool, i32, bool) {
    const CLEAR_SIGHAND: u64 = 1 << 32;
    extern "C" fn nothing(_: i32) {}
    let (mut pidfd, mut number) = (-1i32, 0u32);
    let flags = (libc::CLONE_PIDFD | libc::CLONE_PARENT_SETTID) as u64 | CLEAR_SIGHAND;
    let mut arguments: Arguments = [0; 9];
    arguments[..5].copy_from_slice(&[
        flags,
        (&raw mut pidfd) as u64,
        0,
        (&raw mut number) as u64,
        libc::SIGCHLD as u64,
    ]);
    // SAFETY: the calls get structures of their sizes; the child makes plain calls only.
    unsafe {
        libc::signal(libc::SIGUSR1, nothing as *const () as usize);
        let child = call(libc::SYS_clone3 as u64, [arguments.as_ptr() as u64, 64, 0, 0, 0, 0]);
        if child == 0 {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(libc::SIGUSR1, std::ptr::null(), &raw mut action);
            libc::_exit(if action.sa_sigaction == libc::SIG_DFL { 9 } else { 10 });
        }
        let number = (&raw const number).read_volatile();
        let pidfd = (&raw const pidfd).read_volatile();
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let waited = libc::waitid(libc::P_PIDFD, pidfd as u32, &raw mut info, libc::WEXITED);
        let on_exec = libc::fcntl(pidfd, libc::F_GETFD) & libc::FD_CLOEXEC != 0;
        (i64::from(number) == child && waited == 0 && on_exec, info.si_status(), libc::close(pidfd) == 0)
    }
}
