//! Where handlers run: alternate stacks, nested handlers, and ways out of them.

use std::arch::{asm, naked_asm};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::scenario::{Log, alarm, mask, note, noted, raise, set};
use crate::probe;

static STACK: AtomicU64 = AtomicU64::new(0);
const STACK_BYTES: usize = 64 << 10;

pub(super) fn set_stack(start: u64, flags: i32, bytes: usize) -> i64 {
    let stack = libc::stack_t { ss_sp: start as *mut c_void, ss_flags: flags, ss_size: bytes };
    // SAFETY: the memory is the caller's and used for nothing else.
    match unsafe { libc::sigaltstack(&stack, null_mut()) } {
        0 => 0,
        _ => std::io::Error::last_os_error().raw_os_error().unwrap_or(-1).into(),
    }
}

pub(super) fn get_stack() -> (i64, i64) {
    // SAFETY: the call writes the description.
    let stack = unsafe {
        let mut stack: libc::stack_t = std::mem::zeroed();
        libc::sigaltstack(std::ptr::null(), &mut stack);
        stack
    };
    (stack.ss_flags.into(), stack.ss_size as i64)
}

pub(super) fn alternate_stack() -> Log {
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
pub(super) fn stack_overflow() -> Log {
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

pub(super) fn nested() -> Log {
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

pub(super) fn jump_out() -> Log {
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
