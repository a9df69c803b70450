//! Signals at any moment: into computing, system calls, forks, trap handlers, ring 3, and before entering.

use std::arch::asm;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dune::memory::PageRange;

use super::scenario::{alarm, mask, note, noted, raise, set};
use super::stack::{get_stack, set_stack};
use crate::case::CaseResult;
use crate::probe;
use crate::ring3::{self, ring3_code};

static TICKS: AtomicU64 = AtomicU64::new(0);

pub(super) extern "C" fn tick(_: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
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
pub(super) fn storm() -> CaseResult {
    let dune = dune::enter()?;
    probe::handle(dune, dune::Vector::BREAKPOINT, |_, _| dune::TrapOutcome::Resume);
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

pub(super) fn storm_while_forking() -> CaseResult {
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
pub(super) fn spinning() -> CaseResult {
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
pub(super) fn ring3() -> CaseResult {
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
    let exit = ring3::run(dune, &mut context)?;
    alarm(0, 0);
    assert!(ring3::is_call(exit));
    assert!(TICKS.load(Ordering::Relaxed) >= 5);
    assert!(context.registers.rbx > 0);
    Ok(())
}

/// A trap handler is not interrupted; the signal comes when it has returned, and a system call in it works.
pub(super) fn wait_for_trap_handlers() -> CaseResult {
    fn handler(_: dune::Dune, _: &mut dune::TrapFrame) -> dune::TrapOutcome {
        raise(libc::SIGALRM);
        note(TICKS.load(Ordering::Relaxed) as i64);
        note((probe::getpid() > 0).into());
        note(TICKS.load(Ordering::Relaxed) as i64);
        dune::TrapOutcome::Resume
    }
    let dune = dune::enter()?;
    set(libc::SIGALRM, tick, 0, &[]);
    probe::handle(dune, dune::Vector::BREAKPOINT, handler);
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

/// A handler that enters returns into the code that it interrupted, which is then in Dune mode: the frame is Linux's.
pub(super) fn enter_in_a_handler(flags: i32) -> CaseResult {
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
