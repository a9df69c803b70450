//! What several threads do to memory at the same moment.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use dune::memory::{EditError, PagePermissions, PageRange};
use dune::{Config, Dune, MirrorMode, TrapFrame, TrapOutcome, Vector};
use libc::{PROT_READ, PROT_WRITE};
use x86_64::VirtAddr;

use crate::both::forked;
use crate::case::{Case, CaseResult};
use crate::pace;
use crate::probe;

pub const CASES: &[Case] = &[
    Case::new("races::map_far_away_at_once", map_far_away),
    Case::new("races::touch_far_away_at_once", || touch_far_away(MirrorMode::Precise)),
    Case::new("races::touch_far_away_at_once_with_full_windows", || touch_far_away(MirrorMode::Full)),
    Case::new("races::protection_reaches_the_others", || protection_reaches_the_others(false)),
    Case::new("races::protection_of_locked_memory_reaches_them", || protection_reaches_the_others(true)),
    Case::new("races::protection_by_a_thread_that_joined", protection_by_a_thread_that_joined),
    Case::new("races::collected_tables_are_not_used", collected_tables),
    Case::new("races::edits_wait_for_who_holds_the_tables", edits_wait),
    Case::new("races::faults_that_are_over", faults_that_are_over),
    Case::new("races::memory_that_can_be_read_again", readable_again),
    Case::new("races::moved_mappings_leave_others_alone", moved_mappings),
    Case::new("races::forks_while_threads_are_made", forks_while_threads_are_made).on_svm(),
];

const PAGE: u64 = 4096;
const READ_WRITE: i32 = PROT_READ | PROT_WRITE;

/// Runs `other` in a thread of its own until `body` has returned.
fn beside<T>(other: impl Fn() + Sync, body: impl FnOnce() -> T) -> Result<T, &'static str> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                other();
            }
        });
        let result = body();
        stop.store(true, Ordering::Relaxed);
        thread.join().map(|()| result)
    })
    .map_err(|_| "the other thread panicked")
}

/// Where thread `thread` maps in `round`: the last two threads near each other, all else far from everything.
fn far_away(round: u64, thread: u64, threads: u64) -> u64 {
    let apart = round * threads + thread.min(threads - 2);
    0x3000_0000_0000 + (apart << 37) + thread * PAGE
}

/// Threads that map memory outside of all windows get windows, some of them the same.
fn map_far_away() -> CaseResult {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 8;
    dune::enter()?;
    let barrier = Barrier::new(THREADS as usize);
    let in_rounds = |thread: u64| {
        for round in 0..ROUNDS {
            let at = far_away(round, thread, THREADS);
            barrier.wait();
            let start = probe::map(at, PAGE, READ_WRITE, libc::MAP_FIXED_NOREPLACE);
            // SAFETY: the page is this thread's own.
            unsafe { (start as *mut u64).write_volatile(at) };
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || in_rounds(thread))).collect();
        threads.into_iter().try_for_each(|thread| thread.join())
    })
    .map_err(|_| "a thread panicked".into())
}

/// A thread in host mode maps memory outside of all windows, which two threads in Dune mode touch.
fn touch_far_away(mapping: MirrorMode) -> CaseResult {
    const ROUNDS: u64 = 8;
    let (mapped, touched) = (Barrier::new(3), Barrier::new(3));
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                probe::map(far_away(round, 0, 2), 2 * PAGE, READ_WRITE, libc::MAP_FIXED_NOREPLACE);
                mapped.wait();
                touched.wait();
            }
        });
        Config::new().mapping(mapping).enter()?;
        let touch = |page: u64| {
            for round in 0..ROUNDS {
                mapped.wait();
                // SAFETY: the other thread has mapped it.
                unsafe { ((far_away(round, 0, 2) + page * PAGE) as *mut u64).write_volatile(page) };
                touched.wait();
            }
        };
        let other = scope.spawn(move || touch(0));
        touch(1);
        other.join().map_err(|_| "a thread panicked".into())
    })
}

static FAULTS: AtomicU64 = AtomicU64::new(0);

/// Makes the page writable again.
fn make_writable(dune: Dune, frame: &mut TrapFrame) -> TrapOutcome {
    FAULTS.fetch_add(1, Ordering::SeqCst);
    let page = PageRange::page(frame.fault_address());
    match dune.memory().protect_now(dune, page, PagePermissions::READ_WRITE) {
        // Busy: the interrupted code is editing, and the access will fault again.
        Ok(()) | Err(EditError::Busy(_)) => TrapOutcome::Resume,
        Err(_) => TrapOutcome::Unhandled,
    }
}

/// Waits until there has been a fault more than `before`.
fn wait_for_fault(before: u64) {
    wait_until("no fault in the other thread", || FAULTS.load(Ordering::SeqCst) != before);
}

/// Waits until the other thread has counted ten more.
fn wait_for_ten_more(count: &AtomicU64) {
    let before = count.load(Ordering::Relaxed);
    wait_until("the other thread stands still", || count.load(Ordering::Relaxed) >= before + 10);
}

fn wait_until(else_say: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{else_say}");
        thread::yield_now();
    }
}

/// A page protected in one thread faults in another that has just written to it.
fn protection_reaches_the_others(locked: bool) -> CaseResult {
    const MCL_ONFAULT: i32 = 4;
    let dune = dune::enter()?;
    probe::handle(dune, Vector::PAGE_FAULT, make_writable);
    if locked {
        // SAFETY: locks memory that is there anyway.
        let result = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | MCL_ONFAULT) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }
    let page = PageRange::page(probe::pages(1));
    let stored = AtomicU64::new(0);
    let store = || {
        // SAFETY: the page lives as long as the process.
        unsafe { &*(page.start().as_u64() as *const AtomicU64) }.fetch_add(1, Ordering::Relaxed);
        stored.fetch_add(1, Ordering::Relaxed);
    };
    beside(store, || -> CaseResult {
        for _ in 0..20 {
            wait_for_ten_more(&stored);
            let faults = FAULTS.load(Ordering::SeqCst);
            // Without the shoot-down the other thread would go on for ever with its old translation.
            dune.page_tables()?.protect(page, PagePermissions::READ)?.now(dune);
            wait_for_fault(faults);
        }
        Ok(())
    })??;
    assert!(dune.counters().shootdowns >= 20);
    Ok(())
}

/// A thread that was there before Dune mode, and enters beside the first, can edit and flush in one line, which holds the
/// tables meanwhile.
fn protection_by_a_thread_that_joined() -> CaseResult {
    let is_entered = Barrier::new(2);
    thread::scope(|scope| {
        let joining = scope.spawn(|| -> Result<(), String> {
            is_entered.wait();
            let protect = || -> CaseResult {
                let dune = dune::enter()?;
                let page = PageRange::page(probe::pages(1));
                for _ in 0..20 {
                    dune.page_tables()?.protect(page, PagePermissions::READ)?.now(dune);
                }
                assert!(dune.counters().shootdowns >= 20);
                Ok(())
            };
            protect().map_err(|error| error.to_string())
        });
        let dune = dune::enter()?;
        // The joining thread does not use it: a fault in its flush would be one too many.
        probe::handle(dune, Vector::PAGE_FAULT, |_, _| TrapOutcome::Unhandled);
        is_entered.wait();
        joining.join().map_err(|_| "the joining thread panicked")?.map_err(Into::into)
    })
}

/// What was unmapped without a flush is gone for every thread once its tables are collected.
fn collected_tables() -> CaseResult {
    fn map_again(dune: Dune, frame: &mut TrapFrame) -> TrapOutcome {
        FAULTS.fetch_add(1, Ordering::SeqCst);
        let page = PageRange::page(frame.fault_address());
        let mapped = dune.page_tables().and_then(|mut tables| {
            // SAFETY: nothing else was mapped there.
            unsafe { tables.remap(page, PagePermissions::READ_WRITE) }.map(dune::memory::Flush::defer)
        });
        if mapped.is_ok() { TrapOutcome::Resume } else { TrapOutcome::Unhandled }
    }
    let dune = dune::enter()?;
    probe::handle(dune, Vector::PAGE_FAULT, map_again);
    let page = PageRange::page(probe::pages(1));
    let loads = AtomicU64::new(0);
    let load = || {
        // SAFETY: the page lives as long as the process.
        unsafe { (page.start().as_u64() as *const u64).read_volatile() };
        loads.fetch_add(1, Ordering::Relaxed);
    };
    beside(load, || -> CaseResult {
        for _ in 0..20 {
            wait_for_ten_more(&loads);
            let faults = FAULTS.load(Ordering::SeqCst);
            dune.page_tables()?.unmap(page)?.defer();
            dune.memory().collect(dune);
            wait_for_fault(faults);
        }
        Ok(())
    })?
}

/// mprotect(2) gives rights back that the program has taken in the page tables, also while another thread holds these for
/// longer than anybody spins.
fn edits_wait() -> CaseResult {
    let dune = dune::enter()?;
    let page = PageRange::page(probe::pages(1));
    let (wanted, held) = (AtomicBool::new(false), AtomicBool::new(false));
    let hold = || {
        if wanted.swap(false, Ordering::SeqCst) {
            let dune = dune::current().expect("threads are in Dune mode");
            let tables = dune.page_tables();
            held.store(true, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(400));
            held.store(false, Ordering::SeqCst);
            drop(tables);
        }
        thread::yield_now();
    };
    beside(hold, || -> CaseResult {
        for round in 0..5u64 {
            dune.page_tables()?.protect(page, PagePermissions::READ)?.now(dune);
            wanted.store(true, Ordering::SeqCst);
            while !held.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            let address = page.start().as_u64();
            let protected =
                probe::syscall(libc::SYS_mprotect as u64, [address, PAGE, READ_WRITE as u64, 0, 0, 0]);
            assert_eq!(protected, 0);
            // SAFETY: the page lives as long as the process.
            unsafe { (address as *mut u64).write_volatile(round) };
        }
        Ok(())
    })?
}

/// A thread in host mode protects a page again and again; the handlers of two others, which write to it, give the rights
/// back. Each finds now and then that the other one has been faster.
fn faults_that_are_over() -> CaseResult {
    extern "C" fn give_back(_: i32, info: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        FAULTS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: SIGSEGV has an address; the page stays mapped.
        unsafe {
            let page = info.si_addr().map_addr(|address| address & !(PAGE as usize - 1));
            libc::mprotect(page, PAGE as usize, READ_WRITE);
        }
    }
    const FEW: u64 = 300;
    probe::set_action(libc::SIGSEGV, give_back, 0, &[]);
    let page = probe::pages(1).as_u64();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let deadline = Instant::now() + Duration::from_secs(20);
            while FAULTS.load(Ordering::SeqCst) < FEW && Instant::now() < deadline {
                // SAFETY: the page stays mapped.
                unsafe { libc::mprotect(page as *mut libc::c_void, PAGE as usize, PROT_READ) };
                thread::yield_now();
            }
            done.store(true, Ordering::SeqCst);
        });
        dune::enter()?;
        let write = || {
            while !done.load(Ordering::SeqCst) {
                // SAFETY: the page stays mapped; who may not write to it makes it writable.
                unsafe { &*(page as *const AtomicU64) }.fetch_add(1, Ordering::Relaxed);
            }
        };
        let other = scope.spawn(write);
        write();
        assert!(FAULTS.load(Ordering::SeqCst) >= FEW);
        other.join().map_err(|_| "a thread panicked".into())
    })
}

/// A thread in host mode takes all rights from a page and gives them back. An access in between is SIGSEGV, if anything, and
/// never SIGBUS, however late it is looked at.
fn readable_again() -> CaseResult {
    extern "C" fn retry(_: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        FAULTS.fetch_add(1, Ordering::SeqCst);
    }
    probe::set_action(libc::SIGSEGV, retry, 0, &[]);
    let page = probe::pages(1).as_u64();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let deadline = Instant::now() + Duration::from_secs(20);
            while FAULTS.load(Ordering::SeqCst) < 300 && Instant::now() < deadline {
                for rights in [libc::PROT_NONE, READ_WRITE] {
                    // SAFETY: the page stays mapped.
                    unsafe { libc::mprotect(page as *mut libc::c_void, PAGE as usize, rights) };
                    (0..200).for_each(|_| std::hint::spin_loop());
                }
            }
            done.store(true, Ordering::SeqCst);
        });
        dune::enter()?;
        while !done.load(Ordering::SeqCst) {
            // SAFETY: the page stays mapped; who may not read it tries again.
            unsafe { (page as *const u64).read_volatile() };
        }
        assert!(FAULTS.load(Ordering::SeqCst) > 0);
        Ok(())
    })
}

/// A mapping that one thread moves away leaves alone what another one maps and protects in its old place.
fn moved_mappings() -> CaseResult {
    let dune = dune::enter()?;
    let away = probe::pages(1).as_u64();
    let move_one = || {
        let old = probe::map(0, PAGE, READ_WRITE, 0);
        let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
        let moved = probe::syscall(libc::SYS_mremap as u64, [old, PAGE, PAGE, flags, away, 0]);
        assert_eq!(moved, away as i64);
    };
    beside(move_one, || -> CaseResult {
        for _ in 0..if pace::is_vtx() { 800 } else { 2000 } {
            let address = probe::map(0, PAGE, READ_WRITE, 0);
            let page = VirtAddr::new(address);
            dune.page_tables()?.protect(PageRange::page(page), PagePermissions::READ)?.now(dune);
            (0..100).for_each(|_| std::hint::spin_loop());
            let leaf = dune.page_tables()?.lookup(page).ok_or("another thread has taken the page away")?;
            assert_eq!(leaf.permissions, PagePermissions::READ);
            assert_eq!(probe::syscall(libc::SYS_munmap as u64, [address, PAGE, 0, 0, 0, 0]), 0);
        }
        Ok(())
    })?
}

/// Children have the limit of descriptors that their parent has, and one vCPU, whatever other threads are about.
fn forks_while_threads_are_made() -> CaseResult {
    // On the slow machine fewer: each child has its parent's mappings copied, two dozen for each thread.
    let (forks, threads) = if pace::is_vtx() { (10, 40) } else { (30, 80) };
    let limit = || {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the call writes to `limit`.
        unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
        limit.rlim_cur
    };
    // SAFETY: the call reads the limits.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &libc::rlimit { rlim_cur: 512, rlim_max: 4096 }) };
    dune::enter()?;
    let vcpus = || {
        // By their numbers, since listings leave them out.
        let names = (0..4096).filter_map(|number| std::fs::read_link(format!("/proc/self/fd/{number}")).ok());
        names.filter(|name| name.to_string_lossy().contains("kvm-vcpu")).count()
    };
    let (has_ended, end) = (Mutex::new(false), Condvar::new());
    let statuses: Vec<_> = thread::scope(|scope| {
        let wait = || {
            let _unused = end.wait_while(has_ended.lock().unwrap(), |has_ended| !*has_ended).unwrap();
        };
        let make = move || {
            // They stay, so that each has a vCPU of its own.
            for _ in 0..threads {
                scope.spawn(wait);
            }
        };
        scope.spawn(make);
        let child = || i32::from(limit() != 512) | i32::from(vcpus() != 1) << 1;
        let statuses = (0..forks).map(|_| forked(child)).collect();
        *has_ended.lock().unwrap() = true;
        end.notify_all();
        statuses
    });
    assert!(statuses.iter().all(|&status| status == Ok(0)), "{statuses:x?}");
    Ok(())
}
