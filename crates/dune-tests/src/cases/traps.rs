//! Handlers: all vectors, edits of the frame, who is asked, nesting.

use std::arch::{asm, naked_asm};
use std::sync::atomic::{AtomicU64, Ordering};

use dune::memory::{PagePermissions, PageRange};
use dune::{Dune, GeneralRegisters, HandlerError, LeanHandler, TrapFrame, TrapOutcome, Vector};
use x86_64::registers::rflags::RFlags;

use crate::case::{Case, CaseResult, Ending};
use crate::probe;

pub const CASES: &[Case] = &[
    Case::new("traps::breakpoint_is_handled", breakpoint_is_handled),
    Case::new("traps::int_n_reaches_each_vector", int_n_reaches_each_vector),
    Case::new("traps::frame_edits_take_effect", frame_edits_take_effect),
    Case::new("traps::thread_handler_comes_first", thread_handler_comes_first),
    Case::new("traps::handler_allocates_and_prints", handler_allocates_and_prints),
    Case::new("traps::handler_faults_in_itself", handler_faults_in_itself),
    Case::new("traps::page_fault_in_a_page_fault_handler", page_fault_in_a_page_fault_handler),
    Case::new("traps::handlers_of_all_kinds_nest", handlers_of_all_kinds_nest),
    Case::new("traps::deep_nesting_comes_back", deep_nesting_comes_back),
    // #BP is benign: the page fault of its delivery is an ordinary one, with a stack of its own.
    // The handler, or what calls it, is the first to find no room: that depends on how much each of them needs.
    Case::new("traps::nesting_too_deep_is_reported", nesting_too_deep)
        .ends(Ending::Signal(libc::SIGSEGV, &["14 #PF", "CAUSED_BY_WRITE", "  at dune", "rip"])),
    Case::new("traps::page_faults_nested_too_deep_are_reported", page_faults_nested_too_deep)
        .ends(Ending::Signal(libc::SIGSEGV, &["8 #DF", "rip"])),
    Case::new("traps::handler_out_of_range_is_typed", handler_out_of_range),
    Case::new("traps::cleared_handler_is_gone", cleared_handler)
        .ends(Ending::Signal(libc::SIGTRAP, &["unhandled trap 3 #BP", "no handler is set"])),
    Case::new("traps::handler_makes_system_calls", handler_makes_system_calls),
];

static SEEN: AtomicU64 = AtomicU64::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);

fn breakpoint_is_handled() -> CaseResult {
    fn handler(_: Dune, frame: &mut TrapFrame) -> TrapOutcome {
        SEEN.store(frame.rip(), Ordering::Relaxed);
        probe::registers(frame).rax = 77;
        println!("breakpoint at {:#x}", frame.rip());
        TrapOutcome::Resume
    }
    let dune = dune::enter()?;
    probe::handle(dune, Vector::BREAKPOINT, handler);
    let value: u64;
    // SAFETY: the handler returns behind the INT3 with RAX changed.
    unsafe { asm!("int3", out("rax") value) };
    assert_eq!(value, 77);
    assert_ne!(SEEN.load(Ordering::Relaxed), 0);
    assert_eq!(dune.counters().traps(Vector::BREAKPOINT), 1);
    Ok(())
}

/// 256 times `int N; ret`, 8 bytes each.
#[unsafe(naked)]
unsafe extern "C" fn int_table() {
    naked_asm!(
        ".set number, 0",
        ".rept 256",
        ".byte 0xcd, number",
        "ret",
        ".balign 8",
        ".set number, number + 1",
        ".endr"
    )
}

/// INT N pushes no error code, so this is about the vectors without one; the others are in `exceptions`.
fn int_n_reaches_each_vector() -> CaseResult {
    fn handler(_: Dune, frame: &mut TrapFrame) -> TrapOutcome {
        SEEN.store(frame.vector().number().into(), Ordering::Relaxed);
        CALLS.fetch_add(1, Ordering::Relaxed);
        probe::registers(frame).rax = 0x1000 + u64::from(frame.vector().number());
        TrapOutcome::Resume
    }
    let dune = dune::enter()?;
    let mut reached = 0;
    for number in 0..256u16 {
        let vector = Vector::new(number).ok_or("in range")?;
        if vector.has_error_code() {
            continue;
        }
        probe::handle_number(dune, number, handler)?;
        let stub = (int_table as *const ()).addr() as u64 + u64::from(number) * 8;
        let value: u64;
        // SAFETY: the stub executes INT N and returns; the handler changes RAX only.
        unsafe { asm!("call {}", in(reg) stub, out("rax") value) };
        assert_eq!(value, 0x1000 + u64::from(number), "vector {number}");
        assert_eq!(SEEN.load(Ordering::Relaxed), u64::from(number));
        assert_eq!(dune.counters().traps(vector), 1, "vector {number}");
        reached += 1;
    }
    assert_eq!((reached, CALLS.load(Ordering::Relaxed)), (246, 246));
    Ok(())
}

/// Each general register, RIP, RSP and the flags.
fn frame_edits_take_effect() -> CaseResult {
    fn edit(_: Dune, frame: &mut TrapFrame) -> TrapOutcome {
        let (rip, rsp, flags) =
            (frame.registers().rax, frame.rsp() - 4096, frame.flags() | RFlags::CARRY_FLAG);
        // SAFETY: the code below passes the address of its label 2, where it expects all that.
        unsafe {
            frame.set_rip(rip);
            frame.set_rsp(rsp);
            frame.set_flags(flags);
            let registers = frame.registers_mut();
            let all = GeneralRegisters {
                rax: 1,
                rcx: 2,
                rdx: 3,
                rsi: 4,
                rdi: 5,
                r8: 6,
                r9: 7,
                r10: 8,
                r11: 9,
                r12: 10,
                r13: 11,
                r14: 12,
                r15: 13,
                rbx: 14,
                ..*registers
            };
            *registers = all;
        }
        TrapOutcome::Resume
    }
    let dune = dune::enter()?;
    probe::handle(dune, Vector::INVALID_OPCODE, edit);
    let mut seen = [0u64; 16];
    // SAFETY: the handler goes on at label 2 with a lower stack pointer, which is put back; all registers that it
    // changes are declared or put back.
    unsafe {
        asm!(
            "push rbx", "push rdi",
            "mov rbx, rsp",
            "push rbx",
            "lea rax, [rip + 2f]",
            "ud2", "ud2", "ud2",
            "2:",
            // RSP is 4096 bytes lower: the words just pushed are found there.
            "mov [rsp + 4096 - 8], rdi",
            "mov rdi, [rsp + 4096 + 8]",
            "mov [rdi], rax", "mov [rdi + 8], rcx", "mov [rdi + 16], rdx", "mov [rdi + 24], rsi",
            "mov rsi, [rsp + 4096 - 8]", "mov [rdi + 32], rsi",
            "mov [rdi + 40], r8", "mov [rdi + 48], r9", "mov [rdi + 56], r10", "mov [rdi + 64], r11",
            "mov [rdi + 72], r12", "mov [rdi + 80], r13", "mov [rdi + 88], r14", "mov [rdi + 96], r15",
            "mov [rdi + 104], rbx",
            "lea rsi, [rsp + 4096 + 8]", "sub rsi, [rsp + 4096]", "mov [rdi + 112], rsi",
            "setc byte ptr [rdi + 120]",
            "mov rsp, [rsp + 4096]",
            "pop rdi", "pop rbx",
            inout("rdi") seen.as_mut_ptr() => _,
            out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("r8") _, out("r9") _, out("r10") _,
            out("r11") _, out("r12") _, out("r13") _, out("r14") _, out("r15") _,
        );
    }
    assert_eq!(seen[..14], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
    assert_eq!(seen[14], 0, "the stack pointer");
    Ok(())
}

fn thread_handler_comes_first() -> CaseResult {
    fn of_process(_: Dune, frame: &mut TrapFrame) -> TrapOutcome {
        probe::registers(frame).rax = 1;
        TrapOutcome::Resume
    }
    fn of_thread(_: Dune, frame: &mut TrapFrame) -> TrapOutcome {
        probe::registers(frame).rax = 2;
        TrapOutcome::Resume
    }
    #[unsafe(naked)]
    unsafe extern "C" fn lean_of_thread(_: &mut TrapFrame, _: &LeanHandler<u64>) {
        naked_asm!(
            "mov rax, [rsi + {state}]", "mov [rdi + {rax}], rax", "ret",
            state = const LeanHandler::<u64>::STATE,
            rax = const TrapFrame::REGISTERS + std::mem::offset_of!(GeneralRegisters, rax),
        )
    }
    static LEAN: LeanHandler<u64> = LeanHandler::new(lean_of_thread, 3);
    fn trap() -> u64 {
        let value;
        // SAFETY: the handlers change RAX only.
        unsafe { asm!("int3", out("rax") value) };
        value
    }
    let dune = dune::enter()?;
    probe::handle(dune, Vector::BREAKPOINT, of_process);
    assert_eq!(trap(), 1);
    probe::handle_in_thread(dune, Vector::BREAKPOINT, of_thread);
    assert_eq!(trap(), 2);
    // SAFETY: it uses integer registers only.
    unsafe { dune.set_lean_thread_handler(Vector::BREAKPOINT, &LEAN) };
    assert_eq!(trap(), 3);
    dune.clear_thread_handler(Vector::BREAKPOINT);
    assert_eq!(trap(), 1);
    // SAFETY: as above.
    unsafe { dune.set_lean_handler(Vector::BREAKPOINT, &LEAN) };
    assert_eq!(trap(), 3);
    probe::handle(dune, Vector::BREAKPOINT, of_process);
    assert_eq!(trap(), 1);
    Ok(())
}

fn handler_allocates_and_prints() -> CaseResult {
    fn handler(_: Dune, frame: &mut TrapFrame) -> TrapOutcome {
        let numbers: Vec<u64> = (0..50_000).collect();
        let map: std::collections::HashMap<u64, String> = (0..100).map(|n| (n, n.to_string())).collect();
        println!("{} numbers, {} texts", numbers.len(), map.len());
        probe::registers(frame).rax = numbers.iter().sum::<u64>() + map[&42].len() as u64;
        TrapOutcome::Resume
    }
    let dune = dune::enter()?;
    probe::handle(dune, Vector::INVALID_OPCODE, |dune, frame| {
        probe::skip(frame, 2);
        handler(dune, frame)
    });
    let value: u64;
    // SAFETY: the handler skips the UD2 and changes RAX.
    unsafe { asm!("ud2", out("rax") value) };
    assert_eq!(value, 1_249_975_002);
    Ok(())
}

/// INT3 with `depth` in RAX; the handler takes another with one less, down to 0.
fn nested(_: Dune, frame: &mut TrapFrame) -> TrapOutcome {
    let depth = frame.registers().rax;
    let local = std::hint::black_box([depth; 64]);
    probe::registers(frame).rax = if depth == 0 { 0 } else { int3(depth - 1) + 1 };
    assert!(local.iter().all(|&value| value == depth), "the stack of level {depth} was written to");
    CALLS.fetch_add(1, Ordering::Relaxed);
    TrapOutcome::Resume
}

fn int3(depth: u64) -> u64 {
    let value;
    // SAFETY: the handler changes RAX only.
    unsafe { asm!("int3", inout("rax") depth => value) };
    value
}

fn handler_faults_in_itself() -> CaseResult {
    let dune = dune::enter()?;
    probe::handle(dune, Vector::BREAKPOINT, nested);
    for depth in 0..5 {
        assert_eq!(int3(depth), depth);
    }
    assert_eq!(dune.counters().traps(Vector::BREAKPOINT), 1 + 2 + 3 + 4 + 5);
    Ok(())
}

/// As deep as the documentation of handlers says, again and again: every level is given back.
fn deep_nesting_comes_back() -> CaseResult {
    let dune = dune::enter()?;
    probe::handle(dune, Vector::BREAKPOINT, nested);
    for _ in 0..100 {
        assert_eq!(int3(6), 6);
    }
    assert_eq!(CALLS.load(Ordering::Relaxed), 700);
    Ok(())
}

fn nesting_too_deep() -> CaseResult {
    let dune = dune::enter()?;
    probe::handle(dune, Vector::BREAKPOINT, nested);
    int3(1000);
    probe::fail("1000 levels fitted".into())
}

fn page_faults_nested_too_deep() -> CaseResult {
    fn handler(_: Dune, frame: &mut TrapFrame) -> TrapOutcome {
        // SAFETY: nothing is mapped there: the handler faults itself.
        probe::registers(frame).rax =
            unsafe { (frame.fault_address().as_u64() as *const u64).read_volatile() };
        TrapOutcome::Resume
    }
    let dune = dune::enter()?;
    probe::handle(dune, Vector::PAGE_FAULT, handler);
    // SAFETY: nothing is mapped there.
    unsafe { (16 as *const u64).read_volatile() };
    probe::fail("there are no bounds".into())
}

static SECOND_PAGE: AtomicU64 = AtomicU64::new(0);

/// The first fault's handler runs into a second one; CR2 and error code of both are right.
fn page_fault_in_a_page_fault_handler() -> CaseResult {
    fn handler(dune: Dune, frame: &mut TrapFrame) -> TrapOutcome {
        let (page, cr2) = (PageRange::page(frame.fault_address()), frame.fault_address().as_u64());
        let second = SECOND_PAGE.load(Ordering::Relaxed);
        if cr2 & !0xfff != second {
            probe::poke(x86_64::VirtAddr::new(second), cr2);
        }
        assert_eq!(frame.fault_address().as_u64(), cr2);
        CALLS.fetch_add(1, Ordering::Relaxed);
        match dune.memory().protect_now(dune, page, PagePermissions::READ_WRITE) {
            Ok(()) => TrapOutcome::Resume,
            Err(_) => TrapOutcome::Unhandled,
        }
    }
    let dune = dune::enter()?;
    let range = probe::small_pages(dune, 2)?;
    probe::protect(dune, range, PagePermissions::READ)?;
    SECOND_PAGE.store(probe::page(range, 1).start().as_u64(), Ordering::Relaxed);
    probe::handle(dune, Vector::PAGE_FAULT, handler);
    probe::poke(range.start() + 0x10, 5);
    assert_eq!(probe::peek(range.start() + 0x10), 5);
    assert_eq!(probe::peek(range.start() + 4096), range.start().as_u64() + 0x10);
    assert_eq!(CALLS.load(Ordering::Relaxed), 2);
    Ok(())
}

/// #BP, whose handler takes #UD, whose handler takes #PF, whose handler takes #DB, with floating point in each.
fn handlers_of_all_kinds_nest() -> CaseResult {
    fn breakpoint(_: Dune, frame: &mut TrapFrame) -> TrapOutcome {
        let x = std::hint::black_box(1.5f64);
        // SAFETY: the handler skips it.
        unsafe { asm!("ud2") };
        probe::registers(frame).rax = (x * 2.0) as u64 + SEEN.load(Ordering::Relaxed);
        TrapOutcome::Resume
    }
    fn invalid(_: Dune, frame: &mut TrapFrame) -> TrapOutcome {
        let x = std::hint::black_box(10.5f64);
        probe::poke(x86_64::VirtAddr::new(SECOND_PAGE.load(Ordering::Relaxed)), 1);
        SEEN.fetch_add((x * 2.0) as u64, Ordering::Relaxed);
        probe::skip(frame, 2);
        TrapOutcome::Resume
    }
    fn page(dune: Dune, frame: &mut TrapFrame) -> TrapOutcome {
        let x = std::hint::black_box(100.5f64);
        // SAFETY: the handler returns behind it.
        unsafe { asm!("int 1") };
        SEEN.fetch_add((x * 2.0) as u64, Ordering::Relaxed);
        let page = PageRange::page(frame.fault_address());
        match dune.memory().protect_now(dune, page, PagePermissions::READ_WRITE) {
            Ok(()) => TrapOutcome::Resume,
            Err(_) => TrapOutcome::Unhandled,
        }
    }
    fn debug(_: Dune, _: &mut TrapFrame) -> TrapOutcome {
        SEEN.fetch_add((std::hint::black_box(1000.5f64) * 2.0) as u64, Ordering::Relaxed);
        TrapOutcome::Resume
    }
    let dune = dune::enter()?;
    let range = probe::small_pages(dune, 1)?;
    probe::protect(dune, range, PagePermissions::READ)?;
    SECOND_PAGE.store(range.start().as_u64(), Ordering::Relaxed);
    probe::handle(dune, Vector::BREAKPOINT, breakpoint);
    probe::handle(dune, Vector::INVALID_OPCODE, invalid);
    probe::handle(dune, Vector::PAGE_FAULT, page);
    probe::handle(dune, Vector::DEBUG, debug);
    assert_eq!(int3(0), 3 + 21 + 201 + 2001);
    Ok(())
}

fn handler_out_of_range() -> CaseResult {
    let dune = dune::enter()?;
    assert_eq!(probe::handle_number(dune, 255, nested), Ok(()));
    for number in [256, 257, u16::MAX] {
        let error = probe::handle_number(dune, number, nested);
        assert_eq!(error, Err(HandlerError::OutOfRange { number }));
        assert!(error.is_err_and(|error| error.to_string().contains(&number.to_string())));
    }
    Ok(())
}

fn cleared_handler() -> CaseResult {
    let dune = dune::enter()?;
    probe::handle(dune, Vector::BREAKPOINT, nested);
    assert_eq!(int3(1), 1);
    dune.clear_handler(Vector::BREAKPOINT);
    int3(0);
    Ok(())
}

fn handler_makes_system_calls() -> CaseResult {
    fn handler(_: Dune, frame: &mut TrapFrame) -> TrapOutcome {
        probe::registers(frame).rax = probe::getpid() as u64;
        TrapOutcome::Resume
    }
    let dune = dune::enter()?;
    probe::handle(dune, Vector::BREAKPOINT, handler);
    assert_eq!(int3(0), u64::from(std::process::id()));
    Ok(())
}
