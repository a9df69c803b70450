//! Faults that become signals, and ends by signals.

use std::arch::asm;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::scenario::{Log, block, note, noted, raise, set};
use super::storm::tick;
use crate::case::CaseResult;
use crate::probe;

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

pub(super) fn faults_become_signals() -> Log {
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

/// INT n for vectors that Linux does not give to ring 3: of exceptions with an error code, which the instruction does not push,
/// and of interrupts.
pub(super) fn software_interrupts() -> Log {
    set(libc::SIGSEGV, skipping, 0, &[]);
    PAGE.store(0, Ordering::Relaxed);
    SKIP.store(2, Ordering::Relaxed);
    // QEMU 7.2 says 16 times the vector for some, where the CPU says 8 times (Intel SDM vol. 3 §6.13).
    UNKNOWN.store(!0, Ordering::Relaxed);
    let mut log = Log::new();
    macro_rules! interrupt {
        ($($number:literal)*) => {$(
            let kept: u64;
            // SAFETY: the handler skips the instruction.
            unsafe { asm!("mov {0}, 5", "stc", concat!("int ", $number), "adc {0}, 0", out(reg) kept) };
            log.extend(noted(concat!("int ", $number)));
            log.push((concat!("registers and flags after int ", $number), kept as i64));
        )*};
    }
    interrupt!(8 10 11 12 13 14 17 21 29 30 32 88 255);
    interrupt!(14);
    log
}

/// A file that is shorter than its mapping: SIGBUS, whatever the instruction.
pub(super) fn past_the_end_of_a_file() -> Log {
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

/// Rights that somebody took away whom ring 0 does not see: a child in host mode that borrows the memory. An access that
/// reaches into the next page faults there.
pub(super) fn rights_taken_by_a_borrower() -> Log {
    /// Three arguments of a system call, and its number.
    type Call = [u64; 4];
    extern "C" fn borrow(call: *mut c_void) -> i32 {
        // SAFETY: the parent waits with the call on its stack.
        let [number, first, second, third] = unsafe { *call.cast::<Call>() };
        (probe::syscall(number, [first, second, third, 0, 0, 0]) != 0).into()
    }
    fn in_child(mut call: Call) -> i64 {
        const STACK: u64 = 64 << 10;
        let stack = probe::map(0, STACK, libc::PROT_READ | libc::PROT_WRITE, 0);
        let (top, flags) =
            ((stack + STACK) as *mut c_void, libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD);
        let mut status = -1;
        // SAFETY: the stack is the child's own; this thread waits until the child has ended.
        unsafe {
            let child = libc::clone(borrow, top, flags, (&raw mut call).cast());
            assert_eq!(libc::waitpid(child, &mut status, 0), child);
            libc::munmap(stack as *mut c_void, STACK as usize);
        }
        status.into()
    }
    set(libc::SIGSEGV, skipping, 0, &[]);
    // The engine does not tell whether it was a write.
    UNKNOWN.store(3, Ordering::Relaxed);
    let pages = probe::map(0, 3 * 4096, libc::PROT_READ | libc::PROT_WRITE, 0);
    let end = pages + 4096;
    PAGE.store(end, Ordering::Relaxed);
    let protect = |rights: i32| in_child([libc::SYS_mprotect as u64, end, 4096, rights as u64]);
    let mut log = Log::new();
    // SAFETY: each instruction faults, and its handler skips it. The pages are this function's own.
    unsafe {
        (pages as *mut u64).write_volatile(1);
        (end as *mut u64).write_volatile(2);
        log.push(("read only", protect(libc::PROT_READ)));
        SKIP.store(2, Ordering::Relaxed);
        asm!("mov [rdi], al", in("rdi") end + 5, options(nostack));
        log.extend(noted("write"));
        SKIP.store(3, Ordering::Relaxed);
        asm!("mov [rdi], rax", in("rdi") end - 3, options(nostack));
        log.extend(noted("write across the border"));
        asm!("mov [rdi], rax", in("rdi") end + 4096 - 3, options(nostack));
        log.extend(noted("write from there across the border"));
        log.push(("value", (end as *const i64).read_volatile()));
        log.push(("nothing", protect(libc::PROT_NONE)));
        asm!("mov rax, [rdi]", in("rdi") end - 3, out("rax") _, options(nostack));
        log.extend(noted("read across the border"));
        log.push(("gone", in_child([libc::SYS_munmap as u64, end, 4096, 0])));
        asm!("mov rax, [rdi]", in("rdi") end - 3, out("rax") _, options(nostack));
        log.extend(noted("read of nothing across the border"));
    }
    log
}

pub(super) fn blocked_fault() -> CaseResult {
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

pub(super) fn default_dies() -> CaseResult {
    dune::enter()?;
    set(libc::SIGTERM, tick, libc::SA_RESETHAND, &[]);
    raise(libc::SIGTERM);
    raise(libc::SIGTERM);
    Ok(())
}

pub(super) fn no_stack() -> CaseResult {
    dune::enter()?;
    set(libc::SIGUSR1, tick, 0, &[]);
    // Rust's runtime has a handler for it, on a stack of its own.
    // SAFETY: no handler is called.
    unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
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

/// Signals that say to be faults, from the process itself, which may send them (rt_sigqueueinfo(2)).
pub(super) fn sent_faults() -> Log {
    extern "C" fn handler(signal: i32, info: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        note(signal.into());
        note(info.si_code.into());
        // SAFETY: these signals have an address.
        note(unsafe { info.si_addr() } as i64);
    }
    let mut log = Log::new();
    // The last is that of a page which the hardware has lost, as KVM sends it.
    let codes =
        [(libc::SIGSEGV, 1), (libc::SIGILL, 2), (libc::SIGFPE, 1), (libc::SIGBUS, 2), (libc::SIGBUS, 4)];
    for (signal, code) in codes {
        set(signal, handler, 0, &[]);
        let mut info = [0u64; 16];
        (info[0], info[1], info[2]) = (signal as u64, code, 0x1234);
        let (process, thread) =
            (probe::getpid() as u64, probe::syscall(libc::SYS_gettid as u64, [0; 6]) as u64);
        let arguments = [process, thread, signal as u64, info.as_ptr() as u64, 0, 0];
        log.push(("sent", probe::syscall(libc::SYS_rt_tgsigqueueinfo as u64, arguments)));
        log.extend(noted("handler"));
    }
    log
}

/// A child without its parent's handlers (clone3(2), CLONE_CLEAR_SIGHAND) dies of its faults.
pub(super) fn cleared_handlers() -> Log {
    const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
    extern "C" fn handler(_: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        // SAFETY: ends the child.
        unsafe { libc::_exit(9) }
    }
    fn handler_of(signal: i32) -> u64 {
        let mut action = [0u64; 4];
        let arguments = [signal as u64, 0, action.as_mut_ptr() as u64, 8, 0, 0];
        assert_eq!(probe::syscall(libc::SYS_rt_sigaction as u64, arguments), 0);
        action[0]
    }
    set(libc::SIGSEGV, handler, 0, &[]);
    set(libc::SIGUSR1, handler, 0, &[]);
    // SAFETY: no handler is called.
    unsafe { libc::signal(libc::SIGUSR2, libc::SIG_IGN) };
    let mut log = Log::new();
    for body in [
        || handler_of(libc::SIGSEGV),
        || handler_of(libc::SIGUSR1),
        || handler_of(libc::SIGUSR2),
        || {
            // SAFETY: ends the child.
            unsafe { asm!("mov byte ptr [{}], 0", in(reg) 8u64) };
            4
        },
        || {
            set(libc::SIGUSR1, handler, 0, &[]);
            raise(libc::SIGUSR1);
            5
        },
    ] {
        let mut arguments = [0u64; 8];
        (arguments[0], arguments[4]) = (CLONE_CLEAR_SIGHAND, libc::SIGCHLD as u64);
        let child = probe::syscall(libc::SYS_clone3 as u64, [arguments.as_ptr() as u64, 64, 0, 0, 0, 0]);
        if child == 0 {
            let status = body().min(8);
            // SAFETY: ends the child.
            unsafe { libc::_exit(status as i32) }
        }
        let mut status = -1;
        // SAFETY: waits for our own child.
        assert_eq!(i64::from(unsafe { libc::waitpid(child as i32, &mut status, 0) }), child);
        // Whether there is a core file is somebody else's business.
        log.push(("ended", (status & !0x80).into()));
    }
    log.push(("its parent's", (handler_of(libc::SIGSEGV) == handler as *const () as u64).into()));
    log
}
