//! Calls that wait, under a rain of signals: interrupted or made again in Dune mode as in host mode.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::both::{Notes, alike, outcome};
use crate::case::{Case, CaseResult};
use crate::probe;
use crate::waits::{self, WAITS};

pub const CASES: &[Case] = &[
    Case::new("interrupted::waits_of_the_main_thread", || alike(rain_from_a_timer)),
    Case::new("interrupted::waits_of_a_thread", || alike(rain_from_a_thread)),
    Case::new("interrupted::a_stream_loses_nothing", || alike(stream)),
    Case::new("interrupted::masks_that_are_gone", masks_that_are_gone),
];

/// What one round has counted.
static HITS: AtomicU64 = AtomicU64::new(0);
/// With so many the waiting ends.
static ENOUGH: AtomicU64 = AtomicU64::new(u64::MAX);
static CURRENT: AtomicU32 = AtomicU32::new(0);

extern "C" fn handler(_: i32) {
    if HITS.fetch_add(1, Ordering::SeqCst) + 1 == ENOUGH.load(Ordering::SeqCst) {
        (WAITS[CURRENT.load(Ordering::SeqCst) as usize].release)();
    }
}

/// Does all waits, one after the other, while signals come.
fn all(notes: &Notes, restart: bool, rain: &dyn Fn(bool)) {
    for (index, wait) in WAITS.iter().enumerate() {
        let made = waits::prepare(wait.name);
        CURRENT.store(index as u32, Ordering::SeqCst);
        HITS.store(0, Ordering::SeqCst);
        ENOUGH.store(if restart { 5 } else { u64::MAX }, Ordering::SeqCst);
        rain(true);
        let result = (wait.call)();
        rain(false);
        notes.note(wait.name, result);
        if restart && result >= 0 && wait.name != "futex timing out" {
            // Made again until there was something.
            assert!(
                HITS.load(Ordering::SeqCst) >= 5,
                "{}: {} signals",
                wait.name,
                HITS.load(Ordering::SeqCst)
            );
        }
        waits::tidy(wait.name, made);
    }
}

fn set(signal: i32, restart: bool) {
    // SAFETY: a zeroed sigaction is valid; the handler is a function for signals.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = if restart { libc::SA_RESTART } else { 0 };
        assert_eq!(libc::sigaction(signal, &action, null_mut()), 0);
    }
}

/// A signal each so many milliseconds.
const PERIOD: i64 = 3;

fn rain_from_a_timer(notes: &Notes) {
    for restart in [false, true] {
        notes.note("restart", restart);
        set(libc::SIGALRM, restart);
        all(notes, restart, &|on| {
            let step = libc::timeval { tv_sec: 0, tv_usec: if on { PERIOD * 1000 } else { 0 } };
            let timer = libc::itimerval { it_interval: step, it_value: step };
            // SAFETY: the call reads the timer.
            unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, null_mut()) };
        });
    }
}

static RAINING: AtomicBool = AtomicBool::new(false);
static TARGET: AtomicI32 = AtomicI32::new(0);

/// The same in a thread, which the main thread bombards.
fn rain_from_a_thread(notes: &Notes) {
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            // SAFETY: no argument.
            TARGET.store(unsafe { libc::gettid() }, Ordering::SeqCst);
            for restart in [false, true] {
                notes.note("restart", restart);
                set(libc::SIGUSR1, restart);
                all(notes, restart, &|on| RAINING.store(on, Ordering::SeqCst));
            }
        });
        while !waiter.is_finished() {
            thread::sleep(Duration::from_millis(PERIOD as u64));
            if RAINING.load(Ordering::SeqCst) {
                let target = TARGET.load(Ordering::SeqCst);
                // SAFETY: a signal to a thread that this one waits for.
                unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), target, libc::SIGUSR1) };
            }
        }
    });
}

/// Bytes through a pipe, in pieces of all sizes, while signals interrupt both ends.
fn stream(notes: &Notes) {
    const TOTAL: usize = 2 << 20;
    ENOUGH.store(u64::MAX, Ordering::SeqCst);
    for restart in [false, true] {
        set(libc::SIGALRM, restart);
        let step = libc::timeval { tv_sec: 0, tv_usec: 2000 };
        let timer = libc::itimerval { it_interval: step, it_value: step };
        let mut pipe = [0; 2];
        // SAFETY: the calls write two descriptors and read the timer.
        unsafe {
            assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
            libc::setitimer(libc::ITIMER_REAL, &timer, null_mut());
        }
        let byte_at = |at: usize| (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[7];
        let writer = thread::spawn(move || {
            let bytes: Vec<u8> = (0..TOTAL).map(byte_at).collect();
            let (mut at, mut piece) = (0, 1);
            while at < TOTAL {
                let length = piece.min(TOTAL - at);
                // SAFETY: reads `length` bytes.
                match outcome(unsafe { libc::write(pipe[1], bytes[at..].as_ptr().cast(), length) } as i64) {
                    written @ 1.. => at += written as usize,
                    error => assert_eq!(error, -i64::from(libc::EINTR)),
                }
                piece = piece * 3 % 200_003 + 1;
            }
            // SAFETY: our own descriptor.
            unsafe { libc::close(pipe[1]) };
        });
        let (mut at, mut wrong) = (0, 0);
        let mut buffer = vec![0u8; 70_000];
        loop {
            // SAFETY: writes to the buffer.
            match outcome(unsafe { libc::read(pipe[0], buffer.as_mut_ptr().cast(), buffer.len()) } as i64) {
                0 => break,
                read @ 1.. => {
                    let bytes = &buffer[..read as usize];
                    wrong += bytes.iter().enumerate().filter(|&(i, &byte)| byte != byte_at(at + i)).count();
                    at += read as usize;
                }
                error => assert_eq!(error, -i64::from(libc::EINTR)),
            }
        }
        // SAFETY: a zeroed timer is none; our own descriptor.
        unsafe {
            libc::setitimer(libc::ITIMER_REAL, &std::mem::zeroed(), null_mut());
            libc::close(pipe[0]);
        }
        let joined = writer.join().is_ok();
        notes.note("bytes, wrong ones, joined", (at, wrong, joined));
    }
}

/// A call that waits with a mask of signals, which another thread unmaps before one comes.
fn masks_that_are_gone() -> CaseResult {
    dune::enter()?;
    set(libc::SIGUSR1, false);
    let thread = probe::syscall(libc::SYS_gettid as u64, [0; 6]) as u64;
    let waiting = format!("/proc/self/task/{thread}/syscall");
    for number in [libc::SYS_ppoll, libc::SYS_pselect6] {
        let page = probe::map(0, 4096, libc::PROT_READ | libc::PROT_WRITE, 0);
        let arguments = match number {
            // The mask is all zeros, and the description of one starts with its address.
            libc::SYS_ppoll => [0, 0, 0, page, 8, 0],
            _ => {
                // SAFETY: the page is this function's own.
                unsafe { (page as *mut [u64; 2]).write([page + 16, 8]) };
                [0, 0, 0, 0, 0, page]
            }
        };
        HITS.store(0, Ordering::SeqCst);
        let result = thread::scope(|scope| {
            scope.spawn(|| {
                let is_waiting = || {
                    let text = std::fs::read_to_string(&waiting).unwrap_or_default();
                    text.split_once(' ').is_some_and(|(first, _)| first == number.to_string())
                };
                while !is_waiting() {
                    thread::yield_now();
                }
                assert_eq!(probe::syscall(libc::SYS_munmap as u64, [page, 4096, 0, 0, 0, 0]), 0);
                let (process, signal) = (std::process::id().into(), libc::SIGUSR1 as u64);
                probe::syscall(libc::SYS_tgkill as u64, [process, thread, signal, 0, 0, 0]);
            });
            probe::syscall(number as u64, arguments)
        });
        assert_eq!(result, -i64::from(libc::EINTR));
        assert_eq!(HITS.load(Ordering::SeqCst), 1);
    }
    Ok(())
}
