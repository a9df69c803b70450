//! A program that knows nothing of Dune. The suite runs it natively and through `dune enter`, linked in four ways
//! (`program-dynamic-pie`…), and compares what it prints.
//!
//! It has no `main` of Rust's, so that it sees the process as execve left it, before std changes signals and descriptors.

#![no_main]

#[path = "program/observe.rs"]
mod observe;

use std::arch::asm;
use std::ffi::{CStr, c_char, c_int, c_long};
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, mpsc};

unsafe extern "C" {
    static environ: *const *const c_char;
    fn _start();
}

// SAFETY: the C library's start-up code calls this function.
#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, arguments: *const *const c_char) -> c_int {
    // SAFETY: as the C library passes them.
    let words = unsafe { strings(arguments) };
    assert_eq!(words.len(), count as usize);
    println!("ring {}", ring());
    match words.get(1).map_or("", String::as_str) {
        "report" => report(&words, arguments),
        "threads" => threads(),
        "stack" => println!("deepest {}", use_stack(words[2].parse::<usize>().expect("MiB") << 20)),
        "heap" => heap(),
        "upper" => upper(),
        "fork" => fork(),
        "spawn" => spawn(&words[2..]),
        "attempt" => attempt(&words[2..]),
        "execute" => execute(&words[2], &words[3], &words[4..]),
        "trace" => trace(&words[2]),
        "descriptors" => observe::descriptors(),
        "listings" => observe::listings(),
        "growing-stack" => observe::growing_stack(),
        "priorities" => observe::priorities(),
        "refused-to-others" => observe::refused_to_others(&words[2]),
        "abort" => std::process::abort(),
        "exit" => return words[2].parse().expect("a status"),
        other => panic!("what is {other:?}?"),
    }
    0
}

/// Runs a program by posix_spawn, one by fork and exec, one that is not there, and one with many arguments.
fn spawn(words: &[String]) {
    use std::os::unix::process::CommandExt;
    use std::process::Command;
    std::io::stdout().flush().expect("flush");
    println!("spawned {:?}", Command::new(&words[0]).args(&words[1..]).status().expect("a status").code());
    let mut forked = Command::new(&words[0]);
    // SAFETY: nothing between fork and exec.
    unsafe { forked.pre_exec(|| Ok(())) };
    println!("forked {:?}", forked.args(&words[1..]).status().expect("a status").code());
    println!("missing {:?}", Command::new("/nothing/there").status().expect_err("not there").kind());
    println!("not executable {:?}", Command::new("/proc/self/maps").status().expect_err("no program").kind());
    let many = Command::new("sh").args(["-c", "echo $#"]).args(vec!["x"; 3000]).output().expect("output");
    println!("many {:?}", String::from_utf8_lossy(&many.stdout));
    let own = Command::new("/proc/self/exe").arg0("me").args(["exit", "9"]).output().expect("output");
    println!("own {:?} {:?}", own.status.code(), String::from_utf8_lossy(&own.stdout).contains("ring"));
}

/// What becomes of programs, by posix_spawn and by fork and exec.
fn attempt(programs: &[String]) {
    use std::os::unix::process::CommandExt;
    use std::process::Command;
    let status = |command: &mut Command| match command.status() {
        Ok(status) => format!("{:?}", status.code()),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT) => "NotFound".to_owned(),
            _ => error.to_string(),
        },
    };
    for program in programs {
        let mut forked = Command::new(program);
        // SAFETY: nothing between fork and exec.
        unsafe { forked.pre_exec(|| Ok(())) };
        println!("{program} {} {}", status(&mut Command::new(program)), status(&mut forked));
    }
}

/// Goes on as `program`, by a path in which FD is a descriptor of it that is closed then, and PID this process.
fn execute(path: &str, program: &str, words: &[String]) {
    use std::os::fd::AsRawFd;
    use std::os::unix::process::CommandExt;
    let file = std::fs::File::open(program).expect("opened");
    let path = path.replace("FD", &file.as_raw_fd().to_string());
    let path = path.replace("PID", &std::process::id().to_string());
    panic!("{path}: {}", std::process::Command::new(&path).args(words).exec());
}

/// What a tracer sees of `program` at its start.
fn trace(program: &str) {
    use std::os::unix::process::CommandExt;
    let mut command = std::process::Command::new(program);
    let traceme = || {
        // SAFETY: touches no memory.
        match unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: one system call between fork and exec.
    let child = unsafe { command.pre_exec(traceme) }.spawn().expect("started").id() as i32;
    let wait = || {
        let mut status = 0;
        // SAFETY: waits for this process's child.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        status
    };
    let stopped = wait();
    let name = std::fs::read_to_string(format!("/proc/{child}/comm")).expect("comm");
    println!("status {stopped:#x}, stopped {name:?}");
    // SAFETY: the child is stopped; no memory is touched.
    assert_eq!(unsafe { libc::ptrace(libc::PTRACE_CONT, child, 0, 0) }, 0);
    println!("status {:#x}", wait());
}

fn ring() -> u16 {
    let cs: u16;
    // SAFETY: reads a register.
    unsafe { asm!("mov {:x}, cs", out(reg) cs) };
    cs & 3
}

/// The C strings up to a null pointer.
///
/// # Safety
///
/// `list` is such a list.
unsafe fn strings(mut list: *const *const c_char) -> Vec<String> {
    let mut strings = Vec::new();
    // SAFETY: the caller's.
    unsafe {
        while !(*list).is_null() {
            strings.push(CStr::from_ptr(*list).to_string_lossy().into_owned());
            list = list.add(1);
        }
    }
    strings
}

/// Everything that execve(2) sets, without addresses.
fn report(words: &[String], arguments: *const *const c_char) {
    // SAFETY: there is one thread.
    let environment = unsafe { strings(environ) };
    println!("arguments {words:?}\nenvironment {environment:?}");
    println!("argc at a multiple of 16: {}", (arguments.addr() - 8).is_multiple_of(16));
    let proc = |name: &str| std::fs::read(format!("/proc/self/{name}")).expect("read");
    let joined = |words: &[String]| words.iter().flat_map(|word| [word.as_bytes(), &[0]].concat()).collect();
    let all: Vec<u8> = joined(words);
    println!("cmdline {}", proc("cmdline") == all);
    let all: Vec<u8> = joined(&environment);
    println!("environ {}", proc("environ") == all);
    println!("comm {:?}", String::from_utf8_lossy(&proc("comm")));
    println!("exe {:?}", std::fs::read_link("/proc/self/exe").expect("a link"));
    auxiliary(&proc("auxv"));
    signals();
    descriptors();
    let (mut mxcsr, mut control) = (0u32, 0u16);
    // SAFETY: stores two registers.
    unsafe { asm!("stmxcsr [{}]", "fnstcw [{}]", in(reg) &raw mut mxcsr, in(reg) &raw mut control) };
    println!("mxcsr {mxcsr:#x} x87 {control:#x}");
    let maps = String::from_utf8_lossy(&proc("maps")).into_owned();
    let stack = maps.lines().find(|line| line.ends_with("[stack]")).expect("a stack");
    println!("stack {:?}", stack.split(' ').nth(1));
    println!("restartable sequences {:?}", restartable_sequences());
}

/// `bytes` is Linux's copy of the vector, which has to be the one on the stack.
fn auxiliary(bytes: &[u8]) {
    // SAFETY: the vector follows the null pointer after the environment.
    let mut on_stack = unsafe {
        let mut next = environ;
        while !(*next).is_null() {
            next = next.add(1);
        }
        next.add(1).cast::<[u64; 2]>()
    };
    let words: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    for pair in words.as_chunks::<2>().0.iter().take_while(|pair| pair[0] != libc::AT_NULL) {
        let [kind, value] = *pair;
        // SAFETY: AT_NULL ends both.
        unsafe {
            assert_eq!(*on_stack, *pair, "auxiliary entry");
            on_stack = on_stack.add(1);
        }
        let address = value as *const c_char;
        // SAFETY: the kernel says that there is a string.
        let text = || unsafe { CStr::from_ptr(address) };
        match kind {
            libc::AT_EXECFN | libc::AT_PLATFORM => println!("auxiliary {kind} {:?}", text()),
            libc::AT_RANDOM => {
                // SAFETY: the kernel says that there are 16 bytes.
                let bytes = unsafe { *address.cast::<[u8; 16]>() };
                println!("auxiliary {kind} random {}", bytes != [0; 16]);
            }
            libc::AT_BASE => println!("auxiliary {kind} {}", value == dynamic_linker()),
            libc::AT_ENTRY => println!("auxiliary {kind} {}", value == (_start as *const ()).addr() as u64),
            // PT_PHDR, the first program header, says where the program headers are.
            libc::AT_PHDR => {
                // SAFETY: the kernel says that there are program headers.
                let words = unsafe { *address.cast::<[u64; 7]>() };
                println!("auxiliary {kind} {:x?}", [words[0], words[1], words[4], words[5]]);
            }
            // AT_SYSINFO_EHDR: the vDSO.
            33 => {
                // SAFETY: the kernel says that an ELF image is there.
                println!("auxiliary {kind} {:?}", unsafe { *address.cast::<[u8; 4]>() });
            }
            _ => println!("auxiliary {kind} {value:#x}"),
        }
    }
}

/// Where the dynamic linker lies, as it says itself; 0 without one.
fn dynamic_linker() -> u64 {
    extern "C" fn visit(info: *mut libc::dl_phdr_info, _: usize, found: *mut libc::c_void) -> c_int {
        // SAFETY: the library passes a valid description, and what the caller below passed.
        unsafe {
            let name = (*info).dlpi_name;
            if !name.is_null() && CStr::from_ptr(name).to_bytes().windows(8).any(|part| part == b"ld-linux") {
                *found.cast::<u64>() = (*info).dlpi_addr;
            }
        }
        0
    }
    let mut found = 0u64;
    // SAFETY: the callback does not unwind, and `found` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut found).cast()) };
    found
}

fn signals() {
    let mut line = String::new();
    for signal in 1..=64 {
        let mut action = [0u64; 4];
        // SAFETY: rt_sigaction without a new action writes the old one.
        let result = unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, std::ptr::null::<u64>(), &raw mut action, 8)
        };
        assert_eq!(result, 0);
        line.push(match action[0] as usize {
            libc::SIG_DFL => '-',
            libc::SIG_IGN => 'i',
            _ => 'C',
        });
    }
    let mut mask = 0u64;
    let mut stack = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    // SAFETY: both write the old values.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, 0, std::ptr::null::<u64>(), &raw mut mask, 8);
        libc::sigaltstack(std::ptr::null(), &raw mut stack);
    }
    println!("signals {line} blocked {mask:#x} alternate stack {:#x} {}", stack.ss_flags, stack.ss_size);
}

/// All descriptors but the engine's and the one for looking.
fn descriptors() {
    let list = std::fs::read_dir("/proc/self/fd").expect("listed");
    let mut open: Vec<i32> = list
        .flatten()
        .filter(|entry| {
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            let target = target.to_string_lossy().into_owned();
            !target.contains("kvm") && !target.starts_with("/proc")
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    open.sort_unstable();
    println!("descriptors {open:?}");
}

/// Whether glibc could register the thread's area: the kernel has written a CPU number there. `None` without glibc's symbols.
fn restartable_sequences() -> Option<bool> {
    let (offset, thread): (*const isize, usize);
    // SAFETY: loads an address, null without such a symbol, and the thread pointer.
    unsafe {
        asm!(
            ".weak __rseq_offset",
            "mov {}, qword ptr [rip + __rseq_offset@GOTPCREL]",
            "mov {}, fs:[0]",
            out(reg) offset,
            out(reg) thread,
        );
    }
    // SAFETY: glibc's variable, and the area that it names: cpu_id_start, cpu_id.
    unsafe {
        let offset = *offset.as_ref()?;
        Some(*(thread.wrapping_add_signed(offset + 4) as *const i32) >= 0)
    }
}

fn threads() {
    thread_local!(static WORD: std::cell::Cell<usize> = const { std::cell::Cell::new(7) });
    let sum = Arc::new(Mutex::new(0));
    let (sender, receiver) = mpsc::channel();
    let handles: Vec<_> = (0..4)
        .map(|number| {
            let (sum, sender) = (sum.clone(), sender.clone());
            std::thread::spawn(move || {
                assert_eq!((WORD.replace(number), ring()), (7, ring()));
                *sum.lock().expect("not poisoned") += number;
                sender.send(ring()).expect("received");
                assert_eq!(WORD.get(), number);
            })
        })
        .collect();
    drop(sender);
    let rings: Vec<u16> = receiver.iter().collect();
    handles.into_iter().for_each(|handle| handle.join().expect("no panic"));
    println!("threads {} in my ring: {}", rings.len(), rings.iter().all(|&other| other == ring()));
    println!("sum {}", sum.lock().expect("not poisoned"));
}

/// Uses so many bytes of the stack.
#[inline(never)]
fn use_stack(bytes: usize) -> u64 {
    let page = std::hint::black_box([bytes as u8; 4096]);
    if bytes <= 4096 { page[17].into() } else { use_stack(bytes - 4096) + u64::from(page[4095]) % 2 }
}

fn heap() {
    // SAFETY: only this program moves its break, and C's allocator copes with that.
    let (start, grown, end) = unsafe { (libc::sbrk(0), libc::sbrk(2 << 20), libc::sbrk(0)) };
    println!("break grows: {}", start == grown && end.addr() - start.addr() == 2 << 20);
    // SAFETY: this has just become the program's.
    let room = unsafe { std::slice::from_raw_parts_mut(grown.cast::<u64>(), 1 << 18) };
    println!("zeros: {}", room.iter().all(|&word| word == 0));
    room.iter_mut().enumerate().for_each(|(index, word)| *word = index as u64);
    println!("sum {}", room.iter().sum::<u64>());
    // SAFETY: `room` is not used any more.
    unsafe { libc::sbrk(-(2 << 20)) };
    let mut boxes: Vec<Vec<u8>> = (0..500).map(|size| vec![size as u8; size * 16]).collect();
    boxes.retain(|bytes| bytes.len() % 48 == 0);
    boxes.push(vec![1; 4 << 20]);
    println!("bytes {}", boxes.iter().flatten().map(|&byte| u64::from(byte)).sum::<u64>());
    // SAFETY: returns memory to the kernel where it can.
    unsafe { libc::malloc_trim(0) };
}

fn upper() {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).expect("text");
    std::io::stdout().write_all(text.to_uppercase().as_bytes()).expect("written");
}

fn fork() {
    // SAFETY: the child prints nothing and exits; its status is waited for.
    let status = unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::_exit(40 + c_int::from(ring()));
        }
        let mut status = 0;
        libc::waitpid(child, &raw mut status, 0);
        status
    };
    println!("child in my ring: {}", libc::WEXITSTATUS(status) == 40 + c_int::from(ring()));
    let output = std::process::Command::new("echo").args(["from", "echo"]).output().expect("run");
    println!("{output:?}");
    let missing = std::process::Command::new("/no/such/program").spawn().expect_err("nothing there");
    println!(
        "{missing}, errno here {}",
        std::io::Error::last_os_error().raw_os_error().unwrap_or(0) as c_long
    );
}
