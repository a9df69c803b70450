//! Children of a process in Dune mode: fork goes on in Dune mode, vfork and posix_spawn run commands.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use dune::{Dune, TrapFrame, TrapOutcome, Vector};

use crate::both::{Notes, alike, exited, forked};
use crate::case::{Case, CaseResult};
use crate::probe;

pub const CASES: &[Case] = &[
    Case::new("children::fork_goes_on_in_dune_mode", fork_goes_on_in_dune_mode),
    Case::new("children::memory_is_copied_both_ways", memory_is_copied_both_ways),
    Case::new("children::grandchildren", grandchildren),
    Case::new("children::page_tables_are_the_childs_own", page_tables_are_the_childs_own),
    Case::new("children::command_with_pipes", command_with_pipes),
    Case::new("children::exit_statuses_are_true", exit_statuses_are_true),
    Case::new("children::cpu_numbers", cpu_numbers),
    Case::new("children::vector_state_survives", vector_state_survives),
    Case::new("children::no_descriptor_is_left", no_descriptor_is_left),
    Case::new("children::closing_everything_spares_the_engine", closing_everything_spares_the_engine),
    Case::new("children::that_share_descriptors", || alike(that_share_descriptors)),
    Case::new("children::exec_leaves_dune_mode", exec_leaves_dune_mode),
    Case::new("children::locks_of_others_are_free", locks_of_others_are_free),
];

/// Forks; the child runs `body` and exits with what it returns. The child's wait status.
fn in_child(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child runs `body` and exits.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        0 => {
            let status = body();
            // SAFETY: ends the child.
            unsafe { libc::_exit(status) }
        }
        child => {
            let mut status = 0;
            // SAFETY: waits for our own child.
            let waited = unsafe { libc::waitpid(child, &mut status, 0) };
            assert_eq!(waited, child);
            status
        }
    }
}

static TRAPS: AtomicU64 = AtomicU64::new(0);

fn breakpoint(_: Dune, _: &mut TrapFrame) -> TrapOutcome {
    TRAPS.fetch_add(1, Ordering::Relaxed);
    TrapOutcome::Resume
}

/// The child is at ring 0, has a process id of its own, takes traps and makes system calls; so does the parent after.
fn fork_goes_on_in_dune_mode() -> CaseResult {
    let dune = dune::enter()?;
    probe::handle(dune, Vector::BREAKPOINT, breakpoint);
    let parent = probe::getpid();
    let status = in_child(|| {
        let before = TRAPS.load(Ordering::Relaxed);
        // SAFETY: the handler returns behind the instruction.
        unsafe { std::arch::asm!("int3") };
        let good = dune::cpu::in_dune_mode()
            && probe::getpid() != parent
            && TRAPS.load(Ordering::Relaxed) == before + 1
            && dune.counters().second_level_faults.is_some_and(|faults| faults > 0)
            && format!("{:?}", vec![1, 2, 3]) == "[1, 2, 3]";
        if good { 42 } else { 1 }
    });
    assert_eq!(exited(status), Some(42));
    assert!(dune::cpu::in_dune_mode());
    assert_eq!(TRAPS.load(Ordering::Relaxed), 0, "the child's memory is its own");
    assert_eq!(probe::getpid(), parent);
    Ok(())
}

/// getcpu of the vDSO tells the CPU that its thread is bound to: in a thread and in the child of a fork, too.
fn cpu_numbers() -> CaseResult {
    unsafe extern "C" {
        // Not in the libc crate; the GNU C library calls the vDSO.
        fn getcpu(number: *mut u32, node: *mut u32) -> i32;
    }
    fn is_told(dune: Dune) -> bool {
        // SAFETY: sched_getaffinity writes the set, sched_setaffinity reads one, getcpu writes two numbers.
        unsafe {
            let mut all: libc::cpu_set_t = std::mem::zeroed();
            libc::sched_getaffinity(0, size_of_val(&all), &raw mut all);
            (0..libc::CPU_SETSIZE as usize).rev().filter(|&cpu| libc::CPU_ISSET(cpu, &all)).all(|cpu| {
                let mut one: libc::cpu_set_t = std::mem::zeroed();
                libc::CPU_SET(cpu, &mut one);
                libc::sched_setaffinity(0, size_of_val(&one), &raw const one);
                let (mut number, mut node) = (u32::MAX, u32::MAX);
                let calls = dune.counters().forwarded_syscalls;
                let result = getcpu(&raw mut number, &raw mut node);
                println!("on {cpu}: {result}, CPU {number:#x}, node {node:#x}");
                (result, number as usize, node) == (0, cpu, 0)
                    && dune.counters().forwarded_syscalls <= calls + 1
            })
        }
    }
    let dune = dune::enter()?;
    assert!(is_told(dune), "the first thread");
    let thread = std::thread::spawn(|| dune::current().is_some_and(is_told));
    assert!(thread.join().map_err(|_| "a thread panicked")?, "a thread");
    assert_eq!(exited(in_child(|| i32::from(!is_told(dune)))), Some(0), "the child of a fork");
    Ok(())
}

/// What one writes after the fork, the other does not see, although both levels of translation were shared.
fn memory_is_copied_both_ways() -> CaseResult {
    dune::enter()?;
    let pages = 64;
    let words = |seed: u64| (0..pages * 512).map(move |i| seed ^ i);
    let mut memory: Vec<u64> = words(1).collect();
    let mut ends = [0; 2];
    // SAFETY: writes two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    // SAFETY: the child checks, writes and exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let mut byte = 0u8;
        // The parent has changed its copy before it writes to the pipe.
        // SAFETY: reads one byte.
        unsafe { libc::read(ends[0], (&raw mut byte).cast(), 1) };
        let kept = memory.iter().copied().eq(words(1));
        memory.iter_mut().for_each(|word| *word = 3);
        // SAFETY: ends the child.
        unsafe { libc::_exit(if kept && memory.iter().all(|&word| word == 3) { 0 } else { 1 }) }
    }
    memory.iter_mut().zip(words(2)).for_each(|(word, new)| *word = new);
    let mut status = 0;
    // SAFETY: writes one byte, waits for our own child.
    unsafe {
        assert_eq!(libc::write(ends[1], b"x".as_ptr().cast(), 1), 1);
        libc::waitpid(child, &mut status, 0);
    }
    assert_eq!(exited(status), Some(0));
    assert!(memory.iter().copied().eq(words(2)));
    Ok(())
}

fn grandchildren() -> CaseResult {
    dune::enter()?;
    let status = in_child(|| {
        let inner = in_child(|| {
            let deepest = in_child(|| if dune::cpu::in_dune_mode() { 5 } else { 1 });
            exited(deepest).map_or(1, |status| status + 1)
        });
        exited(inner).map_or(1, |status| status + 1)
    });
    assert_eq!(exited(status), Some(7));
    Ok(())
}

/// An edit of the page tables in the child is not seen in the parent.
fn page_tables_are_the_childs_own() -> CaseResult {
    use dune::memory::{PagePermissions, PageRange};
    let dune = dune::enter()?;
    let page = PageRange::page(probe::pages(1));
    // SAFETY: the page is ours and writable.
    let store = |value: u8| unsafe { page.start().as_mut_ptr::<u8>().write_volatile(value) };
    store(1);
    let status = in_child(|| {
        let edited = dune.memory().protect_now(dune, page, PagePermissions::READ);
        if edited.is_ok() { 0 } else { 1 }
    });
    assert_eq!(exited(status), Some(0));
    store(2);
    Ok(())
}

/// std's Command, which uses posix_spawn or vfork, with all three standard streams.
fn command_with_pipes() -> CaseResult {
    dune::enter()?;
    let mut child =
        Command::new("tr").args(["a-z", "A-Z"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().ok_or("no stdin")?.write_all(b"hello from ring 0")?;
    let output = child.wait_with_output()?;
    assert!(output.status.success());
    assert_eq!(output.stdout, b"HELLO FROM RING 0");
    assert!(dune::cpu::in_dune_mode());
    // A closure before exec makes std fork.
    use std::os::unix::process::CommandExt;
    let mut command = Command::new("echo");
    // SAFETY: the closure makes one system call.
    unsafe { command.arg("forked").pre_exec(|| Ok(())) };
    assert_eq!(command.output()?.stdout, b"forked\n");
    assert!(Command::new("/no/such/program").output().is_err());
    Ok(())
}

fn exit_statuses_are_true() -> CaseResult {
    use std::os::unix::process::ExitStatusExt;
    dune::enter()?;
    assert_eq!(Command::new("sh").args(["-c", "exit 3"]).status()?.code(), Some(3));
    assert_eq!(Command::new("sh").args(["-c", "kill -9 $$"]).status()?.signal(), Some(9));
    let status = in_child(|| {
        // SAFETY: ends the child.
        unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
        1
    });
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGTERM, "{status:#x}");
    Ok(())
}

/// XMM registers and MXCSR are the parent's in the child of a fork.
fn vector_state_survives() -> CaseResult {
    dune::enter()?;
    let (seed, child): (u64, i64);
    let (mut kept, mut mxcsr) = (0u64, 0u32);
    seed = 0x1234_5678_9abc_def0;
    let flush_to_zero = 0x9f80u32;
    // SAFETY: fork by SYSCALL with a pattern in XMM15 and MXCSR, which the ABI of system calls keeps.
    unsafe {
        std::arch::asm!(
            "ldmxcsr [{new}]",
            "movq xmm15, {seed}",
            "syscall",
            "movq {kept}, xmm15",
            "stmxcsr [{old}]",
            "ldmxcsr [{default}]",
            new = in(reg) &raw const flush_to_zero,
            old = in(reg) &raw mut mxcsr,
            default = in(reg) &raw const DEFAULT,
            seed = in(reg) seed,
            kept = out(reg) kept,
            inlateout("rax") libc::SYS_fork => child,
            out("rcx") _, out("r11") _, out("xmm15") _,
        );
    }
    static DEFAULT: u32 = 0x1f80;
    let good = kept == seed && mxcsr == flush_to_zero;
    if child == 0 {
        // SAFETY: ends the child.
        unsafe { libc::_exit(if good { 9 } else { 1 }) }
    }
    let mut status = 0;
    // SAFETY: waits for our own child.
    unsafe { libc::waitpid(child as i32, &mut status, 0) };
    assert_eq!(exited(status), Some(9));
    assert!(good);
    Ok(())
}

/// The child has as many descriptors as its parent: the parent's machine is closed.
fn no_descriptor_is_left() -> CaseResult {
    dune::enter()?;
    let count = probe::descriptors;
    let parent = count();
    let status = in_child(|| if count() == parent { 0 } else { 1 });
    assert_eq!(exited(status), Some(0));
    Ok(())
}

/// A program that a process in Dune mode becomes runs in host mode, without the engine's descriptors.
fn exec_leaves_dune_mode() -> CaseResult {
    use std::os::unix::process::CommandExt;
    dune::enter()?;
    let error = Command::new("sh")
        .args(["-c", "for fd in /proc/self/fd/*; do readlink $fd; done | grep -c kvm | grep -qx 0"])
        .exec();
    Err(error.into())
}

/// Daemons close all descriptors, by one call, by the list, or up to their limit. Dune mode goes on.
fn closing_everything_spares_the_engine() -> CaseResult {
    dune::enter()?;
    let alive = || std::thread::spawn(|| i32::from(probe::getpid() <= 0)).join().unwrap_or(2);
    let by_range = in_child(|| {
        // SAFETY: the child uses no descriptor after that.
        let result = unsafe { libc::syscall(libc::SYS_close_range, 0u32, u32::MAX, 0) };
        i32::from(result != 0) << 4 | alive()
    });
    let by_list = in_child(|| {
        let list: Vec<i32> = std::fs::read_dir("/proc/self/fd")
            .map(|all| all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
            .unwrap_or_default();
        // SAFETY: the child uses no descriptor after that.
        list.iter().for_each(|&descriptor| unsafe { _ = libc::close(descriptor) });
        i32::from(list.len() < 3) << 4 | alive()
    });
    let by_limit = in_child(|| {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: writes to `limit`; the child uses no descriptor after that.
        unsafe {
            libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
            (0..limit.rlim_cur as i32).for_each(|descriptor| _ = libc::dup2(0, descriptor));
            alive()
        }
    });
    assert_eq!((exited(by_range), exited(by_list), exited(by_limit)), (Some(0), Some(0), Some(0)));
    Ok(())
}

/// What another thread holds the lock of for a moment a child finds free and whole; if the other does not let go, there is no child, but an
/// error.
fn locks_of_others_are_free() -> CaseResult {
    let dune = dune::enter()?;
    let range = probe::small_pages(dune, 1)?;
    let (held, done) = (std::sync::Barrier::new(2), AtomicU64::new(0));
    let hold = |until: &dyn Fn() -> bool| {
        let dune = dune::current().expect("threads start where their creator is");
        let tables = dune.page_tables();
        held.wait();
        while !until() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        drop(tables);
    };
    let status = std::thread::scope(|scope| {
        scope.spawn(|| {
            let start = std::time::Instant::now();
            hold(&|| start.elapsed() > std::time::Duration::from_millis(300));
        });
        held.wait();
        in_child(|| {
            let start = std::time::Instant::now();
            for _ in 0..3 {
                if probe::protect(dune, range, dune::memory::PagePermissions::READ).is_err() {
                    return 2;
                }
            }
            i32::from(start.elapsed() < std::time::Duration::from_secs(3))
        })
    });
    assert_eq!(exited(status), Some(1));
    let refused = std::thread::scope(|scope| {
        scope.spawn(|| hold(&|| done.load(Ordering::Relaxed) == 1));
        held.wait();
        // SAFETY: a child, if there is one, ends at once.
        let forked = unsafe { libc::fork() };
        let error = std::io::Error::last_os_error();
        if forked == 0 {
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) };
        }
        done.store(1, Ordering::Relaxed);
        (forked, error.raw_os_error())
    });
    assert_eq!(refused, (-1, Some(libc::EAGAIN)));
    assert_eq!(exited(in_child(|| 7)), Some(7));
    Ok(())
}

/// Children with memory of their own that share their parent's descriptors (CLONE_FILES), and close all: by close_range(2), and one by
/// one. The parent goes on, without.
fn that_share_descriptors(notes: &Notes) {
    /// Above both limits of the emulated machines, where Dune's descriptors may be.
    const MOST: u64 = 6000;
    let kept = notes.as_raw_fd() as u64;
    let call = |number: i64, first: u64, last: u64| probe::syscall(number as u64, [first, last, 0, 0, 0, 0]);
    let by_range = || {
        notes.note("below", call(libc::SYS_close_range, 3, kept - 1));
        notes.note("above", call(libc::SYS_close_range, kept + 1, u32::MAX.into()));
    };
    let one_by_one = || {
        for number in (3..MOST).filter(|&number| number != kept) {
            call(libc::SYS_close, number, 0);
        }
    };
    for close in [&by_range as &dyn Fn(), &one_by_one] {
        let status = forked(|| {
            let [first, second] = [0, 0].map(|_| std::fs::File::open("/dev/null").expect("a file"));
            let flags = (libc::CLONE_FILES | libc::SIGCHLD) as u64;
            let child = probe::syscall(libc::SYS_clone as u64, [flags, 0, 0, 0, 0, 0]);
            if child == 0 {
                close();
                // SAFETY: ends the child.
                unsafe { libc::_exit(5) };
            }
            let mut status = 0;
            // SAFETY: waits for our own child.
            let waited = unsafe { libc::waitpid(child as i32, &mut status, 0) };
            notes.note("child", (i64::from(waited) == child, exited(status)));
            // SAFETY: asks for flags.
            notes.note(
                "closed",
                [&first, &second].map(|file| unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFD) }),
            );
            std::mem::forget((first, second));
            notes.note("process", probe::getpid() == i64::from(std::process::id()));
            notes.note("thread", std::thread::spawn(|| 11).join().ok());
            notes.note("child", forked(|| 4));
            7
        });
        notes.note("status", status);
    }
}
