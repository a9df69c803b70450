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
