//! Signals in Dune mode are those of signal(7). Each scenario runs in host mode first and has to see the same in Dune
//! mode.

use std::arch::{asm, naked_asm};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dune::memory::PageRange;

use crate::case::{Case, CaseResult, Ending};
use crate::probe;
use crate::ring3::{self, ring3_code};

pub const CASES: &[Case] = &[
    Case::new("signals::what_a_handler_sees", || same(what_a_handler_sees)),
    Case::new("signals::masks_and_flags", || same(masks_and_flags)),
    Case::new("signals::faults_become_signals", || same(faults_become_signals)),
    Case::new("signals::past_the_end_of_a_file", || same(past_the_end_of_a_file)),
    Case::new("signals::edits_take_effect", || same(edits_take_effect)),
    Case::new("signals::vector_state_is_the_interrupted_codes", || same(vector_state)),
    Case::new("signals::alternate_stack", || same(alternate_stack)),
    Case::new("signals::stack_overflow_on_the_alternate_stack", || same(stack_overflow)),
    Case::new("signals::a_thousand_nested", || same(nested)),
    Case::new("signals::interrupt_or_restart", || same(interrupt_or_restart)),
    Case::new("signals::waiting_for_signals", || same(waiting)),
    Case::new("signals::jump_out_of_a_handler", || same(jump_out)),
    Case::new("signals::children_and_job_control", || same(children)),
    Case::new("signals::go_to_one_thread", || same(to_one_thread)),
    Case::new("signals::a_storm_disturbs_nothing", storm),
    Case::new("signals::a_storm_while_forking", storm_while_forking),
    Case::new("signals::reach_a_spinning_thread", spinning),
    Case::new("signals::reach_ring_3", ring3),
    Case::new("signals::wait_for_trap_handlers", wait_for_trap_handlers),
    Case::new("signals::enter_in_a_handler", || enter_in_a_handler(0)),
    Case::new("signals::enter_in_a_handler_on_its_own_stack", || enter_in_a_handler(libc::SA_ONSTACK)),
    Case::new("signals::blocked_fault_dies", blocked_fault).ends(Ending::Signal(libc::SIGILL, &["6 #UD"])),
    Case::new("signals::default_dies", default_dies).ends(Ending::Signal(libc::SIGTERM, &[])),
    Case::new("signals::no_stack_for_the_frame_dies", no_stack).ends(Ending::Signal(libc::SIGSEGV, &[])),
];

type Log = Vec<(&'static str, i64)>;

/// Runs `scenario` in a child in host mode, then here in Dune mode.
fn same(scenario: fn() -> Log) -> CaseResult {
    let (mut reader, mut writer) = std::io::pipe()?;
    // SAFETY: the child runs the scenario, writes what it saw, and exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        use std::io::Write;
        let log = scenario();
        let written = log.iter().try_for_each(|(_, value)| writer.write_all(&value.to_le_bytes()));
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(written.is_err())) }
    }
    drop(writer);
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut reader, &mut bytes)?;
    let mut status = 0;
    // SAFETY: waits for our own child.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0, "in host mode");
    let host: Vec<i64> =
        bytes.chunks_exact(8).map(|word| i64::from_le_bytes(word.try_into().expect("eight"))).collect();
    dune::enter()?;
    let log = scenario();
    assert!(dune::cpu::in_dune_mode());
    assert!(!log.is_empty());
    assert_eq!(log.len(), host.len());
    for (index, ((what, dune), host)) in log.iter().zip(host).enumerate() {
        assert_eq!(*dune, host, "entry {index}: {what} (left: Dune mode, right: host mode)");
    }
    Ok(())
}

type Handler = extern "C" fn(i32, &mut libc::siginfo_t, &mut libc::ucontext_t);

fn set(signal: i32, handler: Handler, flags: i32, mask: &[i32]) {
    // SAFETY: a zeroed sigaction is valid; the handler is a function for signals.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = flags | libc::SA_SIGINFO;
        mask.iter().for_each(|&signal| _ = libc::sigaddset(&mut action.sa_mask, signal));
        assert_eq!(libc::sigaction(signal, &action, null_mut()), 0);
    }
}

fn raise(signal: i32) {
    // SAFETY: a signal to this thread.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), signal) };
}

/// The signals from 1 to 64 that are blocked, as bits.
fn mask() -> i64 {
    let mut mask = 0u64;
    // SAFETY: the call writes `mask`.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, 0, &mut mask, 8) };
    mask as i64
}

fn block(how: i32, signals: &[i32]) {
    let bits = signals.iter().fold(0u64, |bits, signal| bits | 1 << (signal - 1));
    // SAFETY: the call reads `bits`.
    assert_eq!(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, &bits, 0, 8) }, 0);
}

/// What handlers noted.
static SEEN: [AtomicI64; 64] = [const { AtomicI64::new(0) }; 64];
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn note(value: i64) {
    let index = COUNT.fetch_add(1, Ordering::Relaxed);
    if let Some(slot) = SEEN.get(index) {
        slot.store(value, Ordering::Relaxed);
    }
}

/// What they noted since the last time.
fn noted(what: &'static str) -> Log {
    let count = COUNT.swap(0, Ordering::Relaxed);
    let mut log = vec![(what, count as i64)];
    log.extend(SEEN.iter().take(count).map(|slot| (what, slot.swap(0, Ordering::Relaxed))));
    log
}

fn what_a_handler_sees() -> Log {
    extern "C" fn handler(signal: i32, info: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
        let local = 0u64;
        // SAFETY: the signal came by tgkill or sigqueue.
        let (own, value) = unsafe {
            (
                info.si_pid() == libc::getpid() && info.si_uid() == libc::getuid(),
                info.si_value().sival_ptr as i64,
            )
        };
        note(signal.into());
        note(info.si_signo.into());
        note(info.si_code.into());
        note(own.into());
        note(if info.si_code == libc::SI_QUEUE { value } else { 0 });
        note(context.uc_flags as i64 & !1);
        note(context.uc_mcontext.gregs[libc::REG_TRAPNO as usize]);
        note(context.uc_mcontext.gregs[libc::REG_CSGSFS as usize] & 0xffff);
        // The frame lies below the interrupted stack pointer's red zone, and the handler on it.
        let rsp = context.uc_mcontext.gregs[libc::REG_RSP as usize] as u64;
        note(((&raw const *context) as u64 + 128 < rsp && (&raw const local as u64) < rsp).into());
        note(((&raw const *context) as u64 % 16) as i64);
        note(mask());
        // The first word is glibc's.
        note(context.uc_sigmask.to_bits() as i64);
        note(context.uc_stack.ss_flags.into());
    }
    set(libc::SIGUSR1, handler, 0, &[libc::SIGUSR2]);
    set(libc::SIGRTMIN() + 3, handler, 0, &[]);
    raise(libc::SIGUSR1);
    let mut log = noted("tgkill");
    // SAFETY: a signal to this process.
    unsafe {
        let value = libc::sigval { sival_ptr: 0x1234 as *mut c_void };
        libc::sigqueue(libc::getpid(), libc::SIGRTMIN() + 3, value);
    }
    log.extend(noted("sigqueue"));
    log.push(("mask afterwards", mask()));
    log
}

trait Bits {
    fn to_bits(&self) -> u64;
}

impl Bits for libc::sigset_t {
    fn to_bits(&self) -> u64 {
        // SAFETY: the set starts with the word of signals 1 to 64.
        unsafe { (&raw const *self).cast::<u64>().read() }
    }
}

fn masks_and_flags() -> Log {
    extern "C" fn handler(signal: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        note(signal.into());
        note(mask());
        if signal == libc::SIGUSR1 && COUNT.load(Ordering::Relaxed) < 10 {
            raise(libc::SIGUSR2);
            raise(libc::SIGUSR1);
        }
        note(-i64::from(signal));
    }
    let action = |signal| {
        // SAFETY: the call writes `action`.
        let action = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, null_mut(), &mut action);
            action
        };
        let is_ours = action.sa_sigaction == handler as *const () as usize;
        let kind = if is_ours { 2 } else { action.sa_sigaction as i64 };
        [("handler", kind), ("flags", action.sa_flags.into()), ("mask", action.sa_mask.to_bits() as i64)]
    };
    let mut log = Log::new();
    // Blocked in its own handler, and what the mask says: comes later.
    set(libc::SIGUSR1, handler, 0, &[libc::SIGUSR2]);
    set(libc::SIGUSR2, handler, 0, &[]);
    log.extend(action(libc::SIGUSR1));
    raise(libc::SIGUSR1);
    log.extend(noted("blocked"));
    set(libc::SIGUSR1, handler, libc::SA_NODEFER, &[]);
    log.extend(action(libc::SIGUSR1));
    raise(libc::SIGUSR1);
    log.extend(noted("nested"));
    set(libc::SIGUSR2, handler, libc::SA_RESETHAND, &[libc::SIGKILL, libc::SIGSTOP, libc::SIGHUP]);
    log.extend(action(libc::SIGUSR2));
    raise(libc::SIGUSR2);
    log.extend(noted("once"));
    log.extend(action(libc::SIGUSR2));
    // Several that wait come when they are unblocked, before the call returns.
    set(libc::SIGUSR2, handler, 0, &[]);
    set(libc::SIGHUP, handler, 0, &[]);
    set(libc::SIGWINCH, handler, 0, &[]);
    let three = [libc::SIGUSR2, libc::SIGHUP, libc::SIGWINCH];
    block(libc::SIG_BLOCK, &three);
    three.into_iter().for_each(raise);
    log.push(("still blocked", COUNT.load(Ordering::Relaxed) as i64));
    block(libc::SIG_UNBLOCK, &three);
    log.extend(noted("three at once"));
    for (signal, action) in [(libc::SIGKILL, 0), (65, 0), (0, 0), (libc::SIGUSR1, 8)] {
        // SAFETY: the calls are refused, or read nothing.
        let result = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action as *const u8, 0, 8) };
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        log.push(("refused", if result == 0 { 0 } else { errno.into() }));
    }
    log.push(("mask afterwards", mask()));
    log
}

/// What the fault handler adds to RIP to get behind the instruction.
static SKIP: AtomicU64 = AtomicU64::new(0);
static PAGE: AtomicU64 = AtomicU64::new(0);
/// Bits of the error code that need not agree. The present bit: Linux has no entry for a page that was never touched, Dune
/// has.
static UNKNOWN: AtomicI64 = AtomicI64::new(1);

extern "C" fn skipping(signal: i32, info: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
    let registers = &mut context.uc_mcontext.gregs;
    // SAFETY: a fault has an address.
    let address = unsafe { info.si_addr() } as u64;
    let rip = registers[libc::REG_RIP as usize] as u64;
    note(signal.into());
    note(info.si_code.into());
    note(match address {
        _ if address == rip => -1,
        _ => (address.wrapping_sub(PAGE.load(Ordering::Relaxed))) as i64,
    });
    note(registers[libc::REG_TRAPNO as usize]);
    note(registers[libc::REG_ERR as usize] & !UNKNOWN.load(Ordering::Relaxed));
    if signal == libc::SIGSEGV && info.si_code > 0 && info.si_code < 128 {
        note((registers[libc::REG_CR2 as usize] as u64).wrapping_sub(PAGE.load(Ordering::Relaxed)) as i64);
    }
    registers[libc::REG_RIP as usize] += SKIP.load(Ordering::Relaxed) as i64;
}

fn faults_become_signals() -> Log {
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP] {
        set(signal, skipping, 0, &[]);
    }
    let mut log = Log::new();
    // SAFETY: each instruction faults, and its handler skips it. The pages are this function's own.
    unsafe {
        let read_only =
            libc::mmap(null_mut(), 8192, libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
                as u64;
        libc::munmap((read_only + 4096) as *mut c_void, 4096);
        PAGE.store(read_only, Ordering::Relaxed);
        SKIP.store(2, Ordering::Relaxed);
        asm!("mov [rdi], al", in("rdi") read_only + 4096 + 0x123, options(nostack));
        log.extend(noted("write to nothing"));
        asm!("mov al, [rdi]", in("rdi") read_only + 4096 + 0x123, out("al") _, options(nostack));
        log.extend(noted("read of nothing"));
        asm!("mov [rdi], al", in("rdi") read_only + 0x10, options(nostack));
        log.extend(noted("write to a read-only page"));
        libc::mprotect(read_only as *mut c_void, 4096, libc::PROT_NONE);
        asm!("mov al, [rdi]", in("rdi") read_only + 0x10, out("al") _, options(nostack));
        log.extend(noted("read of a page without rights"));
        PAGE.store(0, Ordering::Relaxed);
        asm!("mov al, [rdi]", in("rdi") 0x8000_0000_0000_0000u64, out("al") _, options(nostack));
        log.extend(noted("not canonical"));
        asm!("ud2", options(nostack));
        log.extend(noted("ud2"));
        asm!("div cl", in("ax") 1u16, in("cl") 0u8, lateout("ax") _, options(nostack));
        log.extend(noted("division by zero"));
        SKIP.store(0, Ordering::Relaxed);
        asm!("int3", options(nostack));
        log.extend(noted("int3"));
        // x87: unmask all, divide by zero, and wait for it.
        SKIP.store(1, Ordering::Relaxed);
        let (unmasked, default) = (0x340u16, 0x37fu16);
        asm!("fldcw [{}]", "fld1", "fldz", "fdivp", "fwait", "nop", "fninit", in(reg) &unmasked);
        asm!("fldcw [{}]", in(reg) &default);
        log.extend(noted("x87"));
    }
    log
}

/// A file that is shorter than its mapping: SIGBUS, whatever the instruction.
fn past_the_end_of_a_file() -> Log {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        set(signal, skipping, 0, &[]);
    }
    // The engine does not tell whether it was a write.
    UNKNOWN.store(3, Ordering::Relaxed);
    let mut log = Log::new();
    // SAFETY: each instruction faults, and its handler skips it. The pages are this function's own.
    unsafe {
        let file = libc::memfd_create(c"short".as_ptr(), 0);
        libc::ftruncate(file, 8192);
        let rights = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let pages = libc::mmap(null_mut(), 8192, rights, libc::MAP_SHARED, file, 0) as u64;
        let end = pages + 4096;
        PAGE.store(end, Ordering::Relaxed);
        // Both pages are there, also in Dune mode, before the file is cut.
        (pages as *mut u64).write_volatile(1);
        (end as *mut u64).write_volatile(2);
        libc::ftruncate(file, 4096);
        SKIP.store(2, Ordering::Relaxed);
        asm!("mov al, [rdi]", in("rdi") end + 5, out("al") _, options(nostack));
        log.extend(noted("read"));
        asm!("mov [rdi], al", in("rdi") end + 0x80, options(nostack));
        log.extend(noted("write"));
        SKIP.store(4, Ordering::Relaxed);
        asm!("movdqu xmm0, [rdi]", in("rdi") end - 8, out("xmm0") _, options(nostack));
        log.extend(noted("across the end"));
        asm!("mov al, [rdi + rcx * 8]", "nop", in("rdi") end, in("rcx") 3, out("al") _, options(nostack));
        log.extend(noted("with an index"));
        SKIP.store(2, Ordering::Relaxed);
        asm!("rep movsb", inout("rsi") end - 3 => _, inout("rdi") pages => _, inout("rcx") 16u64 => _);
        log.extend(noted("a string"));
        asm!("mov r12, rsp", "mov rsp, rdi", "push 7", "mov rsp, r12", in("rdi") end + 64, out("r12") _);
        log.extend(noted("the stack"));
        // A call to it: the handler returns to the caller.
        extern "C" fn back(_: i32, info: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
            let registers = &mut context.uc_mcontext.gregs;
            note(info.si_code.into());
            // SAFETY: a fault has an address, and the call has pushed one.
            unsafe {
                note((info.si_addr() as i64 == registers[libc::REG_RIP as usize]).into());
                registers[libc::REG_RIP as usize] = (registers[libc::REG_RSP as usize] as *const i64).read();
            }
            registers[libc::REG_RSP as usize] += 8;
        }
        set(libc::SIGBUS, back, 0, &[]);
        asm!("call {}", in(reg) end + 0x10, clobber_abi("C"));
        log.extend(noted("a jump"));
        // A system call says EFAULT.
        let result = libc::write(1, (end + 1) as *const c_void, 1);
        log.push(("write(2)", result as i64));
        log.push(("errno", std::io::Error::last_os_error().raw_os_error().unwrap_or(0).into()));
        // And when the file grows again, there is a page of zeros.
        libc::ftruncate(file, 8192);
        log.push(("grown", (end as *const i64).read_volatile()));
    }
    log
}

fn edits_take_effect() -> Log {
    extern "C" fn handler(_: i32, _: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
        let registers = &mut context.uc_mcontext.gregs;
        for (index, register) in [
            libc::REG_RAX,
            libc::REG_RBX,
            libc::REG_RCX,
            libc::REG_RDX,
            libc::REG_RSI,
            libc::REG_RDI,
            libc::REG_RBP,
            libc::REG_R8,
            libc::REG_R9,
            libc::REG_R10,
            libc::REG_R11,
            libc::REG_R12,
            libc::REG_R13,
            libc::REG_R14,
            libc::REG_R15,
        ]
        .into_iter()
        .enumerate()
        {
            note(registers[register as usize]);
            registers[register as usize] = 0x1000 + index as i64;
        }
        registers[libc::REG_RIP as usize] += 2;
        // Set carry, which the handler found clear; the system's flags stay as they are.
        note(registers[libc::REG_EFL as usize] & 1);
        registers[libc::REG_EFL as usize] |= 1 | 3 << 12;
    }
    set(libc::SIGILL, handler, 0, &[]);
    let mut out = [0i64; 16];
    // SAFETY: all registers are saved around the instruction.
    unsafe {
        asm!(
            "push rbx", "push rbp", "push {out}",
            "mov eax, 1", "mov ebx, 2", "mov ecx, 3", "mov edx, 4", "mov esi, 5", "mov edi, 6", "mov ebp, 7",
            "mov r8d, 8", "mov r9d, 9", "mov r10d, 10", "mov r11d, 11", "mov r12d, 12", "mov r13d, 13", "mov r14d, 14",
            "mov r15d, 15",
            "clc",
            "ud2",
            "push r15",
            "mov r15, [rsp + 8]",
            "mov [r15], rax", "mov [r15 + 8], rbx", "mov [r15 + 16], rcx", "mov [r15 + 24], rdx", "mov [r15 + 32], rsi",
            "mov [r15 + 40], rdi", "mov [r15 + 48], rbp", "mov [r15 + 56], r8", "mov [r15 + 64], r9",
            "mov [r15 + 72], r10", "mov [r15 + 80], r11", "mov [r15 + 88], r12", "mov [r15 + 96], r13",
            "mov [r15 + 104], r14",
            "setc al", "movzx eax, al", "mov [r15 + 120], rax",
            "pop rax", "mov [r15 + 112], rax",
            "pop rax", "pop rbp", "pop rbx",
            out = in(reg) &mut out,
            out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _, out("r8") _, out("r9") _,
            out("r10") _, out("r11") _, out("r12") _, out("r13") _, out("r14") _, out("r15") _,
        );
    }
    let mut log = noted("found");
    log.extend(out.map(|value| ("left", value)));
    // The result of an interrupted system call can be edited, too.
    extern "C" fn answer(_: i32, _: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
        note(context.uc_mcontext.gregs[libc::REG_RAX as usize]);
        context.uc_mcontext.gregs[libc::REG_RAX as usize] = 4321;
    }
    set(libc::SIGUSR1, answer, 0, &[]);
    let (process, thread) = (probe::getpid(), probe::syscall(libc::SYS_gettid as u64, [0; 6]));
    let arguments = [process as u64, thread as u64, libc::SIGUSR1 as u64, 0, 0, 0];
    log.push(("edited result", probe::syscall(libc::SYS_tgkill as u64, arguments)));
    log.extend(noted("result"));
    log
}

fn vector_state() -> Log {
    extern "C" fn handler(_: i32, _: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
        let (mut mxcsr, mut control) = (0u32, 0u16);
        // SAFETY: both store to their variable; all vector registers may be overwritten here, as in any function.
        unsafe {
            asm!("stmxcsr [{}]", "fnstcw [{}]", in(reg) &mut mxcsr, in(reg) &mut control);
            asm!("pcmpeqd xmm0, xmm0", "movdqa xmm7, xmm0", "movdqa xmm15, xmm0", out("xmm0") _, out("xmm7") _, out("xmm15") _);
        }
        note(mxcsr.into());
        note(control.into());
        // SAFETY: the frame has vector state.
        let state = unsafe { &mut *context.uc_mcontext.fpregs };
        note(state.mxcsr.into());
        note(state.cwd.into());
        note(state._xmm[7].element[0].into());
        // Becomes the interrupted code's.
        state._xmm[3].element = [3, 33, 333, 3333];
        state.mxcsr = 0x7f80;
    }
    set(libc::SIGUSR1, handler, 0, &[]);
    let values: [[u32; 4]; 16] = std::array::from_fn(|n| std::array::from_fn(|m| (n * 100 + m) as u32));
    let mut after = [[0u32; 4]; 16];
    let (mxcsr, mut mxcsr_after, mut default) = (0x3f80u32, 0u32, 0u32);
    let (process, thread) = (probe::getpid(), probe::syscall(libc::SYS_gettid as u64, [0; 6]));
    // SAFETY: all that is changed is declared, and MXCSR is brought back.
    unsafe {
        asm!("stmxcsr [{}]", in(reg) &mut default);
        asm!(
            "ldmxcsr [{mxcsr}]",
            "movdqu xmm0, [{from}]", "movdqu xmm3, [{from} + 48]", "movdqu xmm7, [{from} + 112]", "movdqu xmm15, [{from} + 240]",
            "syscall",
            "movdqu [{to}], xmm0", "movdqu [{to} + 48], xmm3", "movdqu [{to} + 112], xmm7", "movdqu [{to} + 240], xmm15",
            "stmxcsr [{mxcsr_after}]",
            mxcsr = in(reg) &mxcsr,
            mxcsr_after = in(reg) &mut mxcsr_after,
            from = in(reg) &values,
            to = in(reg) &mut after,
            inlateout("rax") libc::SYS_tgkill => _,
            in("rdi") process, in("rsi") thread, in("rdx") libc::SIGUSR1,
            out("rcx") _, out("r11") _, out("xmm0") _, out("xmm3") _, out("xmm7") _, out("xmm15") _,
        );
        asm!("ldmxcsr [{}]", in(reg) &default);
    }
    let mut log = noted("in the handler");
    for register in [0, 3, 7, 15] {
        log.extend(after[register].map(|word| ("xmm", word.into())));
    }
    log.push(("mxcsr", mxcsr_after.into()));
    log
}

static STACK: AtomicU64 = AtomicU64::new(0);
const STACK_BYTES: usize = 64 << 10;

fn set_stack(start: u64, flags: i32, bytes: usize) -> i64 {
    let stack = libc::stack_t { ss_sp: start as *mut c_void, ss_flags: flags, ss_size: bytes };
    // SAFETY: the memory is the caller's and used for nothing else.
    match unsafe { libc::sigaltstack(&stack, null_mut()) } {
        0 => 0,
        _ => std::io::Error::last_os_error().raw_os_error().unwrap_or(-1).into(),
    }
}

fn get_stack() -> (i64, i64) {
    // SAFETY: the call writes the description.
    let stack = unsafe {
        let mut stack: libc::stack_t = std::mem::zeroed();
        libc::sigaltstack(std::ptr::null(), &mut stack);
        stack
    };
    (stack.ss_flags.into(), stack.ss_size as i64)
}

fn alternate_stack() -> Log {
    extern "C" fn handler(signal: i32, _: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
        let local = 0u8;
        let start = STACK.load(Ordering::Relaxed);
        let on_it = (start..start + STACK_BYTES as u64).contains(&(&raw const local as u64));
        note(on_it.into());
        note(get_stack().0);
        note(context.uc_stack.ss_flags.into());
        note(context.uc_stack.ss_size as i64);
        note(set_stack(start, 0, STACK_BYTES));
        if signal == libc::SIGUSR1 {
            raise(libc::SIGUSR2);
        }
    }
    let start = probe::pages(STACK_BYTES / 4096 + 16).as_u64();
    STACK.store(start, Ordering::Relaxed);
    let mut log =
        vec![("too small", set_stack(start, 0, 100)), ("bad flags", set_stack(start, 64, STACK_BYTES))];
    log.push(("set", set_stack(start, 0, STACK_BYTES)));
    log.push(("flags", get_stack().0));
    log.push(("size", get_stack().1));
    set(libc::SIGUSR1, handler, libc::SA_ONSTACK, &[]);
    set(libc::SIGUSR2, handler, libc::SA_ONSTACK, &[]);
    raise(libc::SIGUSR1);
    log.extend(noted("on the stack"));
    set(libc::SIGUSR1, handler, 0, &[]);
    raise(libc::SIGUSR1);
    log.extend(noted("one on it, one not"));
    const SS_AUTODISARM: i32 = 1 << 31;
    log.push(("set", set_stack(start, SS_AUTODISARM, STACK_BYTES)));
    raise(libc::SIGUSR2);
    log.extend(noted("disarmed"));
    log.push(("armed again", get_stack().0));
    log.push(("off", set_stack(0, libc::SS_DISABLE, 0)));
    log.push(("flags", get_stack().0));
    log
}

/// A stack that overflows faults, and its handler runs on the alternate one.
fn stack_overflow() -> Log {
    extern "C" fn handler(signal: i32, info: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
        // SAFETY: a fault has an address.
        let address = unsafe { info.si_addr() } as i64;
        let rsp = context.uc_mcontext.gregs[libc::REG_RSP as usize];
        note(signal.into());
        note(((address - rsp).abs() < 65536).into());
        // Ends the recursion: back to where it began.
        context.uc_mcontext.gregs[libc::REG_RIP as usize] = RETURN_RIP.load(Ordering::Relaxed) as i64;
        context.uc_mcontext.gregs[libc::REG_RSP as usize] = RETURN_RSP.load(Ordering::Relaxed) as i64;
    }
    static RETURN_RIP: AtomicU64 = AtomicU64::new(0);
    static RETURN_RSP: AtomicU64 = AtomicU64::new(0);
    let start = probe::pages(STACK_BYTES / 4096).as_u64();
    set_stack(start, 0, STACK_BYTES);
    set(libc::SIGSEGV, handler, libc::SA_ONSTACK, &[]);
    // In a thread: its stack has a guard page, and ends in any mode.
    let thread = std::thread::Builder::new().stack_size(256 << 10).spawn(|| {
        let start = probe::pages(STACK_BYTES / 4096).as_u64();
        set_stack(start, 0, STACK_BYTES);
        // SAFETY: the handler comes back behind the loop with the stack pointer of before.
        unsafe {
            asm!(
                "lea rax, [rip + 3f]",
                "mov [{rip}], rax",
                "mov [{rsp}], rsp",
                "2:",
                "push rax",
                "jmp 2b",
                "3:",
                rip = in(reg) RETURN_RIP.as_ptr(),
                rsp = in(reg) RETURN_RSP.as_ptr(),
                out("rax") _,
            );
        }
        // The thread's own stack goes on working.
        note(format!("{:?}", std::thread::current().id()).len() as i64 & 1 | 1);
        set_stack(0, libc::SS_DISABLE, 0);
    });
    let joined = thread.map(|thread| thread.join().is_ok()).unwrap_or(false);
    let mut log = noted("overflow");
    log.push(("joined", joined.into()));
    log
}

fn nested() -> Log {
    static DEPTH: AtomicI64 = AtomicI64::new(0);
    extern "C" fn handler(_: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        let depth = DEPTH.fetch_add(1, Ordering::Relaxed) + 1;
        if depth < 1000 {
            raise(libc::SIGUSR1);
        }
        note(depth);
    }
    set(libc::SIGUSR1, handler, libc::SA_NODEFER, &[]);
    raise(libc::SIGUSR1);
    let mut log = vec![("depth", DEPTH.load(Ordering::Relaxed))];
    log.extend(noted("unwound"));
    log
}

/// Starts a timer that sends SIGALRM after `milliseconds`, then every `period`.
fn alarm(milliseconds: i64, period: i64) {
    let time = |ms: i64| libc::timeval { tv_sec: ms / 1000, tv_usec: ms % 1000 * 1000 };
    let timer = libc::itimerval { it_interval: time(period), it_value: time(milliseconds) };
    // SAFETY: the call reads the timer.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, null_mut()) };
}

static PIPE: AtomicI64 = AtomicI64::new(0);

fn interrupt_or_restart() -> Log {
    extern "C" fn handler(signal: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        note(signal.into());
        // The second time there is something to read.
        if COUNT.load(Ordering::Relaxed) >= 2 {
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

fn waiting() -> Log {
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

/// sigsetjmp and siglongjmp; the first returns twice, which only assembly may see.
#[unsafe(naked)]
unsafe extern "C" fn jump_out_of(_buffer: *mut u8, _body: extern "C" fn()) -> i32 {
    // ABI: System V. 0 if `body` returned, else what siglongjmp was given.
    naked_asm!(
        "push rbx",
        "mov rbx, rsi",
        "mov esi, 1",
        "call {sigsetjmp}",
        "test eax, eax",
        "jnz 2f",
        "call rbx",
        "xor eax, eax",
        "2:",
        "pop rbx",
        "ret",
        sigsetjmp = sym __sigsetjmp,
    )
}

unsafe extern "C" {
    fn __sigsetjmp(buffer: *mut u8, save_mask: i32) -> i32;
    fn siglongjmp(buffer: *mut u8, value: i32) -> !;
}

fn jump_out() -> Log {
    static BUFFER: AtomicU64 = AtomicU64::new(0);
    extern "C" fn handler(signal: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        note(mask());
        // SAFETY: the buffer's function has not returned.
        unsafe { siglongjmp(BUFFER.load(Ordering::Relaxed) as *mut u8, 100 + signal) }
    }
    extern "C" fn null() {
        // SAFETY: faults, and the handler leaves.
        unsafe { asm!("mov byte ptr [{}], 0", in(reg) 8u64) }
    }
    extern "C" fn alarmed() {
        alarm(20, 0);
        loop {
            std::hint::spin_loop();
        }
    }
    let mut buffer = [0u64; 64];
    BUFFER.store(buffer.as_mut_ptr() as u64, Ordering::Relaxed);
    let stack = probe::pages(STACK_BYTES / 4096).as_u64();
    set_stack(stack, 0, STACK_BYTES);
    set(libc::SIGSEGV, handler, libc::SA_ONSTACK, &[]);
    set(libc::SIGALRM, handler, 0, &[libc::SIGUSR1]);
    let mut log = Log::new();
    for _ in 0..20 {
        // SAFETY: the buffer is larger than glibc's 200 bytes; nothing between here and the handlers has to be dropped.
        unsafe {
            log.push(("fault", jump_out_of(buffer.as_mut_ptr().cast(), null).into()));
            log.push(("alarm", jump_out_of(buffer.as_mut_ptr().cast(), alarmed).into()));
        }
        log.push(("mask", mask()));
        log.push(("stack", get_stack().0));
        log.extend(noted("handlers"));
    }
    log
}

fn children() -> Log {
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
        while COUNT.load(Ordering::Relaxed) < 3 && Instant::now() < deadline {
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

fn to_one_thread() -> Log {
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

static TICKS: AtomicU64 = AtomicU64::new(0);

extern "C" fn tick(_: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
    TICKS.fetch_add(1, Ordering::Relaxed);
    assert!(dune::cpu::in_dune_mode());
    // Overwrites registers, and makes a system call.
    std::hint::black_box((0..20).map(|n| f64::from(n).sqrt()).sum::<f64>());
    probe::getpid();
}

/// Runs `body` under a stream of signals; fails if they were fewer than `least`.
fn under_signals(least: u64, mut body: impl FnMut() -> CaseResult) -> CaseResult {
    set(libc::SIGALRM, tick, libc::SA_RESTART, &[]);
    TICKS.store(0, Ordering::Relaxed);
    alarm(2, 2);
    let deadline = Instant::now() + Duration::from_secs(60);
    while TICKS.load(Ordering::Relaxed) < least {
        assert!(Instant::now() < deadline, "{} signals in a minute", TICKS.load(Ordering::Relaxed));
        body()?;
    }
    alarm(0, 0);
    Ok(())
}

/// Computing, system calls, memory calls and traps go on undisturbed between signals.
fn storm() -> CaseResult {
    let dune = dune::enter()?;
    dune.set_handler(dune::Vector::BREAKPOINT, |_, _| dune::TrapOutcome::Resume);
    let sum = || (1..2000u64).map(|n| (n as f64).sqrt() * (n as f64).ln()).sum::<f64>();
    let expected = sum();
    under_signals(300, || {
        assert_eq!(sum(), expected);
        let mut text = String::new();
        (0..50).for_each(|n| text.push_str(&format!("{n},")));
        assert_eq!(text.len(), 140);
        let page = probe::pages(2);
        // SAFETY: the pages are this closure's; the trap has a handler.
        unsafe {
            page.as_mut_ptr::<u64>().write(7);
            asm!("int3");
            assert_eq!(page.as_mut_ptr::<u64>().read(), 7);
            libc::munmap(page.as_mut_ptr(), 8192);
        }
        Ok(())
    })
}

fn storm_while_forking() -> CaseResult {
    dune::enter()?;
    under_signals(100, || {
        let status = std::process::Command::new("true").status()?;
        assert!(status.success());
        // SAFETY: the child exits.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let inner = std::thread::spawn(|| 5).join().unwrap_or(0);
            // SAFETY: ends the child.
            unsafe { libc::_exit(inner + i32::from(mask() != 0)) }
        }
        let mut status = 0;
        // SAFETY: waits for our own child.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(libc::WEXITSTATUS(status), 5, "{status:#x}");
        std::thread::spawn(|| assert_eq!(mask(), 0)).join().map_err(|_| "a thread panicked")?;
        Ok(())
    })
}

/// A thread that makes no system call gets its signals, promptly.
fn spinning() -> CaseResult {
    dune::enter()?;
    set(libc::SIGALRM, tick, 0, &[]);
    alarm(5, 5);
    let start = Instant::now();
    // No system call, and no clock.
    while TICKS.load(Ordering::Relaxed) < 10 {
        std::hint::spin_loop();
    }
    alarm(0, 0);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    Ok(())
}

/// Ring-3 code is interrupted; the handler runs at ring 0 on ring 0's stack, and ring 3 goes on.
fn ring3() -> CaseResult {
    // Counts until the word at RDI is not 0, then makes a system call.
    ring3_code!(count, "2:", "inc rbx", "cmp dword ptr [rdi], 0", "je 2b", "syscall", "ud2");
    let dune = dune::enter()?;
    let mut context = ring3::context(dune, count)?;
    let data = PageRange::page(probe::pages(1));
    ring3::grant(dune, data)?;
    let word = data.start().as_u64();
    static WORD: AtomicU64 = AtomicU64::new(0);
    extern "C" fn stop(_: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        assert!(dune::cpu::in_dune_mode());
        if TICKS.fetch_add(1, Ordering::Relaxed) == 4 {
            // SAFETY: the word is in ring 3's data page.
            unsafe { (WORD.load(Ordering::Relaxed) as *mut u32).write_volatile(1) };
        }
    }
    WORD.store(word, Ordering::Relaxed);
    context.registers.rdi = word;
    set(libc::SIGALRM, stop, 0, &[]);
    alarm(5, 5);
    let exit = dune.run_user(&mut context)?;
    alarm(0, 0);
    assert_eq!(exit, dune::user::UserExit::SystemCall);
    assert!(TICKS.load(Ordering::Relaxed) >= 5);
    assert!(context.registers.rbx > 0);
    Ok(())
}

/// A trap handler is not interrupted; the signal comes when it has returned, and a system call in it works.
fn wait_for_trap_handlers() -> CaseResult {
    fn handler(_: dune::Dune, _: &mut dune::TrapFrame) -> dune::TrapOutcome {
        raise(libc::SIGALRM);
        note(TICKS.load(Ordering::Relaxed) as i64);
        note((probe::getpid() > 0).into());
        note(TICKS.load(Ordering::Relaxed) as i64);
        dune::TrapOutcome::Resume
    }
    let dune = dune::enter()?;
    set(libc::SIGALRM, tick, 0, &[]);
    dune.set_handler(dune::Vector::BREAKPOINT, handler);
    // SAFETY: the trap has a handler.
    unsafe { asm!("int3") };
    let deadline = Instant::now() + Duration::from_secs(10);
    while TICKS.load(Ordering::Relaxed) == 0 && Instant::now() < deadline {
        std::hint::spin_loop();
    }
    assert_eq!(noted("trap").iter().map(|(_, value)| *value).collect::<Vec<_>>(), [3, 0, 1, 0]);
    assert_eq!(TICKS.load(Ordering::Relaxed), 1);
    Ok(())
}

fn blocked_fault() -> CaseResult {
    extern "C" fn never(_: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        std::process::abort();
    }
    dune::enter()?;
    set(libc::SIGILL, never, 0, &[]);
    block(libc::SIG_BLOCK, &[libc::SIGILL]);
    // SAFETY: ends the process.
    unsafe { asm!("ud2") };
    Ok(())
}

fn default_dies() -> CaseResult {
    dune::enter()?;
    set(libc::SIGTERM, tick, libc::SA_RESETHAND, &[]);
    raise(libc::SIGTERM);
    raise(libc::SIGTERM);
    Ok(())
}

fn no_stack() -> CaseResult {
    dune::enter()?;
    set(libc::SIGUSR1, tick, 0, &[]);
    let (process, thread) = (probe::getpid(), probe::syscall(libc::SYS_gettid as u64, [0; 6]));
    // SAFETY: ends the process: the stack pointer is nowhere when the signal comes.
    unsafe {
        asm!(
            "mov rsp, 0x1000",
            "syscall",
            "ud2",
            in("rax") libc::SYS_tgkill, in("rdi") process, in("rsi") thread, in("rdx") libc::SIGUSR1,
            options(noreturn)
        );
    }
}

/// A handler that enters returns into the code that it interrupted, which is then in Dune mode: the frame is Linux's.
fn enter_in_a_handler(flags: i32) -> CaseResult {
    extern "C" fn entering(_: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        assert!(!dune::cpu::in_dune_mode());
        if let Err(error) = dune::enter() {
            println!("{error}");
            std::process::exit(99);
        }
        assert!(mask() & 1 << (libc::SIGUSR1 - 1) != 0);
        // SAFETY: all vector registers may be overwritten here, as in any function.
        unsafe { asm!("pcmpeqd xmm5, xmm5", out("xmm5") _) };
    }
    let stack = probe::pages(256).as_u64();
    set_stack(stack, 0, 1 << 20);
    set(libc::SIGUSR1, entering, flags, &[]);
    let (process, thread) = (probe::getpid(), probe::syscall(libc::SYS_gettid as u64, [0; 6]));
    let value: [u64; 2];
    // SAFETY: the handler keeps all registers.
    unsafe {
        let (mut low, mut high) = (0u64, 0u64);
        asm!(
            "movq xmm5, {from}",
            "syscall",
            "movq {low}, xmm5",
            "pextrq {high}, xmm5, 1",
            from = in(reg) 0x1234_5678_9abc_def0u64,
            low = out(reg) low,
            high = out(reg) high,
            inlateout("rax") libc::SYS_tgkill => _,
            in("rdi") process, in("rsi") thread, in("rdx") libc::SIGUSR1,
            out("rcx") _, out("r11") _, out("xmm5") _,
        );
        value = [low, high];
    }
    assert_eq!(value, [0x1234_5678_9abc_def0, 0]);
    assert!(dune::cpu::in_dune_mode() && mask() == 0);
    assert_eq!(get_stack(), (0, 1 << 20));
    set(libc::SIGUSR1, tick, flags, &[]);
    raise(libc::SIGUSR1);
    assert_eq!(TICKS.load(Ordering::Relaxed), 1);
    Ok(())
}
