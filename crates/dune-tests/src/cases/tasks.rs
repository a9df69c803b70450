//! No room for another process or thread: calls fail with EAGAIN as in host mode, and nothing is the worse for it.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::both::{self, Mode, alike, errno, forked};
use crate::case::{Case, CaseResult, Skip};

pub const CASES: &[Case] = &[
    Case::new("tasks::no_more_processes", no_more_processes),
    Case::new("tasks::no_more_threads", no_more_threads),
    Case::new("tasks::fork_bomb", fork_bomb),
    Case::new("tasks::enter_without_a_task", enter_without_a_task),
];

const NOBODY: u32 = 65_534;

/// Becomes a user whom limits bind, and who may have so many processes. Root only.
fn become_nobody(processes: u64) {
    let limit = libc::rlimit { rlim_cur: processes, rlim_max: processes };
    // SAFETY: the calls read the limit and numbers.
    unsafe {
        assert_eq!(libc::setrlimit(libc::RLIMIT_NPROC, &limit), 0);
        assert_eq!(libc::setresgid(NOBODY, NOBODY, NOBODY), 0);
        assert_eq!(libc::setresuid(NOBODY, NOBODY, NOBODY), 0);
    }
}

/// What only root can do: a user of its own for the limit.
fn needs_root() -> CaseResult {
    // SAFETY: no argument.
    if unsafe { libc::getuid() } == 0 {
        Ok(())
    } else {
        Err(Skip("only root can become a user without other processes".into()).into())
    }
}

/// A child that waits until the pipe `gate` is closed; its id or the error number.
fn waiting_child(gate: [i32; 2]) -> Result<i32, i32> {
    // SAFETY: the child makes system calls only, and exits.
    match unsafe { libc::fork() } {
        -1 => Err(errno()),
        0 => {
            let mut byte = 0u8;
            // SAFETY: as above.
            unsafe {
                libc::close(gate[1]);
                libc::read(gate[0], (&raw mut byte).cast(), 1);
                libc::_exit(0)
            }
        }
        child => Ok(child),
    }
}

/// Joins a thread that ends well.
fn join_well(thread: thread::JoinHandle<()>) {
    assert!(thread.join().is_ok(), "the thread panicked");
}

/// fork and posix_spawn fail with EAGAIN, nothing else happens, and when there is room again they work.
fn no_more_processes() -> CaseResult {
    needs_root()?;
    alike(|notes| {
        become_nobody(12);
        for _ in 0..3 {
            let mut gate = [0; 2];
            // SAFETY: the call writes two descriptors.
            assert_eq!(unsafe { libc::pipe(gate.as_mut_ptr()) }, 0);
            let mut children = Vec::new();
            let error = loop {
                match waiting_child(gate) {
                    Ok(child) => children.push(child),
                    Err(error) => break error,
                }
            };
            eprintln!("{} children", children.len());
            notes.note("fork", error);
            notes.note("some were made", children.len() >= 4);
            // A child in Dune mode is two tasks where KVM's thread counts as one: there may be room for one.
            let parked = Arc::new(Barrier::new(2));
            let parker = parked.clone();
            let last = thread::Builder::new().spawn(move || _ = parker.wait());
            let next = thread::Builder::new().spawn(|| ());
            notes.note("a thread", next.err().and_then(|error| error.raw_os_error()));
            let command = Command::new("true").status();
            notes.note("posix_spawn", command.err().and_then(|error| error.raw_os_error()));
            if let Ok(last) = last {
                parked.wait();
                join_well(last);
            }
            // SAFETY: our own descriptors; waits for our own children.
            unsafe {
                libc::close(gate[1]);
                libc::close(gate[0]);
            }
            let ends = children.into_iter().map(|child| both::wait(child, Duration::from_secs(20)));
            notes.note("all end well", ends.filter(|&status| status != Some(0)).count());
            notes.note("fork afterwards", forked(|| 9));
            notes.note("posix_spawn afterwards", Command::new("true").status().is_ok());
            notes.note("a thread afterwards", thread::spawn(|| 8).join().ok());
            notes
                .note("exec afterwards", forked(|| Command::new("true").exec().raw_os_error().unwrap_or(99)));
        }
    })
}

/// Entering fails with an error or works, as KVM needs a task for it or not, and works when there is room.
fn enter_without_a_task() -> CaseResult {
    needs_root()?;
    let device = std::path::Path::new("/dev/kvm");
    std::fs::set_permissions(device, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    let outcome = both::run(Mode::Host, |notes| {
        become_nobody(4);
        let mut gate = [0; 2];
        // SAFETY: the call writes two descriptors.
        assert_eq!(unsafe { libc::pipe(gate.as_mut_ptr()) }, 0);
        let children: Vec<_> = std::iter::from_fn(|| waiting_child(gate).ok()).collect();
        assert_eq!(children.len(), 3);
        let entered = dune::enter();
        eprintln!("{entered:?}");
        notes.note("the truth is told", entered.is_ok() == dune::cpu::in_dune_mode());
        // SAFETY: our own descriptors.
        unsafe {
            libc::close(gate[1]);
            libc::close(gate[0]);
        }
        for child in children {
            notes.note("ended", both::wait(child, Duration::from_secs(20)));
        }
        if entered.is_err() {
            notes.note("entered", dune::enter().is_ok());
        }
        notes.note("in Dune mode", dune::cpu::in_dune_mode());
        notes.note("child", forked(|| i32::from(!dune::cpu::in_dune_mode())));
        // SAFETY: ends the child; it is not in host mode any more.
        unsafe { libc::_exit(0) }
    })?;
    let good = outcome.status == 0
        && outcome.notes.contains("in Dune mode: true\nchild: Ok(0)\n")
        && !outcome.notes.contains("false");
    if good { Ok(()) } else { Err(format!("{outcome:?}").into()) }
}

/// Threads fail with EAGAIN, those that are there go on, and their places can be taken again.
fn no_more_threads() -> CaseResult {
    needs_root()?;
    alike(|notes| {
        become_nobody(12);
        for _ in 0..3 {
            let gate = Arc::new((Mutex::new(false), Condvar::new()));
            let mut threads = Vec::new();
            let error = loop {
                let waits = gate.clone();
                let spawned = thread::Builder::new().stack_size(64 << 10).spawn(move || {
                    let mut open = waits.0.lock().unwrap();
                    while !*open {
                        open = waits.1.wait(open).unwrap();
                    }
                    21
                });
                match spawned {
                    Ok(thread) => threads.push(thread),
                    Err(error) => break error.raw_os_error(),
                }
            };
            eprintln!("{} threads", threads.len());
            notes.note("no further thread", error);
            notes.note("some were made", threads.len() >= 8);
            notes.note("fork", forked(|| 0));
            *gate.0.lock().unwrap() = true;
            gate.1.notify_all();
            notes.note("all end well", threads.into_iter().all(|thread| thread.join().ok() == Some(21)));
            // A thread is joined a moment before Linux forgets it.
            let deadline = Instant::now() + Duration::from_secs(10);
            let mut child = forked(|| 9);
            while child == Err(libc::EAGAIN) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
                child = forked(|| 9);
            }
            notes.note("fork afterwards", child);
        }
    })
}

/// Every process forks as often as it can, for a while.
fn fork_bomb() -> CaseResult {
    needs_root()?;
    alike(|notes| {
        /// In memory that all of them share.
        #[repr(C)]
        struct Shared {
            forks: AtomicU64,
            refused: AtomicU64,
            other_errors: AtomicU64,
            bad: AtomicU64,
        }
        impl Shared {
            const ENOUGH: u64 = 8;

            fn is_over(&self, start: Instant) -> bool {
                let is_done = self.forks.load(Ordering::SeqCst) >= Self::ENOUGH
                    && self.refused.load(Ordering::SeqCst) > 0;
                start.elapsed() > if is_done { Duration::from_millis(1500) } else { Duration::from_secs(60) }
            }
        }
        // SAFETY: shared memory of this function's own, zeroed.
        let shared = unsafe {
            let all = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
            &*libc::mmap(null_mut(), 4096, all, flags, -1, 0).cast::<Shared>()
        };
        become_nobody(24);
        fn bomb(shared: &Shared, start: Instant) {
            while !shared.is_over(start) {
                // SAFETY: the child does the same, and exits.
                match unsafe { libc::fork() } {
                    -1 if errno() == libc::EAGAIN => {
                        shared.refused.fetch_add(1, Ordering::SeqCst);
                        thread::sleep(Duration::from_millis(2));
                    }
                    -1 => _ = shared.other_errors.fetch_add(1, Ordering::SeqCst),
                    0 => {
                        shared.forks.fetch_add(1, Ordering::SeqCst);
                        bomb(shared, start);
                        // SAFETY: ends the child.
                        unsafe { libc::_exit(0) }
                    }
                    _ => (),
                }
            }
            let mut status = 0;
            // SAFETY: waits for any child.
            while unsafe { libc::waitpid(-1, &mut status, 0) } > 0 {
                shared.bad.fetch_add(u64::from(status != 0), Ordering::SeqCst);
            }
        }
        bomb(shared, Instant::now());
        let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        eprintln!("{} forks, {} refused", count(&shared.forks), count(&shared.refused));
        notes.note("enough were made", count(&shared.forks) >= Shared::ENOUGH);
        notes.note("some were refused", count(&shared.refused) > 0);
        notes.note("other errors", count(&shared.other_errors));
        notes.note("children that ended badly", count(&shared.bad));
        notes.note("fork afterwards", forked(|| 9));
        notes.note("a thread afterwards", thread::spawn(|| 8).join().ok());
    })
}
