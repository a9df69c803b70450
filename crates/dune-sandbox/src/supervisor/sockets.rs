//! Unix sockets by their paths, under a policy that names files: what a path leads to is found below the policy's roots (`files.rs`), and Linux gets
//! the name of a descriptor of the socket, or of the directory that it is made in. So whatever is renamed or exchanged meanwhile, it is what the rule
//! is about, or an error.
//!
//! Nobody may give such a descriptor another file until Linux has looked: the process's descriptors are kept. Where others of its threads would wait for
//! that, the call is one that does not wait for its peer, and made again and again.

use std::ffi::{CStr, CString};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::entry::{Entry, Way};
use super::open::{Probe, own_link};
use super::places::denied;
use super::walk::find;
use super::{Answer, Thread, error};
use crate::checked::Request;
use crate::files::{Files, SocketUse, address_of_path, path_of_address};
use crate::raw::{call, signals as raw_signals};

/// How long to wait until a peer is asked again that has no room.
const PAUSE: Duration = Duration::from_millis(1);

/// Makes the call if it names unix sockets by their paths.
pub(super) fn answer(thread: &Thread, files: &Files, request: &mut Request) -> Option<Answer> {
    let how = match i64::from(request.call().number) {
        libc::SYS_connect => SocketUse::Connect,
        libc::SYS_bind => SocketUse::Bind,
        libc::SYS_sendto | libc::SYS_sendmsg | libc::SYS_sendmmsg => SocketUse::Send,
        _ => return None,
    };
    let paths: Vec<Option<CString>> = request.addresses().map(path_of_address).collect();
    if paths.iter().all(Option::is_none) {
        return None;
    }
    let waits = how != SocketUse::Bind && !thread.process.threads.is_one();
    let patience = if waits { Patience::of(request) } else { None };
    Some(thread.forward_by(request, |request| {
        let start = Instant::now();
        loop {
            let answer = once(thread, files, request, &paths, how, patience.as_ref());
            let Some(patience) = patience.as_ref().filter(|_| answer == error(libc::EAGAIN)) else {
                return answer;
            };
            if patience.is_over(start.elapsed()) {
                return answer;
            }
            if raw_signals::is_waiting() || thread.process.succession.is_open() {
                return error(libc::EINTR);
            }
            sleep(PAUSE);
        }
    }))
}

/// Finds what the paths lead to, and makes the call on that.
fn once(
    thread: &Thread,
    files: &Files,
    request: &mut Request,
    paths: &[Option<CString>],
    how: SocketUse,
    patience: Option<&Patience>,
) -> Answer {
    let _held = thread.process.keep_descriptors();
    let mut found = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        let Some(path) = path else { continue };
        let named = match how {
            SocketUse::Bind => to_make(thread, files, path),
            _ => to_reach(thread, files, path, how),
        };
        let (probe, name) = match named {
            Ok(named) => named,
            Err(error) => return error,
        };
        let Some(address) = address_of_path(&name) else { return error(libc::ENAMETOOLONG) };
        request.set_address(index, &address);
        found.push(probe);
    }
    match patience {
        Some(patience) => patience.forward(request),
        None => call::forward(request),
    }
}

/// A socket that is there, and a name that leads to it.
fn to_reach(thread: &Thread, files: &Files, path: &CStr, how: SocketUse) -> Result<(Probe, Vec<u8>), i64> {
    let mut found = find(thread, files, libc::AT_FDCWD, path, true)?;
    if !files.allows_socket(&found.path, how) {
        return Err(denied(thread, path));
    }
    let (socket, about) = found.probe()?;
    if about.mode & libc::S_IFMT != libc::S_IFSOCK {
        return Err(error(libc::ECONNREFUSED));
    }
    let name = own_link(socket.0).into_bytes();
    Ok((socket, name))
}

/// The directory that a socket is to be made in, and its name by that. What is there already, a link above all, is not followed (EADDRINUSE).
fn to_make(thread: &Thread, files: &Files, path: &CStr) -> Result<(Probe, Vec<u8>), i64> {
    let entry = Entry::of_path(thread, files, libc::AT_FDCWD, path, Way::Make);
    let entry =
        entry.map_err(|why| if why == error(libc::EEXIST) { error(libc::EADDRINUSE) } else { why })?;
    if !files.allows_socket(&entry.path, SocketUse::Bind) {
        return Err(denied(thread, path));
    }
    let name = [own_link(entry.directory.0).to_bytes(), b"/", entry.name.to_bytes()].concat();
    Ok((entry.directory, name))
}

/// How long a call is to wait for its peer.
struct Patience {
    /// The flags of the socket, if the call has none of its own.
    flags: Option<u64>,
    most: Option<Duration>,
}

impl Patience {
    /// `None` for a call that does not wait.
    fn of(request: &Request) -> Option<Patience> {
        const NONBLOCK: u64 = libc::O_NONBLOCK as u64;
        let descriptor = request.arguments()[0];
        let flags = call::plain(libc::SYS_fcntl, [descriptor, libc::F_GETFL as u64, 0, 0, 0, 0]);
        let flags = u64::try_from(flags).ok().filter(|flags| flags & NONBLOCK == 0)?;
        let most = call::send_timeout(descriptor as i32);
        match message_flags(request) {
            Some(index) if request.arguments()[index] & libc::MSG_DONTWAIT as u64 != 0 => None,
            Some(_) => Some(Patience { flags: None, most }),
            None => Some(Patience { flags: Some(flags), most }),
        }
    }

    fn is_over(&self, elapsed: Duration) -> bool {
        self.most.is_some_and(|most| elapsed >= most)
    }

    /// Makes the call so that it does not wait.
    fn forward(&self, request: &mut Request) -> Answer {
        if let Some(index) = message_flags(request) {
            request.set_argument(index, request.arguments()[index] | libc::MSG_DONTWAIT as u64);
        }
        let Some(flags) = self.flags else { return call::forward(request) };
        let descriptor = request.arguments()[0];
        // Nobody uses a socket for anything else that is not connected yet.
        let set =
            |flags: u64| call::plain(libc::SYS_fcntl, [descriptor, libc::F_SETFL as u64, flags, 0, 0, 0]);
        set(flags | libc::O_NONBLOCK as u64);
        let answer = call::forward(request);
        set(flags);
        answer
    }
}

/// The argument with the flags of a message.
fn message_flags(request: &Request) -> Option<usize> {
    match i64::from(request.call().number) {
        libc::SYS_sendto | libc::SYS_sendmmsg => Some(3),
        libc::SYS_sendmsg => Some(2),
        _ => None,
    }
}
