//! Calls that signals interrupt, calls that wait for signals, and whom signals go to.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::scenario::{Log, alarm, block, mask, note, noted, notes, raise, set};

static PIPE: AtomicI64 = AtomicI64::new(0);

pub(super) fn interrupt_or_restart() -> Log {
    extern "C" fn handler(signal: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        note(signal.into());
        // The second time there is something to read.
        if notes() >= 2 {
            // SAFETY: one byte of a constant.
            unsafe { libc::write(PIPE.load(Ordering::Relaxed) as i32, b"x".as_ptr().cast(), 1) };
        }
    }
    let mut pipe = [0; 2];
    // SAFETY: the call writes two descriptors.
    unsafe { libc::pipe(pipe.as_mut_ptr()) };
    PIPE.store(pipe[1].into(), Ordering::Relaxed);
    let outcome = |result: i64| match result {
        -1 => -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        result => result,
    };
    let mut log = Log::new();
    let mut byte = 0u8;
    set(libc::SIGALRM, handler, 0, &[]);
    alarm(50, 0);
    // SAFETY: the call writes one byte.
    let mut read = || outcome(unsafe { libc::read(pipe[0], (&raw mut byte).cast(), 1) } as i64);
    log.push(("read is interrupted", read()));
    log.extend(noted("once"));
    set(libc::SIGALRM, handler, libc::SA_RESTART, &[]);
    alarm(50, 50);
    log.push(("read is made again", read()));
    alarm(0, 0);
    log.extend(noted("twice"));
    // These are interrupted whatever the flag.
    alarm(50, 0);
    let (long, mut rest) =
        (libc::timespec { tv_sec: 5, tv_nsec: 0 }, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: the calls read and write their arguments.
    unsafe {
        log.push(("nanosleep", outcome(libc::nanosleep(&long, &mut rest).into())));
        log.push(("remaining", (rest.tv_sec == 4).into()));
        alarm(50, 0);
        let mut descriptor = libc::pollfd { fd: pipe[0], events: libc::POLLIN, revents: 0 };
        log.push(("poll", outcome(libc::poll(&mut descriptor, 1, 5000).into())));
        alarm(50, 0);
        log.push(("pause", outcome(libc::pause().into())));
    }
    log.extend(noted("three"));
    log
}

pub(super) fn waiting() -> Log {
    extern "C" fn handler(signal: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        note(signal.into());
        note(mask());
    }
    let outcome = |result: i64| match result {
        -1 => -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        result => result,
    };
    let mut log = Log::new();
    set(libc::SIGUSR1, handler, 0, &[]);
    set(libc::SIGALRM, handler, 0, &[]);
    // SAFETY: the calls read and write their arguments.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&mut set, libc::SIGUSR1);
        libc::sigaddset(&mut set, libc::SIGALRM);
        block(libc::SIG_BLOCK, &[libc::SIGUSR1, libc::SIGALRM]);
        raise(libc::SIGUSR1);
        let mut info: libc::siginfo_t = std::mem::zeroed();
        log.push(("sigwaitinfo", outcome(libc::sigwaitinfo(&set, &mut info).into())));
        log.push(("code", info.si_code.into()));
        alarm(30, 0);
        let mut signal = 0;
        log.push(("sigwait", libc::sigwait(&set, &mut signal).into()));
        log.push(("signal", signal.into()));
        let soon = libc::timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        log.push(("nothing", outcome(libc::sigtimedwait(&set, null_mut(), &soon).into())));
        // signalfd
        let descriptor = libc::signalfd(-1, &set, 0);
        raise(libc::SIGUSR1);
        let mut read: libc::signalfd_siginfo = std::mem::zeroed();
        let size = size_of::<libc::signalfd_siginfo>();
        log.push(("signalfd", libc::read(descriptor, (&raw mut read).cast(), size) as i64));
        log.push(("its signal", read.ssi_signo.into()));
        log.extend(noted("no handler so far"));
        // Masks for the time of a call.
        let none: libc::sigset_t = std::mem::zeroed();
        raise(libc::SIGUSR1);
        log.push(("sigsuspend", outcome(libc::sigsuspend(&none).into())));
        log.extend(noted("in sigsuspend"));
        log.push(("mask", mask()));
        alarm(30, 0);
        let long = libc::timespec { tv_sec: 5, tv_nsec: 0 };
        log.push(("ppoll", outcome(libc::ppoll(null_mut(), 0, &long, &none).into())));
        log.extend(noted("in ppoll"));
        log.push(("mask", mask()));
        // A thread's timer.
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = libc::SIGUSR1;
        event.sigev_notify_thread_id = libc::gettid();
        let mut timer: libc::timer_t = std::mem::zeroed();
        log.push(("timer_create", libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer).into()));
        let when = libc::itimerspec { it_interval: std::mem::zeroed(), it_value: soon };
        libc::timer_settime(timer, 0, &when, null_mut());
        log.push(("sigwaitinfo", outcome(libc::sigwaitinfo(&set, &mut info).into())));
        log.push(("code", info.si_code.into()));
    }
    log
}

pub(super) fn children() -> Log {
    extern "C" fn handler(signal: i32, info: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        note(signal.into());
        note(info.si_code.into());
        // The status of a stop is gone once waitpid has taken it (`wait_task_stopped`), which may be before the signal.
        // SAFETY: SIGCHLD has a status.
        note(if info.si_code == libc::CLD_STOPPED { 0 } else { unsafe { info.si_status() }.into() });
    }
    set(libc::SIGCHLD, handler, libc::SA_RESTART, &[]);
    let mut log = Log::new();
    let wait = |child, log: &mut Log, options| {
        let mut status = 0;
        // SAFETY: waits for our own child.
        let waited = unsafe { libc::waitpid(child, &mut status, options) };
        log.push(("waited", (waited == child).into()));
        // The signal may come a moment after.
        let deadline = Instant::now() + Duration::from_secs(5);
        while notes() < 3 && Instant::now() < deadline {
            std::thread::yield_now();
        }
        log.push(("status", status.into()));
        log.extend(noted("SIGCHLD"));
    };
    let fork = |body: fn()| {
        // SAFETY: the child runs `body` and exits.
        match unsafe { libc::fork() } {
            0 => {
                body();
                // SAFETY: ends the child.
                unsafe { libc::_exit(7) }
            }
            child => child,
        }
    };
    wait(fork(|| ()), &mut log, 0);
    wait(fork(|| raise(libc::SIGTERM)), &mut log, 0);
    wait(fork(|| raise(libc::SIGKILL)), &mut log, 0);
    // Stopped while it computes, and set going again.
    let spinning = fork(|| {
        loop {
            std::hint::spin_loop();
        }
    });
    // SAFETY: signals to our own child.
    unsafe {
        libc::kill(spinning, libc::SIGSTOP);
        wait(spinning, &mut log, libc::WUNTRACED);
        libc::kill(spinning, libc::SIGCONT);
        wait(spinning, &mut log, libc::WCONTINUED);
        libc::kill(spinning, libc::SIGKILL);
        wait(spinning, &mut log, 0);
    }
    log
}

pub(super) fn to_one_thread() -> Log {
    static HITS: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
    static IDS: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
    static STOP: AtomicU64 = AtomicU64::new(0);
    extern "C" fn handler(_: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        // SAFETY: no argument.
        let own = unsafe { libc::gettid() } as u64;
        for (id, hits) in IDS.iter().zip(&HITS) {
            if id.load(Ordering::SeqCst) == own {
                hits.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
    set(libc::SIGUSR1, handler, 0, &[]);
    let threads: Vec<_> = (0..4)
        .map(|index| {
            std::thread::spawn(move || {
                // SAFETY: no argument.
                IDS[index].store(unsafe { libc::gettid() } as u64, Ordering::SeqCst);
                while STOP.load(Ordering::Relaxed) == 0 {
                    if index % 2 == 0 {
                        std::hint::spin_loop()
                    } else {
                        std::thread::sleep(Duration::from_millis(1))
                    }
                }
            })
        })
        .collect();
    let id = |index: usize| {
        while IDS[index].load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        IDS[index].load(Ordering::SeqCst) as i32
    };
    for round in 0..5u64 {
        for (index, hits) in HITS.iter().enumerate() {
            // SAFETY: a signal to a thread of ours.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), id(index), libc::SIGUSR1) };
            let deadline = Instant::now() + Duration::from_secs(20);
            while hits.load(Ordering::SeqCst) <= round && Instant::now() < deadline {
                std::thread::yield_now();
            }
        }
    }
    STOP.store(1, Ordering::Relaxed);
    let joined = threads.into_iter().filter_map(|thread| thread.join().ok()).count();
    STOP.store(0, Ordering::Relaxed);
    let mut log = vec![("joined", joined as i64)];
    for (id, hits) in IDS.iter().zip(&HITS) {
        id.store(0, Ordering::SeqCst);
        log.push(("hits", hits.swap(0, Ordering::SeqCst) as i64));
    }
    log
}
