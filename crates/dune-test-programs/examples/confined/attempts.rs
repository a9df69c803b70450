//! Attacks, each of which gets out where the defence that it is about is missing: the table of cases/sandbox/attempts.rs.
//!
//! Each gets the address of a page of the runtime's, and the number of another process. It says `escaped` where it sees that itself;
//! otherwise the case looks at the page and the process.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::{addresses, buffers, call, descriptors, filled_socket, instructions, mounted, randomly, wait};

/// Where the runtime's part of the address space begins.
pub const RUNTIME: u64 = 1 << 46;
const PAGE: u64 = 4096;
/// What is written to the runtime's memory.
const MARK: [u8; 64] = [0x5a; 64];

/// The runtime's page, and another process.
#[derive(Clone, Copy)]
pub struct Aims {
    pub page: u64,
    victim: u64,
}

pub fn attempt(what: &str, words: &[String]) {
    let aims = addresses();
    let aims = Aims { page: aims[0], victim: aims[1] };
    match what {
        "load" => instructions::load(aims),
        "store" => instructions::store(aims),
        "codes" => instructions::codes(aims),
        "instructions" => instructions::all(aims),
        "read" => read(aims),
        "iovec" => iovec(aims),
        "header" => header(aims),
        "address" => address(&words[0], &words[1]),
        "path" => path(&words[0], &words[1]),
        "link" => link(&words[0], &words[1]),
        "mounted" => mounted::all(&words[0], &words[1]),
        "copies" => copies(),
        "buffers" => buffers::all(),
        "map" | "move" | "forget" | "unmap" => mappings(what, aims),
        "memory" => memory(aims),
        "maps" => maps(),
        "mapped files" => mapped_files(),
        "text" => text(),
        "device" => device(),
        "descriptor" => descriptors::descriptor(),
        "passed" => descriptors::passed(),
        "machine" => descriptors::machine(),
        "inherited" => descriptors::inherited(),
        "other process" => other_process(aims),
        "kill" => kill(aims),
        "code" => code(),
        "siginfo" => siginfo(),
        "spin" => spin(words[0].parse().expect("seconds")),
        "fill" => fill(&words[0]),
        "abstract" => abstract_socket(&words[0]),
        "exec" => exec(),
        "random" => randomly::calls(aims, &words[0], &words[1]),
        other => panic!("what is {other:?}?"),
    }
    wait();
}

pub fn path_of(bytes: &str) -> CString {
    CString::new(bytes).expect("no NUL")
}

/// Opens and reads it.
pub fn contents(path: &std::ffi::CStr) -> Option<String> {
    // SAFETY: the calls read the path, and write to the buffer.
    unsafe {
        let opened = libc::open(path.as_ptr(), libc::O_RDONLY);
        let mut buffer = [0u8; 64];
        let read = libc::read(opened, buffer.as_mut_ptr().cast(), 64);
        libc::close(opened);
        let read = usize::try_from(read).ok()?;
        Some(String::from_utf8_lossy(&buffer[..read]).into_owned())
    }
}

/// A buffer in the runtime's part.
fn read(aims: Aims) {
    let socket = filled_socket();
    call(libc::SYS_read as u64, [socket, aims.page, 64, 0, 0, 0]);
    call(libc::SYS_getcwd as u64, [aims.page + 128, 64, 0, 0, 0, 0]);
    call(libc::SYS_pread64 as u64, [socket, aims.page - 8, 64, 0, 0, 0]);
    // By the length alone.
    let all = RUNTIME - MARK.as_ptr() as u64 + PAGE;
    let written = call(libc::SYS_write as u64, [socket, MARK.as_ptr() as u64, all | 1 << 46, 0, 0, 0]);
    println!("{}: a write of all memory is {written}", if written > 0 { "escaped" } else { "refused" });
}

/// What has become of one attempt in a race.
enum Attempt {
    /// The call was made with what it may name.
    Made,
    /// It was refused, for what it may not name.
    Refused,
    Other,
    Escaped,
}

impl Attempt {
    /// By a raw result, and the error that a refusal is.
    fn of(result: i64, refusal: i32) -> Attempt {
        match result {
            0.. => Attempt::Made,
            _ if result == -i64::from(refusal) => Attempt::Refused,
            _ => Attempt::Other,
        }
    }
}

/// Runs `change` in another thread all the time, and `body` a hundred times: more often, if one of the two threads has hardly run beside
/// the other, until there has been a race.
fn race(what: &str, mut change: impl FnMut(u64) + Send, mut body: impl FnMut() -> Attempt) {
    const LEAST: u32 = 100;
    const MOST: u32 = 10_000;
    /// How often each has to have happened.
    const EACH: u32 = 30;
    let (is_over, changes) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut turns, mut made, mut refused) = (0, 0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                change(turn);
                changes.store(turn, Ordering::Relaxed);
                // One CPU has to do for both. It rests in each state every other time.
                if turn % 61 == 60 {
                    thread::yield_now();
                }
            }
        });
        while changes.load(Ordering::Relaxed) < 100 {
            thread::yield_now();
        }
        while turns < LEAST || turns < MOST && (made < EACH || refused < EACH) {
            turns += 1;
            match body() {
                Attempt::Made => made += 1,
                Attempt::Refused => refused += 1,
                Attempt::Other => (),
                Attempt::Escaped => {
                    println!("escaped");
                    break;
                }
            }
            thread::yield_now();
        }
        is_over.store(true, Ordering::Relaxed);
    });
    println!("{what}: of {turns} {made} were made and {refused} refused");
}

/// An address in an iovec that is the runtime's every other time, and a buffer that comes and goes.
fn iovec(aims: Aims) {
    let socket = filled_socket();
    let buffer = vec![0u8; 4096].leak().as_mut_ptr() as u64;
    let parts = [buffer, 8, buffer, 8].map(AtomicU64::new);
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    race(
        "iovec",
        |turn| {
            parts[2].store(if turn % 2 == 0 { aims.page } else { buffer }, Ordering::Relaxed);
            if turn % 1024 == 0 {
                let own = call(libc::SYS_mmap as u64, [0, 0x4000, 3, flags, u64::MAX, 0]) as u64;
                call(libc::SYS_munmap as u64, [own, 0x4000, 0, 0, 0, 0]);
            }
        },
        || {
            let result = call(libc::SYS_readv as u64, [socket, parts.as_ptr() as u64, 2, 0, 0, 0]);
            call(libc::SYS_writev as u64, [socket, parts.as_ptr() as u64, 2, 0, 0, 0]);
            Attempt::of(result, libc::EFAULT)
        },
    );
}

/// The same with the parts of a message.
fn header(aims: Aims) {
    let socket = filled_socket();
    let buffer = vec![0u8; 4096].leak().as_mut_ptr() as u64;
    let (own, others) = ([[buffer, 8u64]], [[aims.page, 8u64]]);
    let [own, others] = [own.as_ptr() as u64, others.as_ptr() as u64];
    let header = [0, 0, own, 1, 0, 0, 0].map(AtomicU64::new);
    race(
        "header",
        |turn| header[2].store(if turn % 2 == 0 { others } else { own }, Ordering::Relaxed),
        || {
            let flags = libc::MSG_DONTWAIT as u64;
            let result = call(libc::SYS_recvmsg as u64, [socket, header.as_ptr() as u64, flags, 0, 0, 0]);
            Attempt::of(result, libc::EFAULT)
        },
    );
}

/// An address that may be connected to, and another one in its place.
fn address(allowed: &str, denied: &str) {
    let address = |port: &str| {
        let port: u16 = port.parse().expect("a port");
        u64::from(libc::AF_INET as u16) | u64::from(port.to_be()) << 16 | u64::from(0x0100_007f_u32) << 32
    };
    let (allowed, denied) = (address(allowed), address(denied));
    let words = [allowed, 0].map(AtomicU64::new);
    race(
        "address",
        |turn| words[0].store(if turn % 2 == 0 { denied } else { allowed }, Ordering::Relaxed),
        || {
            // SAFETY: the calls read and write what is there.
            unsafe {
                let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
                let result =
                    call(libc::SYS_connect as u64, [socket as u64, words.as_ptr() as u64, 16, 0, 0, 0]);
                let (mut peer, mut length) = ([0u64; 2], 16);
                libc::getpeername(socket, peer.as_mut_ptr().cast(), &raw mut length);
                libc::close(socket);
                let has_escaped = result == 0 && peer[0] == denied;
                if has_escaped { Attempt::Escaped } else { Attempt::of(result, libc::EACCES) }
            }
        },
    );
}

/// What has become of the opening of a file that may hold the secret.
fn of_secret(found: Option<&str>) -> Attempt {
    match found {
        Some(text) if text.starts_with("secret") => Attempt::Escaped,
        Some(_) => Attempt::Made,
        None => Attempt::Refused,
    }
}

/// A path that may be opened, and the last letter of another one in its place.
fn path(good: &str, secret: &str) {
    assert_eq!(good.len(), secret.len());
    let path = path_of(good);
    let at = path.as_bytes().iter().zip(secret.bytes()).position(|(one, other)| *one != other);
    let at = at.expect("they differ");
    let (one, other) = (good.as_bytes()[at], secret.as_bytes()[at]);
    assert_eq!(good[at + 1..], secret[at + 1..], "they differ in one letter");
    let place = path.into_raw();
    // SAFETY: the string stays.
    let letter = unsafe { std::sync::atomic::AtomicU8::from_ptr(place.add(at).cast()) };
    race(
        "path",
        |turn| letter.store(if turn % 2 == 0 { other } else { one }, Ordering::Relaxed),
        || {
            // SAFETY: as above; whoever reads it gets one of both.
            let found = contents(unsafe { std::ffi::CStr::from_ptr(place) });
            of_secret(found.as_deref())
        },
    );
}

/// A file that may be opened, and in its place a link to another one.
fn link(folder: &str, secret: &str) {
    let name = |part: &str| CString::new(std::path::Path::new(folder).join(part).as_os_str().as_bytes());
    let [file, link] = ["file", "link"].map(|part| name(part).expect("no NUL"));
    let [file_name, link_name] = [&file, &link].map(|name| name.to_str().expect("text"));
    // They may have taken each other's names in the last attempt.
    [file_name, link_name].iter().for_each(|name| _ = std::fs::remove_file(name));
    std::fs::write(file_name, "good\n").expect("written");
    std::os::unix::fs::symlink(secret, link_name).expect("linked");
    race(
        "link",
        |_| {
            let here = libc::AT_FDCWD as u64;
            let names = [here, file.as_ptr() as u64, here, link.as_ptr() as u64];
            let [first, second, third, fourth] = names;
            let exchange = libc::RENAME_EXCHANGE.into();
            call(libc::SYS_renameat2 as u64, [first, second, third, fourth, exchange, 0]);
        },
        || of_secret(contents(&file).as_deref()),
    );
}

/// What comes back in a structure that Linux writes to.
fn copies() {
    let socket = filled_socket();
    let buffer = vec![0u8; 64].leak().as_mut_ptr() as u64;
    let parts = [[buffer, 8u64]];
    let mut header = [0, 0, parts.as_ptr() as u64, 1, 0, 0, 0u64];
    let arguments = [socket, header.as_mut_ptr() as u64, libc::MSG_DONTWAIT as u64, 0, 0, 0];
    let result = call(libc::SYS_recvmsg as u64, arguments);
    assert!(result > 0, "{result}");
    let header = std::hint::black_box(header);
    if header[2] >= RUNTIME {
        println!("escaped: a copy is at {:#x}", header[2]);
    }
}

/// Mappings over the runtime's.
fn mappings(what: &str, Aims { page, .. }: Aims) {
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    let own = call(libc::SYS_mmap as u64, [0, PAGE, 3, flags, u64::MAX, 0]) as u64;
    let fixed = flags | libc::MAP_FIXED as u64;
    let moves = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
    let results = match what {
        "map" => vec![call(libc::SYS_mmap as u64, [page, PAGE, 3, fixed, u64::MAX, 0])],
        "move" => vec![call(libc::SYS_mremap as u64, [own, PAGE, PAGE, moves, page, 0])],
        "forget" => vec![call(libc::SYS_madvise as u64, [page, PAGE, libc::MADV_DONTNEED as u64, 0, 0, 0])],
        _ => vec![call(libc::SYS_munmap as u64, [page, PAGE, 0, 0, 0, 0])],
    };
    let is_done = results.iter().any(|result| *result >= 0);
    println!("{}: {what} {results:?}", if is_done { "escaped" } else { "refused" });
}

/// The memory as a file, by several names.
fn memory(Aims { page, .. }: Aims) {
    for name in ["/proc/self/mem", "/proc/thread-self/mem", "/proc/self/root/proc/self/task/../mem"] {
        // SAFETY: the calls read strings and bytes.
        unsafe {
            let opened = libc::open(path_of(name).as_ptr(), libc::O_RDWR);
            libc::pwrite(opened, MARK.as_ptr().cast(), MARK.len(), page as i64);
            libc::close(opened);
        }
    }
}

/// Files that tell where the runtime is.
fn maps() {
    for name in ["maps", "smaps", "auxv", "stat", "syscall", "numa_maps", "environ"] {
        let Ok(bytes) = std::fs::read(format!("/proc/self/{name}")) else { continue };
        let text = String::from_utf8_lossy(&bytes);
        let numbers = text.split(|letter: char| !letter.is_ascii_hexdigit());
        let radix = if name == "stat" { 10 } else { 16 };
        let told = numbers.filter_map(|digits| u64::from_str_radix(digits, radix).ok());
        let (words, _) = bytes.as_chunks();
        let stored = words.iter().filter(|_| name == "auxv").map(|word| u64::from_le_bytes(*word));
        let is_one = |address: &u64| (RUNTIME..1 << 47).contains(address);
        if let Some(address) = told.chain(stored).find(is_one) {
            println!("escaped: {name} has {address:#x}");
        }
    }
}

/// Names that say what is mapped where, by all that leads to them: here of a mapping of its own, which is known.
fn mapped_files() {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("its own mappings");
    let line = maps.lines().find(|line| line.ends_with("/confined")).expect("it is mapped");
    let range = line.split(' ').next().expect("a range");
    let folder = format!("/tmp/confined-{}", std::process::id());
    std::fs::create_dir_all(format!("{folder}/map_files")).expect("made");
    std::fs::write(format!("{folder}/map_files/own"), "good\n").expect("written");
    let name = format!("/proc/self/map_files/{range}");
    for (link, target) in
        [("whole", name.as_str()), ("process", "/proc/self"), ("directory", "/proc/self/map_files")]
    {
        let _ = std::os::unix::fs::symlink(target, format!("{folder}/{link}"));
    }
    let names = [
        name,
        format!("/proc/thread-self/../../map_files/{range}"),
        format!("/proc/self/map_files/../map_files/{range}"),
        format!("{folder}/whole"),
        format!("{folder}/process/map_files//{range}"),
        format!("{folder}/directory/{range}"),
        format!("{folder}/map_files/../process/map_files/{range}"),
    ];
    for name in names.map(|name| path_of(&name)) {
        let path = name.as_ptr() as u64;
        let here = libc::AT_FDCWD as u64;
        let room = [0u64; 64].as_mut_ptr() as u64;
        let stays = libc::AT_SYMLINK_NOFOLLOW as u64;
        for (what, number, arguments) in [
            ("lstat", libc::SYS_lstat, [path, room, 0, 0, 0, 0]),
            ("stat", libc::SYS_stat, [path, room, 0, 0, 0, 0]),
            ("access", libc::SYS_access, [path, 0, 0, 0, 0, 0]),
            ("readlink", libc::SYS_readlink, [path, room, 64, 0, 0, 0]),
            ("newfstatat", libc::SYS_newfstatat, [here, path, room, stays, 0, 0]),
            ("statx", libc::SYS_statx, [here, path, stays, 0x7ff, room, 0]),
            ("open", libc::SYS_open, [path, libc::O_PATH as u64, 0, 0, 0, 0]),
            ("openat", libc::SYS_openat, [here, path, (libc::O_PATH | libc::O_NOFOLLOW) as u64, 0, 0, 0]),
            ("lgetxattr", libc::SYS_lgetxattr, [path, c"user.x".as_ptr() as u64, room, 64, 0, 0]),
            ("chdir", libc::SYS_chdir, [path, 0, 0, 0, 0, 0]),
        ] {
            let result = call(number as u64, arguments);
            // A link that is the program's own is there; ENODATA and ENOTDIR are said of what is there.
            let is_there = [-libc::ENODATA, -libc::ENOTDIR].contains(&(result as i32)) || result >= 0;
            if is_there && !name.to_bytes().ends_with(b"whole") {
                println!("escaped: {what} of {name:?} is {result}");
            }
        }
    }
    let other = path_of(&format!("{folder}/map_files/own"));
    if contents(&other).as_deref() != Some("good\n") {
        println!("escaped: another directory of that name is not what it is");
    }
    let _ = std::fs::remove_dir_all(folder);
}

/// The text of a link that is another one when it is used.
fn text() {
    let name = path_of(&format!("/tmp/confined-text-{}", std::process::id()));
    let target = c"/proc/self/map_filez/1-2".to_owned().into_raw();
    // SAFETY: the string stays.
    let letter = unsafe { std::sync::atomic::AtomicU8::from_ptr(target.add(19).cast()) };
    race(
        "text",
        |turn| letter.store(if turn % 2 == 0 { b's' } else { b'z' }, Ordering::Relaxed),
        || {
            let result = call(libc::SYS_symlink as u64, [target as u64, name.as_ptr() as u64, 0, 0, 0, 0]);
            let mut bytes = [0u8; 64];
            // SAFETY: the calls read the path, and write to the bytes.
            let length = unsafe { libc::readlink(name.as_ptr(), bytes.as_mut_ptr().cast(), 64) };
            // SAFETY: as above.
            unsafe { libc::unlink(name.as_ptr()) };
            match result {
                _ if length > 0 && bytes[19] == b's' => Attempt::Escaped,
                0 => Attempt::Made,
                _ => Attempt::Refused,
            }
        },
    );
}

fn device() {
    for name in [c"/dev/kvm", c"/dev/mem", c"/dev/port"] {
        // SAFETY: the calls read the path.
        unsafe {
            let opened = libc::open(name.as_ptr(), libc::O_RDWR);
            if opened >= 0 {
                println!("escaped: {name:?} is open");
            }
            libc::close(opened);
        }
    }
}

/// Calls that are about any process's memory.
fn other_process(Aims { page, .. }: Aims) {
    let own = u64::from(std::process::id());
    let (from, to) = ([[MARK.as_ptr() as u64, 64u64]], [[page, 64u64]]);
    let arguments = [own, from.as_ptr() as u64, 1, to.as_ptr() as u64, 1, 0];
    call(libc::SYS_process_vm_writev as u64, arguments);
}

fn kill(Aims { victim, .. }: Aims) {
    call(libc::SYS_kill as u64, [victim, libc::SIGKILL as u64, 0, 0, 0, 0]);
    call(libc::SYS_tkill as u64, [victim, libc::SIGKILL as u64, 0, 0, 0, 0]);
    call(libc::SYS_ptrace as u64, [libc::PTRACE_KILL as u64, victim, 0, 0, 0, 0]);
    let opened = call(libc::SYS_pidfd_open as u64, [victim, 0, 0, 0, 0, 0]) as u64;
    call(libc::SYS_pidfd_send_signal as u64, [opened, libc::SIGKILL as u64, 0, 0, 0, 0]);
}

/// Memory that is written to and executed.
fn code() {
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    let page = call(libc::SYS_mmap as u64, [0, PAGE, 7, flags, u64::MAX, 0]);
    let later = call(libc::SYS_mmap as u64, [0, PAGE, 3, flags, u64::MAX, 0]) as u64;
    let protected = call(libc::SYS_mprotect as u64, [later, PAGE, 7, 0, 0, 0]);
    if page > 0 || protected >= 0 {
        println!("escaped: {page:#x} {protected}");
    }
}

/// A signal that says that it is a fault.
fn siginfo() {
    let own = u64::from(std::process::id());
    let opened = call(libc::SYS_pidfd_open as u64, [own, 0, 0, 0, 0, 0]) as u64;
    let mut info = [0u64; 16];
    (info[0], info[1]) = (libc::SIGURG as u64, 1);
    let arguments = [opened, libc::SIGURG as u64, info.as_ptr() as u64, 0, 0, 0];
    if call(libc::SYS_pidfd_send_signal as u64, arguments) == 0 {
        println!("escaped: the signal is sent");
    }
}

/// More CPU time than there is.
fn spin(seconds: i64) {
    let mut used = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    while used.tv_sec < seconds {
        // SAFETY: the call writes the time.
        unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut used) };
        (0..100_000u32).for_each(|number| _ = std::hint::black_box(number));
    }
    println!("escaped: {} s of CPU time", used.tv_sec);
}

/// More memory, descriptors, threads and bytes of a file than there are.
fn fill(path: &str) {
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE) as u64;
    if call(libc::SYS_mmap as u64, [0, 300 << 20, 3, flags, u64::MAX, 0]) > 0 {
        println!("escaped: memory");
    }
    // SAFETY: its own descriptors; the signal is ignored.
    unsafe {
        if (0..100).all(|_| libc::dup(0) >= 0) {
            println!("escaped: descriptors");
        }
        (3..100).for_each(|number| _ = libc::close(number));
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
    if std::fs::write(path, vec![0u8; 2_000_000]).is_ok() {
        println!("escaped: a file");
    }
    static IS_OVER: AtomicBool = AtomicBool::new(false);
    let nap = || {
        while !IS_OVER.load(Ordering::Relaxed) {
            thread::sleep(std::time::Duration::from_millis(10));
        }
    };
    let threads: Vec<_> = (0..12).map(|_| thread::Builder::new().stack_size(64 << 10).spawn(nap)).collect();
    if threads.iter().all(Result::is_ok) {
        println!("escaped: threads");
    }
    IS_OVER.store(true, Ordering::Relaxed);
}

/// A socket with a name that is no file's.
fn abstract_socket(name: &str) {
    let mut address = [0u8; 110];
    address[0] = libc::AF_UNIX as u8;
    address[3..3 + name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the calls read the address.
    unsafe {
        let socket = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0);
        if libc::connect(socket, address.as_ptr().cast(), 3 + name.len() as u32) == 0 {
            println!("escaped: connected");
        }
    }
}

/// Executes itself: if that is outside of the sandbox it says so.
fn exec() {
    let path = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    let words = [path.as_ptr(), c"executed-outside".as_ptr(), std::ptr::null()];
    // SAFETY: the call reads strings; what the child executes it is.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::execv(path.as_ptr(), words.as_ptr());
            libc::_exit(1);
        }
        let mut status = 0;
        libc::waitpid(child, &raw mut status, 0);
        println!("status {status}");
    }
}

pub fn executed() {
    // SAFETY: the call reads the path.
    let opened = unsafe { libc::open(c"/proc/self/mem".as_ptr(), libc::O_RDWR) };
    println!("{}", if opened >= 0 { "escaped: it is an ordinary process" } else { "inside" });
}
