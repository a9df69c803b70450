//! Unix sockets by their paths: those that a policy names and others, by whatever path, also while that changes.

use std::thread;
use std::time::Duration;

use super::call;

/// `struct sockaddr_un`, and its length.
struct Address(Vec<u8>);

impl Address {
    fn of(path: &[u8]) -> Address {
        Address([&(libc::AF_UNIX as u16).to_ne_bytes(), path].concat())
    }

    fn at(&self) -> u64 {
        self.0.as_ptr() as u64
    }

    fn length(&self) -> u64 {
        self.0.len() as u64
    }
}

const STREAM: i32 = libc::SOCK_STREAM;
const DATAGRAM: i32 = libc::SOCK_DGRAM;

fn asked(number: i64, arguments: [u64; 6]) -> i64 {
    call(number as u64, arguments)
}

fn socket(kind: i32) -> i64 {
    asked(libc::SYS_socket, [libc::AF_UNIX as u64, kind as u64, 0, 0, 0, 0])
}

fn close(descriptor: i64) -> i64 {
    asked(libc::SYS_close, [descriptor as u64, 0, 0, 0, 0, 0])
}

/// The call with a new socket, which is closed then.
fn with(kind: i32, body: impl FnOnce(u64) -> i64) -> i64 {
    let made = socket(kind);
    let result = if made < 0 { made } else { body(made as u64) };
    close(made);
    result
}

fn connect(socket: u64, path: &[u8]) -> i64 {
    let address = Address::of(path);
    asked(libc::SYS_connect, [socket, address.at(), address.length(), 0, 0, 0])
}

fn bind(socket: u64, path: &[u8]) -> i64 {
    let address = Address::of(path);
    asked(libc::SYS_bind, [socket, address.at(), address.length(), 0, 0, 0])
}

fn listen(socket: u64, count: u64) -> i64 {
    asked(libc::SYS_listen, [socket, count, 0, 0, 0, 0])
}

fn send_to(socket: u64, path: &[u8]) -> i64 {
    let (address, byte) = (Address::of(path), [1u8]);
    asked(libc::SYS_sendto, [socket, byte.as_ptr() as u64, 1, 0, address.at(), address.length()])
}

/// A message of one byte to each path, the first with a descriptor if that is one.
fn send(socket: u64, paths: &[&[u8]], descriptor: Option<u64>, number: i64) -> i64 {
    let byte = [1u8];
    let part = [byte.as_ptr() as u64, 1];
    // `struct cmsghdr`: its length, SOL_SOCKET and SCM_RIGHTS, a descriptor.
    let control = [20u64, 1 << 32 | 1, descriptor.unwrap_or(0)];
    let (at, length) = descriptor.map_or((0, 0), |_| (control.as_ptr() as u64, 20));
    let addresses: Vec<_> = paths.iter().map(|path| Address::of(path)).collect();
    let message = |to: &Address| [to.at(), to.length(), part.as_ptr() as u64, 1, at, length, 0, 0];
    let messages: Vec<_> = addresses.iter().map(message).collect();
    let count = if number == libc::SYS_sendmmsg { paths.len() as u64 } else { 0 };
    asked(number, [socket, messages.as_ptr() as u64, count, 0, 0, 0])
}

fn go_to(path: &[u8]) -> i64 {
    let path = [path, &[0]].concat();
    asked(libc::SYS_chdir, [path.as_ptr() as u64, 0, 0, 0, 0, 0])
}

/// A name by a descriptor of the socket itself.
fn by_descriptor(path: &[u8]) -> Vec<u8> {
    let path = [path, &[0]].concat();
    let flags = libc::O_PATH as u64;
    let found = asked(libc::SYS_open, [path.as_ptr() as u64, flags, 0, 0, 0, 0]);
    format!("/proc/self/fd/{found}").into_bytes()
}

/// A connection through a socket of the program's own, from one thread to another. It has no room for more than one at a time, so most wait.
fn meet(path: &[u8]) -> i64 {
    const COUNT: usize = 6;
    let listener = socket(STREAM) as u64;
    let made = bind(listener, path);
    if made < 0 || listen(listener, 0) < 0 {
        return made;
    }
    let taken = thread::scope(|scope| {
        let takes = || -> i64 {
            let mut sum = 0;
            for _ in 0..COUNT {
                thread::sleep(Duration::from_millis(20));
                let peer = asked(libc::SYS_accept4, [listener, 0, 0, 0, 0, 0]);
                // Others' descriptors can be closed meanwhile.
                close(asked(libc::SYS_dup, [peer as u64, 0, 0, 0, 0, 0]));
                let mut byte = [0u8];
                sum += asked(libc::SYS_read, [peer as u64, byte.as_mut_ptr() as u64, 1, 0, 0, 0]);
                close(peer);
            }
            sum
        };
        let taker = scope.spawn(takes);
        for _ in 0..COUNT {
            scope.spawn(|| {
                with(STREAM, |socket| {
                    let byte = [1u8];
                    let result = connect(socket, path);
                    assert_eq!(result, 0, "connect");
                    asked(libc::SYS_write, [socket, byte.as_ptr() as u64, 1, 0, 0, 0])
                })
            });
        }
        taker.join().expect("it ends")
    });
    close(listener as i64);
    taken - COUNT as i64
}

pub fn all(folder: &str) {
    let path = |part: &str| format!("{folder}/{part}").into_bytes();
    let reach = |path: &[u8]| with(STREAM, |socket| connect(socket, path));
    let (good, datagrams) = (path("in/good"), path("in/datagrams"));
    let relative = || {
        let gone = go_to(&path("in/below"));
        let reached = reach(b"../good");
        gone + reached
    };
    for (what, result) in [
        ("connect", reach(&good)),
        ("connect by a relative path", relative()),
        ("connect by a link", reach(&path("in/link"))),
        ("connect by ..", reach(&path("in/../out/../in/good"))),
        ("connect to one of a directory's", reach(&path("in/below/any"))),
        ("connect to one that is named itself", reach(&path("lone"))),
        ("sendto", with(DATAGRAM, |socket| send_to(socket, &datagrams) - 1)),
        ("sendmsg", with(DATAGRAM, |socket| send(socket, &[&datagrams], None, libc::SYS_sendmsg) - 1)),
        (
            "sendmsg with a descriptor",
            with(DATAGRAM, |socket| send(socket, &[&datagrams], Some(1), libc::SYS_sendmsg) - 1),
        ),
        (
            "sendmmsg",
            with(DATAGRAM, |socket| send(socket, &[&datagrams, &datagrams], None, libc::SYS_sendmmsg) - 2),
        ),
        ("bind, and listen", with(STREAM, |socket| bind(socket, &path("out/own")) + listen(socket, 1))),
        ("bind what is there", with(STREAM, |socket| bind(socket, &path("out/own")) + 98)),
        ("bind a link", with(STREAM, |socket| bind(socket, &path("out/link")) + 98)),
        ("connect to what is no socket", reach(&path("in/below/file")) + 111),
        ("connect to what is not there", reach(&path("in/below/none")) + 2),
        ("connect to what is hidden", reach(&path("in/hidden/socket")) + 2),
        ("denied: connect to another", reach(&path("in/other"))),
        ("denied: connect outside", reach(&path("outside"))),
        ("denied: by a link", reach(&path("in/link-out"))),
        // Of /proc nothing is named.
        ("denied: by a descriptor", reach(&by_descriptor(&good))),
        ("denied: by a descriptor of another", reach(&by_descriptor(&path("in/other")))),
        ("denied: connect to datagrams", with(DATAGRAM, |socket| connect(socket, &datagrams))),
        ("denied: abstract", reach(b"\0abstract")),
        ("denied: sendto", with(DATAGRAM, |socket| send_to(socket, &path("in/other")))),
        ("denied: sendto what may be connected", with(DATAGRAM, |socket| send_to(socket, &good))),
        ("denied: sendto abstract", with(DATAGRAM, |socket| send_to(socket, b"\0abstract"))),
        (
            "denied: sendmmsg",
            with(DATAGRAM, |socket| send(socket, &[&datagrams, &path("outside")], None, libc::SYS_sendmmsg)),
        ),
        ("denied: bind another name", with(STREAM, |socket| bind(socket, &path("out/other")))),
        ("denied: bind where nothing is written", with(STREAM, |socket| bind(socket, &path("in/new")))),
        ("denied: bind outside", with(STREAM, |socket| bind(socket, &path("new")))),
        ("denied: bind abstract", with(STREAM, |socket| bind(socket, b"\0abstract"))),
        ("denied: bind without a name", with(STREAM, |socket| bind(socket, b""))),
        ("denied: listen without a name", with(STREAM, |socket| listen(socket, 1))),
        ("denied: raw", socket(3)),
        ("threads meet", meet(&path("out/meeting"))),
    ] {
        println!("{what}: {result}");
    }
}

/// Connects, sends and binds while directories and links are exchanged.
pub fn race(folder: &str, turns: u32) {
    let path = |part: &str| format!("{folder}/{part}").into_bytes();
    let mut reached = 0;
    let sent = |result| if result == 1 { 0 } else { result };
    for _ in 0..turns {
        for result in [
            with(STREAM, |socket| connect(socket, &path("in/race/socket"))),
            with(DATAGRAM, |socket| sent(send_to(socket, &path("in/race/datagrams")))),
            with(STREAM, |socket| bind(socket, &path("out/race/made"))),
        ] {
            match -result as i32 {
                0 => reached += 1,
                libc::EACCES
                | libc::ENOENT
                | libc::ECONNREFUSED
                | libc::EADDRINUSE
                | libc::EXDEV
                | libc::ELOOP
                | libc::ENOTDIR => (),
                // Nobody takes them.
                libc::EAGAIN => (),
                other => println!("an error: {other}"),
            }
        }
        let made = [&*path("out/race/made"), &[0]].concat();
        asked(libc::SYS_unlink, [made.as_ptr() as u64, 0, 0, 0, 0, 0]);
    }
    println!("reached {reached}");
}
