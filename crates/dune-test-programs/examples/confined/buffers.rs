//! A buffer that another thread takes away while a call uses it: unmapped, moved, replaced. Nothing of the runtime's is to appear in its
//! place, and to be read or written through it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use dune_syscalls::kind::Kind;
use dune_syscalls::structures::BYTES;
use dune_syscalls::{Class, Form};

use super::{call, forms, is_address, plausible, randomly};

const PAGE: u64 = 4096;
const LENGTH: u64 = 4 * PAGE;
const ANONYMOUS: u64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
const FIXED: u64 = ANONYMOUS | libc::MAP_FIXED as u64;
const MARK: u8 = 0x5a;

/// How it is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Unmapped,
    Moved,
    Forbidden,
    /// By other memory of the program's.
    Replaced,
}

const WAYS: [Way; 4] = [Way::Unmapped, Way::Moved, Way::Forbidden, Way::Replaced];

impl Way {
    fn take(self, buffer: u64) {
        let elsewhere = || map(0, 0, ANONYMOUS);
        match self {
            Way::Unmapped => call(libc::SYS_munmap as u64, [buffer, LENGTH, 0, 0, 0, 0]),
            Way::Moved => {
                let moves = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
                call(libc::SYS_mremap as u64, [buffer, LENGTH, LENGTH, moves, elsewhere() as u64, 0])
            }
            Way::Forbidden => map(buffer, 0, FIXED),
            Way::Replaced => map(buffer, 3, FIXED),
        };
    }
}

fn map(place: u64, rights: u64, flags: u64) -> i64 {
    call(libc::SYS_mmap as u64, [place, LENGTH, rights, flags, u64::MAX, 0])
}

/// What nobody but the program can have put there.
fn fill(buffer: u64) {
    // SAFETY: its own memory, which no reference leads to.
    unsafe { std::ptr::write_bytes(buffer as *mut u8, MARK, LENGTH as usize) };
}

/// Two ends, of which the first one is what the call is about.
#[derive(Clone, Copy)]
struct Ends([i32; 2]);

/// A call that waits while it has the buffer, and what ends it.
struct Waiting {
    what: &'static str,
    ends: fn() -> Ends,
    make: fn(Ends, u64) -> i64,
    wake: fn(Ends) -> Vec<u8>,
    /// Whether it writes to the buffer: then it has to fail where nothing is.
    writes: bool,
}

const WAITING: &[Waiting] = &[
    Waiting {
        what: "read",
        ends: pipe,
        make: |ends, at| one(libc::SYS_read, ends, at),
        wake: give,
        writes: true,
    },
    Waiting {
        what: "readv",
        ends: pipe,
        make: |ends, at| parts(libc::SYS_readv, ends, at),
        wake: give,
        writes: true,
    },
    Waiting {
        what: "recvfrom",
        ends: sockets,
        make: |ends, at| one(libc::SYS_recvfrom, ends, at),
        wake: give,
        writes: true,
    },
    Waiting {
        what: "recvmsg",
        ends: sockets,
        make: |ends, at| message(libc::SYS_recvmsg, ends, at),
        wake: give,
        writes: true,
    },
    Waiting { what: "header of recvmsg", ends: sockets, make: header, wake: give, writes: true },
    Waiting { what: "poll", ends: pipe, make: poll, wake: give, writes: true },
    Waiting { what: "select", ends: pipe, make: select, wake: give, writes: true },
    Waiting { what: "epoll_wait", ends: pipe, make: epoll, wake: give, writes: true },
    Waiting { what: "accept", ends: listener, make: accept, wake: connect, writes: true },
    Waiting {
        what: "write",
        ends: full_pipe,
        make: |ends, at| one(libc::SYS_write, ends, at),
        wake: drain,
        writes: false,
    },
    Waiting {
        what: "writev",
        ends: full_pipe,
        make: |ends, at| parts(libc::SYS_writev, ends, at),
        wake: drain,
        writes: false,
    },
    Waiting {
        what: "sendto",
        ends: full_sockets,
        make: |ends, at| one(libc::SYS_sendto, ends, at),
        wake: drain,
        writes: false,
    },
    Waiting {
        what: "sendmsg",
        ends: full_sockets,
        make: |ends, at| message(libc::SYS_sendmsg, ends, at),
        wake: drain,
        writes: false,
    },
];

fn one(number: i64, Ends([end, _]): Ends, buffer: u64) -> i64 {
    call(number as u64, [end as u64, buffer, LENGTH, 0, 0, 0])
}

fn parts(number: i64, Ends([end, _]): Ends, buffer: u64) -> i64 {
    let parts = [[buffer, PAGE], [buffer + PAGE, LENGTH - PAGE]];
    call(number as u64, [end as u64, parts.as_ptr() as u64, 2, 0, 0, 0])
}

fn message(number: i64, Ends([end, _]): Ends, buffer: u64) -> i64 {
    let parts = [[buffer, LENGTH]];
    let mut header = [0, 0, parts.as_ptr() as u64, 1, 0, 0, 0u64];
    call(number as u64, [end as u64, header.as_mut_ptr() as u64, 0, 0, 0, 0])
}

/// A `struct msghdr`, and what it leads to, in the buffer itself.
fn header(Ends([end, _]): Ends, buffer: u64) -> i64 {
    let words = [0, 0, buffer + 128, 1, buffer + 1024, 64, 0, 0].into_iter().enumerate();
    let part = [(16, buffer + 512), (17, 64)];
    for (index, word) in words.chain(part) {
        // SAFETY: its own memory, which is there yet.
        unsafe { (buffer as *mut u64).add(index).write_volatile(word) };
    }
    call(libc::SYS_recvmsg as u64, [end as u64, buffer, 0, 0, 0, 0])
}

fn poll(Ends([end, _]): Ends, buffer: u64) -> i64 {
    // SAFETY: as above; `struct pollfd` waits for POLLIN.
    unsafe { (buffer as *mut u64).write_volatile(end as u64 | 1 << 32) };
    call(libc::SYS_poll as u64, [buffer, 1, 5000, 0, 0, 0])
}

fn select(Ends([end, _]): Ends, buffer: u64) -> i64 {
    // SAFETY: as above; the descriptors are less than 64.
    unsafe { (buffer as *mut u64).write_volatile(1 << end) };
    let limit = [5u64, 0];
    call(libc::SYS_select as u64, [64, buffer, 0, 0, limit.as_ptr() as u64, 0])
}

fn epoll(Ends([end, _]): Ends, buffer: u64) -> i64 {
    let made = call(libc::SYS_epoll_create1 as u64, [0; 6]) as u64;
    let event = [1u32, 7, 0];
    call(libc::SYS_epoll_ctl as u64, [made, 1, end as u64, event.as_ptr() as u64, 0, 0]);
    let result = call(libc::SYS_epoll_wait as u64, [made, buffer, 16, 5000, 0, 0]);
    call(libc::SYS_close as u64, [made, 0, 0, 0, 0, 0]);
    result
}

/// Where the address of who connects goes.
fn accept(Ends([end, _]): Ends, buffer: u64) -> i64 {
    let mut length = [128u64];
    let made = call(libc::SYS_accept as u64, [end as u64, buffer, length.as_mut_ptr() as u64, 0, 0, 0]);
    if made >= 0 {
        call(libc::SYS_close as u64, [made as u64, 0, 0, 0, 0, 0]);
    }
    made
}

fn pipe() -> Ends {
    let mut ends = [0; 2];
    // SAFETY: the call writes two numbers.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0, "a pipe");
    Ends(ends)
}

fn sockets() -> Ends {
    let mut ends = [0; 2];
    // SAFETY: as above.
    let made = unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, ends.as_mut_ptr()) };
    assert_eq!(made, 0, "sockets");
    Ends(ends)
}

fn full_pipe() -> Ends {
    let Ends([reader, writer]) = pipe();
    fill_up(Ends([writer, reader]))
}

fn full_sockets() -> Ends {
    fill_up(sockets())
}

/// Writes until no more goes in.
fn fill_up(ends: Ends) -> Ends {
    let bytes = [MARK; 4096];
    // SAFETY: its own descriptor and bytes.
    unsafe {
        libc::fcntl(ends.0[0], libc::F_SETFL, libc::O_NONBLOCK);
        while libc::write(ends.0[0], bytes.as_ptr().cast(), bytes.len()) > 0 {}
        libc::fcntl(ends.0[0], libc::F_SETFL, 0);
    }
    ends
}

fn listener() -> Ends {
    // SAFETY: makes a socket; the calls take an address of Linux's choice.
    unsafe {
        let listener = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
        let mut address: libc::sockaddr_in = std::mem::zeroed();
        address.sin_family = libc::AF_INET as u16;
        address.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
        let size = size_of_val(&address) as u32;
        assert_eq!(libc::bind(listener, (&raw const address).cast(), size), 0, "bound");
        assert_eq!(libc::listen(listener, 1), 0, "listens");
        Ends([listener, libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0)])
    }
}

fn connect(Ends([listener, other]): Ends) -> Vec<u8> {
    // SAFETY: the calls write and read the address.
    unsafe {
        let mut address: libc::sockaddr_in = std::mem::zeroed();
        let mut size = size_of_val(&address) as u32;
        libc::getsockname(listener, (&raw mut address).cast(), &raw mut size);
        libc::connect(other, (&raw const address).cast(), size);
    }
    Vec::new()
}

fn give(Ends([_, other]): Ends) -> Vec<u8> {
    // SAFETY: its own bytes.
    unsafe { libc::write(other, [MARK; 64].as_ptr().cast(), 64) };
    Vec::new()
}

/// All that comes, up to a rest of 100 ms.
fn drain(Ends([_, other]): Ends) -> Vec<u8> {
    let mut all = Vec::new();
    let mut bytes = [0u8; 4096];
    let mut wait = libc::pollfd { fd: other, events: libc::POLLIN, revents: 0 };
    // A write that has found nothing leaves a pipe that can be read, and has nothing.
    // SAFETY: its own descriptor.
    unsafe { libc::fcntl(other, libc::F_SETFL, libc::O_NONBLOCK) };
    // SAFETY: its own descriptor; the calls write to what is there.
    while unsafe { libc::poll(&raw mut wait, 1, 100) } == 1 {
        // SAFETY: as above.
        match unsafe { libc::read(other, bytes.as_mut_ptr().cast(), bytes.len()) } {
            read if read > 0 => all.extend_from_slice(&bytes[..read as usize]),
            _ => break,
        }
    }
    all
}

/// Takes the buffer of each waiting call away in each way.
fn waiting() {
    let mut faults = 0;
    for Waiting { what, ends, make, wake, writes } in WAITING {
        for way in WAYS {
            let (buffer, both) = (map(0, 3, ANONYMOUS) as u64, ends());
            fill(buffer);
            let caller = thread::spawn(move || make(both, buffer));
            // It waits by then, or finds nothing at once.
            thread::sleep(Duration::from_millis(20));
            way.take(buffer);
            let is_gone = matches!(way, Way::Unmapped | Way::Moved);
            let got = wake(both);
            let result = caller.join().expect("no panic");
            faults += u32::from(result == -i64::from(libc::EFAULT));
            if *writes && way != Way::Replaced && result >= 0 {
                println!("escaped: {what} has written where nothing is ({way:?}): {result}");
            }
            if got.iter().any(|byte| ![0, MARK].contains(byte)) {
                println!("escaped: {what} has read what is not the program's ({way:?})");
            }
            // A place where nothing is can be mapped.
            let placed = ANONYMOUS | libc::MAP_FIXED_NOREPLACE as u64;
            if is_gone && map(buffer, 3, placed) != buffer as i64 {
                println!("escaped: the place of the buffer of {what} is taken ({way:?})");
            }
            call(libc::SYS_munmap as u64, [buffer, LENGTH, 0, 0, 0, 0]);
            for end in both.0 {
                call(libc::SYS_close as u64, [end as u64, 0, 0, 0, 0, 0]);
            }
        }
    }
    println!("waiting faults {}", faults >= 20);
}

/// Every call of the table that is harmless with memory of the program's, with a buffer that comes and goes.
fn of_the_table() {
    let buffer = map(0, 3, ANONYMOUS) as u64;
    let scratch = vec![0u64; 1024].leak();
    scratch[0] = 64;
    let Ends([socket, other]) = sockets();
    for end in [socket, other] {
        // SAFETY: its own descriptor.
        unsafe { libc::fcntl(end, libc::F_SETFL, libc::O_NONBLOCK) };
    }
    // What waits all the same is over soon.
    let _often = randomly::Alarms::start();
    let (is_over, turns) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut faults, mut others, mut tried) = (0, 0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            // They are for the thread that waits.
            // SAFETY: all zero bytes are a set, which the calls fill and read.
            unsafe {
                let mut all: libc::sigset_t = std::mem::zeroed();
                libc::sigfillset(&raw mut all);
                libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
            }
            for way in WAYS.into_iter().cycle() {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                way.take(buffer);
                thread::yield_now();
                map(buffer, 3, FIXED);
                turns.fetch_add(1, Ordering::Relaxed);
                thread::yield_now();
            }
        });
        for line in dune_syscalls::all().filter(|line| !randomly::is_left_out(line)) {
            if line.class == Class::Memory {
                continue;
            }
            for (form, chosen) in forms(line) {
                for index in (0..form.arguments.len()).filter(|index| is_harmless(form, *index)) {
                    let mut arguments = plausible(form, scratch.as_ptr() as u64, socket as u64);
                    if let Some((place, value)) = chosen {
                        arguments[place] = value;
                    }
                    arguments[index] = buffer;
                    for _ in 0..2 {
                        let result = call(line.number.into(), arguments);
                        tried += 1;
                        faults += u32::from(result == -i64::from(libc::EFAULT));
                        others += u32::from(result != -i64::from(libc::EFAULT));
                    }
                }
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let got = drain(Ends([socket, other]));
    if got.windows(9).any(|text| text == b"untouched") {
        println!("escaped: the runtime's bytes have been sent");
    }
    println!("table tried {}, both {}", tried > 300, faults > 20 && others > 20);
    println!("({tried} tried, {faults} faults, {} turns, {} bytes sent)", turns.into_inner(), got.len());
}

/// Whether the argument is an address with which the call, with zeros there, changes nothing of the computer's.
fn is_harmless(form: &Form, index: usize) -> bool {
    let kind = form.arguments[index].kind;
    is_address(kind)
        && match kind {
            Kind::Pointer(pointer) => {
                let is_read = pointer.direction.reads();
                !is_read || pointer.structure.leads_on || std::ptr::eq(pointer.structure, &raw const BYTES)
            }
            Kind::Path { .. } | Kind::Text { .. } => true,
            _ => false,
        }
}

pub fn all() {
    waiting();
    of_the_table();
}
