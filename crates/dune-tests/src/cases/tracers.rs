//! A traced program's own exceptions reach its tracer (ptrace(2)): as a stop at the instruction, with the registers of the
//! program. The tracer is in Dune mode, too.

use std::arch::{asm, global_asm};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::filters;
use crate::both::{self, Notes, alike, outcome};
use crate::case::Case;
use crate::probe;

pub const CASES: &[Case] = &[
    Case::new("tracers::fault", || alike(fault)),
    Case::new("tracers::fault_with_another_signal", || alike(other_signal)),
    Case::new("tracers::fault_without_a_handler", || alike(death)),
    Case::new("tracers::breakpoint_and_steps", || alike(breakpoint_and_steps)),
    Case::new("tracers::child_of_a_traced_process", || alike(child_of_a_traced_process)),
    Case::new("tracers::attached", || alike(|notes| attached(notes, Meanwhile::Waits))),
    Case::new("tracers::refused_files_of_a_leaver", || alike(refused_files_of_a_leaver)),
    Case::new("tracers::attached_while_it_computes", || alike(|notes| attached(notes, Meanwhile::Computes))),
];

unsafe extern "C" {
    fn dune_test_fault();
    fn dune_test_break();
    static dune_test_at_fault: u8;
    static dune_test_behind_break: u8;
}

global_asm!(
    ".globl dune_test_fault",
    "dune_test_fault:",
    "mov eax, 0x18",
    "mov ecx, 0x1234",
    ".globl dune_test_at_fault",
    "dune_test_at_fault:",
    "mov byte ptr [rax], 1",
    "nop",
    "ret",
    ".globl dune_test_break",
    "dune_test_break:",
    "int3",
    ".globl dune_test_behind_break",
    "dune_test_behind_break:",
    "nop",
    "mov ecx, 0x4321",
    "nop",
    "ret",
);

static HANDLED: AtomicU64 = AtomicU64::new(0);

/// Of SIGSEGV and SIGUSR1: skips the instruction that faults, if there is one.
extern "C" fn skip(signal: i32, _: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
    HANDLED.fetch_add(if signal == libc::SIGSEGV { 1 } else { 0x10 }, Ordering::Relaxed);
    let rip = &mut context.uc_mcontext.gregs[libc::REG_RIP as usize];
    if *rip == &raw const dune_test_at_fault as i64 {
        *rip += 3;
    }
}

fn ptrace(request: u32, child: i32, data: u64) -> i64 {
    // SAFETY: requests about a child, whose answers are written where `data` says.
    outcome(unsafe { libc::ptrace(request, child, 0u64, data) })
}

fn wait(child: i32) -> i32 {
    let mut status = 0;
    // SAFETY: waits for a child of ours.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, libc::__WALL) }, child);
    status
}

/// Its registers: where it is from `label`, RCX, RAX; and signal, code and address of what has stopped it.
fn note_stop(notes: &Notes, child: i32, status: i32, label: *const u8) {
    // SAFETY: integers.
    let (mut registers, mut info): (libc::user_regs_struct, libc::siginfo_t) = unsafe { std::mem::zeroed() };
    ptrace(libc::PTRACE_GETREGS, child, (&raw mut registers) as u64);
    ptrace(libc::PTRACE_GETSIGINFO, child, (&raw mut info) as u64);
    let at = registers.rip.wrapping_sub(label as u64) as i64;
    // SAFETY: a number, whatever the signal.
    let address = if info.si_signo == libc::SIGSEGV { (unsafe { info.si_addr() }) as u64 } else { 0 };
    notes.note(
        "stopped",
        (format!("{status:#x}"), at, registers.rcx, registers.rax, registers.cs, registers.ss),
    );
    notes.note("by", (info.si_signo, info.si_code, address));
}

/// Starts a child that is traced and runs `body`.
fn traced(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child ends by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        probe::set_action(libc::SIGSEGV, skip, 0, &[]);
        probe::set_action(libc::SIGUSR1, skip, 0, &[]);
        // SAFETY: touches no memory; ends the child.
        unsafe {
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            libc::_exit(body());
        }
    }
    child
}

fn handled() -> i32 {
    HANDLED.load(Ordering::Relaxed) as i32
}

fn fault_body() -> i32 {
    // SAFETY: the handler skips the fault.
    unsafe { dune_test_fault() };
    handled()
}

fn at_fault() -> *const u8 {
    &raw const dune_test_at_fault
}

fn fault(notes: &Notes) {
    let child = traced(fault_body);
    note_stop(notes, child, wait(child), at_fault());
    notes.note("go on", ptrace(libc::PTRACE_CONT, child, libc::SIGSEGV as u64));
    notes.note("end", wait(child));
}

/// The tracer puts another signal in its place, or none after it has moved the program on.
fn other_signal(notes: &Notes) {
    let child = traced(fault_body);
    note_stop(notes, child, wait(child), at_fault());
    ptrace(libc::PTRACE_CONT, child, libc::SIGUSR1 as u64);
    notes.note("end", wait(child));
    let child = traced(fault_body);
    wait(child);
    // SAFETY: integers.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    ptrace(libc::PTRACE_GETREGS, child, (&raw mut registers) as u64);
    registers.rip += 3;
    notes.note("moved", ptrace(libc::PTRACE_SETREGS, child, (&raw mut registers) as u64));
    ptrace(libc::PTRACE_CONT, child, 0);
    notes.note("end", wait(child));
}

fn death(notes: &Notes) {
    let child = traced(|| {
        // SAFETY: no handler of the program's own.
        unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
        fault_body()
    });
    note_stop(notes, child, wait(child), at_fault());
    ptrace(libc::PTRACE_CONT, child, libc::SIGSEGV as u64);
    notes.note("end", wait(child));
}

fn breakpoint_and_steps(notes: &Notes) {
    let behind = &raw const dune_test_behind_break;
    let child = traced(|| {
        // SAFETY: the tracer goes on behind it.
        unsafe { dune_test_break() };
        77
    });
    note_stop(notes, child, wait(child), behind);
    for _ in 0..3 {
        ptrace(libc::PTRACE_SINGLESTEP, child, 0);
        note_stop(notes, child, wait(child), behind);
    }
    ptrace(libc::PTRACE_CONT, child, 0);
    notes.note("end", wait(child));
}

/// PTRACE_O_TRACEFORK: the child of a traced process is traced.
fn child_of_a_traced_process(notes: &Notes) {
    let child = traced(|| {
        // SAFETY: a signal to this process; the child ends by _exit.
        unsafe {
            libc::raise(libc::SIGSTOP);
            let grandchild = libc::fork();
            if grandchild == 0 {
                libc::_exit(fault_body());
            }
            let mut status = 0;
            libc::waitpid(grandchild, &mut status, 0);
            libc::WEXITSTATUS(status)
        }
    });
    notes.note("first", wait(child));
    ptrace(libc::PTRACE_SETOPTIONS, child, libc::PTRACE_O_TRACEFORK as u64);
    ptrace(libc::PTRACE_CONT, child, 0);
    notes.note("fork", wait(child));
    let mut grandchild = 0u64;
    ptrace(libc::PTRACE_GETEVENTMSG, child, (&raw mut grandchild) as u64);
    let grandchild = grandchild as i32;
    notes.note("its child", wait(grandchild));
    ptrace(libc::PTRACE_CONT, grandchild, 0);
    note_stop(notes, grandchild, wait(grandchild), at_fault());
    ptrace(libc::PTRACE_CONT, grandchild, libc::SIGSEGV as u64);
    notes.note("its end", wait(grandchild));
    ptrace(libc::PTRACE_CONT, child, 0);
    // SIGCHLD comes first.
    let status = wait(child);
    notes.note("signal", status);
    ptrace(libc::PTRACE_CONT, child, 0);
    notes.note("end", wait(child));
}

/// What the child does when the tracer comes.
#[derive(Debug, Clone, Copy)]
enum Meanwhile {
    Waits,
    Computes,
}

/// A tracer that comes later, PTRACE_ATTACH, sees the first fault behind that.
fn attached(notes: &Notes, meanwhile: Meanwhile) {
    let mut pipe = [0; 2];
    // SAFETY: makes two descriptors.
    assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
    let shared = probe::map_shared(4096);
    // SAFETY: our own page, shared with the child.
    let go = unsafe { &*(shared as *const AtomicU64) };
    // SAFETY: the child ends by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        probe::set_action(libc::SIGSEGV, skip, 0, &[]);
        let mut byte = 0u8;
        // SAFETY: reads a byte; ends the child.
        unsafe {
            // One before there is a tracer.
            dune_test_fault();
            go.store(1, Ordering::SeqCst);
            match meanwhile {
                Meanwhile::Waits => _ = libc::read(pipe[0], (&raw mut byte).cast(), 1),
                Meanwhile::Computes => {
                    while go.load(Ordering::SeqCst) != 2 {
                        asm!("pause");
                    }
                }
            }
            // Longer than the moment for which Dune takes it as known that there is no tracer.
            let start = std::time::Instant::now();
            while start.elapsed() < Duration::from_millis(700) {
                asm!("pause");
            }
            libc::_exit(fault_body());
        }
    }
    while go.load(Ordering::SeqCst) != 1 {
        std::thread::yield_now();
    }
    notes.note("attach", ptrace(libc::PTRACE_ATTACH, child, 0));
    notes.note("first", wait(child));
    go.store(2, Ordering::SeqCst);
    // SAFETY: writes a byte.
    unsafe { libc::write(pipe[1], (&raw const shared).cast(), 1) };
    ptrace(libc::PTRACE_CONT, child, 0);
    note_stop(notes, child, wait(child), at_fault());
    ptrace(libc::PTRACE_CONT, child, libc::SIGSEGV as u64);
    notes.note("end", wait(child));
}

/// A tracer that refuses openat(2) to a process that goes on in host mode, for a filter that kills its thread: nothing is left of it.
fn refused_files_of_a_leaver(notes: &Notes) {
    const SECCOMP_RET_KILL_THREAD: u32 = 0;
    const AT_CALL: i32 = libc::SIGTRAP | 0x80;
    let mut pipe = [0; 2];
    // SAFETY: makes two descriptors; the child ends by _exit.
    let child = unsafe {
        assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
        libc::fork()
    };
    if child == 0 {
        // SAFETY: reads a byte; ends the child.
        unsafe {
            libc::read(pipe[0], (&raw mut pipe[1]).cast(), 1);
            let filter = filters::filter(&[(libc::SYS_mknodat, SECCOMP_RET_KILL_THREAD)], filters::ALLOW);
            filters::under(filter, filters::by_seccomp);
            probe::syscall(libc::SYS_mknodat as u64, [0; 6]);
            libc::_exit(1);
        }
    }
    // It waits for the byte by then, mostly.
    std::thread::sleep(Duration::from_millis(100));
    notes.note("attach", ptrace(libc::PTRACE_ATTACH, child, 0));
    notes.note("stop", wait(child));
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
    ptrace(libc::PTRACE_SETOPTIONS, child, options as u64);
    // SAFETY: writes a byte.
    unsafe { libc::write(pipe[1], (&raw const pipe).cast(), 1) };
    let mut is_refused = false;
    let end = loop {
        ptrace(libc::PTRACE_SYSCALL, child, 0);
        match both::wait(child, Duration::from_secs(20)) {
            Some(status) if libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) != AT_CALL => continue,
            Some(status) if libc::WIFSTOPPED(status) => (),
            end => break end,
        }
        // SAFETY: integers.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        ptrace(libc::PTRACE_GETREGS, child, (&raw mut registers) as u64);
        // At the beginning of a call RAX is an error (arch/x86/entry/entry_64.S).
        let begins = registers.rax as i64 == -i64::from(libc::ENOSYS);
        if std::mem::take(&mut is_refused) {
            registers.rax = -i64::from(libc::ESRCH) as u64;
        } else if begins && registers.orig_rax == libc::SYS_openat as u64 {
            is_refused = true;
            registers.orig_rax = u64::MAX;
        } else {
            continue;
        }
        ptrace(libc::PTRACE_SETREGS, child, (&raw mut registers) as u64);
    };
    notes.note("end", end);
}
