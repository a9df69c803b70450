//! A host and its launcher: a socket that is handed down.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Of the host's.
const LEAST: i32 = 3;

/// The number of a socket's descriptor, here and in a child that gets it.
pub(crate) fn number(socket: &UnixStream) -> i32 {
    socket.as_raw_fd()
}

/// The process that `command` starts has this socket, by the same number, until it executes something itself. This one has it as long as the command.
pub(crate) fn hand_down(command: &mut Command, socket: UnixStream) {
    let keep = move || {
        // SAFETY: touches no memory.
        match unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETFD, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes one system call, and neither allocates nor takes a lock.
    unsafe { command.pre_exec(keep) };
}

/// The socket that a host has handed down by this number; a duplicate, so that whoever says that number says nothing about what others own.
pub(crate) fn handed_down(number: i32) -> Option<UnixStream> {
    if number < LEAST {
        return None;
    }
    // SAFETY: touches no memory.
    let duplicate = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, LEAST) };
    // SAFETY: the descriptor is new, and nobody else's.
    (duplicate >= 0).then(|| UnixStream::from(unsafe { OwnedFd::from_raw_fd(duplicate) }))
}

/// Whether the host has said something, or is not there any more. For a socket that does not block.
pub(crate) fn has_word(socket: &UnixStream) -> bool {
    let mut byte = 0u8;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the call writes one byte.
    let got = unsafe { libc::recv(socket.as_raw_fd(), (&raw mut byte).cast(), 1, flags) };
    got >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::WouldBlock
}

/// What this process waits for is interrupted when the host says something (SIGIO). Without that it looks now and then.
pub(crate) fn interrupt_by(socket: &UnixStream) {
    super::launcher::notice(libc::SIGIO);
    let descriptor = socket.as_raw_fd();
    // SAFETY: touches no memory; the signal has a handler.
    unsafe {
        libc::fcntl(descriptor, libc::F_SETOWN, libc::getpid());
        let flags = libc::fcntl(descriptor, libc::F_GETFL);
        libc::fcntl(descriptor, libc::F_SETFL, flags | libc::O_ASYNC);
    }
}

/// Puts /dev/null in the place of the program's standard streams `streams`, so that who is at their other ends sees when the program closes them.
pub(crate) fn leave(streams: &[i32]) {
    // SAFETY: 1. the path ends with NUL; 2. only standard streams are replaced, which are open for whoever writes to them.
    unsafe {
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        if null >= 0 {
            let standard = streams.iter().filter(|stream| (0..LEAST).contains(*stream));
            for stream in standard {
                libc::dup2(null, *stream);
            }
            if null >= LEAST {
                libc::close(null);
            }
        }
    }
}
