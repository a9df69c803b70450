//! What a handler sees, and what becomes of its edits.

use std::arch::asm;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::scenario::{Bits, Log, block, mask, note, noted, notes, raise, set};
use crate::case::CaseResult;
use crate::probe;

pub(super) fn what_a_handler_sees() -> Log {
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

pub(super) fn masks_and_flags() -> Log {
    extern "C" fn handler(signal: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        note(signal.into());
        note(mask());
        if signal == libc::SIGUSR1 && notes() < 10 {
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
    log.push(("still blocked", notes() as i64));
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

pub(super) fn edits_take_effect() -> Log {
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

pub(super) fn vector_state() -> Log {
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

/// The code that a handler interrupted has in RAX what Dune uses for a call that is to be made again; another signal comes
/// when the handler returns.
pub(super) fn any_result() -> Log {
    extern "C" fn second(signal: i32, _: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
        note(signal.into());
        note(context.uc_mcontext.gregs[libc::REG_RAX as usize]);
    }
    extern "C" fn first(signal: i32, _: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
        note(signal.into());
        raise(libc::SIGUSR2);
        context.uc_mcontext.gregs[libc::REG_RIP as usize] += 2;
    }
    set(libc::SIGUSR2, second, 0, &[]);
    set(libc::SIGILL, first, 0, &[libc::SIGUSR2]);
    let mut log = Log::new();
    for value in [-512i64, -4, 15] {
        let after: i64;
        // SAFETY: the handler skips the instruction.
        unsafe { asm!("ud2", inlateout("rax") value => after) };
        log.push(("left", after));
        log.extend(noted("handlers"));
    }
    log
}

/// Vector state that is as after a reset when the signal comes can be edited like any other.
pub(super) fn initial_vector_state() -> Log {
    extern "C" fn handler(_: i32, _: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
        // SAFETY: the frame has vector state.
        let state = unsafe { &mut *context.uc_mcontext.fpregs };
        note(state.cwd.into());
        state.cwd = 0x27f;
        // x87 and SSE in the header (Intel SDM vol. 1 §13.4.2), which follows where there is XSAVE.
        note(if has_xsave() {
            // SAFETY: the frame has an XSAVE area then.
            (unsafe { (&raw const *state).cast::<u64>().add(64).read() } & 3) as i64
        } else {
            3
        });
    }
    fn has_xsave() -> bool {
        std::arch::is_x86_feature_detected!("xsave")
    }
    #[repr(align(64))]
    struct Area([u64; 72]);
    set(libc::SIGUSR1, handler, 0, &[]);
    let (process, thread) = (probe::getpid(), probe::syscall(libc::SYS_gettid as u64, [0; 6]));
    let mut control = 0u16;
    // FNINIT leaves the registers as they are; XRSTOR with an empty header clears them.
    let empty = Area([0; 72]);
    // SAFETY: the x87 state is brought back to what the ABI promises.
    unsafe {
        if has_xsave() {
            asm!("xrstor [{}]", in(reg) &empty.0, in("eax") 1, in("edx") 0);
        }
        asm!(
            "fninit",
            "syscall",
            "fnstcw [{control}]",
            "fninit",
            control = in(reg) &mut control,
            inlateout("rax") libc::SYS_tgkill => _,
            in("rdi") process, in("rsi") thread, in("rdx") libc::SIGUSR1,
            out("rcx") _, out("r11") _,
        );
    }
    let mut log = noted("found");
    log.push(("edited", control.into()));
    log
}

/// Of two signals that come at once each handler starts with the state that the ABI promises.
pub(super) fn vector_state_of_two() -> Log {
    extern "C" fn handler(signal: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        let mut control = 0u16;
        // SAFETY: stores to the variable.
        unsafe { asm!("fnstcw [{}]", in(reg) &mut control) };
        note(signal.into());
        note(control.into());
    }
    let two = [libc::SIGUSR1, libc::SIGUSR2];
    two.into_iter().for_each(|signal| set(signal, handler, 0, &[]));
    block(libc::SIG_BLOCK, &two);
    two.into_iter().for_each(raise);
    let (changed, mut after) = (0x27fu16, 0u16);
    // SAFETY: the x87 state is brought back to what the ABI promises.
    unsafe {
        asm!("fldcw [{}]", in(reg) &changed);
        block(libc::SIG_UNBLOCK, &two);
        asm!("fnstcw [{}]", "fninit", in(reg) &mut after);
    }
    let mut log = noted("in the handlers");
    log.push(("afterwards", after.into()));
    log
}

/// Unwinders find their way through the frame of a signal in host mode, too, where Dune's handler is in between.
pub(super) fn unwind_in_host_mode() -> CaseResult {
    static RETURNS_TO: AtomicU64 = AtomicU64::new(0);
    static FRAMES: Mutex<String> = Mutex::new(String::new());
    extern "C" fn handler(_: i32, _: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
        // The return address stands below the context.
        // SAFETY: the frame is Linux's.
        RETURNS_TO.store(unsafe { (&raw const *context).cast::<u64>().sub(1).read() }, Ordering::Relaxed);
        if let Ok(mut frames) = FRAMES.lock() {
            *frames = std::backtrace::Backtrace::force_capture().to_string();
        }
    }
    #[inline(never)]
    fn interrupted_here() {
        raise(libc::SIGUSR1);
        std::hint::black_box(());
    }
    dune::enter()?;
    set(libc::SIGUSR1, handler, 0, &[]);
    // SAFETY: nothing of Dune mode is in use.
    unsafe { dune::leave()? };
    interrupted_here();
    // SAFETY: code can be read.
    let code = unsafe { (RETURNS_TO.load(Ordering::Relaxed) as *const [u8; 9]).read() };
    assert_eq!(code, [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05]);
    let frames = FRAMES.lock().map_err(|_| "poisoned")?;
    assert!(frames.contains("interrupted_here"), "{frames}");
    Ok(())
}
