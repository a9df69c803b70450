//! Time limits: ring-3 code that loops for ever comes back, and the program's signals go on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dune::UserError;
use dune::user::{TimeLimit, UserExit};

use crate::both::{exited, forked};
use crate::case::{Case, CaseResult};
use crate::probe;
use crate::ring3::{self, is_call, ring3_code};

pub const CASES: &[Case] = &[
    Case::new("time_limits::an_endless_loop_comes_back", an_endless_loop_comes_back),
    Case::new("time_limits::many_runs_in_one", many_runs_in_one),
    Case::new("time_limits::beside_signals", beside_signals),
    Case::new("time_limits::with_all_signals_blocked", with_all_signals_blocked),
    Case::new("time_limits::one_inside_of_another", one_inside_of_another),
    Case::new("time_limits::in_each_thread", in_each_thread),
    Case::new("time_limits::a_child_has_none", a_child_has_none),
    Case::new("time_limits::the_programs_own_timers", the_programs_own_timers),
    Case::new("time_limits::threads_are_cancelled", threads_are_cancelled),
];

ring3_code!(count_for_ever, "2:", "inc rbx", "jmp 2b");
ring3_code!(call_for_ever, "2:", "inc rbx", "syscall", "jmp 2b");
ring3_code!(only_call, "syscall", "ud2");

const MOMENT: Duration = Duration::from_millis(30);

fn an_endless_loop_comes_back() -> CaseResult {
    let dune = dune::enter()?;
    let mut context = ring3::context(dune, count_for_ever)?;
    let mut last = 0;
    for duration in [MOMENT, Duration::from_nanos(1), Duration::ZERO, MOMENT] {
        let start = Instant::now();
        assert_eq!(ring3::run_for(dune, &mut context, duration)?, UserExit::Interrupted);
        assert!(start.elapsed() >= duration, "{:?} of {duration:?}", start.elapsed());
        let count = context.registers.rbx;
        assert!(count > last || duration < MOMENT, "it has run: {count} after {last}");
        last = count;
    }
    // Without a limit nothing of it is left.
    let mut context = ring3::context(dune, only_call)?;
    assert!(is_call(ring3::run(dune, &mut context)?));
    std::thread::sleep(MOMENT);
    assert!(probe::getpid() > 0);
    Ok(())
}

/// A limit counts for all runs together, also those that come back at once.
fn many_runs_in_one() -> CaseResult {
    let dune = dune::enter()?;
    let mut context = ring3::context(dune, call_for_ever)?;
    let limit = TimeLimit::new(dune, MOMENT)?;
    let mut calls = 0u64;
    loop {
        match ring3::run_until(dune, &mut context, &limit)? {
            UserExit::SystemCall(_) => calls += 1,
            UserExit::Interrupted => break,
            other => return probe::fail(format!("{other:?}")),
        }
    }
    assert!(limit.is_over());
    assert_eq!(
        (calls, ring3::run_until(dune, &mut context, &limit)?),
        (context.registers.rbx, UserExit::Interrupted)
    );
    assert!(calls > 0);
    // Ring 0 works on while its time is over.
    for _ in 0..200 {
        assert_eq!(probe::getpid(), i64::from(std::process::id()));
    }
    drop(limit);
    assert!(is_call(ring3::run(dune, &mut context)?));
    Ok(())
}

static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn note(_: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Every few milliseconds.
fn alarm(on: bool) {
    let time = libc::timeval { tv_sec: 0, tv_usec: if on { 3000 } else { 0 } };
    let times = libc::itimerval { it_interval: time, it_value: time };
    // SAFETY: reads the times.
    assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &times, std::ptr::null_mut()) }, 0);
}

fn beside_signals() -> CaseResult {
    let dune = dune::enter()?;
    probe::set_action(libc::SIGALRM, note, 0, &[]);
    let mut context = ring3::context(dune, count_for_ever)?;
    alarm(true);
    for _ in 0..5 {
        assert_eq!(ring3::run_for(dune, &mut context, MOMENT)?, UserExit::Interrupted);
    }
    alarm(false);
    assert!(SIGNALS.load(Ordering::Relaxed) > 0, "the program's handler has run meanwhile");
    Ok(())
}

fn with_all_signals_blocked() -> CaseResult {
    let dune = dune::enter()?;
    let blocked = |mask: u64| {
        let mut before = 0u64;
        let arguments =
            [libc::SIG_SETMASK as u64, (&raw const mask) as u64, (&raw mut before) as u64, 8, 0, 0];
        assert_eq!(probe::syscall(libc::SYS_rt_sigprocmask as u64, arguments), 0);
        before
    };
    let before = blocked(u64::MAX);
    let all = blocked(u64::MAX);
    let mut context = ring3::context(dune, count_for_ever)?;
    assert_eq!(ring3::run_for(dune, &mut context, MOMENT)?, UserExit::Interrupted);
    assert_eq!(blocked(before), all, "the mask is as before");
    Ok(())
}

fn one_inside_of_another() -> CaseResult {
    let dune = dune::enter()?;
    let mut context = ring3::context(dune, count_for_ever)?;
    let outer = TimeLimit::new(dune, Duration::from_secs(1000))?;
    assert_eq!(ring3::run_for(dune, &mut context, MOMENT)?, UserExit::Interrupted);
    assert!(!outer.is_over());
    let others: Vec<_> = (0..3).map(|_| TimeLimit::new(dune, MOMENT)).collect::<Result<_, _>>()?;
    assert_eq!(TimeLimit::new(dune, MOMENT).err(), Some(UserError::TooManyLimits { most: 4 }));
    assert_eq!(ring3::run_until(dune, &mut context, &others[1])?, UserExit::Interrupted);
    drop(others);
    assert_eq!(ring3::run_for(dune, &mut context, MOMENT)?, UserExit::Interrupted);
    assert!(!outer.is_over());
    Ok(())
}

fn in_each_thread() -> CaseResult {
    dune::enter()?;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let dune = dune::current().expect("threads are in Dune mode");
                let mut context = ring3::context(dune, count_for_ever).expect("memory");
                for _ in 0..3 {
                    assert_eq!(ring3::run_for(dune, &mut context, MOMENT), Ok(UserExit::Interrupted));
                }
            });
        }
    });
    Ok(())
}

/// A fork's child inherits no timers: it can set limits of its own, and its end of the parent's stops nothing.
fn a_child_has_none() -> CaseResult {
    let dune = dune::enter()?;
    let limits: Vec<_> =
        (0..4).map(|_| TimeLimit::new(dune, Duration::from_secs(1000))).collect::<Result<_, _>>()?;
    let status = forked(|| {
        let run = || -> CaseResult {
            let mut context = ring3::context(dune, count_for_ever)?;
            let own = TimeLimit::new(dune, MOMENT)?;
            drop(limits);
            assert_eq!(ring3::run_until(dune, &mut context, &own)?, UserExit::Interrupted);
            Ok(())
        };
        i32::from(run().is_err())
    });
    assert_eq!(status.map(exited), Ok(Some(0)));
    Ok(())
}

/// Signals of the kind that limits use, from the program itself, are the program's.
fn the_programs_own_timers() -> CaseResult {
    const SIGNAL: i32 = 32;
    let dune = dune::enter()?;
    let mut context = ring3::context(dune, count_for_ever)?;
    // struct kernel_sigaction: handler, flags, restorer, mask. The C library sets none for this signal.
    let (mut before, mut action) = ([1u64; 4], [1u64; 4]);
    let sigaction = |signal: i32, new: u64, old: u64| {
        probe::syscall(libc::SYS_rt_sigaction as u64, [signal as u64, new, old, 8, 0, 0])
    };
    assert_eq!(sigaction(SIGNAL, 0, (&raw mut before) as u64), 0);
    assert_eq!(ring3::run_for(dune, &mut context, MOMENT)?, UserExit::Interrupted);
    assert_eq!(sigaction(SIGNAL, 0, (&raw mut action) as u64), 0);
    assert_eq!(action, before, "the program sees nothing of it");
    probe::set_action(libc::SIGUSR1, note, 0, &[]);
    assert_eq!(sigaction(libc::SIGUSR1, 0, (&raw mut action) as u64), 0);
    assert_eq!(sigaction(SIGNAL, (&raw const action) as u64, 0), 0);
    let thread = probe::syscall(libc::SYS_gettid as u64, [0; 6]) as u64;
    let process = std::process::id().into();
    assert_eq!(probe::syscall(libc::SYS_tgkill as u64, [process, thread, SIGNAL as u64, 0, 0, 0]), 0);
    assert_eq!(SIGNALS.load(Ordering::Relaxed), 1, "it comes to the program's handler");
    assert_eq!(ring3::run_for(dune, &mut context, MOMENT)?, UserExit::Interrupted);
    assert_eq!(SIGNALS.load(Ordering::Relaxed), 1, "and the limit's does not");
    Ok(())
}

/// pthread_cancel(3) uses the same signal.
fn threads_are_cancelled() -> CaseResult {
    type Body = extern "C-unwind" fn(*mut libc::c_void) -> *mut libc::c_void;
    // As libc has them, but that a cancelled thread is unwound.
    unsafe extern "C-unwind" {
        fn pause() -> i32;
        fn pthread_create(
            thread: *mut libc::pthread_t,
            attributes: *const libc::pthread_attr_t,
            body: Body,
            argument: *mut libc::c_void,
        ) -> i32;
    }
    fn reaches_its_limit() -> bool {
        let reach = || -> Result<UserExit, Box<dyn std::error::Error>> {
            let dune = dune::current().ok_or("this is Dune mode")?;
            Ok(ring3::run_for(dune, &mut ring3::context(dune, count_for_ever)?, MOMENT)?)
        };
        reach().is_ok_and(|exit| exit == UserExit::Interrupted)
    }
    /// Has nothing to drop when the thread is unwound.
    extern "C-unwind" fn body(ready: *mut libc::c_void) -> *mut libc::c_void {
        // SAFETY: what pthread_create(3) was given, which lives until the thread has been joined.
        let ready = unsafe { &*ready.cast::<AtomicU64>() };
        ready.store(if reaches_its_limit() { 1 } else { 2 }, Ordering::Release);
        loop {
            // SAFETY: waits for a signal.
            unsafe { pause() };
        }
    }
    dune::enter()?;
    for _ in 0..3 {
        assert!(reaches_its_limit());
        let (ready, mut thread) = (AtomicU64::new(0), 0);
        let argument = (&raw const ready).cast_mut().cast();
        // SAFETY: `ready` outlives the thread, which is joined.
        assert_eq!(unsafe { pthread_create(&mut thread, std::ptr::null(), body, argument) }, 0);
        while ready.load(Ordering::Acquire) == 0 {
            std::thread::yield_now();
        }
        let mut result = std::ptr::null_mut();
        // SAFETY: the thread runs, and waits where it can be cancelled.
        unsafe {
            assert_eq!(libc::pthread_cancel(thread), 0);
            assert_eq!(libc::pthread_join(thread, &mut result), 0);
        }
        assert_eq!(result as isize, -1, "PTHREAD_CANCELED");
        assert_eq!(ready.load(Ordering::Acquire), 1);
        assert!(reaches_its_limit());
    }
    Ok(())
}
