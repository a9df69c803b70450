//! What the table says of a call is what Linux does: real calls, harmless ones, with their memory in an arena that is filled with a pattern
//! before, so that it is seen what was written.

use dune_syscalls::{Extent, Fault, Memory, WalkError, What, errno, kind::Direction};
use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// Memory of this process, by address.
struct Own;

impl Memory for Own {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Fault> {
        let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        let remote = libc::iovec { iov_base: address as *mut _, iov_len: into.len() };
        // SAFETY: Linux checks the remote range; the local one is `into`.
        let read = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
        if read == into.len() as isize { Ok(()) } else { Err(Fault { address }) }
    }
}

/// A place for what a call reads and writes.
struct Arena {
    bytes: Vec<u8>,
    used: usize,
}

impl Arena {
    fn new(pattern: u8) -> Self {
        Self { bytes: vec![pattern; 1 << 16], used: 64 }
    }

    fn address(&self) -> u64 {
        self.bytes.as_ptr() as u64
    }

    /// Space for an argument, far from others.
    fn space(&mut self, length: usize) -> u64 {
        let start = self.used;
        self.used = (start + length + 256).next_multiple_of(64);
        assert!(self.used < self.bytes.len());
        self.address() + start as u64
    }

    fn put(&mut self, bytes: &[u8]) -> u64 {
        let at = self.space(bytes.len());
        let start = (at - self.address()) as usize;
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        at
    }

    fn words(&mut self, words: &[u64]) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.put(&bytes)
    }
}

type Arguments = [u64; 6];

/// Makes a call twice over different patterns; what it wrote has to be what the table says. `exact`: all of it was written, so that a
/// table that says too much is seen, too.
fn check(name: &str, exact: bool, mut prepare: impl FnMut(&mut Arena) -> Arguments) -> i64 {
    let mut last = 0;
    let (mut changed, mut said) = (BTreeSet::new(), BTreeSet::new());
    for pattern in [0x55, 0xaa] {
        let mut arena = Arena::new(pattern);
        let arguments = prepare(&mut arena);
        let call = dune_syscalls::by_name(name).unwrap();
        let before = arena.bytes.clone();
        // What it may write, by its registers and by its structures.
        let form = call.form(&arguments);
        let mut may = Vec::new();
        form.walk(&arguments, &Own, &mut |found| {
            match found.what {
                What::Range { address, length, direction } if direction.writes() => {
                    may.push((address, length))
                }
                What::Structure { address, bytes, direction: Direction::ReadWrite, .. } => {
                    may.push((address, bytes.len() as u64));
                }
                _ => (),
            }
            Ok::<(), WalkError>(())
        })
        .unwrap();
        let a = arguments;
        // SAFETY: the calls of these tests write where their arguments say: into the arena.
        let result = unsafe { libc::syscall(call.number.into(), a[0], a[1], a[2], a[3], a[4], a[5]) };
        // SAFETY: the thread's own.
        let result = if result == -1 { i64::from(unsafe { -*libc::__errno_location() }) } else { result };
        let now = (0..before.len()).filter(|&at| before[at] != arena.bytes[at]);
        let now: BTreeSet<usize> = now.collect();
        for &at in &now {
            let address = arena.address() + at as u64;
            let is_said = may.iter().any(|&(start, length)| (start..start + length).contains(&address));
            assert!(is_said, "{name} wrote at {at:#x}, where the table says nothing ({may:x?})");
        }
        // What it has written, given the result.
        let offset = |address: u64| (address - arena.address()) as usize;
        for access in form.written(&arguments, result) {
            let access = access.unwrap();
            // A length that is written may be the one that was there.
            let is_length = form.accesses(&arguments).any(|other| {
                other.is_ok_and(|other| {
                    other.argument == access.argument
                        && other.extent == Extent::Bytes(4)
                        && other.direction.reads()
                })
            });
            if exact && is_length {
                continue;
            }
            let length = match access.extent {
                Extent::Bytes(length) => length as usize,
                Extent::Stored { at } => {
                    let at = offset(at);
                    u32::from_le_bytes(before[at..at + 4].try_into().unwrap()) as usize
                }
                other => panic!("{name}: {other:?}"),
            };
            said.extend(offset(access.address)..offset(access.address) + length);
        }
        let has_nested = form.arguments.iter().any(|field| {
            matches!(field.kind, dune_syscalls::kind::Kind::Pointer(pointer) if pointer.structure.leads_on && pointer.direction.reads())
        });
        if !has_nested && !exact {
            assert!(
                now.is_subset(&said),
                "{name} = {result}: wrote more than the result says: {now:x?} {said:x?}"
            );
        }
        changed.extend(now);
        last = result;
    }
    if exact {
        assert_eq!(changed, said, "{name} = {last}: did not write all that the table says");
    }
    assert!(errno(last).is_none(), "{name} failed: {last}");
    last
}

fn own_file() -> File {
    File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap()
}

#[test]
fn buffers_are_filled_as_far_as_the_result_says() {
    let file = own_file();
    let fd = file.as_raw_fd() as u64;
    let directory = File::open(env!("CARGO_MANIFEST_DIR")).unwrap();
    assert_eq!(check("pread64", true, |arena| [fd, arena.space(100), 100, 0, 0, 0]), 100);
    // At the end of the file there is less.
    let size = file.metadata().unwrap().len();
    assert_eq!(check("pread64", true, |arena| [fd, arena.space(100), 100, size - 7, 0, 0]), 7);
    assert_eq!(check("pread64", true, |arena| [fd, arena.space(100), 100, size, 0, 0]), 0);
    check("getrandom", false, |arena| [arena.space(64), 64, 0, 0, 0, 0]);
    check("getcwd", true, |arena| [arena.space(4096), 4096, 0, 0, 0, 0]);
    let link = CString::new("/proc/self/exe").unwrap();
    check("readlink", true, |arena| [link.as_ptr() as u64, arena.space(4096), 4096, 0, 0, 0]);
    assert_eq!(check("readlink", true, |arena| [link.as_ptr() as u64, arena.space(4096), 5, 0, 0, 0]), 5);
    check("getdents64", false, |arena| {
        // SAFETY: to the start of our own directory.
        unsafe { libc::lseek(directory.as_raw_fd(), 0, libc::SEEK_SET) };
        [directory.as_raw_fd() as u64, arena.space(4096), 4096, 0, 0, 0]
    });
    check("sched_getaffinity", true, |arena| [0, 1024, arena.space(1024), 0, 0, 0]);
    check("getgroups", true, |arena| [64, arena.space(256), 0, 0, 0, 0]);
    check("prctl", true, |arena| [16, arena.space(16), 0, 0, 0, 0]);
}

#[test]
fn structures_are_written_whole_or_in_part() {
    let file = own_file();
    let fd = file.as_raw_fd() as u64;
    let path = CString::new("/").unwrap();
    let path = path.as_ptr() as u64;
    for (name, arguments) in [("uname", 0), ("sysinfo", 0), ("times", 0)] {
        check(name, false, |arena| [arena.space(512), arguments, 0, 0, 0, 0]);
    }
    check("fstat", true, |arena| [fd, arena.space(512), 0, 0, 0, 0]);
    check("stat", true, |arena| [path, arena.space(512), 0, 0, 0, 0]);
    check("newfstatat", true, |arena| [-100i64 as u64, path, arena.space(512), 0, 0, 0]);
    check("statfs", true, |arena| [path, arena.space(512), 0, 0, 0, 0]);
    check("statx", true, |arena| [-100i64 as u64, path, 0, 0x7ff, arena.space(512), 0]);
    check("getrusage", true, |arena| [0, arena.space(512), 0, 0, 0, 0]);
    check("clock_gettime", true, |arena| [1, arena.space(512), 0, 0, 0, 0]);
    check("clock_getres", true, |arena| [1, arena.space(512), 0, 0, 0, 0]);
    check("gettimeofday", true, |arena| [arena.space(64), arena.space(64), 0, 0, 0, 0]);
    check("getitimer", true, |arena| [0, arena.space(512), 0, 0, 0, 0]);
    check("getrlimit", true, |arena| [7, arena.space(512), 0, 0, 0, 0]);
    check("prlimit64", true, |arena| [0, 7, 0, arena.space(512), 0, 0]);
    check("rt_sigprocmask", true, |arena| [0, 0, arena.space(64), 8, 0, 0]);
    check("rt_sigpending", true, |arena| [arena.space(64), 8, 0, 0, 0, 0]);
    check("rt_sigaction", true, |arena| [10, 0, arena.space(64), 8, 0, 0]);
    check("sigaltstack", false, |arena| [0, arena.space(64), 0, 0, 0, 0]);
    check("getresuid", true, |arena| [arena.space(4), arena.space(4), arena.space(4), 0, 0, 0]);
    check("getcpu", true, |arena| [arena.space(4), arena.space(4), 0, 0, 0, 0]);
    check("sched_getparam", true, |arena| [0, arena.space(4), 0, 0, 0, 0]);
    check("sched_rr_get_interval", true, |arena| [0, arena.space(16), 0, 0, 0, 0]);
    check("sched_getattr", false, |arena| [0, arena.space(64), 64, 0, 0, 0]);
    check("get_robust_list", true, |arena| [0, arena.space(8), arena.space(8), 0, 0, 0]);
    check("time", true, |arena| [arena.space(8), 0, 0, 0, 0, 0]);
    check("arch_prctl", true, |arena| [0x1003, arena.space(8), 0, 0, 0, 0]);
    check("capget", false, |arena| [arena.words(&[0x2008_0522]), arena.space(24), 0, 0, 0, 0]);
    check("mincore", true, |arena| [arena.address() & !4095, 3 * 4096 - 5, arena.space(64), 0, 0, 0]);
}

#[test]
fn descriptors_come_in_pairs() {
    check("pipe2", true, |arena| [arena.space(8), 0o2000000, 0, 0, 0, 0]);
    check("socketpair", true, |arena| [1, 1, 0, arena.space(8), 0, 0]);
}

/// A pair of stream sockets, of which none waits.
fn sockets() -> (UnixStream, UnixStream) {
    let (one, other) = UnixStream::pair().unwrap();
    other.set_nonblocking(true).unwrap();
    (one, other)
}

#[test]
fn lengths_in_memory_limit_what_is_written() {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let fd = socket.as_raw_fd() as u64;
    check("getsockname", true, |arena| [fd, arena.space(64), arena.words(&[16]), 0, 0, 0]);
    // More space than there is, and less.
    check("getsockname", false, |arena| [fd, arena.space(128), arena.words(&[128]), 0, 0, 0]);
    check("getsockname", false, |arena| [fd, arena.space(64), arena.words(&[5]), 0, 0, 0]);
    check("getsockopt", true, |arena| [fd, 1, 3, arena.space(64), arena.words(&[4]), 0]);
    let received = check("recvfrom", true, |arena| {
        socket.send_to(b"hello", socket.local_addr().unwrap()).unwrap();
        [fd, arena.space(64), 64, 0, arena.space(64), arena.words(&[16])]
    });
    assert_eq!(received, 5);
}

#[test]
fn lists_of_buffers_are_filled_in_order() {
    let (mut one, other) = sockets();
    let fd = other.as_raw_fd() as u64;
    let read = check("readv", false, |arena| {
        one.write_all(&[7; 30]).unwrap();
        let parts = [arena.space(10), 10, arena.space(50), 50];
        [fd, arena.words(&parts), 2, 0, 0, 0]
    });
    assert_eq!(read, 30);
    let (mut one, other) = sockets();
    check("recvmsg", false, |arena| {
        one.write_all(&[7; 30]).unwrap();
        let parts = [arena.space(30), 30];
        let parts = arena.words(&parts);
        let message = [0, 0, parts, 1, arena.space(64), 64, 0];
        [other.as_raw_fd() as u64, arena.words(&message), 0x40, 0, 0, 0]
    });
    let (mut one, other) = sockets();
    check("recvmmsg", false, |arena| {
        one.write_all(&[7; 30]).unwrap();
        let parts = [arena.space(10), 10, arena.space(20), 20];
        let parts = arena.words(&parts);
        let messages = [0, 0, parts, 1, 0, 0, 0, 0, 0, 0, parts + 16, 1, 0, 0, 0, 0];
        [other.as_raw_fd() as u64, arena.words(&messages), 2, 0x40, 0, 0]
    });
}

#[test]
fn waiting_tells_what_is_ready() {
    let (mut one, other) = sockets();
    one.write_all(b"x").unwrap();
    let fd = other.as_raw_fd() as u64;
    check("poll", false, |arena| [arena.words(&[fd | 1 << 32]), 1, 0, 0, 0, 0]);
    check("ppoll", false, |arena| [arena.words(&[fd | 1 << 32]), 1, arena.words(&[0, 0]), 0, 8, 0]);
    assert!(fd < 64);
    check("select", false, |arena| [64, arena.words(&[1 << fd]), 0, 0, arena.words(&[0, 0]), 0]);
    check("pselect6", false, |arena| {
        let mask = [arena.words(&[0]), 8];
        [64, arena.words(&[1 << fd]), arena.words(&[0]), 0, arena.words(&[0, 0]), arena.words(&mask)]
    });
    check("ioctl", true, |arena| [fd, 0x541b, arena.space(4), 0, 0, 0]);
    // SAFETY: a new descriptor, which the process keeps.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    let mut event = libc::epoll_event { events: 1, u64: 0x1122_3344_5566_7788 };
    // SAFETY: `event` is one.
    assert_eq!(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd as i32, &mut event) }, 0);
    assert_eq!(check("epoll_wait", true, |arena| [epoll as u64, arena.space(120), 10, 0, 0, 0]), 1);
}

#[test]
fn a_call_that_fails_writes_nothing() {
    for (name, arguments) in [("read", [u64::MAX, 1, 64, 0, 0, 0]), ("fstat", [u64::MAX, 1, 0, 0, 0, 0])] {
        let mut arena = Arena::new(0x55);
        let mut arguments = arguments;
        arguments[1] = arena.space(256);
        let call = dune_syscalls::by_name(name).unwrap();
        assert_eq!(call.form(&arguments).written(&arguments, -9).count(), 0);
        // SAFETY: descriptor -1 is nobody's.
        let result = unsafe { libc::syscall(call.number.into(), arguments[0], arguments[1], arguments[2]) };
        assert!(result == -1 && arena.bytes.iter().all(|&byte| byte == 0x55), "{name}");
    }
}
