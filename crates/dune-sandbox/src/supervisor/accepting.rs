//! Sockets that listen, where a policy says who may connect: see `peers.rs`.

use super::{Answer, Thread, error, supervised};
use crate::checked::Request;
use crate::peers::Peers;
use crate::policy::internet_address;
use crate::raw::call;

/// listen(2). The caller keeps the process's descriptors.
pub(super) fn listen(thread: &mut Thread, request: &mut Request) -> Answer {
    let descriptor = request.arguments()[0] as i32;
    if let Some(peers) = thread.process.policy.peers()
        && call::socket_name(descriptor).is_some_and(|own| is_of_the_internet(&own))
        && !call::filter_socket(descriptor, &peers.filter())
    {
        thread.process.log(
            "listen",
            "is refused: the socket has a filter of the program's own (SO_LOCK_FILTER), and the policy needs one",
        );
        return error(libc::EACCES);
    }
    supervised::forwarded(thread, request)
}

/// accept(2) and accept4(2).
pub(super) fn accept(thread: &mut Thread, request: &mut Request) -> Answer {
    let Some(peers) = thread.process.policy.peers() else { return supervised::forwarded(thread, request) };
    if let Err(refusal) = request.check(thread.memory()) {
        return thread.refuse(request, refusal);
    }
    let answer = loop {
        let answer = thread.forward(request);
        let Ok(accepted) = i32::try_from(answer) else { break answer };
        if accepted < 0 || may_come(peers, accepted) {
            break answer;
        }
        thread
            .process
            .log("accept of a connection", "from an address that the policy does not name is closed");
        let _changes = thread.process.change_descriptors();
        call::plain(libc::SYS_close, [accepted as u64, 0, 0, 0, 0, 0]);
    };
    thread.interrupted(answer, request.call())
}

/// Whose address can not be told has gone, or is not to come.
fn may_come(peers: &Peers, accepted: i32) -> bool {
    let Some(peer) = call::peer_name(accepted) else { return false };
    match internet_address(&peer, false) {
        Some(address) => peers.has(address.ip(), address.port()),
        None => !is_of_the_internet(&peer),
    }
}

fn is_of_the_internet(address: &[u8]) -> bool {
    let family = address.first_chunk().map(|family| i32::from(u16::from_ne_bytes(*family)));
    matches!(family, Some(libc::AF_INET | libc::AF_INET6))
}
