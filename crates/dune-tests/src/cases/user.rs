//! Ring 3: in by IRET, SYSRET and SYSEXIT, back by SYSCALL, SYSENTER and faults.

use std::sync::atomic::{AtomicU64, Ordering};

use dune::user::{ReturnBy, UserExit, UserRegisters};
use dune::{Dune, TrapFrame, TrapOutcome, UserError, Vector};

use crate::case::{Case, CaseResult, Skip};
use crate::probe;
use crate::ring3::{self, address, ring3_code};

pub const CASES: &[Case] = &[
    Case::new("user::runs_in_ring_3", runs_in_ring_3),
    Case::new("user::calls_answered_without_an_exit", calls_answered_without_an_exit),
    Case::new("user::call_forwarded_by_ring_0", call_forwarded_by_ring_0),
    Case::new("user::by_iret_all_registers", by_iret_all_registers),
    Case::new("user::by_sysret", by_sysret),
    Case::new("user::by_sysexit", by_sysexit),
    Case::new("user::back_by_sysenter", back_by_sysenter),
    Case::new("user::first_entry_shows_nothing_of_ring_0", first_entry_shows_nothing),
    Case::new("user::vector_state_is_its_own", vector_state_is_its_own),
    Case::new("user::control_words_are_its_own", control_words_are_its_own),
    Case::new("user::ring_0_registers_are_kept", ring_0_registers_are_kept),
    Case::new("user::two_contexts_take_turns", two_contexts_take_turns),
    Case::new("user::nested_in_a_handler", nested_in_a_handler),
    Case::new("user::fs_and_gs_bases", fs_and_gs_bases),
    Case::new("user::fault_repaired_and_resumed", fault_repaired_and_resumed),
    Case::new("user::addresses_beyond_the_task_size_are_typed", addresses_are_checked),
];

ring3_code!(ring_in_rdi, "mov edi, cs", "and edi, 3", "mov esi, ss", "syscall", "ud2");
ring3_code!(
    call_loop,
    "2:",
    "mov eax, 39",
    "syscall",
    "add rbx, rax",
    "dec rbp",
    "jnz 2b",
    "mov eax, 60",
    "syscall"
);
ring3_code!(only_syscall, "syscall", "ud2");
ring3_code!(only_breakpoint, "int3", "ud2");

fn runs_in_ring_3() -> CaseResult {
    let dune = dune::enter()?;
    let mut context = ring3::context(dune, ring_in_rdi)?;
    assert!(ring3::is_call(ring3::run(dune, &mut context)?));
    assert_eq!((context.registers.rdi, context.registers.rsi), (3, 0x2b));
    assert!(dune::cpu::in_dune_mode());
    Ok(())
}

fn calls_answered_without_an_exit() -> CaseResult {
    const CALLS: u64 = 1000;
    let dune = dune::enter()?;
    let mut context = ring3::context(dune, call_loop)?;
    context.registers.rbp = CALLS;
    let before = dune.counters();
    let mut calls = 0;
    loop {
        assert!(ring3::is_call(ring3::run(dune, &mut context)?));
        if context.registers.rax != 39 {
            break;
        }
        calls += 1;
        context.registers.rax = 7;
    }
    let after = dune.counters();
    assert_eq!((calls, context.registers.rax, context.registers.rbx), (CALLS, 60, 7 * CALLS));
    assert_eq!(after.exits(), before.exits());
    assert_eq!(after.intercepted_syscalls - before.intercepted_syscalls, CALLS + 1);
    Ok(())
}

fn call_forwarded_by_ring_0() -> CaseResult {
    let dune = dune::enter()?;
    let mut context = ring3::context(dune, call_loop)?;
    context.registers.rbp = 1;
    let process = u64::from(std::process::id());
    let before = dune.counters().forwarded_syscalls;
    assert!(ring3::is_call(ring3::run(dune, &mut context)?));
    context.registers.rax = probe::syscall(context.registers.rax, [0; 6]) as u64;
    assert!(ring3::is_call(ring3::run(dune, &mut context)?));
    assert_eq!(dune.counters().forwarded_syscalls, before + 1);
    assert_eq!(context.registers.rbx, process);
    Ok(())
}

/// A value for each register, `seed` apart.
fn fill(registers: &mut UserRegisters, seed: u64) {
    let (rip, rsp) = (registers.rip, registers.rsp);
    *registers = UserRegisters {
        rax: seed,
        rbx: seed + 1,
        rcx: seed + 2,
        rdx: seed + 3,
        rsi: seed + 4,
        rdi: seed + 5,
        rbp: seed + 6,
        r8: seed + 8,
        r9: seed + 9,
        r10: seed + 10,
        r11: seed + 11,
        r12: seed + 12,
        r13: seed + 13,
        r14: seed + 14,
        r15: seed + 15,
        rip,
        rsp,
        rflags: 0xcd5,
    };
}

/// The registers as they come back from `INT3` one byte further, with the flags that ring 3 always has.
fn after_breakpoint(before: UserRegisters) -> UserRegisters {
    UserRegisters { rip: before.rip + 1, rflags: before.rflags | 0x1202, ..before }
}

fn by_iret_all_registers() -> CaseResult {
    let dune = dune::enter()?;
    let mut context = ring3::context(dune, only_breakpoint)?;
    assert_eq!(context.return_by(), ReturnBy::Iret);
    fill(&mut context.registers, 0x1111_2222_3333_4400);
    let before = context.registers;
    let exit = ring3::run(dune, &mut context)?;
    assert!(matches!(exit, UserExit::Trap { vector: Vector::BREAKPOINT, error_code: 0, .. }), "{exit:?}");
    assert_eq!(context.registers, after_breakpoint(before));
    assert_eq!(dune.counters().traps(Vector::BREAKPOINT), 1);
    Ok(())
}

/// As IRET, but for RCX and R11.
fn by_sysret() -> CaseResult {
    let dune = dune::enter()?;
    let mut context = ring3::context(dune, only_breakpoint)?;
    dune.set_return_by(&mut context, ReturnBy::Sysret)?;
    fill(&mut context.registers, 0x1111_2222_3333_4400);
    let before = context.registers;
    assert!(matches!(ring3::run(dune, &mut context)?, UserExit::Trap { vector: Vector::BREAKPOINT, .. }));
    let flags = before.rflags | 0x1202;
    let expected = UserRegisters { rcx: before.rip, r11: flags, ..after_breakpoint(before) };
    assert_eq!(context.registers, expected);
    Ok(())
}

/// Skips where the CPU has no SYSEXIT in 64-bit code, after checking that it says so.
fn sysexit_or_skip(dune: Dune, context: &mut dune::user::UserContext) -> CaseResult {
    match dune.set_return_by(context, ReturnBy::Sysexit) {
        Ok(()) => Ok(()),
        Err(error @ UserError::Unsupported { instruction: "SYSEXIT", .. }) => {
            assert_eq!(context.return_by(), ReturnBy::Iret, "a refused choice changes nothing");
            Err(Skip(error.to_string()).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// As IRET, but for RCX and RDX.
fn by_sysexit() -> CaseResult {
    let dune = dune::enter()?;
    let mut context = ring3::context(dune, only_breakpoint)?;
    sysexit_or_skip(dune, &mut context)?;
    fill(&mut context.registers, 0x1111_2222_3333_4400);
    let before = context.registers;
    assert!(matches!(ring3::run(dune, &mut context)?, UserExit::Trap { vector: Vector::BREAKPOINT, .. }));
    let expected = UserRegisters { rcx: before.rsp, rdx: before.rip, ..after_breakpoint(before) };
    assert_eq!(context.registers, expected);
    Ok(())
}

ring3_code!(
    enter_by_sysenter,
    "mov rcx, rsp",
    "lea rdx, [rip + 2f]",
    "sysenter",
    "2:",
    "mov edi, 5",
    "syscall",
    "ud2"
);

fn back_by_sysenter() -> CaseResult {
    let dune = dune::enter()?;
    let mut context = ring3::context(dune, enter_by_sysenter)?;
    sysexit_or_skip(dune, &mut context)?;
    let stack = context.registers.rsp;
    context.registers.rax = 77;
    context.registers.rbx = 78;
    assert!(ring3::is_call(ring3::run(dune, &mut context)?));
    assert_eq!((context.registers.rax, context.registers.rbx), (77, 78));
    assert_eq!((context.registers.rip, context.registers.rsp), (context.registers.rdx, stack));
    assert!(ring3::is_call(ring3::run(dune, &mut context)?));
    assert_eq!((context.registers.rdi, context.registers.rbx), (5, 78));
    assert!(probe::getpid() > 0);
    Ok(())
}

fn first_entry_shows_nothing() -> CaseResult {
    let dune = dune::enter()?;
    for by in [ReturnBy::Iret, ReturnBy::Sysret] {
        let mut context = ring3::context(dune, only_breakpoint)?;
        dune.set_return_by(&mut context, by)?;
        let (rip, rsp) = (context.registers.rip, context.registers.rsp);
        ring3::run(dune, &mut context)?;
        let mut expected = UserRegisters { rip: rip + 1, rsp, rflags: 0x1202, ..Default::default() };
        if by == ReturnBy::Sysret {
            (expected.rcx, expected.r11) = (rip, 0x1202);
        }
        assert_eq!(context.registers, expected, "{by:?}");
    }
    Ok(())
}

ring3_code!(
    swap_vectors,
    "movq rdi, xmm3",
    "movq xmm3, rsi",
    "pcmpeqd xmm15, xmm15",
    "syscall",
    "movq rdi, xmm3",
    "syscall",
    "ud2"
);

fn vector_state_is_its_own() -> CaseResult {
    let dune = dune::enter()?;
    let mut context = ring3::context(dune, swap_vectors)?;
    context.registers.rsi = 0x1234;
    // SAFETY: declares the register that it changes.
    unsafe { std::arch::asm!("movq xmm3, {}", in(reg) 0x5ec2e7u64, out("xmm3") _) };
    assert!(ring3::is_call(ring3::run(dune, &mut context)?));
    assert_eq!(context.registers.rdi, 0, "ring 0's XMM3 must not be seen");
    let sum: f64 = (1..=10).map(|n| std::hint::black_box(f64::from(n))).sum();
    assert_eq!(sum, 55.0);
    assert!(ring3::is_call(ring3::run(dune, &mut context)?));
    assert_eq!(context.registers.rdi, 0x1234, "ring 3's XMM3 must have been kept");
    Ok(())
}

ring3_code!(
    set_control,
    "stmxcsr [rsp - 8]",
    "mov edi, [rsp - 8]",
    "fnstcw [rsp - 8]",
    "movzx esi, word ptr [rsp - 8]",
    "mov dword ptr [rsp - 8], 0x7f80",
    "ldmxcsr [rsp - 8]",
    "mov word ptr [rsp - 8], 0xe7f",
    "fldcw [rsp - 8]",
    "fld1",
    "fld1",
    "std",
    "syscall",
    "stmxcsr [rsp - 8]",
    "mov edi, [rsp - 8]",
    "syscall",
    "ud2"
);

fn control_words_are_its_own() -> CaseResult {
    let dune = dune::enter()?;
    let mut context = ring3::context(dune, set_control)?;
    assert!(ring3::is_call(ring3::run(dune, &mut context)?));
    assert_eq!((context.registers.rdi & !0x3f, context.registers.rsi), (0x1f80, 0x37f));
    let (mut mxcsr, mut control, flags) = (0u32, 0u16, 0u64);
    let mut flags = flags;
    // SAFETY: stores control words and flags.
    unsafe {
        std::arch::asm!("stmxcsr [{}]", "fnstcw [{}]", "pushfq", "pop {}",
            in(reg) &raw mut mxcsr, in(reg) &raw mut control, inout(reg) flags);
    }
    assert_eq!((mxcsr & !0x3f, control, flags & 0x400), (0x1f80, 0x37f, 0), "ring 0's own");
    assert_ne!(context.registers.rflags & 0x400, 0, "ring 3 had set DF");
    assert!(ring3::is_call(ring3::run(dune, &mut context)?));
    assert_eq!(context.registers.rdi & !0x3f, 0x7f80);
    Ok(())
}

ring3_code!(
    trample,
    "mov rbx, -1",
    "mov rbp, -1",
    "mov r12, -1",
    "mov r13, -1",
    "mov r14, -1",
    "mov r15, -1",
    "mov rsp, 64",
    "std",
    "syscall",
    "ud2"
);

fn ring_0_registers_are_kept() -> CaseResult {
    let dune = dune::enter()?;
    let mut context = ring3::context(dune, trample)?;
    let before = std::hint::black_box([1u64, 2, 3, 4, 5, 6, 7, 8]);
    assert!(ring3::is_call(ring3::run(dune, &mut context)?));
    assert_eq!(before, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!((context.registers.rbx, context.registers.rsp), (u64::MAX, 64));
    let thread = std::thread::current();
    assert_eq!(thread.name(), Some("main"), "ring 0's FS base is back");
    Ok(())
}

fn two_contexts_take_turns() -> CaseResult {
    let dune = dune::enter()?;
    let mut contexts = [ring3::context(dune, call_loop)?, ring3::context(dune, call_loop)?];
    for (context, count) in contexts.iter_mut().zip([5, 5]) {
        context.registers.rbp = count;
    }
    for round in 1..=5u64 {
        for (context, value) in contexts.iter_mut().zip([1, 100]) {
            assert!(ring3::is_call(ring3::run(dune, context)?));
            assert_eq!((context.registers.rax, context.registers.rbx), (39, (round - 1) * value));
            context.registers.rax = value;
        }
    }
    for (context, sum) in contexts.iter_mut().zip([5, 500]) {
        assert!(ring3::is_call(ring3::run(dune, context)?));
        assert_eq!((context.registers.rax, context.registers.rbx), (60, sum));
    }
    Ok(())
}

/// A handler of ring 0 runs ring 3 itself, between two runs of another context.
fn nested_in_a_handler() -> CaseResult {
    static RESULT: AtomicU64 = AtomicU64::new(0);
    fn handler(dune: Dune, _: &mut TrapFrame) -> TrapOutcome {
        let run = || -> CaseResult {
            let mut context = ring3::context(dune, ring_in_rdi)?;
            assert!(ring3::is_call(ring3::run(dune, &mut context)?));
            RESULT.fetch_add(context.registers.rdi, Ordering::Relaxed);
            assert!(!dune.interrupts_enabled(), "they are off in handlers, also after ring 3");
            Ok(())
        };
        if run().is_ok() { TrapOutcome::Resume } else { TrapOutcome::Unhandled }
    }
    let dune = dune::enter()?;
    probe::handle(dune, Vector::BREAKPOINT, handler);
    let mut context = ring3::context(dune, call_loop)?;
    context.registers.rbp = 2;
    for _ in 0..2 {
        assert!(ring3::is_call(ring3::run(dune, &mut context)?));
        // SAFETY: handled.
        unsafe { std::arch::asm!("int3") };
        context.registers.rax = 11;
    }
    assert!(ring3::is_call(ring3::run(dune, &mut context)?));
    assert_eq!((context.registers.rbx, RESULT.load(Ordering::Relaxed)), (22, 6));
    assert!(dune.interrupts_enabled());
    Ok(())
}

ring3_code!(read_bases, "mov rdi, fs:[0]", "mov rsi, gs:[8]", "syscall", "ud2");

fn fs_and_gs_bases() -> CaseResult {
    let dune = dune::enter()?;
    let data = probe::small_pages(dune, 1)?;
    ring3::grant(dune, data)?;
    probe::poke(data.start(), 111);
    probe::poke(data.start() + 24, 222);
    let mut context = ring3::context(dune, read_bases)?;
    context.set_fs_base(data.start());
    context.set_gs_base(data.start() + 16);
    assert!(ring3::is_call(ring3::run(dune, &mut context)?));
    assert_eq!((context.registers.rdi, context.registers.rsi), (111, 222));
    assert_eq!((context.fs_base(), context.gs_base()), (data.start(), data.start() + 16));
    Ok(())
}

ring3_code!(load_then_call, "mov rdi, [rsi]", "syscall", "ud2");

fn fault_repaired_and_resumed() -> CaseResult {
    let dune = dune::enter()?;
    let data = probe::small_pages(dune, 1)?;
    probe::poke(data.start() + 8, 4711);
    let mut context = ring3::context(dune, load_then_call)?;
    context.registers.rsi = data.start().as_u64() + 8;
    let address = context.registers.rsi;
    // Present, by a user: the page is the supervisor's.
    let expected = UserExit::Trap { vector: Vector::PAGE_FAULT, error_code: 5, address };
    assert_eq!(ring3::run(dune, &mut context)?, expected);
    assert_eq!(context.registers.rip, self::address(load_then_call));
    ring3::grant(dune, data)?;
    assert!(ring3::is_call(ring3::run(dune, &mut context)?));
    assert_eq!(context.registers.rdi, 4711);
    dune.page_tables()?.revoke_user(data)?.now(dune);
    context.registers.rip = self::address(load_then_call);
    assert_eq!(ring3::run(dune, &mut context)?, expected);
    Ok(())
}

fn addresses_are_checked() -> CaseResult {
    let dune = dune::enter()?;
    for rip in [1 << 47, 0x8000_0000_0000_0000, u64::MAX, 0xffff_8000_0000_0000] {
        for by in [ReturnBy::Iret, ReturnBy::Sysret] {
            let mut context = ring3::context(dune, only_syscall)?;
            dune.set_return_by(&mut context, by)?;
            context.registers.rip = rip;
            assert_eq!(ring3::run(dune, &mut context), Err(UserError::NotCanonical { rip }));
        }
    }
    Ok(())
}
