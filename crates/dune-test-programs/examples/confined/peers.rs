//! Connections that are accepted, where a policy says from whom.

use std::io::Write;

use super::call;

const LEVEL: u64 = libc::SOL_SOCKET as u64;

fn asked(number: i64, arguments: [u64; 6]) -> i64 {
    call(number as u64, arguments)
}

fn socket() -> u64 {
    asked(libc::SYS_socket, [libc::AF_INET as u64, libc::SOCK_STREAM as u64, 0, 0, 0, 0]) as u64
}

fn bind(socket: u64, port: u16) -> i64 {
    let mut address = [2u8, 0, 0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    address[2..4].copy_from_slice(&port.to_be_bytes());
    asked(libc::SYS_bind, [socket, address.as_ptr() as u64, 16, 0, 0, 0])
}

fn listen(socket: u64) -> i64 {
    asked(libc::SYS_listen, [socket, 4, 0, 0, 0, 0])
}

fn set(socket: u64, option: i32, value: &[u64]) -> i64 {
    let length = size_of_val(value) as u64;
    asked(libc::SYS_setsockopt, [socket, LEVEL, option as u64, value.as_ptr() as u64, length, 0])
}

/// The last number of the address that a connection comes from, which says something then.
fn accepted(socket: u64, number: i64) -> u8 {
    let (mut address, mut length) = ([0u8; 16], 16u32);
    let accepted = asked(number, [socket, address.as_mut_ptr() as u64, (&raw mut length) as u64, 0, 0, 0]);
    let mut byte = [0u8];
    let read = asked(libc::SYS_read, [accepted as u64, byte.as_mut_ptr() as u64, 1, 0, 0, 0]);
    assert!(read == 1 && byte == [7], "{accepted} {read}");
    asked(libc::SYS_write, [accepted as u64, byte.as_ptr() as u64, 1, 0, 0, 0]);
    asked(libc::SYS_close, [accepted as u64, 0, 0, 0, 0, 0]);
    address[7]
}

/// With a port to listen at, and a socket that listens as standard input.
pub fn all(port: u16) {
    // RET, which lets all through: `struct sock_fprog`.
    let everything = [6u64 | 0xffff_ffff << 32];
    let program = [1, everything.as_ptr() as u64];
    let (own, locked, other) = (socket(), socket(), socket());
    for (what, result) in [
        ("bind", bind(own, port)),
        ("a filter of its own", set(own, libc::SO_ATTACH_FILTER, &program)),
        ("listen", listen(own)),
        ("listen again", listen(own)),
        ("denied: detach the filter", set(own, libc::SO_DETACH_FILTER, &[0])),
        ("denied: another filter", set(own, libc::SO_ATTACH_FILTER, &program)),
        ("denied: unlock it", set(own, libc::SO_LOCK_FILTER, &[0])),
        ("a filter that is locked", set(locked, libc::SO_ATTACH_FILTER, &program)),
        ("locked", set(locked, libc::SO_LOCK_FILTER, &[1])),
        ("bound", bind(locked, 0)),
        ("denied: listen by it", listen(locked)),
        ("no filter, locked", set(other, libc::SO_LOCK_FILTER, &[1])),
        ("bound, too", bind(other, 0)),
        ("denied: listen without", listen(other)),
    ] {
        println!("{what}: {result}");
    }
    println!("listening");
    let _ = std::io::stdout().flush();
    let from = accepted(own, libc::SYS_accept4);
    println!("from {from}, {}", accepted(0, libc::SYS_accept));
}
