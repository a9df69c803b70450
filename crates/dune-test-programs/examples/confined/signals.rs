//! Signals: what a program sees of them is the same natively and in a sandbox.

use std::arch::asm;
use std::mem::zeroed;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

static COUNT: AtomicU64 = AtomicU64::new(0);
static CODE: AtomicI64 = AtomicI64::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);
static STACK: AtomicU64 = AtomicU64::new(0);
/// What `forge` asks for, if not 0: the kernel's. Linux ends a program for that.
static SEGMENTS: AtomicU64 = AtomicU64::new(0);
static PIPE: AtomicI64 = AtomicI64::new(-1);

type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::ucontext_t);

extern "C" fn note(_: i32, info: *mut libc::siginfo_t, _: *mut libc::ucontext_t) {
    let here = 0u8;
    STACK.store((&raw const here).addr() as u64, Ordering::Relaxed);
    // SAFETY: Linux hands over the structure.
    CODE.store(unsafe { (*info).si_code }.into(), Ordering::Relaxed);
    // SAFETY: ring 3 may change its vector registers, and so the interrupted code's if they were not kept.
    unsafe { asm!("pcmpeqd xmm5, xmm5", out("xmm5") _) };
    COUNT.fetch_add(1, Ordering::Relaxed);
    let pipe = PIPE.load(Ordering::Relaxed) as i32;
    if pipe >= 0 {
        // SAFETY: the call reads one byte.
        unsafe { libc::write(pipe, [7u8].as_ptr().cast(), 1) };
    }
}

/// Makes the page writable, and goes on where the fault was.
extern "C" fn mend(_: i32, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: Linux hands over the structures; the page is that of `faults`.
    unsafe {
        CODE.store((*info).si_code.into(), Ordering::Relaxed);
        let address = (*info).si_addr() as u64;
        ADDRESS.store(address, Ordering::Relaxed);
        assert_eq!((*context).uc_mcontext.gregs[libc::REG_CR2 as usize] as u64, address);
        libc::mprotect((address & !0xfff) as *mut _, 4096, libc::PROT_READ | libc::PROT_WRITE);
    }
}

/// Asks for all that ring 3 may not have.
extern "C" fn forge(_: i32, _: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    COUNT.fetch_add(1, Ordering::Relaxed);
    // SAFETY: Linux hands over the structure.
    let registers = unsafe { &mut (*context).uc_mcontext.gregs };
    // IOPL 3, NT, no interrupts.
    registers[libc::REG_EFL as usize] |= 0x7000;
    registers[libc::REG_EFL as usize] &= !0x200;
    if SEGMENTS.load(Ordering::Relaxed) != 0 {
        registers[libc::REG_CSGSFS as usize] = SEGMENTS.load(Ordering::Relaxed) as i64;
    }
}

/// Goes on where no code can be.
extern "C" fn leap(_: i32, _: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: Linux hands over the structure.
    unsafe { (*context).uc_mcontext.gregs[libc::REG_RIP as usize] = 0x8000_0000_0000 };
}

fn handle(signal: i32, handler: Handler, flags: i32) {
    // SAFETY: the handlers do what handlers may.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | flags;
        assert_eq!(libc::sigaction(signal, &raw const action, null_mut()), 0);
    }
}

fn raise(signal: i32) {
    // SAFETY: sends a signal to this process.
    unsafe { libc::kill(libc::getpid(), signal) };
}

fn counted() -> u64 {
    COUNT.swap(0, Ordering::Relaxed)
}

pub fn all() {
    handle(libc::SIGUSR1, note, 0);
    raise(libc::SIGUSR1);
    println!("handled {} with code {}", counted(), CODE.load(Ordering::Relaxed));
    mask();
    vectors();
    faults();
    stack();
    waits();
    handle(libc::SIGUSR2, forge, libc::SA_RESETHAND);
    raise(libc::SIGUSR2);
    println!("forged {}", counted());
    timers();
}

pub fn leaping() {
    handle(libc::SIGUSR1, leap, 0);
    raise(libc::SIGUSR1);
    println!("leapt");
}

/// What `forge` asked for, it did not get: it ends by SIGSEGV.
pub fn forging() {
    SEGMENTS.store(0x0010_0000_0000_0010, Ordering::Relaxed);
    handle(libc::SIGUSR1, forge, 0);
    raise(libc::SIGUSR1);
    // SAFETY: ends the program.
    unsafe { asm!("cli") };
    println!("interrupts are off");
}

fn mask() {
    // SAFETY: the calls read and write sets.
    unsafe {
        let mut set: libc::sigset_t = zeroed();
        libc::sigaddset(&raw mut set, libc::SIGUSR1);
        let mut before: libc::sigset_t = zeroed();
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, &raw mut before);
        raise(libc::SIGUSR1);
        raise(libc::SIGUSR1);
        let blocked = counted();
        let mut waiting: libc::sigset_t = zeroed();
        libc::sigpending(&raw mut waiting);
        let is_waiting = libc::sigismember(&raw const waiting, libc::SIGUSR1);
        libc::sigsuspend(&raw const before);
        println!("blocked {blocked}, waiting {is_waiting}, then {}", counted());
        raise(libc::SIGUSR1);
        let blocked = counted();
        libc::sigprocmask(libc::SIG_SETMASK, &raw const before, null_mut());
        println!("blocked again {blocked}, then {}", counted());
    }
}

/// XMM registers are the interrupted code's.
fn vectors() {
    let (process, mut low) = (u64::from(std::process::id()), 0x1234_5678_9abc_def0u64);
    // SAFETY: kill(2); the handler changes nothing of what is used here.
    unsafe {
        asm!(
            "movq xmm5, {low}",
            "syscall",
            "movq {low}, xmm5",
            low = inout(reg) low,
            inout("rax") libc::SYS_kill => _,
            in("rdi") process, in("rsi") libc::SIGUSR1,
            lateout("rcx") _, lateout("r11") _, out("xmm5") _,
        );
    }
    println!("vectors {low:#x}, handled {}", counted());
}

fn faults() {
    handle(libc::SIGSEGV, mend, 0);
    // SAFETY: a page of its own, which the handler makes writable.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let page = libc::mmap(null_mut(), 4096, libc::PROT_READ, flags, -1, 0).cast::<u8>();
        page.add(100).write_volatile(5);
        let is_there = ADDRESS.load(Ordering::Relaxed) == page.add(100).addr() as u64;
        println!(
            "mended {} at its address {is_there}, code {}",
            page.add(100).read(),
            CODE.load(Ordering::Relaxed)
        );
    }
}

fn stack() {
    let memory = vec![0u8; 64 << 10].leak();
    let range = memory.as_ptr_range();
    let described = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: memory.len() };
    // SAFETY: the memory is never given back.
    assert_eq!(unsafe { libc::sigaltstack(&raw const described, null_mut()) }, 0);
    handle(libc::SIGUSR2, note, libc::SA_ONSTACK);
    raise(libc::SIGUSR2);
    let here = STACK.load(Ordering::Relaxed);
    let is_on_it = (range.start.addr() as u64..range.end.addr() as u64).contains(&here);
    println!("on its stack {is_on_it}, handled {}", counted());
}

/// Calls that wait end, or go on, as the action says.
fn waits() {
    let mut pipe = [0; 2];
    let mut byte = 0u8;
    // SAFETY: the calls write to what is there.
    unsafe {
        assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
        handle(libc::SIGALRM, note, 0);
        let soon =
            libc::itimerval { it_interval: zeroed(), it_value: libc::timeval { tv_sec: 0, tv_usec: 20_000 } };
        libc::setitimer(libc::ITIMER_REAL, &raw const soon, null_mut());
        let ended = libc::read(pipe[0], (&raw mut byte).cast(), 1);
        let errno = std::io::Error::last_os_error().raw_os_error();
        println!("read {ended} {errno:?}, handled {}", counted());
        PIPE.store(pipe[1].into(), Ordering::Relaxed);
        handle(libc::SIGALRM, note, libc::SA_RESTART);
        libc::setitimer(libc::ITIMER_REAL, &raw const soon, null_mut());
        let read = libc::read(pipe[0], (&raw mut byte).cast(), 1);
        println!("read {read} {byte}, handled {}", counted());
        PIPE.store(-1, Ordering::Relaxed);
    }
}

/// A stream of signals does not disturb a computation.
fn timers() {
    let mut sum = 0u64;
    // SAFETY: the calls read the structures.
    unsafe {
        let often = libc::timeval { tv_sec: 0, tv_usec: 2_000 };
        let timer = libc::itimerval { it_interval: often, it_value: often };
        libc::setitimer(libc::ITIMER_REAL, &raw const timer, null_mut());
        while COUNT.load(Ordering::Relaxed) < 20 {
            let before = sum;
            sum = (0..1000).fold(sum, |sum, number| std::hint::black_box(sum + number));
            assert_eq!(sum, before + 499_500);
        }
        let never: libc::itimerval = zeroed();
        libc::setitimer(libc::ITIMER_REAL, &raw const never, null_mut());
    }
    println!("timers {}", sum % 499_500);
}
