//! System calls that wait, each with what it waits for and how that is brought about.

use std::cell::UnsafeCell;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use crate::both::{errno, outcome};
use crate::probe;

/// A call that waits, and what ends its waiting: done in the signal handler, so by system calls only.
pub struct Wait {
    /// The call.
    pub name: &'static str,
    /// Makes it; its result, or the negative error number.
    pub call: fn() -> i64,
    /// Ends the waiting; does nothing for calls that a signal always ends.
    pub release: fn(),
}

/// Descriptors and keys that the waits use.
static ENDS: [AtomicI32; 12] = [const { AtomicI32::new(-1) }; 12];
const EMPTY_READ: usize = 0;
const EMPTY_WRITE: usize = 1;
const FULL_READ: usize = 2;
const FULL_WRITE: usize = 3;
const LISTENER: usize = 4;
const CLIENT: usize = 5;
const LOCKED: usize = 6;
const HOLDER: usize = 7;
const QUEUE: usize = 8;
const SEMAPHORE: usize = 9;
const SLEEPER: usize = 10;
const EPOLL: usize = 11;

fn end(index: usize) -> i32 {
    ENDS[index].load(Ordering::SeqCst)
}

fn keep(index: usize, value: i32) {
    assert!(value >= 0, "{}", std::io::Error::last_os_error());
    ENDS[index].store(value, Ordering::SeqCst);
}

static WORD: AtomicU32 = AtomicU32::new(0);
/// The other end of [`PAIR`].
static OTHER: AtomicI32 = AtomicI32::new(-1);
const PAIR: usize = CLIENT;
// SAFETY: a semaphore is plain numbers, and is initialized before each use.
static POSTED: Posted = Posted(UnsafeCell::new(unsafe { std::mem::zeroed() }));

/// A semaphore of glibc's.
struct Posted(UnsafeCell<libc::sem_t>);
// SAFETY: semaphores are for several threads.
unsafe impl Sync for Posted {}

fn nothing() {}

/// The system call `number`: its result, or the negative error number.
fn call<const COUNT: usize>(number: i64, first: [u64; COUNT]) -> i64 {
    let mut arguments = [0; 6];
    arguments[..COUNT].copy_from_slice(&first);
    probe::syscall(number as u64, arguments)
}

/// A descriptor or an identifier as an argument.
fn argument(index: usize) -> u64 {
    end(index) as u64
}

/// The address of what a call reads or writes.
fn at<T>(value: &mut T) -> u64 {
    (&raw mut *value) as u64
}

fn time(milliseconds: i64) -> libc::timespec {
    libc::timespec { tv_sec: milliseconds / 1000, tv_nsec: milliseconds % 1000 * 1_000_000 }
}

/// Longer than any rain lasts, in milliseconds.
const LONG: i64 = 60_000;

fn futex_wait(timeout: Option<i64>) -> i64 {
    let mut time = time(timeout.unwrap_or(0));
    let time = if timeout.is_some() { at(&mut time) } else { 0 };
    call(libc::SYS_futex, [WORD.as_ptr() as u64, libc::FUTEX_WAIT as u64, 0, time])
}

fn lock(kind: i32) -> i64 {
    let mut all = libc::flock { l_type: kind as i16, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
    call(libc::SYS_fcntl, [argument(LOCKED), libc::F_SETLKW as u64, at(&mut all)])
}

/// A message of System V queues.
#[repr(C)]
struct Message {
    kind: i64,
    text: [u8; 8],
}

/// Ends a child of ours, and with it its locks.
fn kill(index: usize) {
    call(libc::SYS_kill, [argument(index), libc::SIGKILL as u64]);
}

fn write_empty() {
    call(libc::SYS_write, [argument(EMPTY_WRITE), at(&mut b'x'), 1]);
}

/// Connects to the listener's address, which Linux has chosen (unix(7), autobind).
fn connect() {
    let mut address = [0u8; size_of::<libc::sockaddr_un>()];
    let mut length = address.len() as u32;
    call(libc::SYS_getsockname, [argument(LISTENER), at(&mut address), at(&mut length)]);
    call(libc::SYS_connect, [argument(CLIENT), at(&mut address), length.into()]);
}

const fn wait(name: &'static str, call: fn() -> i64, release: fn()) -> Wait {
    Wait { name, call, release }
}

/// The calls.
pub static WAITS: [Wait; 22] = [
    wait("read", || call(libc::SYS_read, [argument(EMPTY_READ), at(&mut 0u8), 1]), write_empty),
    wait(
        "readv",
        || {
            let mut byte = 0u8;
            let mut part = [at(&mut byte), 1];
            call(libc::SYS_readv, [argument(EMPTY_READ), at(&mut part), 1])
        },
        write_empty,
    ),
    wait(
        "write",
        || call(libc::SYS_write, [argument(FULL_WRITE), at(&mut [0u8; 4096]), 4096]),
        || _ = call(libc::SYS_read, [argument(FULL_READ), at(&mut [0u8; 4096]), 4096]),
    ),
    wait(
        "futex",
        || futex_wait(None),
        || {
            // Changed as well, for a call that was about to be made.
            WORD.store(1, Ordering::SeqCst);
            call(libc::SYS_futex, [WORD.as_ptr() as u64, libc::FUTEX_WAKE as u64, 1]);
        },
    ),
    wait("futex with a timeout", || futex_wait(Some(LONG)), nothing),
    wait(
        "futex timing out",
        || loop {
            // It sleeps for some microseconds: a signal that comes then ends it first, in either mode.
            let result = futex_wait(Some(0));
            if result != -i64::from(libc::EINTR) {
                break result;
            }
        },
        nothing,
    ),
    wait("nanosleep", || call(libc::SYS_nanosleep, [at(&mut time(LONG)), 0]), nothing),
    wait(
        "clock_nanosleep, absolute",
        || {
            let (clock, mut until) = (libc::CLOCK_MONOTONIC as u64, time(0));
            call(libc::SYS_clock_gettime, [clock, at(&mut until)]);
            until.tv_sec += LONG / 1000;
            call(libc::SYS_clock_nanosleep, [clock, libc::TIMER_ABSTIME as u64, at(&mut until), 0])
        },
        nothing,
    ),
    wait(
        "poll",
        || {
            let mut one = libc::pollfd { fd: end(EMPTY_READ), events: libc::POLLIN, revents: 0 };
            call(libc::SYS_poll, [at(&mut one), 1, LONG as u64])
        },
        nothing,
    ),
    wait(
        "select",
        || {
            let descriptor = argument(EMPTY_READ);
            let mut set = [0u64; 16];
            set[descriptor as usize / 64] = 1 << (descriptor % 64);
            call(libc::SYS_select, [descriptor + 1, at(&mut set), 0, 0, 0])
        },
        nothing,
    ),
    wait(
        "epoll_wait",
        || {
            let mut event = libc::epoll_event { events: 0, u64: 0 };
            call(libc::SYS_epoll_wait, [argument(EPOLL), at(&mut event), 1, LONG as u64])
        },
        nothing,
    ),
    wait(
        "accept",
        || {
            let accepted = call(libc::SYS_accept, [argument(LISTENER), 0, 0]);
            if accepted >= 0 {
                call(libc::SYS_close, [accepted as u64]);
            }
            accepted.min(0)
        },
        connect,
    ),
    wait(
        "recvfrom",
        || call(libc::SYS_recvfrom, [argument(PAIR), at(&mut 0u8), 1, 0, 0, 0]),
        || _ = call(libc::SYS_write, [OTHER.load(Ordering::SeqCst) as u64, at(&mut b'x'), 1]),
    ),
    wait(
        "wait4",
        || {
            let mut status = 0;
            let result = call(libc::SYS_wait4, [argument(SLEEPER), at(&mut status), 0, 0]);
            if result == i64::from(end(SLEEPER)) { status.into() } else { result }
        },
        || kill(SLEEPER),
    ),
    wait(
        "sem_wait",
        // SAFETY: `prepare` has initialized the semaphore.
        || outcome(unsafe { libc::sem_wait(POSTED.0.get()) }.into()),
        // SAFETY: as above.
        || _ = unsafe { libc::sem_post(POSTED.0.get()) },
    ),
    wait("flock", || call(libc::SYS_flock, [argument(LOCKED), libc::LOCK_EX as u64]), || kill(HOLDER)),
    wait("fcntl F_SETLKW", || lock(libc::F_WRLCK), || kill(HOLDER)),
    wait(
        "msgrcv",
        || {
            let mut message = Message { kind: 0, text: [0; 8] };
            call(libc::SYS_msgrcv, [argument(QUEUE), at(&mut message), 8, 0, 0])
        },
        nothing,
    ),
    wait(
        "semop",
        || {
            let mut take = libc::sembuf { sem_num: 0, sem_op: -1, sem_flg: 0 };
            call(libc::SYS_semop, [argument(SEMAPHORE), at(&mut take), 1])
        },
        nothing,
    ),
    wait(
        "rt_sigtimedwait",
        || {
            let mut set = 1u64 << (libc::SIGUSR2 - 1);
            call(libc::SYS_rt_sigtimedwait, [at(&mut set), 0, at(&mut time(LONG)), 8])
        },
        nothing,
    ),
    wait("pause", || call(libc::SYS_pause, []), nothing),
    wait("rt_sigsuspend", || call(libc::SYS_rt_sigsuspend, [at(&mut 0u64), 8]), nothing),
];

/// Children that hold locks and sleep are made anew for each wait that needs them.
fn child(body: impl FnOnce()) -> i32 {
    // SAFETY: the child runs `body` and sleeps until it is killed.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: as above. It dies with its parent at the latest.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            body();
            loop {
                // SAFETY: no argument.
                unsafe { libc::pause() };
            }
        }
        child => child,
    }
}

/// Makes what the wait `name` needs; the descriptors, for [`tidy`].
pub fn prepare(name: &str) -> Vec<i32> {
    let mut pair = [0; 2];
    let mut made = Vec::new();
    WORD.store(0, Ordering::SeqCst);
    // SAFETY: the calls make descriptors, keys and children, which `tidy` gives up.
    unsafe {
        assert_eq!(libc::pipe(pair.as_mut_ptr()), 0);
        keep(EMPTY_READ, pair[0]);
        keep(EMPTY_WRITE, pair[1]);
        keep(EPOLL, libc::epoll_create1(0));
        made.extend([pair[0], pair[1], end(EPOLL)]);
        match name {
            "write" => {
                assert_eq!(libc::pipe2(pair.as_mut_ptr(), libc::O_NONBLOCK), 0);
                keep(FULL_READ, pair[0]);
                keep(FULL_WRITE, pair[1]);
                while libc::write(pair[1], [0u8; 4096].as_ptr().cast(), 4096) > 0 {}
                libc::fcntl(pair[1], libc::F_SETFL, 0);
                made.extend(pair);
            }
            "accept" => {
                let listener = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0);
                let family = libc::AF_UNIX as libc::sa_family_t;
                assert_eq!(libc::bind(listener, (&raw const family).cast(), 2), 0);
                assert_eq!(libc::listen(listener, 4), 0);
                keep(LISTENER, listener);
                let client = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0);
                keep(CLIENT, client);
                made.extend([listener, client]);
            }
            "recvfrom" => {
                assert_eq!(libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, pair.as_mut_ptr()), 0);
                keep(PAIR, pair[0]);
                OTHER.store(pair[1], Ordering::SeqCst);
                made.extend(pair);
            }
            "wait4" => keep(SLEEPER, child(|| ())),
            "sem_wait" => assert_eq!(libc::sem_init(POSTED.0.get(), 0, 0), 0),
            "flock" | "fcntl F_SETLKW" => {
                let file = libc::memfd_create(c"locked".as_ptr(), 0);
                keep(LOCKED, file);
                made.push(file);
                assert_eq!(libc::pipe(pair.as_mut_ptr()), 0);
                let by_flock = name == "flock";
                let holder = child(|| {
                    if by_flock {
                        // Opened anew: a lock of flock(2) belongs to the open file.
                        let again = format!("/proc/self/fd/{file}\0");
                        let own = libc::open(again.as_ptr().cast(), libc::O_RDWR);
                        libc::flock(own, libc::LOCK_EX);
                    } else {
                        lock(libc::F_WRLCK);
                    }
                    libc::write(pair[1], b"x".as_ptr().cast(), 1);
                });
                keep(HOLDER, holder);
                let mut byte = 0u8;
                // A last signal of the wait before may come.
                while libc::read(pair[0], (&raw mut byte).cast(), 1) != 1 {
                    assert_eq!(errno(), libc::EINTR);
                }
                made.extend(pair);
            }
            "msgrcv" => keep(QUEUE, libc::msgget(libc::IPC_PRIVATE, 0o600)),
            "semop" => keep(SEMAPHORE, libc::semget(libc::IPC_PRIVATE, 1, 0o600)),
            _ => (),
        }
    }
    made
}

/// Gives up what [`prepare`] has made.
pub fn tidy(name: &str, made: Vec<i32>) {
    // SAFETY: gives up what `prepare` has made.
    unsafe {
        for descriptor in made {
            libc::close(descriptor);
        }
        let child = match name {
            "wait4" => end(SLEEPER),
            "flock" | "fcntl F_SETLKW" => end(HOLDER),
            "msgrcv" => {
                libc::msgctl(end(QUEUE), libc::IPC_RMID, null_mut());
                return;
            }
            "semop" => {
                libc::semctl(end(SEMAPHORE), 0, libc::IPC_RMID);
                return;
            }
            _ => return,
        };
        libc::kill(child, libc::SIGKILL);
        // Unless the wait has had it. A last signal may come.
        while libc::waitpid(child, null_mut(), 0) < 0 && errno() == libc::EINTR {}
    }
}
