//! Children of fork(2).

use std::io;

use super::Refused;
use super::pages::{Mapping, PAGE};

/// Makes a child that ends at once, and waits for that.
pub(crate) fn fork_and_wait() -> Result<(), Refused> {
    // SAFETY: the child makes one system call.
    let child = unsafe { libc::fork() };
    match child {
        -1 => return Err(Refused::last("fork")),
        // SAFETY: ends the child.
        0 => unsafe { libc::_exit(0) },
        _ => (),
    }
    let mut status = -1;
    wait(child, &mut status)?;
    if status == 0 {
        Ok(())
    } else {
        Err(Refused { call: "fork", error: io::Error::other(format!("wait status {status:#x}")) })
    }
}

/// What `body` returns in a child of a fork, zeros if the child dies. For a process with one thread: the child may allocate.
pub(crate) fn in_child(body: impl FnOnce() -> [u64; 2]) -> Result<[u64; 2], Refused> {
    let answer = Mapping::shared(1)?;
    // SAFETY: the process has one thread.
    let child = unsafe { libc::fork() };
    match child {
        -1 => return Err(Refused::last("fork")),
        0 => {
            let [first, second] = body();
            answer.write_from_end(1, first);
            answer.write_from_end(2, second);
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) }
        }
        _ => (),
    }
    let mut status = -1;
    wait(child, &mut status)?;
    let word = |index: usize| answer.load(PAGE - 8 * index) as u64;
    Ok([word(1), word(2)])
}

/// Waits for `child` to end or stop.
pub(super) fn wait(child: libc::pid_t, status: &mut libc::c_int) -> Result<(), Refused> {
    loop {
        // SAFETY: waits for our own child and writes its status.
        if unsafe { libc::waitpid(child, status, 0) } == child {
            return Ok(());
        }
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return Err(Refused::last("waitpid"));
        }
    }
}
