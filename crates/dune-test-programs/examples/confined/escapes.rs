//! Ways out that have been open, or could be: each tries, and says what it got.

use std::arch::asm;
use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::{addresses, call, wait};

/// What became of a call: its error, or that it was made.
fn say(what: &str, result: i64) {
    if result < 0 {
        println!("{what}: refused with {}", -result);
    } else {
        println!("{what}: done");
    }
}

/// What the descriptor leads to, as Linux tells.
fn named(descriptor: i64) -> String {
    std::fs::read_link(format!("/proc/self/fd/{descriptor}"))
        .map_or_else(|error| error.to_string(), |path| path.to_string_lossy().into_owned())
}

/// A thread duplicates the lowest number that is free, all the time, while others make the runtime open what it needs: for new threads, and
/// to learn what is mapped.
pub fn descriptors(turns: u32) {
    static STOP: AtomicBool = AtomicBool::new(false);
    static TURNS: AtomicU64 = AtomicU64::new(0);
    let flags = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
    // SAFETY: opens and maps a file that can only be read.
    let page = unsafe {
        let file = libc::open(c"/etc/hosts".as_ptr(), libc::O_RDONLY);
        let page = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED, file, 0);
        libc::close(file);
        page as u64
    };
    let watcher = thread::spawn(|| {
        let mut seen = BTreeSet::new();
        while !STOP.load(Ordering::Relaxed) {
            TURNS.fetch_add(1, Ordering::Relaxed);
            let got = call(libc::SYS_dup as u64, [3, 0, 0, 0, 0, 0]);
            if got >= 0 {
                let mapped =
                    call(libc::SYS_mmap as u64, [0, 4096, 3, libc::MAP_SHARED as u64, got as u64, 0]);
                let mut bytes = [0u8; 32];
                let read =
                    call(libc::SYS_pread64 as u64, [got as u64, bytes.as_mut_ptr() as u64, 32, 0, 0, 0]);
                let name = named(got);
                // Which CPUs there are the C library asks: its own descriptor.
                if !name.starts_with("/sys/") {
                    seen.insert(format!("{name} mapped {} read {}", mapped > 0, read > 0));
                }
                call(libc::SYS_close as u64, [got as u64, 0, 0, 0, 0, 0]);
            }
        }
        seen
    });
    let (mut refused, mut threads) = (0, Vec::new());
    for turn in 0..turns {
        // Linux refuses the one, and what it may have done before that the runtime asks it.
        let arguments = [page, 4096, (libc::PROT_READ | libc::PROT_WRITE) as u64, 0, 0, 0];
        refused += u32::from(call(libc::SYS_mprotect as u64, arguments) < 0);
        let own = [page, 4096, 1, flags, 1_000_000, 0];
        refused += u32::from(turn % 8 == 0 && call(libc::SYS_mmap as u64, own) < 0);
        if turn % 50 == 0 {
            threads.push(thread::spawn(|| {
                while !STOP.load(Ordering::Relaxed) {
                    thread::sleep(std::time::Duration::from_millis(20));
                }
            }));
        }
    }
    STOP.store(true, Ordering::Relaxed);
    let seen = watcher.join().expect("no panic");
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    seen.iter().for_each(|what| println!("seen: {what}"));
    println!("tried {}", refused > turns && TURNS.load(Ordering::Relaxed) > 100);
}

/// A thread whose table of descriptors is its own has another file where the first thread has the memory.
pub fn table() {
    // SAFETY: opens a file, which can not be read by that.
    let opened = |path: &CStr| unsafe { libc::open(path.as_ptr(), libc::O_PATH) };
    let memory = opened(c"/proc/self/mem");
    let found = if memory >= 0 { memory } else { opened(c"/etc/hosts") };
    thread::spawn(move || {
        const UNSHARE: u64 = 1 << 1;
        let number = found as u64;
        say("a table of its own", call(libc::SYS_close_range as u64, [number, number, UNSHARE, 0, 0, 0]));
        // SAFETY: opens what is nobody's memory.
        let opened = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
        let name = std::fs::read_link(format!("/proc/thread-self/fd/{opened}"));
        println!(
            "null is {}",
            name.map_or_else(|error| error.to_string(), |name| name.display().to_string())
        );
    })
    .join()
    .expect("no panic");
}

/// Options with addresses in their values.
pub fn options() {
    let target = addresses()[0];
    // `struct mptcp_full_info` of <linux/mptcp.h>: sizes, then addresses.
    let info = |size: u32| {
        let mut words = [0u64; 32];
        words[0] = u64::from(size) << 32;
        words[1] = u64::from(size) << 32;
        words[2] = 1 << 32;
        words[3] = target;
        words[4] = target;
        words
    };
    // SAFETY: makes sockets.
    let (multipath, plain) = unsafe {
        (
            libc::socket(libc::AF_INET, libc::SOCK_STREAM, 262),
            libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0),
        )
    };
    println!("sockets {}", plain >= 0);
    let (mut words, length) = (info(64), [256u32]);
    for (what, socket) in [("of multipath TCP", multipath), ("of TCP", plain)] {
        if socket >= 0 {
            let arguments = [socket as u64, 284, 4, words.as_mut_ptr() as u64, length.as_ptr() as u64, 0];
            say(&format!("MPTCP_FULL_INFO {what}"), call(libc::SYS_getsockopt as u64, arguments));
        }
    }
    for (what, family, kind) in [
        ("packets", libc::AF_PACKET, libc::SOCK_RAW),
        ("keys", libc::AF_KEY, libc::SOCK_RAW),
        ("XDP", libc::AF_XDP, libc::SOCK_RAW),
        ("RDS", libc::AF_RDS, libc::SOCK_SEQPACKET),
        ("nobody's", 63, libc::SOCK_STREAM),
    ] {
        say(
            &format!("socket {what}"),
            call(libc::SYS_socket as u64, [family as u64, kind as u64, 0, 0, 0, 0]),
        );
    }
    // What programs use goes on to work.
    let one = [1u32];
    let at = one.as_ptr() as u64;
    for (level, option) in [(1, libc::SO_REUSEADDR), (6, libc::TCP_NODELAY), (0, libc::IP_TTL)] {
        let arguments = [plain as u64, level, option as u64, at, 4, 0];
        println!("option {option}: {}", call(libc::SYS_setsockopt as u64, arguments));
    }
    let mut pair = [0; 2];
    // SAFETY: writes two numbers.
    unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM, 0, pair.as_mut_ptr()) };
    let mut bytes = [0u8; 1];
    let parts = [[bytes.as_mut_ptr() as u64, 1]];
    for (what, level, kind) in [("credentials", 1u64, 2u64), ("RDS", 276, 1), ("nobody's", 77, 7)] {
        let own = u64::from(std::process::id());
        let control = [28u64, level | kind << 32, own, 0];
        let header = [0, 0, parts.as_ptr() as u64, 1, control.as_ptr() as u64, 32, 0];
        let sent = call(libc::SYS_sendmsg as u64, [pair[0] as u64, header.as_ptr() as u64, 0, 0, 0, 0]);
        say(&format!("ancillary data {what}"), sent);
    }
    wait();
}

/// A descriptor goes from one socket to another, and is what it was.
pub fn passing() {
    let (mut pair, mut pipe) = ([0; 2], [0; 2]);
    // SAFETY: the calls write to what is there.
    unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, pair.as_mut_ptr());
        libc::pipe(pipe.as_mut_ptr());
    }
    let mut byte = [b'x'];
    let parts = [[byte.as_mut_ptr() as u64, 1]];
    let control = [20u64, 1 | 1 << 32, pipe[1] as u64];
    let before = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let header = [0, 0, parts.as_ptr() as u64, 1, control.as_ptr() as u64, 20, 0];
    println!("sent {}", call(libc::SYS_sendmsg as u64, [pair[0] as u64, header.as_ptr() as u64, 0, 0, 0, 0]));
    let mut room = [0u64; 8];
    let into = [0, 0, parts.as_ptr() as u64, 1, room.as_mut_ptr() as u64, 64, 0];
    println!("got {}", call(libc::SYS_recvmsg as u64, [pair[1] as u64, into.as_ptr() as u64, 0, 0, 0, 0]));
    let got = std::hint::black_box(room)[2];
    println!("wrote {}", call(libc::SYS_write as u64, [got, byte.as_ptr() as u64, 1, 0, 0, 0]));
    println!("read {}", call(libc::SYS_read as u64, [pipe[0] as u64, byte.as_mut_ptr() as u64, 1, 0, 0, 0]));
    let after = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    println!("more descriptors {}", after - before);
    // What the program does not have it does not send.
    let control = [20u64, 1 | 1 << 32, 999];
    let header = [0, 0, parts.as_ptr() as u64, 1, control.as_ptr() as u64, 20, 0];
    println!(
        "nothing {}",
        call(libc::SYS_sendmsg as u64, [pair[0] as u64, header.as_ptr() as u64, 0, 0, 0, 0])
    );
}

/// What a program that only computes does to others: `victim` is another process.
pub fn reach(victim: u64) {
    let mut pipe = [0; 2];
    // SAFETY: the call writes two numbers.
    unsafe { libc::pipe(pipe.as_mut_ptr()) };
    let (read, write) = (pipe[0] as u64, pipe[1] as u64);
    let described = [0x1u32, victim as u32];
    let number = [victim as u32];
    let watch = call(libc::SYS_inotify_init1 as u64, [0; 6]);
    let path = c"/etc".as_ptr() as u64;
    for (what, number, arguments) in [
        ("F_SETOWN", libc::SYS_fcntl, [read, libc::F_SETOWN as u64, victim, 0, 0, 0]),
        ("F_SETOWN_EX", libc::SYS_fcntl, [read, 15, described.as_ptr() as u64, 0, 0, 0]),
        ("F_SETSIG", libc::SYS_fcntl, [read, 10, libc::SIGKILL as u64, 0, 0, 0]),
        ("O_ASYNC", libc::SYS_fcntl, [read, libc::F_SETFL as u64, libc::O_ASYNC as u64, 0, 0, 0]),
        ("F_NOTIFY", libc::SYS_fcntl, [read, 1026, 1, 0, 0, 0]),
        ("FIOASYNC", libc::SYS_ioctl, [read, 0x5452, number.as_ptr() as u64, 0, 0, 0]),
        ("SIOCSPGRP", libc::SYS_ioctl, [read, 0x8902, number.as_ptr() as u64, 0, 0, 0]),
        ("TIOCSPGRP", libc::SYS_ioctl, [0, libc::TIOCSPGRP, number.as_ptr() as u64, 0, 0, 0]),
        ("TIOCNOTTY", libc::SYS_ioctl, [0, libc::TIOCNOTTY, 0, 0, 0, 0]),
        ("TIOCSCTTY", libc::SYS_ioctl, [0, libc::TIOCSCTTY, 0, 0, 0, 0]),
        ("TCSETS", libc::SYS_ioctl, [0, libc::TCSETS, path, 0, 0, 0]),
        ("setpriority", libc::SYS_setpriority, [0, victim, 19, 0, 0, 0]),
        ("getpriority", libc::SYS_getpriority, [0, victim, 0, 0, 0, 0]),
        ("setpriority of a group", libc::SYS_setpriority, [1, victim, 19, 0, 0, 0]),
        ("ioprio_set", libc::SYS_ioprio_set, [1, victim, 0, 0, 0, 0]),
        ("sched_setaffinity", libc::SYS_sched_setaffinity, [victim, 8, path, 0, 0, 0]),
        ("inotify", libc::SYS_inotify_add_watch, [watch as u64, path, 0xfff, 0, 0, 0]),
        ("fanotify", libc::SYS_fanotify_init, [0; 6]),
        ("kill", libc::SYS_kill, [victim, 9, 0, 0, 0, 0]),
        ("pidfd_open", libc::SYS_pidfd_open, [victim, 0, 0, 0, 0, 0]),
        ("wait for", libc::SYS_timer_create, [0, [0u64, 4 << 32 | 9, victim].as_ptr() as u64, path, 0, 0, 0]),
        ("memory as a file", libc::SYS_memfd_create, [path, 0, 0, 0, 0, 0]),
        ("secret memory", libc::SYS_memfd_secret, [0; 6]),
    ] {
        say(what, call(number as u64, arguments));
    }
    call(libc::SYS_write as u64, [write, path, 1, 0, 0, 0]);
    // What it may go on to do.
    for (what, number, arguments) in [
        ("F_DUPFD", libc::SYS_fcntl, [read, 0, 0, 0, 0, 0]),
        ("F_GETFL", libc::SYS_fcntl, [read, 3, 0, 0, 0, 0]),
        ("F_SETFL", libc::SYS_fcntl, [read, 4, libc::O_NONBLOCK as u64, 0, 0, 0]),
        ("F_SETFD", libc::SYS_fcntl, [read, 2, 1, 0, 0, 0]),
        ("own priority", libc::SYS_setpriority, [0, 0, 5, 0, 0, 0]),
        ("sched_yield", libc::SYS_sched_yield, [0; 6]),
        ("FIONREAD", libc::SYS_ioctl, [read, libc::FIONREAD, number.as_ptr() as u64, 0, 0, 0]),
    ] {
        println!("own {what}: {}", if call(number as u64, arguments) < 0 { "refused" } else { "done" });
    }
}

/// Instructions that tell where descriptor tables are, on CPUs that let ring 3 execute them.
pub fn table_registers(what: &str) {
    let mut bytes = [0u8; 16];
    let at = bytes.as_mut_ptr();
    let word: u64;
    // SAFETY: each writes to the bytes or the register at most, or ends the program.
    unsafe {
        match what {
            "sgdt" => asm!("sgdt [{}]", "xor eax, eax", in(reg) at, out("rax") word),
            "sidt" => asm!("sidt [{}]", "xor eax, eax", in(reg) at, out("rax") word),
            "sldt" => asm!("sldt rax", out("rax") word),
            "str" => asm!("str rax", out("rax") word),
            "smsw" => asm!("smsw rax", out("rax") word),
            other => panic!("what is {other:?}?"),
        }
    }
    println!("{what}: {bytes:x?} {word:#x}");
}

/// Dies at ring 0 with a report. (Not in a sandbox.)
pub fn report(untrusted: bool) {
    let entered = dune::Config::new().untrusted_code(untrusted).enter();
    entered.expect("Dune mode");
    // SAFETY: ends the process.
    unsafe { asm!("ud2") };
}

/// Executes at ring 0 what ring 3 may execute. (Not in a sandbox.)
pub fn shared_code(untrusted: bool) {
    use dune::memory::{PagePermissions, PageRange, VirtAddr};
    let dune = dune::Config::new().untrusted_code(untrusted).enter().expect("Dune mode");
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let rights = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    // SAFETY: a page of its own, never unmapped, with the code of a function that returns.
    unsafe {
        const RETURN: u8 = 0xc3;
        let page = libc::mmap(std::ptr::null_mut(), 4096, rights, flags, -1, 0).cast::<u8>();
        page.write(RETURN);
        let range = PageRange::covering(VirtAddr::from_ptr(page), 4096).expect("a page");
        let permissions = PagePermissions::READ | PagePermissions::EXECUTE;
        let mut tables = dune.page_tables().expect("free");
        tables.grant_user(range, permissions).expect("granted").now(dune);
        std::mem::transmute::<*mut u8, extern "C" fn()>(page)();
    }
    println!("executed");
}

/// A signal with a siginfo that only Linux makes.
pub fn forged_info() {
    let own = u64::from(std::process::id());
    let descriptor = call(libc::SYS_pidfd_open as u64, [own, 0, 0, 0, 0, 0]) as u64;
    for (what, code) in
        [("a fault", 1i32), ("the kernel's", 0x80), ("a user's", 0), ("tkill's", -6), ("timer's", -2)]
    {
        let mut info = [0u64; 16];
        (info[0], info[1]) = (libc::SIGURG as u64, u64::from(code as u32));
        let arguments = [descriptor, libc::SIGURG as u64, info.as_ptr() as u64, 0, 0, 0];
        say(what, call(libc::SYS_pidfd_send_signal as u64, arguments));
    }
    let mut info = [0u64; 16];
    (info[0], info[1]) = (libc::SIGURG as u64, u64::from(-1i32 as u32));
    let arguments = [descriptor, libc::SIGURG as u64, info.as_ptr() as u64, 0, 0, 0];
    println!("a queue's: {}", call(libc::SYS_pidfd_send_signal as u64, arguments));
    println!("none: {}", call(libc::SYS_pidfd_send_signal as u64, [descriptor, 0, 0, 0, 0, 0]));
}

extern "C" fn nothing(_: i32) {}

/// Two threads change the action of a signal at once; whatever comes of it, the signal has an end.
pub fn actions() {
    static ROUND: AtomicU64 = AtomicU64::new(0);
    static DONE: AtomicU64 = AtomicU64::new(0);
    const ROUNDS: u64 = 2000;
    let set = |handler: usize| {
        // SAFETY: the handler does nothing.
        unsafe { libc::signal(libc::SIGURG, handler) };
    };
    // SAFETY: ends the program if nothing else does, on the slowest computer not before it would have ended itself.
    unsafe { libc::alarm(600) };
    let other = thread::spawn(move || {
        for round in 1..=ROUNDS {
            while ROUND.load(Ordering::Acquire) < round {
                std::hint::spin_loop();
            }
            set(libc::SIG_DFL);
            DONE.store(round, Ordering::Release);
        }
    });
    for round in 1..=ROUNDS {
        ROUND.store(round, Ordering::Release);
        set(nothing as *const () as usize);
        while DONE.load(Ordering::Acquire) < round {
            std::hint::spin_loop();
        }
        // SAFETY: the signal is ignored, or handled.
        unsafe { libc::raise(libc::SIGURG) };
    }
    other.join().expect("no panic");
    println!("rounds {ROUNDS}");
}

/// Calls with many numbers that nobody knows.
pub fn numbers() {
    let known = |result: i64| result != -i64::from(libc::ENOSYS);
    println!("known {}", (1000..6000u64).filter(|number| known(call(*number, [0; 6]))).count());
}

/// Devices that take addresses in what is written to them, or as an argument of ioctl(2).
pub fn devices(paths: &[String]) {
    for path in paths {
        let named = CString::new(path.as_str()).expect("no NUL");
        // SAFETY: the call reads the path.
        let opened = unsafe { libc::open(named.as_ptr(), libc::O_RDWR | libc::O_NONBLOCK) };
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        println!(
            "{path}: {}",
            if opened < 0 { format!("refused with {errno}") } else { "opened".to_owned() }
        );
    }
}
