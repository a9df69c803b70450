//! Signals that the program sends with a siginfo of its own.
//!
//! It is one that a program can send to others, whomever it is for. What Linux alone says of a signal, that it is a fault's or a timer's, the
//! runtime believes.

use super::{Answer, Thread, error};
use crate::checked::Request;
use crate::raw::call;
use crate::raw::signals::Info;
use crate::weakness::{Defence, lacks};

/// pidfd_send_signal(2).
pub(super) fn pidfd_send_signal(thread: &mut Thread, request: &mut Request) -> Answer {
    let [process, signal, info, flags, ..] = *request.arguments();
    if info == 0 {
        return thread.check_and_forward(request);
    }
    send(thread, request, [process, signal], info, Some(flags))
}

/// rt_sigqueueinfo(2).
pub(super) fn rt_sigqueueinfo(thread: &mut Thread, request: &mut Request) -> Answer {
    let [process, signal, info, ..] = *request.arguments();
    send(thread, request, [process, signal], info, None)
}

/// rt_tgsigqueueinfo(2).
pub(super) fn rt_tgsigqueueinfo(thread: &mut Thread, request: &mut Request) -> Answer {
    let [process, number, signal, info, ..] = *request.arguments();
    send(thread, request, [process, number, signal], info, None)
}

/// Has Linux make the call with a copy of the siginfo between `before` and `after`, if it may be sent.
fn send<const N: usize>(
    thread: &Thread,
    request: &Request,
    before: [u64; N],
    info: u64,
    after: Option<u64>,
) -> Answer {
    let Ok(info): Result<Info, _> = thread.memory().words(info) else { return error(libc::EFAULT) };
    let code = info[1] as i32;
    let is_linuxs = code >= 0 || [libc::SI_TKILL, libc::SI_TIMER].contains(&code);
    if is_linuxs && !lacks(Defence::Siginfo) {
        return error(libc::EPERM);
    }
    call::send_signal(request.call(), &before, &info, after)
}
