//! What Dune does without the program's allocator and without thread-local storage: all that it does on the host loop, where the FS base and the
//! allocator's locks are the program's, and in ring 0 for calls that the program makes anywhere.

use std::arch::asm;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use dune::{Config, MirrorMode};

use crate::allocator;
use crate::case::{Case, CaseResult, Ending};
use crate::probe;

pub const CASES: &[Case] = &[
    Case::new("host_loop::a_thread_leaves_for_good", || left(seccomp)),
    Case::new("host_loop::a_thread_leaves_for_good_by_prctl", || left(seccomp_by_prctl)),
    Case::new("host_loop::a_thread_leaves_for_good_by_dispatch", || left(dispatch)),
    Case::new("host_loop::a_thread_leaves_others_for_good", left_others),
    Case::new("host_loop::a_child_leaves_for_good", a_child_leaves),
    Case::new("host_loop::a_thread_leaves_and_the_process_goes_on", leave_and_go_on),
    Case::new("host_loop::threads_start_and_end", threads_start_and_end),
    Case::new("host_loop::children_are_born", children_are_born),
    Case::new("host_loop::mappings_get_windows", || windows(MirrorMode::Precise)),
    Case::new("host_loop::mappings_get_windows_in_full", || windows(MirrorMode::Full)),
    Case::new("host_loop::faults_of_the_second_level", second_level_fault),
    Case::new("host_loop::signals", signals),
    Case::new("host_loop::death_by_a_signal", death).ends(Ending::Signal(libc::SIGSEGV, &[])),
    Case::new("host_loop::death_by_exit", death_by_exit).ends(Ending::Status(9)),
];

const ARCH_SET_FS: u64 = 0x1002;
const ARCH_GET_FS: u64 = 0x1003;

/// Runs `body` where the allocator may not be called, and the FS base leads nowhere: as in a program without thread-local storage
/// that is inside of its allocator. `body` makes raw system calls only.
fn bare<T>(body: impl FnOnce() -> T) -> T {
    let mut base = 0u64;
    probe::syscall(libc::SYS_arch_prctl as u64, [ARCH_GET_FS, (&raw mut base) as u64, 0, 0, 0, 0]);
    allocator::forbid();
    probe::syscall(libc::SYS_arch_prctl as u64, [ARCH_SET_FS, 0x4000, 0, 0, 0, 0]);
    let result = body();
    probe::syscall(libc::SYS_arch_prctl as u64, [ARCH_SET_FS, base, 0, 0, 0, 0]);
    allocator::permit();
    result
}

fn enter(mapping: MirrorMode) -> CaseResult {
    // SAFETY: these cases use no token.
    unsafe { Config::new().leave_for_good() }.mapping(mapping).enter()?;
    Ok(())
}

/// A filter that permits everything.
const ALLOW: [libc::sock_filter; 1] =
    [libc::sock_filter { code: 6, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW }];

fn with_filter(install: impl FnOnce(u64) -> i64) -> i64 {
    let mut allow = ALLOW;
    let program = libc::sock_fprog { len: 1, filter: allow.as_mut_ptr() };
    probe::syscall(libc::SYS_prctl as u64, [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0, 0]);
    install((&raw const program) as u64)
}

fn seccomp() -> i64 {
    with_filter(|program| probe::syscall(libc::SYS_seccomp as u64, [1, 0, program, 0, 0, 0]))
}

fn seccomp_by_prctl() -> i64 {
    with_filter(|program| {
        probe::syscall(libc::SYS_prctl as u64, [libc::PR_SET_SECCOMP as u64, 2, program, 0, 0, 0])
    })
}

fn dispatch() -> i64 {
    static GATE: AtomicU32 = AtomicU32::new(0);
    const PR_SET_SYSCALL_USER_DISPATCH: u64 = 59;
    let arguments = [PR_SET_SYSCALL_USER_DISPATCH, 1, 0, 0, GATE.as_ptr() as u64, 0];
    probe::syscall(libc::SYS_prctl as u64, arguments)
}

/// The process's only thread, and with it the machine.
fn left(call: fn() -> i64) -> CaseResult {
    enter(MirrorMode::Precise)?;
    assert_eq!(bare(call), 0);
    assert!(!dune::cpu::in_dune_mode());
    println!("{}", String::from("memory is to be had again"));
    Ok(())
}

fn left_others() -> CaseResult {
    static READY: AtomicU32 = AtomicU32::new(0);
    static DONE: AtomicU32 = AtomicU32::new(0);
    enter(MirrorMode::Precise)?;
    // It makes system calls only, as the allocator is forbidden to it, too.
    let other = std::thread::spawn(|| {
        READY.store(1, Ordering::Release);
        while DONE.load(Ordering::Acquire) == 0 {
            probe::syscall(libc::SYS_sched_yield as u64, [0; 6]);
        }
        dune::cpu::in_dune_mode()
    });
    while READY.load(Ordering::Acquire) == 0 {
        std::thread::yield_now();
    }
    assert_eq!(bare(seccomp), 0);
    assert!(!dune::cpu::in_dune_mode());
    DONE.store(1, Ordering::Release);
    assert!(other.join().map_err(|_| "the other thread")?, "the other one stays");
    Ok(())
}

/// A fork by the system call alone; in the child `body` has to return 0.
fn raw_fork(body: impl FnOnce() -> i64) -> i64 {
    let child = probe::syscall(libc::SYS_fork as u64, [0; 6]);
    if child == 0 {
        let status = body();
        probe::syscall(libc::SYS_exit_group as u64, [status as u64, 0, 0, 0, 0, 0]);
    }
    child
}

/// Waits for `child`; its wait status.
fn wait_for(child: i64) -> i32 {
    let mut status = -1i32;
    let arguments = [child as u64, (&raw mut status) as u64, 0, 0, 0, 0];
    assert_eq!(probe::syscall(libc::SYS_wait4 as u64, arguments), child);
    status
}

fn a_child_leaves() -> CaseResult {
    enter(MirrorMode::Precise)?;
    let status = bare(|| wait_for(raw_fork(|| seccomp() + i64::from(dune::cpu::in_dune_mode()))));
    assert_eq!(status, 0);
    assert!(dune::cpu::in_dune_mode());
    Ok(())
}

fn leave_and_go_on() -> CaseResult {
    enter(MirrorMode::Precise)?;
    // SAFETY: no token is used.
    let left = bare(|| unsafe { dune::leave() });
    left?;
    assert!(!dune::cpu::in_dune_mode());
    enter(MirrorMode::Precise)?;
    assert!(dune::cpu::in_dune_mode());
    Ok(())
}

/// A thread by the system call alone, which counts in `ran` and ends; waits for it.
fn raw_thread(stack: u64, ran: &AtomicU64) {
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM
        | libc::CLONE_CHILD_CLEARTID
        | libc::CLONE_CHILD_SETTID;
    let alive = AtomicU32::new(1);
    let thread: i64;
    // SAFETY: the thread has a stack of its own, of which it uses nothing, increments an atomic, and ends.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "lock inc qword ptr [r12]",
            "mov eax, 60", // exit
            "xor edi, edi",
            "syscall",
            "2:",
            inlateout("rax") libc::SYS_clone => thread,
            in("rdi") flags as u64,
            in("rsi") stack,
            in("rdx") 0u64,
            in("r10") alive.as_ptr(),
            in("r8") 0u64,
            in("r12") ran.as_ptr(),
            lateout("rcx") _, lateout("r11") _,
        );
    }
    assert!(thread > 0);
    loop {
        let value = alive.load(Ordering::Acquire);
        if value == 0 {
            return;
        }
        let arguments = [alive.as_ptr() as u64, 0 /* FUTEX_WAIT */, value.into(), 0, 0, 0];
        probe::syscall(libc::SYS_futex as u64, arguments);
    }
}

/// New threads, and such that take the places of others.
fn threads_start_and_end() -> CaseResult {
    static RAN: AtomicU64 = AtomicU64::new(0);
    enter(MirrorMode::Precise)?;
    let stack = probe::pages(4).as_u64() + 4 * 4096;
    bare(|| {
        for _ in 0..5 {
            raw_thread(stack, &RAN);
        }
    });
    assert_eq!(RAN.load(Ordering::Relaxed), 5);
    Ok(())
}

/// fork, a fork's fork, and vfork.
fn children_are_born() -> CaseResult {
    enter(MirrorMode::Precise)?;
    let (one, two) = bare(|| {
        let one = wait_for(raw_fork(|| i64::from(!dune::cpu::in_dune_mode())));
        (one, wait_for(raw_fork(|| i64::from(wait_for(raw_fork(|| 3)) != 3 << 8))))
    });
    assert_eq!((one, two), (0, 0));
    let status = bare(|| {
        let child: i64;
        // SAFETY: the child makes one system call.
        unsafe {
            asm!(
                "syscall", "test rax, rax", "jnz 2f", "mov eax, 60", "mov edi, 6", "syscall", "2:",
                inlateout("rax") libc::SYS_vfork => child, out("rdi") _, out("rcx") _, out("r11") _,
            );
        }
        wait_for(child)
    });
    assert_eq!(status, 6 << 8);
    Ok(())
}

/// Memory where there was none for gigabytes around, touched.
fn windows(mapping: MirrorMode) -> CaseResult {
    const PLACES: [u64; 3] = [0x1234_0000_0000, 0x2345_0000_0000, 0x0345_0000_0000];
    enter(mapping)?;
    let sum = bare(|| {
        PLACES.map(|place| {
            let address = probe::map(place, 4096, libc::PROT_READ | libc::PROT_WRITE, 0);
            // SAFETY: fresh memory.
            unsafe {
                (address as *mut u64).write_volatile(address);
                (address as *const u64).read_volatile()
            }
        })
    });
    assert_eq!(sum, PLACES);
    Ok(())
}

static FAULT: AtomicU64 = AtomicU64::new(0);

/// Goes on behind an instruction of three bytes.
extern "C" fn skip(_: i32, info: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
    // SAFETY: a fault has an address.
    FAULT.store(unsafe { info.si_addr() } as u64, Ordering::Relaxed);
    context.uc_mcontext.gregs[libc::REG_RIP as usize] += 3;
}

/// Beyond the end of a file.
fn second_level_fault() -> CaseResult {
    enter(MirrorMode::Precise)?;
    probe::set_action(libc::SIGBUS, skip, 0, &[]);
    let address = bare(|| {
        let file = probe::syscall(libc::SYS_memfd_create as u64, [c"empty".as_ptr() as u64, 0, 0, 0, 0, 0]);
        let arguments = [0, 4096, libc::PROT_READ as u64, libc::MAP_SHARED as u64, file as u64, 0];
        let address = probe::syscall(libc::SYS_mmap as u64, arguments) as u64;
        // SAFETY: the handler skips the instruction.
        unsafe { asm!("mov rax, [rsi]", in("rsi") address, out("rax") _, options(nostack)) };
        address
    });
    assert_eq!(FAULT.load(Ordering::Relaxed), address);
    Ok(())
}

fn signals() -> CaseResult {
    static CAUGHT: AtomicU64 = AtomicU64::new(0);
    extern "C" fn count(_: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        CAUGHT.fetch_add(1, Ordering::Relaxed);
    }
    enter(MirrorMode::Precise)?;
    probe::set_action(libc::SIGUSR1, count, 0, &[]);
    probe::set_action(libc::SIGSEGV, skip, 0, &[]);
    bare(|| {
        let (process, thread) =
            (probe::getpid() as u64, probe::syscall(libc::SYS_gettid as u64, [0; 6]) as u64);
        for _ in 0..20 {
            probe::syscall(libc::SYS_tgkill as u64, [process, thread, libc::SIGUSR1 as u64, 0, 0, 0]);
        }
        // SAFETY: the handler skips the instruction.
        unsafe { asm!("mov rax, [rsi]", in("rsi") 0x123u64, out("rax") _, options(nostack)) };
    });
    assert_eq!((CAUGHT.load(Ordering::Relaxed), FAULT.load(Ordering::Relaxed)), (20, 0x123));
    Ok(())
}

fn death() -> CaseResult {
    enter(MirrorMode::Precise)?;
    bare(|| {
        // SAFETY: nothing is mapped there, which ends the process.
        unsafe { asm!("mov rax, [rsi]", in("rsi") 0x123u64, out("rax") _, options(nostack)) };
    });
    probe::fail("went on".into())
}

/// The last thread's end, by exit(2).
fn death_by_exit() -> CaseResult {
    enter(MirrorMode::Precise)?;
    bare(|| probe::syscall(libc::SYS_exit as u64, [9, 0, 0, 0, 0, 0]));
    probe::fail("went on".into())
}
