//! Different signals at the same moment, also in the middle of what Dune does about one of them.

use std::arch::asm;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::scenario::{Log, alarm, block, mask, note, noted, raise, set};
use crate::case::CaseResult;
use crate::pace;
use crate::probe;

/// No longer than this for as many as wanted; fewer do on a slow machine.
const TIME: Duration = Duration::from_secs(12);

static HANDLED: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);

/// Enters, and runs `body` while another thread calls `send` with this thread's id, again and again.
fn under(send: impl Fn(i64) + Send + Sync, body: impl FnOnce() -> CaseResult) -> CaseResult {
    dune::enter()?;
    let target = probe::syscall(libc::SYS_gettid as u64, [0; 6]);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                send(target);
            }
        });
        let result = body();
        stop.store(true, Ordering::Relaxed);
        result
    })
}

fn send(target: i64, signal: i32) {
    let process = i64::from(std::process::id());
    probe::syscall(libc::SYS_tgkill as u64, [process as u64, target as u64, signal as u64, 0, 0, 0]);
}

/// A handler runs with its signal blocked, and leaves the mask as it was, whatever interrupts it.
pub(super) fn masks() -> CaseResult {
    extern "C" fn handler(signal: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        HANDLED.fetch_add(1, Ordering::Relaxed);
        WRONG.fetch_add(u64::from(mask() & 1 << (signal - 1) == 0), Ordering::Relaxed);
    }
    const SIGNALS: [i32; 2] = [libc::SIGUSR1, libc::SIGUSR2];
    SIGNALS.into_iter().for_each(|signal| set(signal, handler, libc::SA_RESTART, &[]));
    let both = |target| SIGNALS.into_iter().for_each(|signal| send(target, signal));
    under(both, || {
        let deadline = Instant::now() + TIME;
        while HANDLED.load(Ordering::Relaxed) < 5000 && Instant::now() < deadline {
            // Between two signals nothing is blocked; a handler that interrupts the call has put back what it found.
            assert_eq!(mask(), 0);
        }
        assert!(HANDLED.load(Ordering::Relaxed) >= 100);
        assert_eq!(WRONG.load(Ordering::Relaxed), 0, "handlers with their signal unblocked");
        Ok(())
    })
}

/// A fault that the program handles is no death because a signal with all others in its mask has come with it.
pub(super) fn faults() -> CaseResult {
    extern "C" fn tick(_: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        HANDLED.fetch_add(1, Ordering::Relaxed);
    }
    extern "C" fn repair(_: i32, info: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        // SAFETY: SIGSEGV has an address, which is the page's.
        unsafe { libc::mprotect(info.si_addr(), 4096, libc::PROT_READ | libc::PROT_WRITE) };
    }
    let all: Vec<i32> = (1..=64).filter(|signal| !(32..34).contains(signal)).collect();
    set(libc::SIGALRM, tick, libc::SA_RESTART, &all);
    set(libc::SIGSEGV, repair, 0, &[]);
    let page = probe::pages(1).as_mut_ptr::<u64>();
    under(
        |target| {
            send(target, libc::SIGALRM);
            thread::sleep(Duration::from_micros(100));
        },
        || {
            let deadline = Instant::now() + TIME;
            let mut faults = 0;
            let enough = if pace::is_vtx() { 200 } else { 1000 };
            while faults < enough && Instant::now() < deadline {
                // SAFETY: the page is this case's own; its handler makes it writable.
                unsafe {
                    libc::mprotect(page.cast(), 4096, libc::PROT_NONE);
                    page.write_volatile(faults);
                }
                faults += 1;
                assert_eq!(mask(), 0);
            }
            assert!(HANDLED.load(Ordering::Relaxed) > 0 && faults > 10);
            Ok(())
        },
    )
}

/// Signals that are queued, and do not block each other, come once each.
pub(super) fn queued() -> CaseResult {
    const MANY: usize = 5000;
    /// So many are on their way at most: each has a frame on the stack.
    const WAITING: u64 = 100;
    static SEEN: [AtomicU64; MANY] = [const { AtomicU64::new(0) }; MANY];
    static SENT: AtomicU64 = AtomicU64::new(0);
    extern "C" fn handler(_: i32, info: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        // SAFETY: the signal was sent with a value.
        let number = unsafe { info.si_value() }.sival_ptr.addr();
        SEEN[number].fetch_add(1, Ordering::Relaxed);
        HANDLED.fetch_add(1, Ordering::Relaxed);
    }
    let signal = libc::SIGRTMIN() + 1;
    set(signal, handler, libc::SA_NODEFER | libc::SA_RESTART, &[]);
    let send = |target: i64| {
        let number = SENT.load(Ordering::Relaxed);
        if number == MANY as u64 || number - HANDLED.load(Ordering::Relaxed) >= WAITING {
            thread::yield_now();
            return;
        }
        // As sigqueue(3) does, to one thread.
        let mut info = [0u64; 16];
        info[0] = signal as u64;
        info[1] = u64::from(libc::SI_QUEUE as u32);
        info[3] = number;
        let process = u64::from(std::process::id());
        let arguments = [process, target as u64, signal as u64, info.as_ptr() as u64, 0, 0];
        if probe::syscall(libc::SYS_rt_tgsigqueueinfo as u64, arguments) == 0 {
            SENT.fetch_add(1, Ordering::Relaxed);
        }
    };
    under(send, || {
        let deadline = Instant::now() + Duration::from_secs(60);
        while HANDLED.load(Ordering::Relaxed) < MANY as u64 && Instant::now() < deadline {
            probe::getpid();
        }
        let wrong: Vec<_> = SEEN.iter().map(|seen| seen.load(Ordering::Relaxed)).enumerate().collect();
        let wrong: Vec<_> = wrong.into_iter().filter(|(_, times)| *times != 1).take(10).collect();
        assert!(wrong.is_empty(), "(number, times): {wrong:?}, {} handled", HANDLED.load(Ordering::Relaxed));
        assert_eq!(mask(), 0);
        Ok(())
    })
}

/// Two signals that wait when a call with a mask of its own lets them in.
pub(super) fn two_in_sigsuspend() -> Log {
    extern "C" fn handler(signal: i32, _: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
        note(signal.into());
        note(mask());
        // SAFETY: the mask's first word has all signals that there are.
        note(unsafe { (&raw const context.uc_sigmask).cast::<i64>().read() });
    }
    let mut log = Log::new();
    set(libc::SIGUSR1, handler, 0, &[libc::SIGHUP]);
    set(libc::SIGALRM, handler, 0, &[libc::SIGWINCH]);
    block(libc::SIG_BLOCK, &[libc::SIGUSR1, libc::SIGALRM, libc::SIGCHLD]);
    raise(libc::SIGUSR1);
    raise(libc::SIGALRM);
    // SAFETY: the calls read their arguments.
    unsafe {
        let mut quit: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&mut quit, libc::SIGQUIT);
        log.push(("sigsuspend", libc::sigsuspend(&quit).into()));
        log.extend(noted("in sigsuspend"));
        raise(libc::SIGUSR1);
        raise(libc::SIGALRM);
        let long = libc::timespec { tv_sec: 5, tv_nsec: 0 };
        log.push(("ppoll", libc::ppoll(null_mut(), 0, &long, &quit).into()));
        log.extend(noted("in ppoll"));
    }
    log.push(("mask", mask()));
    log
}

/// The same with io_uring_enter(2), which takes its mask in two ways.
pub(super) fn two_in_io_uring() -> Log {
    const GETEVENTS: u64 = 1;
    const EXT_ARG: u64 = 1 << 3;
    extern "C" fn handler(signal: i32, _: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
        note(signal.into());
        note(mask());
        // SAFETY: the mask's first word has all signals that there are.
        note(unsafe { (&raw const context.uc_sigmask).cast::<i64>().read() });
    }
    set(libc::SIGUSR1, handler, 0, &[libc::SIGHUP]);
    set(libc::SIGALRM, handler, 0, &[libc::SIGWINCH]);
    block(libc::SIG_BLOCK, &[libc::SIGUSR1, libc::SIGALRM, libc::SIGCHLD]);
    // `struct io_uring_params` has 120 bytes.
    let mut parameters = [0u64; 15];
    let arguments = [1, parameters.as_mut_ptr() as u64, 0, 0, 0, 0];
    let ring = probe::syscall(libc::SYS_io_uring_setup as u64, arguments);
    assert!(ring >= 0, "io_uring_setup: {ring}");
    let quit = 1u64 << (libc::SIGQUIT - 1);
    // `struct io_uring_getevents_arg`: mask, its size, time.
    let extended = [(&raw const quit) as u64, 8, 0];
    let mut log = Log::new();
    for (flags, argument, bytes) in
        [(0, (&raw const quit) as u64, 8), (EXT_ARG, extended.as_ptr() as u64, 24), (0, 0, 8)]
    {
        if argument == 0 {
            block(libc::SIG_UNBLOCK, &[libc::SIGUSR1, libc::SIGALRM]);
            alarm(20, 0);
        } else {
            raise(libc::SIGUSR1);
            raise(libc::SIGALRM);
        }
        let arguments = [ring as u64, 0, 1, GETEVENTS | flags, argument, bytes];
        log.push(("io_uring_enter", probe::syscall(libc::SYS_io_uring_enter as u64, arguments)));
        log.extend(noted("in io_uring_enter"));
        log.push(("mask", mask()));
    }
    log
}

/// A signal that comes at the end of a system call shows the code that made it.
pub(super) fn own_code() -> CaseResult {
    static CODE: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
    static STACK: AtomicU64 = AtomicU64::new(0);
    extern "C" fn handler(_: i32, _: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
        let register = |register: i32| context.uc_mcontext.gregs[register as usize] as u64;
        let [start, end] = [0, 1].map(|index: usize| CODE[index].load(Ordering::Relaxed));
        // Before the loop and after it other code runs.
        if start != 0 && STACK.load(Ordering::Relaxed) != 0 {
            HANDLED.fetch_add(1, Ordering::Relaxed);
            let is_right = (start..end).contains(&register(libc::REG_RIP))
                && register(libc::REG_RSP) == STACK.load(Ordering::Relaxed);
            WRONG.fetch_add(u64::from(!is_right), Ordering::Relaxed);
        }
    }
    set(libc::SIGUSR1, handler, libc::SA_RESTART, &[]);
    under(
        |target| send(target, libc::SIGUSR1),
        || {
            let deadline = Instant::now() + TIME;
            let enough = if pace::is_vtx() { 1000 } else { 5000 };
            while HANDLED.load(Ordering::Relaxed) < enough && Instant::now() < deadline {
                // SAFETY: the calls change nothing but what is declared.
                unsafe {
                    asm!(
                        "lea rax, [rip + 2f]",
                        "mov [{code}], rax",
                        "lea rax, [rip + 3f]",
                        "mov [{code} + 8], rax",
                        "2:",
                        "mov [{stack}], rsp",
                        "4:",
                        "mov eax, {GETPPID}",
                        "syscall",
                        "dec {times:e}",
                        "jnz 4b",
                        "mov qword ptr [{stack}], 0",
                        "3:",
                        code = in(reg) CODE.as_ptr(),
                        stack = in(reg) STACK.as_ptr(),
                        times = inout(reg) 2000 => _,
                        GETPPID = const libc::SYS_getppid,
                        out("rax") _, out("rcx") _, out("r11") _,
                    );
                }
            }
            Ok(())
        },
    )?;
    assert!(HANDLED.load(Ordering::Relaxed) >= 100);
    assert_eq!(WRONG.load(Ordering::Relaxed), 0, "of {} handlers", HANDLED.load(Ordering::Relaxed));
    Ok(())
}
