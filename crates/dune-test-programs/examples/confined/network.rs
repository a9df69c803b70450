//! Addresses of sockets: those that a policy names and others, also while another thread changes them.

use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread;

use super::call;

/// `struct sockaddr_in`, or one of IPv6.
#[repr(C, align(8))]
struct Address([AtomicU16; 14]);

impl Address {
    fn v4(address: [u8; 4], port: u16) -> Address {
        let pair = |first: u8, second: u8| u16::from_ne_bytes([first, second]);
        let words = [2, port.to_be(), pair(address[0], address[1]), pair(address[2], address[3])];
        Address(std::array::from_fn(|index| AtomicU16::new(words.get(index).copied().unwrap_or(0))))
    }

    /// An address of IPv4 in one of IPv6.
    fn mapped(address: [u8; 4], port: u16) -> Address {
        let v4 = Address::v4(address, port);
        let word = |index: usize| v4.0[index].load(Ordering::Relaxed);
        let words = [10, word(1), 0, 0, 0, 0, 0, 0, 0, 0xffff, word(2), word(3)];
        Address(std::array::from_fn(|index| AtomicU16::new(words.get(index).copied().unwrap_or(0))))
    }

    fn at(&self) -> u64 {
        self.0.as_ptr() as u64
    }
}

const LOCAL: [u8; 4] = [127, 0, 0, 1];

fn asked(number: i64, arguments: [u64; 6]) -> i64 {
    call(number as u64, arguments)
}

fn socket(family: i32, kind: i32, protocol: i32) -> i64 {
    asked(libc::SYS_socket, [family as u64, kind as u64, protocol as u64, 0, 0, 0])
}

fn close(descriptor: i64) {
    asked(libc::SYS_close, [descriptor as u64, 0, 0, 0, 0, 0]);
}

/// The call with a new socket, which is closed then.
fn with(family: i32, kind: i32, body: impl FnOnce(u64) -> i64) -> i64 {
    let made = socket(family, kind, 0);
    let result = if made < 0 { made } else { body(made as u64) };
    close(made);
    result
}

fn connect(socket: u64, address: &Address, length: u64) -> i64 {
    asked(libc::SYS_connect, [socket, address.at(), length, 0, 0, 0])
}

fn bind(socket: u64, address: &Address) -> i64 {
    asked(libc::SYS_bind, [socket, address.at(), 16, 0, 0, 0])
}

fn send_to(socket: u64, address: &Address, flags: u64) -> i64 {
    static BYTE: [u8; 1] = [1];
    asked(libc::SYS_sendto, [socket, BYTE.as_ptr() as u64, 1, flags, address.at(), 16])
}

/// `struct mmsghdr`: of `struct msghdr` the name, with its length, and one part.
fn messages(address: &[&Address], parts: &[u64; 2]) -> Vec<[u64; 8]> {
    address.iter().map(|address| [address.at(), 16, parts.as_ptr() as u64, 1, 0, 0, 0, 0]).collect()
}

fn send_message(socket: u64, address: &Address) -> i64 {
    let byte = [1u8];
    let parts = [byte.as_ptr() as u64, 1];
    let message = messages(&[address], &parts);
    asked(libc::SYS_sendmsg, [socket, message.as_ptr() as u64, 0, 0, 0, 0])
}

fn send_messages(socket: u64, addresses: &[&Address]) -> i64 {
    let byte = [1u8];
    let parts = [byte.as_ptr() as u64, 1];
    let all = messages(addresses, &parts);
    asked(libc::SYS_sendmmsg, [socket, all.as_ptr() as u64, all.len() as u64, 0, 0, 0])
}

/// The call with the ends of a new pair of unix sockets, which are closed then.
fn with_pair(kind: i32, body: impl FnOnce([u64; 2]) -> i64) -> i64 {
    let mut ends = [0i32; 2];
    let made =
        asked(libc::SYS_socketpair, [libc::AF_UNIX as u64, kind as u64, 0, ends.as_mut_ptr() as u64, 0, 0]);
    if made < 0 {
        return made;
    }
    let result = body(ends.map(|end| end as u64));
    ends.into_iter().for_each(|end| close(end.into()));
    result
}

/// The call with the reading end of a new pipe.
fn with_pipe(body: impl FnOnce(u64) -> i64) -> i64 {
    let mut ends = [0i32; 2];
    asked(libc::SYS_pipe2, [ends.as_mut_ptr() as u64, 0, 0, 0, 0, 0]);
    let result = body(ends[0] as u64);
    ends.into_iter().for_each(|end| close(end.into()));
    result
}

/// fcntl(F_SETOWN).
fn own(descriptor: u64, process: i32) -> i64 {
    asked(libc::SYS_fcntl, [descriptor, libc::F_SETOWN as u64, process as u64, 0, 0, 0])
}

/// ioctl(FIOASYNC), on; nothing comes, and SIGIO would end the program.
fn notify(descriptor: u64) -> i64 {
    let on = 1i32;
    asked(libc::SYS_ioctl, [descriptor, libc::FIOASYNC, (&raw const on) as u64, 0, 0, 0])
}

/// Sends a descriptor from one end to the other, with a byte, to whom the message names; what was sent is closed.
fn over([one, other]: [u64; 2], to: Option<&Address>) -> i64 {
    let (mut byte, mut control) = ([7u8], [0u64; 3]);
    let parts = [byte.as_mut_ptr() as u64, 1];
    // `struct cmsghdr`: its length, SOL_SOCKET and SCM_RIGHTS, a descriptor.
    (control[0], control[1], control[2]) = (20, 1 << 32 | 1, one);
    let (name, length) = to.map_or((0, 0), |address| (address.at(), 16));
    let message = [name, length, parts.as_ptr() as u64, 1, control.as_mut_ptr() as u64, 20, 0];
    let sent = asked(libc::SYS_sendmsg, [one, message.as_ptr() as u64, 0, 0, 0, 0]);
    if sent < 0 {
        return sent;
    }
    let received = asked(libc::SYS_recvmsg, [other, message.as_ptr() as u64, 0, 0, 0, 0]);
    let descriptor = control[2] & 0xffff_ffff;
    let closed = asked(libc::SYS_close, [descriptor, 0, 0, 0, 0, 0]);
    if (sent, received, descriptor != one, closed) == (1, 1, true, 0) { 0 } else { received }
}

/// A unix socket's name.
fn named_unix() -> Address {
    let address = Address::v4([0; 4], 0);
    address.0[0].store(libc::AF_UNIX as u16, Ordering::Relaxed);
    address.0[1].store(u16::from_ne_bytes(*b"/x"), Ordering::Relaxed);
    address
}

const STREAM: i32 = libc::SOCK_STREAM;
const DATAGRAM: i32 = libc::SOCK_DGRAM;
const INET: i32 = libc::AF_INET;
const INET6: i32 = libc::AF_INET6;

/// Ports: of TCP one that is named and one that is not, the same of UDP.
pub fn all(ports: [u16; 4]) {
    let [good, bad, good_datagram, bad_datagram] = ports;
    let [named, other] = [good, bad].map(|port| Address::v4(LOCAL, port));
    let [named_datagram, other_datagram] = [good_datagram, bad_datagram].map(|port| Address::v4(LOCAL, port));
    let zeros = [good, bad].map(|port| Address::v4([0; 4], port));
    let mapped = [good, bad].map(|port| Address::mapped(LOCAL, port));
    let metadata = [Address::v4([169, 254, 169, 254], 80), Address::mapped([169, 254, 169, 254], 80)];
    let any = [Address::v4(LOCAL, 0), Address::v4([0; 4], 0)];
    let unspecified = Address::v4([0; 4], 0);
    unspecified.0[0].store(0, Ordering::Relaxed);
    let fast_open = libc::MSG_FASTOPEN as u64;
    for (what, result) in [
        ("connect", with(INET, STREAM, |socket| connect(socket, &named, 16))),
        ("connect to zeros", with(INET, STREAM, |socket| connect(socket, &zeros[0], 16))),
        ("connect by IPv6", with(INET6, STREAM, |socket| connect(socket, &mapped[0], 28))),
        ("connect to nobody", with(INET, DATAGRAM, |socket| connect(socket, &unspecified, 16))),
        ("bind", with(INET, STREAM, |socket| bind(socket, &any[0]))),
        (
            "listen",
            with(INET, STREAM, |socket| {
                bind(socket, &any[0]);
                asked(libc::SYS_listen, [socket, 1, 0, 0, 0, 0])
            }),
        ),
        ("sendto", with(INET, DATAGRAM, |socket| send_to(socket, &named_datagram, 0) - 1)),
        ("sendmsg", with(INET, DATAGRAM, |socket| send_message(socket, &named_datagram) - 1)),
        ("sendmmsg", with(INET, DATAGRAM, |socket| send_messages(socket, &[&named_datagram]) - 1)),
        ("denied: connect", with(INET, STREAM, |socket| connect(socket, &other, 16))),
        ("denied: connect to zeros", with(INET, STREAM, |socket| connect(socket, &zeros[1], 16))),
        ("denied: connect by IPv6", with(INET6, STREAM, |socket| connect(socket, &mapped[1], 28))),
        ("denied: connect to the metadata", with(INET, STREAM, |socket| connect(socket, &metadata[0], 16))),
        ("denied: the same by IPv6", with(INET6, STREAM, |socket| connect(socket, &metadata[1], 28))),
        ("denied: connect to a part", with(INET, STREAM, |socket| connect(socket, &named, 8))),
        ("denied: bind", with(INET, STREAM, |socket| bind(socket, &any[1]))),
        ("denied: listen", with(INET, STREAM, |socket| asked(libc::SYS_listen, [socket, 1, 0, 0, 0, 0]))),
        ("denied: sendto", with(INET, DATAGRAM, |socket| send_to(socket, &other_datagram, 0))),
        ("denied: sendto of no family", with(INET, DATAGRAM, |socket| send_to(socket, &unspecified, 0))),
        ("denied: sendto that connects", with(INET, STREAM, |socket| send_to(socket, &other, fast_open))),
        ("denied: sendmsg", with(INET, DATAGRAM, |socket| send_message(socket, &other_datagram))),
        (
            "denied: sendmmsg",
            with(INET, DATAGRAM, |socket| send_messages(socket, &[&named_datagram, &other_datagram])),
        ),
        ("a pair", with_pair(STREAM, |ends| over(ends, None))),
        (
            "a pair that ends",
            with_pair(libc::SOCK_SEQPACKET, |[one, _]| asked(libc::SYS_shutdown, [one, 2, 0, 0, 0, 0])),
        ),
        (
            "signals for an end",
            with_pair(STREAM, |[one, _]| own(one, std::process::id() as i32) + notify(one)),
        ),
        ("denied: signals to others", with_pair(STREAM, |[one, _]| own(one, 1))),
        ("denied: signals to a group", with_pair(STREAM, |[one, _]| own(one, -(std::process::id() as i32)))),
        ("denied: signals for a pipe", with_pipe(notify)),
        (
            "denied: the same by flags",
            with_pipe(|end| {
                asked(libc::SYS_fcntl, [end, libc::F_SETFL as u64, libc::O_ASYNC as u64, 0, 0, 0])
            }),
        ),
        ("denied: a pair of datagrams", with_pair(DATAGRAM, |_| 0)),
        ("denied: a message of a pair's to others", with_pair(STREAM, |ends| over(ends, Some(&other)))),
        ("denied: connect an end", with_pair(STREAM, |[one, _]| connect(one, &named_unix(), 16))),
        ("denied: bind an end", with_pair(STREAM, |[one, _]| bind(one, &named_unix()))),
        (
            "denied: listen at an end",
            with_pair(STREAM, |[one, _]| asked(libc::SYS_listen, [one, 1, 0, 0, 0, 0])),
        ),
        ("denied: unix", with(libc::AF_UNIX, STREAM, |_| 0)),
        ("denied: netlink", with(libc::AF_NETLINK, libc::SOCK_RAW, |_| 0)),
        ("denied: raw", socket(INET, libc::SOCK_RAW, 255)),
        ("denied: multipath TCP", socket(INET, STREAM, 262)),
    ] {
        println!("{what}: {result}");
    }
    let sent = |result| if result == 1 { 0 } else { result };
    race(good, bad, |address| with(INET, STREAM, |socket| connect(socket, address, 16)));
    race(good_datagram, bad_datagram, |address| {
        with(INET, DATAGRAM, |socket| sent(send_to(socket, address, 0)))
    });
    race(good_datagram, bad_datagram, |address| {
        with(INET, DATAGRAM, |socket| sent(send_message(socket, address)))
    });
    race(good_datagram, bad_datagram, |address| {
        with(INET, DATAGRAM, |socket| sent(send_messages(socket, &[address])))
    });
}

/// Another thread puts one port and the other into the address, all the time.
fn race(good: u16, bad: u16, body: impl Fn(&Address) -> i64) {
    const TURNS: u32 = 400;
    let (address, is_over) = (Address::v4(LOCAL, good), AtomicBool::new(false));
    let (mut made, mut denied) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                address.0[1].store(bad.to_be(), Ordering::Relaxed);
                address.0[1].store(good.to_be(), Ordering::Relaxed);
            }
        });
        for _ in 0..TURNS {
            match body(&address) {
                0 => made += 1,
                -13 => denied += 1,
                _ => (),
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    println!("race: {}", made > 0 && made + denied == TURNS);
}
