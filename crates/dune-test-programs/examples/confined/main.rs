//! What untrusted code tries in a sandbox: `dune run` runs it for the cases `sandbox::`, which judge what it says.
//!
//! It says `ready` and reads from its standard input the addresses of the runtime's memory, which the case has looked up. It has no
//! `main` of Rust's: nothing of std's start-up is done.

#![no_main]

mod asking;
mod attempts;
mod attributes;
mod births;
mod buffers;
mod descriptors;
mod directories;
mod escapes;
mod execs;
mod filters;
mod hosts;
mod identities;
mod instructions;
mod landlock;
mod limits;
mod mapped;
mod mounted;
mod named;
mod network;
mod opened;
mod peers;
mod randomly;
mod robust;
mod segments;
mod shown;
mod signals;
mod sockets;
mod vdso;
mod written;

use std::arch::asm;
use std::ffi::{CStr, c_char, c_int};
use std::io::Write;

use dune_syscalls::kind::{Kind, Value};
use dune_syscalls::{Call, Form};

// SAFETY: the C library's start-up code calls this function.
#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, arguments: *const *const c_char) -> c_int {
    // SAFETY: as the C library passes them.
    let word = |index: usize| unsafe { CStr::from_ptr(*arguments.add(index)) }.to_string_lossy().into_owned();
    let words: Vec<String> = (1..count as usize).map(word).collect();
    match words.first().map_or("", String::as_str) {
        "read" => {
            let address = addresses()[0];
            // SAFETY: ends the program, or fails the case.
            println!("read {}", unsafe { (address as *const u8).read_volatile() });
        }
        "write" => {
            let address = addresses()[0];
            // SAFETY: as above.
            unsafe { (address as *mut u8).write_volatile(1) };
            println!("written");
        }
        "pointers" => pointers(),
        "nested" => nested(),
        "memory" => memory(),
        "refused" => refused(),
        "files" => files(&words[1..]),
        "trap" => trap(&words[1]),
        "race" => race(),
        "attempt" => attempts::attempt(&words[1], &words[2..]),
        "executed-outside" => attempts::executed(),
        "births" => births::all(),
        "attributes" => attributes::all(),
        "dumping" => {
            attributes::be_dumped();
            trap("null");
        }
        "executing" => execs::before(words[1] == "first"),
        "executed" => execs::after(&words[1]),
        "mappings" => shown::mappings(),
        "state" => shown::state(),
        "signals" => signals::all(),
        "vdso" => vdso::all(words[1].parse().expect("turns")),
        "forging" => signals::forging(),
        "leaping" => signals::leaping(),
        "executing-at" => execs::at(&words[1]),
        "filters" => filters::all(),
        "filtered" => filters::executed(),
        "landlock" => landlock::all([&words[1], &words[2]], &words[3..]),
        "own-limits" => limits::own(),
        "identities" => identities::all(),
        "own-flags" => limits::flags(),
        "segments" => segments::all(),
        "robust" => robust::all(),
        "queue" => robust::queue(),
        "far" => mapped::far(),
        "end-of-file" => mapped::end_of_file(),
        "replaced" => mapped::replaced(words[1].parse().expect("turns")),
        "descriptors" => escapes::descriptors(words[1].parse().expect("turns")),
        "table" => escapes::table(),
        "options" => escapes::options(),
        "passing" => escapes::passing(),
        "reach" => escapes::reach(words[1].parse().expect("a process")),
        "registers" => escapes::table_registers(&words[1]),
        "shared-code" => escapes::shared_code(words[1] == "yes"),
        "report" => escapes::report(words[1] == "yes"),
        "forged-info" => escapes::forged_info(),
        "actions" => escapes::actions(),
        "numbers" => escapes::numbers(),
        "devices" => escapes::devices(&words[1..]),
        "network" => network::all(std::array::from_fn(|index| words[index + 1].parse().expect("a port"))),
        "hosts" => hosts::all(&words[1..]),
        "named-memory" => named::all(),
        "asking" => asking::all(std::array::from_fn(|index| words[index + 1].parse().expect("a port"))),
        "opened" => opened::all(&words[1]),
        "peers" => peers::all(words[1].parse().expect("a port")),
        "sockets" => sockets::all(&words[1]),
        "sockets-race" => sockets::race(&words[1], words[2].parse().expect("turns")),
        "limits" if words[1] == "written" => written::all(),
        "limits" => limits::all(&words[1]),
        "directories" => directories::all(&words[1]),
        "directories-race" => directories::race(&words[1], words[2].parse().expect("turns")),
        other => panic!("what is {other:?}?"),
    }
    0
}

/// The addresses on standard input, in hexadecimal; the case answers `ready` with them.
fn addresses() -> Vec<u64> {
    println!("ready");
    let _ = std::io::stdout().flush();
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("a line");
    line.split_whitespace().map(|word| u64::from_str_radix(word, 16).expect("an address")).collect()
}

/// A system call, whatever it does.
fn call(number: u64, arguments: [u64; 6]) -> i64 {
    let result: i64;
    // SAFETY: what may happen to this program's memory is the point.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") arguments[0], in("rsi") arguments[1], in("rdx") arguments[2],
            in("r10") arguments[3], in("r8") arguments[4], in("r9") arguments[5],
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

/// Every pointer of every call of the table, and of its forms, set to addresses that are not the program's.
fn pointers() {
    let targets = addresses();
    let scratch = vec![0u64; 1024].leak();
    scratch[0] = 64;
    let socket = filled_socket();
    let (mut tried, mut faults, mut made) = (0, 0, Vec::new());
    for line in dune_syscalls::all() {
        for (form, chosen) in forms(line) {
            for index in 0..form.arguments.len() {
                if !is_address(form.arguments[index].kind) {
                    continue;
                }
                for &target in &targets {
                    let mut arguments = plausible(form, scratch.as_ptr() as u64, socket);
                    if let Some((place, value)) = chosen {
                        arguments[place] = value;
                    }
                    arguments[index] = target;
                    // Errors for other reasons come first in few calls.
                    let result = call(line.number.into(), arguments);
                    tried += 1;
                    faults += u32::from(result == -i64::from(libc::EFAULT));
                    // It is looked at when the thread ends.
                    let is_harmless = line.name() == "set_tid_address";
                    if result >= 0 && !is_harmless {
                        made.push(format!(
                            "{} {} argument {index} at {target:#x}: {result}",
                            line.name(),
                            form.name
                        ));
                    }
                }
            }
        }
    }
    made.iter().for_each(|line| println!("made: {line}"));
    println!("tried {} faults {} made {}", tried > 1000, faults > 500, made.len());
    println!("({tried} tried, {faults} faults)");
    wait();
}

/// The forms of a call, with the argument that chooses each.
fn forms(line: &'static Call) -> Vec<(&'static Form, Option<(usize, u64)>)> {
    // Without arguments that count they end the program, or wait for ever; brk(2) has an answer, and no error.
    const LAST: [&str; 6] = ["exit", "exit_group", "pause", "rt_sigreturn", "vfork", "brk"];
    if LAST.contains(&line.name()) {
        return Vec::new();
    }
    let mut all = vec![(&line.form, None)];
    for table in line.variants.iter().filter(|table| table.only.is_none()) {
        let chosen = |value: u32| Some((table.argument.into(), u64::from(value) << table.shift));
        // The strict mode would end the program.
        let list = table.list.iter().filter(|variant| variant.form.name != "PR_SET_SECCOMP");
        all.extend(list.map(|variant| (&variant.form, chosen(variant.value))));
    }
    all
}

fn is_address(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Pointer(_) | Kind::Path { .. } | Kind::Text { .. } | Kind::Place { .. } | Kind::Kept { .. }
    )
}

/// Arguments with which the call would do something.
fn plausible(form: &Form, scratch: u64, socket: u64) -> [u64; 6] {
    std::array::from_fn(|index| match form.arguments.get(index).map(|field| field.kind) {
        None => 0,
        Some(Kind::Descriptor(_)) => socket,
        Some(Kind::Value(Value::Size | Value::SocketLength)) => 64,
        Some(Kind::Value(Value::Signal)) => 0,
        Some(Kind::Value(Value::Pid)) => 0,
        Some(Kind::Value(_)) => 1,
        Some(_) => scratch,
    })
}

/// A socket from which can be read, and to which can be written.
fn filled_socket() -> u64 {
    let mut both = [0; 2];
    // SAFETY: the call writes two numbers.
    let made = unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0, both.as_mut_ptr())
    };
    assert_eq!(made, 0, "a pair of sockets");
    let bytes = [0x5au8; 4096];
    for socket in both {
        // SAFETY: the call reads the bytes.
        unsafe { libc::write(socket, bytes.as_ptr().cast(), bytes.len()) };
    }
    both[0] as u64
}

/// Addresses within structures.
fn nested() {
    let targets = addresses();
    let socket = filled_socket();
    let mut failed = 0;
    let mut expect = |what: &str, result: i64| {
        if result != -i64::from(libc::EFAULT) {
            println!("{what}: {result}");
            failed += 1;
        }
    };
    for &target in &targets {
        let marker = [0u8; 8];
        let parts = [[marker.as_ptr() as u64, 8], [target, 64]];
        let parts_at = parts.as_ptr() as u64;
        for number in [libc::SYS_readv, libc::SYS_writev, libc::SYS_vmsplice] {
            expect(
                &format!("call {number} at {target:#x}"),
                call(number as u64, [socket, parts_at, 2, 0, 0, 0]),
            );
        }
        let only = [[target, 64u64]];
        let only_at = only.as_ptr() as u64;
        let buffer = [0u8; 64];
        let own = [[buffer.as_ptr() as u64, 64]];
        for header in [
            // Name, parts, ancillary data.
            [target, 64, own.as_ptr() as u64, 1, 0, 0, 0],
            [0, 0, only_at, 1, 0, 0, 0],
            [0, 0, target, 1, 0, 0, 0],
            [0, 0, own.as_ptr() as u64, 1, target, 64, 0],
        ] {
            for number in [libc::SYS_sendmsg, libc::SYS_recvmsg] {
                let arguments = [socket, header.as_ptr() as u64, libc::MSG_DONTWAIT as u64, 0, 0, 0];
                expect(&format!("call {number} of {header:x?}"), call(number as u64, arguments));
            }
        }
    }
    // What is right goes on to work, with several parts.
    let (mut first, mut second) = ([0u8; 3], [0u8; 5]);
    let parts = [[first.as_mut_ptr() as u64, 3], [second.as_mut_ptr() as u64, 5]];
    let read = call(libc::SYS_readv as u64, [socket, parts.as_ptr() as u64, 2, 0, 0, 0]);
    println!(
        "failed {failed}, read {read} {:?} {:?}",
        std::hint::black_box(first),
        std::hint::black_box(second)
    );
    wait();
}

/// Another thread changes an address, and what is mapped there, between check and use.
fn race() {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    static STOP: AtomicBool = AtomicBool::new(false);
    static PARTS: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
    let target = addresses()[0];
    let socket = filled_socket();
    let buffer = vec![0u8; 4096].leak().as_mut_ptr() as u64;
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    for (index, value) in [buffer, 8, buffer, 8].into_iter().enumerate() {
        PARTS[index].store(value, Ordering::Relaxed);
    }
    static CHANGES: AtomicU64 = AtomicU64::new(0);
    let changer = std::thread::spawn(move || {
        while !STOP.load(Ordering::Relaxed) {
            let changes = CHANGES.fetch_add(1, Ordering::Relaxed);
            PARTS[2].store(if changes.is_multiple_of(2) { target } else { buffer }, Ordering::Relaxed);
            if changes.is_multiple_of(1024) {
                let own = call(libc::SYS_mmap as u64, [0, 0x4000, 3, flags, u64::MAX, 0]) as u64;
                call(libc::SYS_munmap as u64, [own, 0x4000, 0, 0, 0, 0]);
            }
        }
    });
    let (mut read, mut refused, mut turn) = (0, 0, 0);
    while turn < 200 || (read < 20 || refused < 20 || CHANGES.load(Ordering::Relaxed) < 20) && turn < 100_000
    {
        let number = if turn % 2 == 0 { libc::SYS_readv } else { libc::SYS_writev };
        match call(number as u64, [socket, PARTS.as_ptr() as u64, 2, 0, 0, 0]) {
            made if made >= 0 => read += 1,
            fault if fault == -i64::from(libc::EFAULT) => refused += 1,
            // Nothing there to be read, or no room.
            _ => (),
        }
        turn += 1;
        std::thread::yield_now();
    }
    STOP.store(true, Ordering::Relaxed);
    changer.join().expect("no panic");
    println!("both {}", read >= 20 && refused >= 20);
    println!("({read} made, {refused} refused, {turn} turns, {} changes)", CHANGES.load(Ordering::Relaxed));
    wait();
}

/// Calls that change mappings, over and beside the runtime's.
fn memory() {
    let [start, length, ..] = addresses()[..] else { panic!("a range") };
    let fixed = (libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    let own = call(
        libc::SYS_mmap as u64,
        [0, 0x4000, 3, (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64, u64::MAX, 0],
    );
    assert!(own > 0, "memory of its own");
    let own = own as u64;
    let moves = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
    let boundary = 1u64 << 46;
    let segment = call(libc::SYS_shmget as u64, [libc::IPC_PRIVATE as u64, 0x2000, 0o600, 0, 0, 0]) as u64;
    assert!((segment as i64) >= 0, "a segment");
    for (what, number, arguments) in [
        ("munmap", libc::SYS_munmap, [start, length, 0, 0, 0, 0]),
        ("munmap of everything", libc::SYS_munmap, [0x1_0000, (1 << 47) - 0x1_1000, 0, 0, 0, 0]),
        ("munmap beyond the end", libc::SYS_munmap, [own, boundary, 0, 0, 0, 0]),
        ("munmap with a wrap", libc::SYS_munmap, [own, u64::MAX - own - 4095, 0, 0, 0, 0]),
        ("mprotect", libc::SYS_mprotect, [start, length, 3, 0, 0, 0]),
        ("mprotect none", libc::SYS_mprotect, [start, length, 0, 0, 0, 0]),
        ("mprotect down", libc::SYS_mprotect, [start, length, 0x100_0003, 0, 0, 0]),
        ("pkey_mprotect", libc::SYS_pkey_mprotect, [start, length, 3, 0, 0, 0]),
        ("mmap", libc::SYS_mmap, [start, length, 3, fixed, u64::MAX, 0]),
        ("mmap across", libc::SYS_mmap, [boundary - 0x1000, 0x2000, 3, fixed, u64::MAX, 0]),
        ("mmap at the end", libc::SYS_mmap, [boundary - 0x1000, 0x1000, 3, fixed, u64::MAX, 0]),
        ("mmap that grows", libc::SYS_mmap, [0, 0x1000, 3, 0x122, u64::MAX, 0]),
        ("mremap from", libc::SYS_mremap, [start, length, length * 2, 1, 0, 0]),
        ("mremap to", libc::SYS_mremap, [own, 0x1000, length, moves, start, 0]),
        ("mremap of nothing", libc::SYS_mremap, [start, 0, length, 1, 0, 0]),
        ("madvise", libc::SYS_madvise, [start, length, libc::MADV_DONTNEED as u64, 0, 0, 0]),
        ("madvise poison", libc::SYS_madvise, [own, 0x1000, 100, 0, 0, 0]),
        ("remap_file_pages", libc::SYS_remap_file_pages, [start, length, 0, 0, 0, 0]),
        ("mlock", libc::SYS_mlock, [start, length, 0, 0, 0, 0]),
        ("mincore", libc::SYS_mincore, [start, length, own, 0, 0, 0]),
        ("msync", libc::SYS_msync, [start, length, libc::MS_INVALIDATE as u64, 0, 0, 0]),
        ("shmat", libc::SYS_shmat, [segment, start, 0x4000, 0, 0, 0]),
        ("shmat rounded", libc::SYS_shmat, [segment, start + 8, 0x6000, 0, 0, 0]),
        ("shmat across", libc::SYS_shmat, [segment, boundary - 0x1000, 0x4000, 0, 0, 0]),
        ("shmat at the end", libc::SYS_shmat, [segment, boundary - 0x2000, 0, 0, 0, 0]),
        ("shmdt", libc::SYS_shmdt, [start, 0, 0, 0, 0, 0]),
        ("mseal", 462, [start, length, 0, 0, 0, 0]),
    ] {
        println!("{what}: {}", if call(number as u64, arguments) < 0 { "refused" } else { "done" });
    }
    call(libc::SYS_shmctl as u64, [segment, libc::IPC_RMID as u64, 0, 0, 0, 0]);
    // What Linux has unmapped although the call fails (before 6.17) is free: here two mappings that are one to the supervisor.
    let [pair, target] = [(); 2].map(|()| {
        call(libc::SYS_mmap as u64, [0, 0x2000, 3, fixed & !(libc::MAP_FIXED as u64), u64::MAX, 0]) as u64
    });
    call(libc::SYS_madvise as u64, [pair, 0x1000, libc::MADV_DONTFORK as u64, 0, 0, 0]);
    let moved = call(libc::SYS_mremap as u64, [pair, 0x2000, 0x2000, moves, target, 0]);
    let anew = fixed & !(libc::MAP_FIXED as u64) | libc::MAP_FIXED_NOREPLACE as u64;
    let mapped = call(libc::SYS_mmap as u64, [target, 0x2000, 3, anew, u64::MAX, 0]) as u64;
    println!(
        "what a failed mremap leaves: {}",
        if moved >= 0 || mapped == target { "refused" } else { "done" }
    );
    let before = call(libc::SYS_brk as u64, [0; 6]);
    for wanted in [start, boundary, u64::MAX, 1] {
        println!(
            "brk: {}",
            if call(libc::SYS_brk as u64, [wanted, 0, 0, 0, 0, 0]) == before { "refused" } else { "done" }
        );
    }
    wait();
}

/// Calls that would let a program out.
fn refused() {
    let own = u64::from(std::process::id());
    for (what, number, arguments) in [
        ("ptrace", libc::SYS_ptrace, [0; 6]),
        ("process_vm_readv", libc::SYS_process_vm_readv, [own, 0, 0, 0, 0, 0]),
        ("process_vm_writev", libc::SYS_process_vm_writev, [own, 0, 0, 0, 0, 0]),
        ("process_madvise", libc::SYS_process_madvise, [0; 6]),
        ("pidfd_getfd", libc::SYS_pidfd_getfd, [0; 6]),
        ("userfaultfd", libc::SYS_userfaultfd, [0; 6]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0, 0, 0, 0]),
        ("perf_event_open", libc::SYS_perf_event_open, [0; 6]),
        ("bpf", libc::SYS_bpf, [0; 6]),
        ("unshare", libc::SYS_unshare, [0; 6]),
        ("setns", libc::SYS_setns, [0; 6]),
        ("mount", libc::SYS_mount, [0; 6]),
        ("umount2", libc::SYS_umount2, [0; 6]),
        ("pivot_root", libc::SYS_pivot_root, [0; 6]),
        ("init_module", libc::SYS_init_module, [0; 6]),
        ("finit_module", libc::SYS_finit_module, [0; 6]),
        ("kexec_load", libc::SYS_kexec_load, [0; 6]),
        ("personality", libc::SYS_personality, [0; 6]),
        ("modify_ldt", libc::SYS_modify_ldt, [1, 0, 0, 0, 0, 0]),
        ("iopl", libc::SYS_iopl, [3, 0, 0, 0, 0, 0]),
        ("ioperm", libc::SYS_ioperm, [0x80, 1, 1, 0, 0, 0]),
        ("ioctl KVM_CREATE_VM", libc::SYS_ioctl, [0, 0xae01, 0, 0, 0, 0]),
        ("ioctl TIOCSTI", libc::SYS_ioctl, [0, libc::TIOCSTI, 0, 0, 0, 0]),
        ("ioctl that nobody knows", libc::SYS_ioctl, [0, 0x1234_5678, 0, 0, 0, 0]),
        ("prctl PR_SET_MM", libc::SYS_prctl, [libc::PR_SET_MM as u64, 1, 0, 0, 0, 0]),
        ("call 400", 400, [0; 6]),
        ("call 2^31", 1 << 31, [0; 6]),
        ("getpid of x32", 0x4000_0027, [0; 6]),
    ] {
        println!("{what}: {}", if call(number as u64, arguments) < 0 { "refused" } else { "done" });
    }
}

/// Opens each path to read and write.
fn files(paths: &[String]) {
    for path in paths {
        let path = path.replace("PID", &std::process::id().to_string());
        let named = std::ffi::CString::new(path.as_str()).expect("no NUL");
        // SAFETY: the call reads the path.
        let opened = unsafe { libc::open(named.as_ptr(), libc::O_RDONLY) };
        println!("{path}: {}", if opened < 0 { "refused" } else { "opened" });
        if opened >= 0 {
            // SAFETY: its own descriptor.
            unsafe { libc::close(opened) };
        }
    }
    // By a descriptor that can not be read, and by a directory.
    // SAFETY: the calls read paths.
    unsafe {
        let found = libc::open(c"/proc/self/mem".as_ptr(), libc::O_PATH);
        let named = std::ffi::CString::new(format!("/proc/self/fd/{found}")).expect("no NUL");
        let opened = libc::open(named.as_ptr(), libc::O_RDWR);
        println!("by a descriptor: {}", if opened < 0 { "refused" } else { "opened" });
        let directory = libc::open(c"/proc/self".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY);
        let opened = libc::openat(directory, c"mem".as_ptr(), libc::O_RDWR);
        println!("by a directory: {}", if opened < 0 { "refused" } else { "opened" });
        let how = [libc::O_RDWR as u64, 0, 0];
        let opened = libc::syscall(libc::SYS_openat2, directory, c"mem".as_ptr(), how.as_ptr(), 24);
        println!("by openat2: {}", if opened < 0 { "refused" } else { "opened" });
    }
}

/// An exception.
fn trap(what: &str) {
    // SAFETY: ends the program.
    unsafe {
        match what {
            "int3" => asm!("int3"),
            "ud2" => asm!("ud2"),
            "hlt" => asm!("hlt"),
            "cli" => asm!("cli"),
            "out" => asm!("out 0x80, al", in("al") 0u8),
            "int80" => asm!("int 0x80", inout("rax") 20u64 => _),
            "divide" => asm!("xor edx, edx", "div edx", inout("rax") 1u64 => _, out("rdx") _),
            "null" => asm!("mov qword ptr [0], 1"),
            other => panic!("what is {other:?}?"),
        }
    }
    println!("still there");
}

/// Until the case has looked.
fn wait() {
    println!("done");
    let _ = std::io::stdout().flush();
    let mut line = String::new();
    let _ = std::io::stdin().read_line(&mut line);
}
