//! Leaving Dune mode, entering again, and entering where others have.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use dune::memory::{PagePermissions, PageRange};
use dune::{EnterError, LeaveError, TrapOutcome, Vector};

use crate::case::{Case, CaseResult, Ending};
use crate::probe;

pub const CASES: &[Case] = &[
    Case::new("leaving::back_and_forth", back_and_forth),
    Case::new("leaving::what_changed_outside_is_seen", what_changed_outside_is_seen),
    Case::new("leaving::code_that_became_data_outside_is_data", code_that_became_data_outside_is_data),
    Case::new("leaving::signals_on_both_sides", signals_on_both_sides),
    Case::new("leaving::is_refused_where_it_can_not_be", refused),
    Case::new("leaving::threads_enter_and_leave", threads_enter_and_leave),
    Case::new("leaving::children_of_host_mode_enter", children_enter),
    Case::new("leaving::whoever_closes_all_is_named", closes_all)
        .ends(Ending::Signal(libc::SIGABRT, &["has closed Dune's (docs/limits.md): errno 9"])),
];

/// Leaves; no token of the thread's is used afterwards.
fn leave() -> CaseResult {
    // SAFETY: the callers use no token, nor trap handlers, before they enter again.
    unsafe { dune::leave()? };
    assert!(!dune::cpu::in_dune_mode());
    Ok(())
}

thread_local!(static WORD: std::cell::Cell<u64> = const { std::cell::Cell::new(7) });

fn back_and_forth() -> CaseResult {
    let descriptors = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let mut first = None;
    for turn in 0..20u64 {
        WORD.set(turn);
        let dune = dune::enter()?;
        assert!(dune::cpu::in_dune_mode() && dune::current().is_some());
        assert!(matches!(dune::enter(), Err(EnterError::AlreadyInDuneMode)));
        probe::handle(dune, Vector::BREAKPOINT, |_, _| TrapOutcome::Resume);
        // SAFETY: the trap has a handler.
        unsafe { std::arch::asm!("int3") };
        let text = format!("{turn} {:.3}", (turn as f64).sqrt());
        assert_eq!(WORD.get(), turn);
        leave()?;
        assert!(dune::current().is_none());
        assert_eq!(text, format!("{turn} {:.3}", (turn as f64).sqrt()));
        assert!(probe::getpid() > 0);
        let now = descriptors();
        assert_eq!(*first.get_or_insert(now), now, "turn {turn}");
    }
    Ok(())
}

/// What is mapped, unmapped and protected in host mode holds in Dune mode afterwards.
fn what_changed_outside_is_seen() -> CaseResult {
    static FAULTS: AtomicU64 = AtomicU64::new(0);
    extern "C" fn skip(_: i32, _: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
        FAULTS.fetch_add(1, Ordering::Relaxed);
        context.uc_mcontext.gregs[libc::REG_RIP as usize] += 2;
    }
    probe::set_action(libc::SIGSEGV, skip, 0, &[]);
    let store = |address: u64| {
        // SAFETY: the handler skips the instruction if it faults.
        unsafe { std::arch::asm!("mov [rdi], al", in("rdi") address, in("al") 9u8) };
        FAULTS.swap(0, Ordering::Relaxed)
    };
    dune::enter()?;
    let page = |_| probe::pages(1).as_u64();
    let [kept, unmapped, protected] = std::array::from_fn(page);
    assert_eq!([kept, unmapped, protected].map(store), [0, 0, 0]);
    leave()?;
    // SAFETY: the pages are this function's.
    unsafe {
        libc::munmap(unmapped as *mut _, 4096);
        libc::mprotect(protected as *mut _, 4096, libc::PROT_READ);
    }
    let new = page(3);
    dune::enter()?;
    let again = [kept, new, unmapped, protected].map(store);
    // The new page may stand where the other was.
    assert_eq!(again, [0, 0, u64::from(new != unmapped), 1]);
    // SAFETY: as above.
    unsafe { libc::mprotect(protected as *mut _, 4096, libc::PROT_READ | libc::PROT_WRITE) };
    assert_eq!(store(protected), 0);
    Ok(())
}

/// The second level does not ask for the right to execute: what has been taken outside, entering has to see.
fn code_that_became_data_outside_is_data() -> CaseResult {
    let dune = dune::enter()?;
    let page = probe::map(0, 4096, libc::PROT_READ | libc::PROT_EXEC, 0);
    let permissions = || probe::permissions(dune, page);
    assert!(permissions()?.contains(PagePermissions::EXECUTE));
    leave()?;
    // SAFETY: the page is this function's.
    assert_eq!(unsafe { libc::mprotect(page as *mut _, 4096, libc::PROT_READ | libc::PROT_WRITE) }, 0);
    dune::enter()?;
    assert!(!permissions()?.contains(PagePermissions::EXECUTE));
    Ok(())
}

static IN_DUNE_MODE: AtomicU64 = AtomicU64::new(0);
static IN_HOST_MODE: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_: i32) {
    let counter = if dune::cpu::in_dune_mode() { &IN_DUNE_MODE } else { &IN_HOST_MODE };
    counter.fetch_add(1, Ordering::Relaxed);
}

fn signals_on_both_sides() -> CaseResult {
    // SAFETY: handlers that count; signals to this thread.
    let raise = |signal| assert_eq!(unsafe { libc::raise(signal) }, 0);
    // SAFETY: as above.
    unsafe { libc::signal(libc::SIGUSR1, (count as *const ()).addr()) };
    for _ in 0..3 {
        dune::enter()?;
        // SAFETY: as above.
        unsafe { libc::signal(libc::SIGUSR2, (count as *const ()).addr()) };
        raise(libc::SIGUSR1);
        raise(libc::SIGUSR2);
        leave()?;
        raise(libc::SIGUSR1);
        raise(libc::SIGUSR2);
    }
    assert_eq!((IN_DUNE_MODE.load(Ordering::Relaxed), IN_HOST_MODE.load(Ordering::Relaxed)), (6, 6));
    Ok(())
}

fn refused() -> CaseResult {
    // SAFETY: refused, so that nothing changes.
    let try_to = || unsafe { dune::leave() };
    assert_eq!(try_to(), Err(LeaveError::NotInDuneMode));
    let dune = dune::enter()?;
    static OUTCOME: AtomicU64 = AtomicU64::new(0);
    probe::handle(dune, Vector::BREAKPOINT, |_, _| {
        // SAFETY: as above.
        let outcome = unsafe { dune::leave() };
        OUTCOME.store((outcome == Err(LeaveError::InterruptsOff)).into(), Ordering::Relaxed);
        TrapOutcome::Resume
    });
    // SAFETY: the trap has a handler.
    unsafe { std::arch::asm!("int3") };
    assert_eq!(OUTCOME.load(Ordering::Relaxed), 1);
    assert_eq!(dune.without_interrupts(try_to), Err(LeaveError::InterruptsOff));
    assert!(dune::cpu::in_dune_mode());
    leave()
}

/// Threads of host mode enter beside others that are in Dune mode, and leave it again, all at once.
fn threads_enter_and_leave() -> CaseResult {
    const THREADS: u64 = 6;
    let barrier = Arc::new(Barrier::new(THREADS as usize + 1));
    let threads: Vec<_> = (0..THREADS)
        .map(|number| {
            let barrier = barrier.clone();
            thread::spawn(move || -> Result<u64, String> {
                barrier.wait();
                WORD.set(number);
                for turn in 0..5 {
                    let dune = dune::enter().map_err(|error| error.to_string())?;
                    let page = PageRange::page(probe::pages(1));
                    let protected = dune.memory().protect_now(dune, page, PagePermissions::READ_WRITE);
                    // Busy: another thread is editing.
                    let _ = protected;
                    let text: String = (0..100).map(|n| format!("{n} ")).collect();
                    if text.len() != 290 || WORD.get() != number {
                        return Err(format!("turn {turn}"));
                    }
                    let inner = thread::spawn(dune::cpu::in_dune_mode).join().unwrap_or(false);
                    leave().map_err(|error| error.to_string())?;
                    if !inner || thread::spawn(dune::cpu::in_dune_mode).join().unwrap_or(true) {
                        return Err("a thread is where its creator is not".into());
                    }
                }
                Ok(WORD.get())
            })
        })
        .collect();
    dune::enter()?;
    barrier.wait();
    for (number, thread) in threads.into_iter().enumerate() {
        assert_eq!(thread.join().map_err(|_| "a thread panicked")?, Ok(number as u64));
    }
    assert!(dune::cpu::in_dune_mode());
    Ok(())
}

/// A fork in host mode after the process was in Dune mode: the child makes a machine of its own.
fn children_enter() -> CaseResult {
    dune::enter()?;
    leave()?;
    // SAFETY: the child checks and exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let entered = dune::enter().is_ok() && dune::cpu::in_dune_mode() && probe::getpid() > 0;
        let inner = thread::spawn(dune::cpu::in_dune_mode).join().unwrap_or(false);
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(!entered) | i32::from(!inner) << 1) }
    }
    let mut status = 0;
    // SAFETY: waits for our own child.
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(status, 0, "{status:#x}");
    dune::enter()?;
    Ok(())
}

/// Nothing keeps a thread in host mode from closing what those in Dune mode need.
fn closes_all() -> CaseResult {
    /// The soft limit of the emulated machines is not higher.
    const FIRST: u64 = 1000;
    dune::enter()?;
    let closed = thread::spawn(|| {
        leave().expect("the thread leaves");
        probe::syscall(libc::SYS_close_range as u64, [FIRST, u32::MAX.into(), 0, 0, 0, 0])
    });
    let _ = closed.join();
    probe::fail("the process goes on".to_owned())
}
