//! System calls of Dune mode: forwarded whole, answered where Linux can not, and exec and signals.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use x86_64::VirtAddr;

use crate::case::{Case, CaseResult, Ending};
use crate::probe::{self, syscall};

pub const CASES: &[Case] = &[
    Case::new("syscalls::six_arguments", six_arguments),
    Case::new("syscalls::unknown_numbers_are_enosys", unknown_numbers),
    Case::new("syscalls::errors_pass", errors_pass),
    Case::new("syscalls::files", files),
    Case::new("syscalls::segment_bases", segment_bases),
    Case::new("syscalls::bad_clone3_is_refused", bad_clone3),
    Case::new("syscalls::refused_children_leave_no_trace", refused_children),
    Case::new("syscalls::mapping_outside_all_windows", mapping_outside),
    Case::new("syscalls::mapping_far_away_by_another_thread", mapping_by_another_thread),
    Case::new("syscalls::large_reservation", large_reservation),
    Case::new("syscalls::break_grows", break_grows),
    Case::new("syscalls::main_stack_grows", main_stack_grows),
    Case::new("syscalls::exec_leaves_dune_mode", exec_leaves),
    Case::new("syscalls::exit_status_passes", exit_status).ends(Ending::Status(42)),
    Case::new("syscalls::raw_exit_group", raw_exit_group).ends(Ending::Status(43)),
    Case::new("syscalls::killed_by_a_signal", killed).ends(Ending::Signal(libc::SIGTERM, &[])),
    Case::new("syscalls::signal_handlers_run", signal_handlers_run),
    Case::new("syscalls::signals_interrupt_and_restart", interrupt_and_restart),
    Case::new("syscalls::signal_while_computing", signal_while_computing),
    Case::new("syscalls::threads_alongside", threads_alongside),
];

const ENOSYS: i64 = -libc::ENOSYS as i64;

fn six_arguments() -> CaseResult {
    dune::enter()?;
    let mut file = File::open("/proc/self/exe")?;
    let mut head = [0u8; 4096];
    file.read_exact(&mut head)?;
    let (read, private) = (libc::PROT_READ as u64, libc::MAP_PRIVATE as u64);
    let mapped = syscall(libc::SYS_mmap as u64, [0, 4096, read, private, file.as_raw_fd() as u64, 4096]);
    assert!(mapped > 0, "{mapped}");
    let mut second = [0u8; 4096];
    let buffer = second.as_mut_ptr().expose_provenance() as u64;
    let count = syscall(libc::SYS_pread64 as u64, [file.as_raw_fd() as u64, buffer, 4096, 4096, 0, 0]);
    assert_eq!(count, 4096);
    // SAFETY: a mapping of the file's second page.
    assert_eq!(unsafe { *(mapped as *const [u8; 4096]) }, std::hint::black_box(second));
    assert_eq!(&head[1..4], b"ELF");
    Ok(())
}

fn unknown_numbers() -> CaseResult {
    dune::enter()?;
    for number in [u64::MAX, 511, 512, 513, 1000, 1 << 20, 1 << 31, (1 << 32) + 600] {
        assert_eq!(syscall(number, [0; 6]), ENOSYS, "{number:#x}");
    }
    assert!(probe::getpid() > 0);
    Ok(())
}

fn errors_pass() -> CaseResult {
    dune::enter()?;
    assert_eq!(syscall(libc::SYS_close as u64, [u64::MAX, 0, 0, 0, 0, 0]), -libc::EBADF as i64);
    assert_eq!(syscall(libc::SYS_write as u64, [1, 8, 1, 0, 0, 0]), -libc::EFAULT as i64);
    let error = File::open("/nonexistent").expect_err("it does not exist");
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    Ok(())
}

fn files() -> CaseResult {
    let path = std::env::temp_dir().join(format!("dune-tests-{}", std::process::id()));
    let path =
        if path.parent().is_some_and(|parent| parent.exists()) { path } else { "/dune-tests-file".into() };
    let mut file = File::options().create(true).truncate(true).read(true).write(true).open(&path)?;
    file.write_all(b"host ")?;
    dune::enter()?;
    file.write_all(b"dune")?;
    file.seek(SeekFrom::Start(0))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    std::fs::remove_file(&path)?;
    assert_eq!(text, "host dune");
    let lines = std::fs::read_dir("/proc/self/fd")?.count();
    assert!(lines > 3);
    Ok(())
}

/// ARCH_SET_FS acts on the FS base in use; nothing may use thread-local storage in between.
fn segment_bases() -> CaseResult {
    const SET_FS: u64 = 0x1002;
    const GET_FS: u64 = 0x1003;
    const SET_GS: u64 = 0x1001;
    let number = libc::SYS_arch_prctl as u64;
    let dune = dune::enter()?;
    let mut values = [0u64; 3];
    let [first, second, third] = [0, 8, 16].map(|at| values.as_mut_ptr().expose_provenance() as u64 + at);
    let results = [
        syscall(number, [GET_FS, first, 0, 0, 0, 0]),
        syscall(number, [SET_FS, 0x1234_5678, 0, 0, 0, 0]),
        syscall(number, [GET_FS, second, 0, 0, 0, 0]),
        // SAFETY: `first` points to the first value.
        syscall(number, [SET_FS, unsafe { (first as *const u64).read_volatile() }, 0, 0, 0, 0]),
        syscall(number, [GET_FS, third, 0, 0, 0, 0]),
    ];
    let values = std::hint::black_box(values);
    assert_eq!(results, [0; 5]);
    assert_eq!((values[1], values[2]), (0x1234_5678, values[0]));
    assert!(values[0] > 0x1000);
    // Beyond the task size, and GS, which is Dune's.
    assert_eq!(syscall(number, [SET_FS, 1 << 63, 0, 0, 0, 0]), -libc::EPERM as i64);
    assert!(syscall(number, [SET_GS, 0, 0, 0, 0, 0]) < 0);
    assert!(syscall(number, [77, 0, 0, 0, 0, 0]) < 0);
    assert_eq!(dune.counters().traps(dune::Vector::GENERAL_PROTECTION), 0);
    Ok(())
}

fn bad_clone3() -> CaseResult {
    dune::enter()?;
    let clone3 = |address, size| syscall(libc::SYS_clone3 as u64, [address, size, 0, 0, 0, 0]);
    assert_eq!(clone3(0, 0), -libc::EINVAL as i64);
    assert_eq!(clone3(0, 64), -libc::EFAULT as i64);
    let arguments = [0u64; 11];
    assert_eq!(clone3((&raw const arguments) as u64, 4096), -libc::E2BIG as i64);
    assert!(probe::getpid() > 0);
    Ok(())
}

/// Linux refuses more threads or processes than it allows, and everything goes on.
fn refused_children() -> CaseResult {
    dune::enter()?;
    // SAFETY: root is not bound by RLIMIT_NPROC, so it becomes nobody first.
    assert_eq!(unsafe { libc::setuid(65534) }, 0);
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads `none`.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NPROC, &none) }, 0);
    for _ in 0..3 {
        assert!(std::thread::Builder::new().spawn(|| ()).is_err());
        assert!(std::process::Command::new("true").spawn().is_err());
        // SAFETY: fork is refused, so this process goes on alone.
        assert_eq!(unsafe { libc::fork() }, -1);
    }
    assert!(dune::cpu::in_dune_mode() && probe::getpid() > 0);
    Ok(())
}

fn mapping_outside() -> CaseResult {
    let dune = dune::enter()?;
    let windows = dune.memory().windows().len();
    let flags = libc::MAP_FIXED_NOREPLACE;
    for start in [0x1000_0000_0000, 0x1800_1234_5000, 0x0000_7000_0000] {
        let address = probe::map(start, 3 * 4096, libc::PROT_READ | libc::PROT_WRITE, flags);
        assert_eq!(address, start);
        for page in 0..3 {
            probe::poke(VirtAddr::new(start + page * 4096 + 8), start + page);
            assert_eq!(probe::peek(VirtAddr::new(start + page * 4096 + 8)), start + page);
        }
    }
    assert!(dune.memory().windows().len() > windows);
    Ok(())
}

/// The first access in Dune mode finds a mapping that it has never heard of.
fn mapping_by_another_thread() -> CaseResult {
    const AT: u64 = 0x1100_0000_0000;
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        wait.recv().expect("main sends");
        probe::map(AT, 8192, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_FIXED_NOREPLACE)
    });
    dune::enter()?;
    go.send(())?;
    let address = VirtAddr::new(thread.join().map_err(|_| "the thread panicked")?);
    probe::poke(address + 4096u64, 9);
    assert_eq!(probe::peek(address + 4096u64), 9);
    Ok(())
}

/// 1 TiB, of which a few pages are used.
fn large_reservation() -> CaseResult {
    const TIB: u64 = 1 << 40;
    dune::enter()?;
    let start = probe::map(0, TIB, libc::PROT_NONE, libc::MAP_NORESERVE);
    for offset in [0, TIB / 2, TIB - 4096] {
        let writable = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let address = start + offset;
        assert_eq!(syscall(libc::SYS_mprotect as u64, [address, 4096, writable, 0, 0, 0]), 0);
        probe::poke(VirtAddr::new(address), offset);
        assert_eq!(probe::peek(VirtAddr::new(address)), offset);
    }
    assert_eq!(syscall(libc::SYS_munmap as u64, [start, TIB, 0, 0, 0, 0]), 0);
    assert!(probe::getpid() > 0);
    Ok(())
}

fn break_grows() -> CaseResult {
    const BYTES: u64 = 32 << 20;
    dune::enter()?;
    let old = syscall(libc::SYS_brk as u64, [0; 6]) as u64;
    let new = syscall(libc::SYS_brk as u64, [old + BYTES, 0, 0, 0, 0, 0]) as u64;
    assert_eq!(new, old + BYTES);
    for offset in (0..BYTES).step_by(1 << 20) {
        probe::poke(VirtAddr::new(old.next_multiple_of(8) + offset), offset);
    }
    assert_eq!(probe::peek(VirtAddr::new(old.next_multiple_of(8) + (5 << 20))), 5 << 20);
    Ok(())
}

/// 4 MiB of the main thread's stack, of which Linux had given a little at entry.
fn main_stack_grows() -> CaseResult {
    #[inline(never)]
    fn recurse(depth: u64) -> u64 {
        let local = std::hint::black_box([depth; 128]);
        if depth == 0 { 0 } else { recurse(depth - 1) + local[17] / depth }
    }
    dune::enter()?;
    assert_eq!(recurse(4096), 4096);
    Ok(())
}

/// The new program is in host mode and has none of Dune's descriptors.
fn exec_leaves() -> CaseResult {
    if std::env::var_os("DUNE_TESTS_EXECUTED").is_some() {
        assert!(!dune::cpu::in_dune_mode());
        for entry in std::fs::read_dir("/proc/self/fd")? {
            if let Ok(target) = std::fs::read_link(entry?.path()) {
                assert!(!target.to_string_lossy().contains("kvm"), "{target:?} is still open");
            }
        }
        dune::enter()?;
        return Ok(());
    }
    dune::enter()?;
    let text = |text: &str| CString::new(text).map(|text| text.into_raw().cast_const());
    let program = text("/proc/self/exe")?;
    let arguments = [program, text("--case")?, text("syscalls::exec_leaves_dune_mode")?, std::ptr::null()];
    let environment = [text("DUNE_TESTS_EXECUTED=1")?, std::ptr::null()];
    // SAFETY: terminated lists of terminated strings.
    unsafe { libc::execve(program, arguments.as_ptr(), environment.as_ptr()) };
    probe::fail(format!("execve: {}", std::io::Error::last_os_error()))
}

fn exit_status() -> CaseResult {
    dune::enter()?;
    std::process::exit(42)
}

fn raw_exit_group() -> CaseResult {
    dune::enter()?;
    syscall(libc::SYS_exit_group as u64, [43, 0, 0, 0, 0, 0]);
    Ok(())
}

fn killed() -> CaseResult {
    dune::enter()?;
    // SAFETY: ends this process.
    unsafe { libc::raise(libc::SIGTERM) };
    probe::fail("survived".into())
}

static SIGNALS: AtomicU64 = AtomicU64::new(0);
static SIGNALS_IN_DUNE_MODE: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_: i32) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
    SIGNALS_IN_DUNE_MODE.fetch_add(dune::cpu::in_dune_mode().into(), Ordering::Relaxed);
}

fn install(signal: i32, flags: i32) {
    // SAFETY: a zeroed sigaction is valid; `count` is a function for signals.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = (count as *const ()).addr();
        action.sa_flags = flags;
        assert_eq!(libc::sigaction(signal, &raw const action, std::ptr::null_mut()), 0);
    }
}

fn signal_handlers_run() -> CaseResult {
    install(libc::SIGUSR1, 0);
    dune::enter()?;
    install(libc::SIGUSR2, 0);
    for signal in [libc::SIGUSR1, libc::SIGUSR2, libc::SIGUSR1] {
        // SAFETY: both are handled.
        assert_eq!(unsafe { libc::raise(signal) }, 0);
    }
    assert_eq!(SIGNALS.load(Ordering::Relaxed), 3);
    assert_eq!(SIGNALS_IN_DUNE_MODE.load(Ordering::Relaxed), 3, "those set before and after entering");
    assert!(dune::cpu::in_dune_mode());
    Ok(())
}

/// A timer that rings again and again, for who may be slow to wait for it; not at all if `every` is zero.
fn ring(every: Duration) {
    let value = libc::timeval { tv_sec: 0, tv_usec: every.as_micros() as i64 };
    let timer = libc::itimerval { it_interval: value, it_value: value };
    // SAFETY: reads the timer.
    assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) }, 0);
}

/// read(2) on an empty pipe: EINTR without SA_RESTART; with it, it waits on for what the handler writes.
fn interrupt_and_restart() -> CaseResult {
    static WRITE_END: AtomicU64 = AtomicU64::new(0);
    extern "C" fn write_a_byte(_: i32) {
        syscall(
            libc::SYS_write as u64,
            [WRITE_END.load(Ordering::Relaxed), c"x".as_ptr().addr() as u64, 1, 0, 0, 0],
        );
    }
    let mut ends = [0; 2];
    // SAFETY: pipe writes two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    WRITE_END.store(ends[1] as u64, Ordering::Relaxed);
    dune::enter()?;
    let mut byte = [0u8; 1];
    let arguments = [ends[0] as u64, byte.as_mut_ptr().expose_provenance() as u64, 1, 0, 0, 0];
    install(libc::SIGALRM, 0);
    ring(Duration::from_millis(20));
    assert_eq!(syscall(libc::SYS_read as u64, arguments), -libc::EINTR as i64);
    ring(Duration::ZERO);
    assert!(SIGNALS.load(Ordering::Relaxed) >= 1);
    // SAFETY: as in `install`.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = (write_a_byte as *const ()).addr();
        action.sa_flags = libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()), 0);
    }
    ring(Duration::from_millis(20));
    assert_eq!(syscall(libc::SYS_read as u64, arguments), 1);
    ring(Duration::ZERO);
    assert_eq!(std::hint::black_box(byte), *b"x");
    Ok(())
}

/// A signal reaches code that makes no system call at all.
fn signal_while_computing() -> CaseResult {
    install(libc::SIGALRM, 0);
    let dune = dune::enter()?;
    ring(Duration::from_millis(20));
    // No clock: it may be a system call here. The first may come before the timer's own call has ended.
    let mut rounds = 0u64;
    while SIGNALS.load(Ordering::Relaxed) < 3 {
        rounds += 1;
        assert!(rounds < 4_000_000_000, "no signal");
    }
    assert!(dune.counters().interrupted >= 1);
    Ok(())
}

fn threads_alongside() -> CaseResult {
    let (to_thread, from_main) = std::sync::mpsc::channel::<u64>();
    let (to_main, from_thread) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        for value in from_main {
            assert!(!dune::cpu::in_dune_mode());
            let _ = to_main.send((value * 2, Box::new([value; 100])));
        }
        "done"
    });
    dune::enter()?;
    for value in 0..50 {
        to_thread.send(value)?;
        let (double, boxed) = from_thread.recv()?;
        assert_eq!((double, boxed[99]), (value * 2, value));
    }
    drop(to_thread);
    assert_eq!(thread.join().map_err(|_| "the thread panicked")?, "done");
    Ok(())
}
