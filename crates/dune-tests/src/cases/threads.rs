//! Threads that are started in Dune mode are in Dune mode, or where `Config::threads` wants them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use dune::{Dune, TrapFrame, TrapOutcome, Vector};

use crate::both::forked;
use crate::case::{Case, CaseResult};
use crate::pace;
use crate::probe;

pub const CASES: &[Case] = &[
    Case::new("threads::start_in_dune_mode", start_in_dune_mode),
    Case::new("threads::have_their_own_handlers", have_their_own_handlers),
    Case::new("threads::locks_and_channels", locks_and_channels),
    Case::new("threads::many_in_turn_leak_nothing", many_in_turn_leak_nothing),
    Case::new("threads::many_at_once", many_at_once),
    Case::new("threads::what_one_forgets_the_next_can_have", forgotten_tables),
    Case::new("threads::fork_takes_one_thread", fork_takes_one_thread),
    Case::new("threads::fork_while_another_edits", fork_while_another_edits),
    Case::new("threads::fork_beside_busy_threads", fork_beside_busy_threads),
    Case::new("threads::panic_in_one_is_joined", panic_in_one_is_joined),
    Case::new("threads::failure_to_start_leaves_errno_alone", failure_to_start_leaves_errno_alone),
    Case::new("threads::stay_in_host_mode_if_wanted", stay_in_host_mode_if_wanted),
    Case::new("threads::with_descriptors_of_their_own", with_descriptors_of_their_own),
    Case::new("threads::first_one_ends_first", first_one_ends_first).ends(crate::case::Ending::Status(5)),
    Case::new("threads::exit_ends_all", exit_ends_all).ends(crate::case::Ending::Status(5)),
];

thread_local!(static WORD: std::cell::Cell<u64> = const { std::cell::Cell::new(7) });

fn start_in_dune_mode() -> CaseResult {
    dune::enter()?;
    let main = probe::syscall(libc::SYS_gettid as u64, [0; 6]);
    WORD.set(1);
    let handles: Vec<_> = (0..8u64)
        .map(|number| {
            thread::spawn(move || {
                assert!(dune::cpu::in_dune_mode());
                assert_eq!(WORD.get(), 7);
                WORD.set(number);
                let id = probe::syscall(libc::SYS_gettid as u64, [0; 6]);
                assert_ne!(id, main);
                let text: String = (0..1000).map(|n| format!("{n} ")).collect();
                assert_eq!(WORD.get(), number);
                (text.len(), (number as f64).sqrt())
            })
        })
        .collect();
    for (number, handle) in handles.into_iter().enumerate() {
        let (length, root) = handle.join().map_err(|_| "a thread panicked")?;
        assert_eq!((length, root), (3890, (number as f64).sqrt()));
    }
    assert_eq!(WORD.get(), 1);
    Ok(())
}

static BY_PROCESS: AtomicU64 = AtomicU64::new(0);
static BY_THREAD: AtomicU64 = AtomicU64::new(0);

fn have_their_own_handlers() -> CaseResult {
    fn process(_: Dune, _: &mut TrapFrame) -> TrapOutcome {
        BY_PROCESS.fetch_add(1, Ordering::Relaxed);
        TrapOutcome::Resume
    }
    fn own(_: Dune, _: &mut TrapFrame) -> TrapOutcome {
        BY_THREAD.fetch_add(1, Ordering::Relaxed);
        TrapOutcome::Resume
    }
    let trap = || {
        // SAFETY: the handlers return behind the instruction.
        unsafe { std::arch::asm!("int3") }
    };
    let dune = dune::enter()?;
    probe::handle(dune, Vector::BREAKPOINT, process);
    probe::handle_in_thread(dune, Vector::BREAKPOINT, own);
    trap();
    thread::spawn(trap).join().map_err(|_| "a thread panicked")?;
    // The next thread takes the last one's place, but not its handlers.
    thread::spawn(move || {
        probe::handle_in_thread(dune::current().expect("a thread in Dune mode"), Vector::BREAKPOINT, own);
        trap();
    })
    .join()
    .map_err(|_| "a thread panicked")?;
    thread::spawn(trap).join().map_err(|_| "a thread panicked")?;
    assert_eq!((BY_PROCESS.load(Ordering::Relaxed), BY_THREAD.load(Ordering::Relaxed)), (2, 2));
    Ok(())
}

/// Futexes, condition variables and channels under contention.
fn locks_and_channels() -> CaseResult {
    const THREADS: u64 = 4;
    const TURNS: u64 = 2000;
    dune::enter()?;
    let sum = Arc::new(Mutex::new(0u64));
    let barrier = Arc::new(Barrier::new(THREADS as usize));
    let (sender, receiver) = mpsc::channel();
    let handles: Vec<_> = (0..THREADS)
        .map(|number| {
            let (sum, barrier, sender) = (sum.clone(), barrier.clone(), sender.clone());
            thread::spawn(move || {
                barrier.wait();
                for turn in 0..TURNS {
                    *sum.lock().unwrap() += turn;
                    if turn % 64 == 0 {
                        thread::yield_now();
                    }
                }
                sender.send(number).unwrap();
            })
        })
        .collect();
    drop(sender);
    let mut seen: Vec<u64> = receiver.iter().collect();
    seen.sort_unstable();
    handles.into_iter().try_for_each(thread::JoinHandle::join).map_err(|_| "a thread panicked")?;
    assert_eq!(seen, (0..THREADS).collect::<Vec<_>>());
    assert_eq!(*sum.lock().unwrap(), THREADS * TURNS * (TURNS - 1) / 2);
    Ok(())
}

fn many_in_turn_leak_nothing() -> CaseResult {
    dune::enter()?;
    let turn =
        || thread::spawn(|| std::hint::black_box(probe::getpid())).join().map_err(|_| "a thread panicked");
    for _ in 0..16 {
        turn()?;
    }
    let mappings = || std::fs::read_to_string("/proc/self/maps").map_or(0, |maps| maps.lines().count());
    let before = (probe::descriptors(), mappings());
    // A thread that takes over a vCPU makes KVM wait for an RCU grace period: milliseconds, and more where exits are
    // slow. (10,000 on svm leave no more behind than these, in five minutes.)
    let threads = if std::env::var_os("DUNE_MACHINE").is_some() { 300 } else { 1_000 };
    for _ in 0..threads {
        turn()?;
    }
    // A thread is joined a moment before its place is free, so that there may be one or two places more.
    let descriptors = probe::descriptors();
    assert!(descriptors <= before.0 + 2, "{} descriptors became {descriptors}", before.0);
    let after = mappings();
    assert!(after <= before.1 + 40, "{} mappings became {after}", before.1);
    Ok(())
}

fn many_at_once() -> CaseResult {
    let threads = if pace::is_vtx() { 160 } else { 512 };
    dune::enter()?;
    let barrier = Arc::new(Barrier::new(threads + 1));
    let handles: Vec<_> = (0..threads)
        .map(|_| {
            let barrier = barrier.clone();
            thread::Builder::new().stack_size(64 << 10).spawn(move || {
                barrier.wait();
                dune::cpu::in_dune_mode()
            })
        })
        .collect::<Result<_, _>>()?;
    barrier.wait();
    for handle in handles {
        assert!(handle.join().map_err(|_| "a thread panicked")?);
    }
    Ok(())
}

/// A thread that ends with the page tables forgotten leaves them to the next one, which takes its place over.
fn forgotten_tables() -> CaseResult {
    dune::enter()?;
    for _ in 0..3 {
        let forget = || std::mem::forget(dune::current().expect("Dune mode").page_tables().expect("free"));
        thread::spawn(forget).join().map_err(|_| "a thread panicked")?;
        let has_them = || dune::current().expect("Dune mode").page_tables().is_ok();
        assert!(thread::spawn(has_them).join().map_err(|_| "a thread panicked")?);
        assert!(has_them());
    }
    Ok(())
}

/// Threads of this process but for KVM's own, which Linux lists among them.
fn own_tasks() -> usize {
    let is_own = |task: &std::fs::DirEntry| {
        !std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("kvm-"))
    };
    std::fs::read_dir("/proc/self/task").map_or(0, |tasks| tasks.flatten().filter(is_own).count())
}

/// The child of a fork has the forking thread, in Dune mode, and can start others.
fn fork_takes_one_thread() -> CaseResult {
    dune::enter()?;
    let stop = Arc::new(AtomicBool::new(false));
    let others: Vec<_> = (0..3)
        .map(|_| {
            let stop = stop.clone();
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    thread::yield_now();
                }
            })
        })
        .collect();
    let descriptors = probe::descriptors();
    // SAFETY: the child makes a thread, checks and exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let inner = thread::spawn(dune::cpu::in_dune_mode).join().unwrap_or(false);
        // A thread is joined a moment before Linux forgets it: how long a moment is the busy computer's affair.
        let alone = (0..30_000).any(|_| {
            thread::sleep(Duration::from_millis(1));
            own_tasks() == 1
        });
        // Each of the three other threads had a vCPU; the new one left its own to the next.
        let closed = probe::descriptors() + 2 == descriptors;
        let status = i32::from(!inner) | i32::from(!alone) << 1 | i32::from(!closed) << 2;
        // SAFETY: ends the child.
        unsafe { libc::_exit(status) }
    }
    let mut status = 0;
    // SAFETY: waits for our own child.
    unsafe { libc::waitpid(child, &mut status, 0) };
    stop.store(true, Ordering::Relaxed);
    others.into_iter().try_for_each(thread::JoinHandle::join).map_err(|_| "a thread panicked")?;
    assert_eq!(status, 0, "{status:#x}");
    Ok(())
}

/// Maps, writes, protects, reads, unmaps: whether what is there is what was written.
fn edit(seed: u64) -> bool {
    const PAGES: usize = 64;
    let start = probe::map(0, PAGES as u64 * 4096, libc::PROT_READ | libc::PROT_WRITE, 0) as *mut u64;
    // SAFETY: the mapping is this function's own.
    unsafe {
        (0..PAGES).for_each(|page| start.add(page * 512).write_volatile(seed + page as u64));
        libc::mprotect(start.cast(), PAGES / 2 * 4096, libc::PROT_READ) == 0
            && (0..PAGES).all(|page| start.add(page * 512).read_volatile() == seed + page as u64)
            && libc::munmap(start.cast(), PAGES * 4096) == 0
    }
}

/// Forks so many children, one after the other, that [`edit`] and exit, while `others` run until told to stop.
fn fork_beside(others: &[&(dyn Fn(&AtomicBool) + Sync)], forks: u64) -> CaseResult {
    dune::enter()?;
    let stop = AtomicBool::new(false);
    let statuses: Vec<_> = thread::scope(|scope| {
        for other in others {
            scope.spawn(|| other(&stop));
        }
        let child = |number| {
            forked(|| {
                // SAFETY: ends the child if it can not go on.
                unsafe { libc::alarm(20) };
                i32::from(!(edit(number) && edit(number + 1)))
            })
        };
        let statuses = (0..forks).map(child).collect();
        stop.store(true, Ordering::Relaxed);
        statuses
    });
    assert!(statuses.iter().all(|&status| status == Ok(0)), "{statuses:x?}");
    Ok(())
}

/// A thread holds the page tables most of the time; the children of forks in between can edit theirs all the same.
fn fork_while_another_edits() -> CaseResult {
    let hold = |stop: &AtomicBool| {
        let dune = dune::current().expect("threads are in Dune mode");
        while !stop.load(Ordering::Relaxed) {
            let tables = dune.page_tables();
            (0..4).for_each(|_| thread::yield_now());
            drop(tables);
            (0..4).for_each(|_| thread::yield_now());
        }
    };
    fork_beside(&[&hold], 8)
}

/// Whatever other threads do to memory meanwhile, theirs and the children's stays what it is.
fn fork_beside_busy_threads() -> CaseResult {
    let work = |stop: &AtomicBool| {
        while !stop.load(Ordering::Relaxed) {
            assert!(edit(1 << 32));
        }
    };
    fork_beside(&[&work, &work], if pace::is_vtx() { 12 } else { 40 })
}

fn panic_in_one_is_joined() -> CaseResult {
    dune::enter()?;
    let end = thread::spawn(|| panic!("on purpose")).join();
    assert_eq!(end.unwrap_err().downcast_ref::<&str>(), Some(&"on purpose"));
    assert!(thread::spawn(dune::cpu::in_dune_mode).join().unwrap_or(false));
    Ok(())
}

/// The first thread ends by itself, as by pthread_exit(3), and another goes on: then `/proc/self` and the process's id are a
/// dead thread's.
fn first_one_ends_first() -> CaseResult {
    fn go_on() {
        const PAGE: u64 = 4096;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // A stack that grows is found by a fault. Linux lets it grow where nothing is in the 256 pages below (stack_guard_gap).
        let area = probe::map(0, 512 * PAGE, libc::PROT_NONE, libc::MAP_NORESERVE);
        // SAFETY: the mappings are this function's own.
        unsafe {
            libc::munmap(area as *mut _, 512 * PAGE as usize);
            let stack = probe::map(area + 500 * PAGE, PAGE, rights, libc::MAP_FIXED | libc::MAP_GROWSDOWN);
            ((stack - PAGE) as *mut u64).write_volatile(7);
            // What a call has half done is looked up.
            assert_eq!(libc::mprotect(stack as *mut _, 9 * PAGE as usize, rights), -1);
            assert_eq!((stack as *const u64).read_volatile(), 0);
            // The end of a file is found by the host loop.
            let file = libc::memfd_create(c"short".as_ptr(), 0);
            libc::ftruncate(file, PAGE as i64);
            let start =
                libc::mmap(std::ptr::null_mut(), PAGE as usize, rights, libc::MAP_SHARED, file, 0) as u64;
            (start as *mut u64).write_volatile(1);
            libc::ftruncate(file, 0);
            EXPECTED.store(start, Ordering::Relaxed);
            probe::set_action(libc::SIGBUS, end, 0, &[]);
            (start as *const u64).read_volatile();
        }
    }
    static EXPECTED: AtomicU64 = AtomicU64::new(0);
    extern "C" fn end(_: i32, info: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        // SAFETY: SIGBUS has an address; ends the process.
        unsafe { libc::_exit(if info.si_addr() as u64 == EXPECTED.load(Ordering::Relaxed) { 5 } else { 6 }) }
    }
    dune::enter()?;
    thread::spawn(|| {
        let limit = Instant::now() + Duration::from_secs(10);
        while !std::fs::read_to_string("/proc/self/stat").is_ok_and(|stat| stat.contains(") Z ")) {
            assert!(Instant::now() < limit, "the first thread has not ended");
            thread::yield_now();
        }
        go_on();
        std::process::exit(7);
    });
    probe::syscall(libc::SYS_exit as u64, [0; 6]);
    probe::fail("exit(2) has returned".to_owned())
}

fn exit_ends_all() -> CaseResult {
    dune::enter()?;
    let _spinning = thread::spawn(|| {
        loop {
            std::hint::spin_loop();
        }
    });
    thread::spawn(|| std::process::exit(5)).join().map_err(|_| "a thread panicked")?;
    Ok(())
}

/// `Threads::HostMode`: threads share everything but ring 0, and what they map is found.
fn stay_in_host_mode_if_wanted() -> CaseResult {
    dune::Config::new().threads(dune::Threads::HostMode).enter()?;
    WORD.set(1);
    let handles: Vec<_> = (0..8u64)
        .map(|number| {
            thread::spawn(move || {
                assert!(!dune::cpu::in_dune_mode());
                assert_eq!(WORD.get(), 7);
                WORD.set(number);
                let mapped = vec![number as u8; 1 << 20];
                thread::yield_now();
                assert_eq!(WORD.get(), number);
                ((number as f64).sqrt(), mapped)
            })
        })
        .collect();
    for (number, handle) in handles.into_iter().enumerate() {
        let (root, mapped) = handle.join().map_err(|_| "a thread panicked")?;
        assert_eq!(root, (number as f64).sqrt());
        assert!(mapped.iter().all(|&byte| usize::from(byte) == number));
    }
    assert!(dune::cpu::in_dune_mode());
    assert_eq!(WORD.get(), 1);
    Ok(())
}

/// The engine's requests fail where `errno`, which is found through FS, is not this library's: they do not go through libc.
fn failure_to_start_leaves_errno_alone() -> CaseResult {
    const UNTOUCHED: i32 = 0x5eed;
    dune::enter()?;
    // No descriptor for a vCPU.
    probe::use_capability(probe::MAY_RAISE_LIMITS, false);
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let flags =
        libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
    let stack = probe::pages(4).as_u64() + 4 * 4096;
    // SAFETY: the calls write to errno only; no thread is started.
    let (result, errno) = unsafe {
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &none), 0);
        *libc::__errno_location() = UNTOUCHED;
        let result = probe::syscall(libc::SYS_clone as u64, [flags as u64, stack, 0, 0, 0, 0]);
        (result, *libc::__errno_location())
    };
    assert_eq!((result, errno), (i64::from(-libc::EAGAIN), UNTOUCHED));
    Ok(())
}

/// A thread that shares descriptors with no other one (unshare(2)) starts threads, whose places others have afterwards, and the other
/// way round.
fn with_descriptors_of_their_own() -> CaseResult {
    const THREADS: usize = 4;
    fn together() -> usize {
        let barrier = Arc::new(Barrier::new(THREADS));
        let wait = |barrier: Arc<Barrier>| {
            thread::spawn(move || {
                barrier.wait();
                assert!(dune::cpu::in_dune_mode() && probe::getpid() > 0);
            })
        };
        let all: Vec<_> = (0..THREADS).map(|_| wait(Arc::clone(&barrier))).collect();
        all.into_iter().filter_map(|thread| thread.join().ok()).count()
    }
    dune::enter()?;
    let (tell, told) = mpsc::channel();
    let (answer, answered) = mpsc::channel();
    let apart = thread::spawn(move || {
        // SAFETY: takes a number.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0);
        while told.recv().is_ok() {
            let child = forked(|| 5).map(|status| libc::WEXITSTATUS(status));
            assert!(answer.send((together(), child)).is_ok());
        }
    });
    for _ in 0..3 {
        tell.send(())?;
        assert_eq!(answered.recv()?, (THREADS, Ok(5)));
        assert_eq!(together(), THREADS);
        assert_eq!(forked(|| 5).map(|status| libc::WEXITSTATUS(status)), Ok(5));
    }
    drop(tell);
    apart.join().map_err(|_| "a thread panicked")?;
    assert_eq!(together(), THREADS);
    Ok(())
}
