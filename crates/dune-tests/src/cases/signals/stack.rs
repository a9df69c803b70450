//! Where handlers run: alternate stacks, nested handlers, and ways out of them.

use std::arch::{asm, naked_asm};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::scenario::{Bits, Log, alarm, block, mask, note, noted, raise, set};
use crate::both;
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

/// Frames on an alternate stack that is full do not go below it.
pub(super) fn full_alternate_stack() -> Log {
    static OWN_ID: AtomicU64 = AtomicU64::new(0);
    static LEFT: AtomicU64 = AtomicU64::new(1000);
    /// Sends itself the signal again, and uses no stack.
    #[unsafe(naked)]
    extern "C" fn handler(_: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        // ABI: System V, but for the way out when there is no end: exit status 3.
        naked_asm!(
            "dec qword ptr [rip + {left}]",
            "jz 2f",
            "mov rdi, [rip + {own_id}]",
            "mov rsi, rdi",
            "mov edx, {SIGUSR1}",
            "mov eax, {TGKILL}",
            "syscall",
            "ret",
            "2:",
            "mov edi, 3",
            "mov eax, {EXIT_GROUP}",
            "syscall",
            own_id = sym OWN_ID,
            left = sym LEFT,
            SIGUSR1 = const libc::SIGUSR1,
            TGKILL = const libc::SYS_tgkill,
            EXIT_GROUP = const libc::SYS_exit_group,
        )
    }
    const BELOW: usize = 64 << 10;
    const BYTES: usize = 8 << 10;
    const GUARD: usize = 4096;
    let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: fresh memory. A stack that grows through all of it is to end there.
    let start = unsafe {
        let start = libc::mmap(null_mut(), GUARD + BELOW + BYTES, rights, flags, -1, 0);
        libc::mprotect(start, GUARD, libc::PROT_NONE);
        start.cast::<u8>().add(GUARD)
    };
    let mut log = Log::new();
    for on_stack in [libc::SA_ONSTACK, 0] {
        // SAFETY: the memory is this function's.
        unsafe { start.write_bytes(0x5a, BELOW) };
        let status = both::forked(|| {
            OWN_ID.store(probe::getpid() as u64, Ordering::Relaxed);
            set_stack(start as u64 + BELOW as u64, 0, BYTES);
            set(libc::SIGUSR1, handler, libc::SA_NODEFER | on_stack, &[]);
            // SAFETY: the stack pointer is on the alternate stack, or will be; the process does not come back.
            unsafe {
                asm!(
                    "mov rsp, {top}", "xor edx, edx", "xor edi, edi", "xor esi, esi", "call {handler}", "ud2",
                    top = in(reg) if on_stack == 0 { start as u64 + (BELOW + BYTES) as u64 } else { probe::pages(4).as_u64() + 0x4000 },
                    handler = sym handler,
                    options(noreturn)
                )
            }
        });
        log.push(("signal", status.map_or(-1, |status| libc::WTERMSIG(status).into())));
        // SAFETY: as above; the child has ended.
        let below = unsafe { std::slice::from_raw_parts(start, BELOW) };
        log.push(("bytes written below", below.iter().filter(|&&byte| byte != 0x5a).count() as i64));
    }
    log
}

/// A frame that has no room is SIGSEGV for the program's handler, if that can run.
pub(super) fn no_room() -> Log {
    extern "C" fn handler(signal: i32, info: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
        let registers = &mut context.uc_mcontext.gregs;
        note(signal.into());
        note(info.si_code.into());
        // SAFETY: SIGSEGV has an address.
        note(unsafe { info.si_addr() } as i64);
        note(mask());
        note(context.uc_sigmask.to_bits() as i64);
        note(registers[libc::REG_RSP as usize]);
        note(registers[libc::REG_RAX as usize]);
        note(registers[libc::REG_TRAPNO as usize]);
        // SAFETY: code can be read.
        if unsafe { (registers[libc::REG_RIP as usize] as *const u16).read_unaligned() } == UD2 {
            registers[libc::REG_RIP as usize] += 2;
        }
    }
    extern "C" fn never(_: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        note(-1);
    }
    const UD2: u16 = 0x0b0f;
    /// Sends `signal` to this thread where its stack pointer is nowhere; the result.
    fn raise_without_stack(signal: i32) -> i64 {
        let result;
        // SAFETY: the handler runs on a stack of its own, and the stack pointer is brought back.
        unsafe {
            asm!(
                "mov r12, rsp", "mov esp, 0x1000", "syscall", "mov rsp, r12",
                inlateout("rax") libc::SYS_tgkill => result,
                in("rdi") libc::getpid(), in("rsi") libc::gettid(), in("rdx") signal,
                out("rcx") _, out("r11") _, out("r12") _,
            );
        }
        result
    }
    let start = probe::pages(STACK_BYTES / 4096).as_u64();
    set_stack(start, 0, STACK_BYTES);
    set(libc::SIGSEGV, handler, libc::SA_ONSTACK, &[libc::SIGHUP]);
    set(libc::SIGUSR1, never, 0, &[libc::SIGUSR2]);
    set(libc::SIGILL, never, 0, &[]);
    let mut log = vec![("tgkill", raise_without_stack(libc::SIGUSR1))];
    log.extend(noted("after a call"));
    // SAFETY: as above; the handler skips the instruction.
    unsafe {
        asm!("mov r12, rsp", "mov esp, 0x1000", "ud2", "mov rsp, r12", inout("rax") 7u64 => _, out("r12") _);
    }
    log.extend(noted("after a fault"));
    log.push(("mask", mask()));
    let ending =
        |body: fn() -> i64| both::forked(|| body() as i32).map_or(-1, |status| libc::WTERMSIG(status).into());
    log.push((
        "blocked",
        ending(|| {
            block(libc::SIG_BLOCK, &[libc::SIGSEGV]);
            raise_without_stack(libc::SIGUSR1)
        }),
    ));
    log.push((
        "not its own",
        ending(|| {
            set(libc::SIGSEGV, never, 0, &[]);
            raise_without_stack(libc::SIGSEGV)
        }),
    ));
    log
}
