//! Ends: what nobody handles ends the process with a report and the matching signal, and never hangs.

use std::arch::asm;

use dune::cpu::TablePointer;
use dune::memory::PagePermissions;
use dune::{Dune, TrapFrame, TrapOutcome, Vector};

use crate::allocator;
use crate::case::{Case, CaseResult, Ending};
use crate::probe;

/// A case that has to end by a signal, with these texts in its report.
const fn ends(
    name: &'static str,
    body: fn() -> CaseResult,
    signal: i32,
    texts: &'static [&'static str],
) -> Case {
    Case::new(name, body).ends(Ending::Signal(signal, texts))
}

pub const CASES: &[Case] = &[
    ends(
        "faults::invalid_opcode_dies_by_sigill",
        invalid_opcode,
        libc::SIGILL,
        &[
            "unhandled trap 6 #UD",
            "faults::invalid_opcode",
            "no handler is set",
            "rip 0x",
            "rax 0x",
            "r15 0x",
        ],
    ),
    ends(
        "faults::divide_error_dies_by_sigfpe",
        divide_error,
        libc::SIGFPE,
        &["0 #DE", "faults::divide_error"],
    ),
    ends(
        "faults::report_of_a_trap_allocates_nothing",
        trap_without_allocator,
        libc::SIGILL,
        &["6 #UD", "faults::trap_without_allocator"],
    ),
    ends(
        "faults::report_of_the_host_loop_allocates_nothing",
        exit_without_allocator,
        libc::SIGSEGV,
        &["HLT in Dune mode without a request", "faults::exit_without_allocator"],
    ),
    ends("faults::breakpoint_dies_by_sigtrap", breakpoint, libc::SIGTRAP, &["3 #BP", "faults::breakpoint"]),
    ends(
        "faults::null_read_dies_by_sigsegv",
        null_read,
        libc::SIGSEGV,
        &["14 #PF", "address (cr2) 0x18", "error code 0x0", "faults::null_read"],
    ),
    ends(
        "faults::write_to_read_only_dies_by_sigsegv",
        write_to_read_only,
        libc::SIGSEGV,
        &["14 #PF", "error code 0x3", "CAUSED_BY_WRITE"],
    ),
    ends(
        "faults::unmapped_memory_dies_by_sigsegv",
        unmapped_memory,
        libc::SIGSEGV,
        &["14 #PF", "address (cr2) 0x200000000000", "error code 0x0"],
    ),
    ends(
        "faults::non_canonical_access_dies_by_sigsegv",
        non_canonical_access,
        libc::SIGSEGV,
        &["13 #GP", "faults::non_canonical_access"],
    ),
    ends(
        "faults::non_canonical_jump_dies_by_sigsegv",
        non_canonical_jump,
        libc::SIGSEGV,
        &["dune: ", "0x8000000000000008"],
    ),
    ends(
        "faults::handler_that_declines",
        declines,
        libc::SIGILL,
        &["6 #UD", "its handler returned Unhandled"],
    ),
    ends(
        "faults::panic_in_a_handler",
        panics,
        libc::SIGABRT,
        &["6 #UD", "its handler panicked", "the handler's last words"],
    ),
    ends(
        "faults::panic_in_a_page_fault_handler",
        panics_in_page_fault,
        libc::SIGABRT,
        &["14 #PF", "its handler panicked", "the handler's last words"],
    ),
    ends("faults::double_fault", double_fault, libc::SIGSEGV, &["8 #DF", "faults::double_fault"]),
    ends("faults::triple_fault", triple_fault, libc::SIGSEGV, &["triple fault in Dune mode"]),
    // Rust's own handler of SIGSEGV says that, as on Linux.
    ends("faults::stack_overflow_ends", stack_overflow, libc::SIGABRT, &["has overflowed its stack"]),
    ends(
        "faults::stray_hlt",
        stray_hlt,
        libc::SIGSEGV,
        &["HLT in Dune mode without a request", "faults::stray_hlt"],
    ),
    ends(
        "faults::stray_port_access",
        port_access,
        libc::SIGSEGV,
        &["I/O port 0x1234", "faults::port_access"],
    ),
    ends(
        "faults::interrupt_without_handler",
        interrupt,
        libc::SIGSEGV,
        &["unhandled trap 77", "no handler is set"],
    ),
    Case::new("faults::panic_in_the_program_is_status_101", panic_in_the_program).ends(Ending::Status(101)),
    ends("faults::abort_of_the_program", abort, libc::SIGABRT, &[]),
    ends("faults::blocked_signal_ends_all_the_same", blocked_signal, libc::SIGILL, &["6 #UD"]),
];

const NON_CANONICAL: u64 = 0x8000_0000_0000_0008;

fn survived() -> CaseResult {
    probe::fail("the process survived".into())
}

#[inline(never)]
fn invalid_opcode() -> CaseResult {
    dune::enter()?;
    // SAFETY: ends the process.
    unsafe { asm!("ud2") };
    survived()
}

#[inline(never)]
fn trap_without_allocator() -> CaseResult {
    dune::enter()?;
    allocator::forbid();
    // SAFETY: ends the process.
    unsafe { asm!("ud2") };
    survived()
}

#[inline(never)]
fn exit_without_allocator() -> CaseResult {
    dune::enter()?;
    allocator::forbid();
    // SAFETY: ends the process.
    unsafe { asm!("hlt") };
    survived()
}

#[inline(never)]
fn divide_error() -> CaseResult {
    dune::enter()?;
    // SAFETY: ends the process.
    unsafe { asm!("div ecx", inout("eax") 1 => _, inout("edx") 0 => _, in("ecx") 0) };
    survived()
}

#[inline(never)]
fn breakpoint() -> CaseResult {
    dune::enter()?;
    // SAFETY: ends the process.
    unsafe { asm!("int3") };
    survived()
}

#[inline(never)]
fn read(address: u64) {
    // SAFETY: ends the process.
    unsafe { asm!("mov {0}, [{0}]", inout(reg) address => _) };
}

#[inline(never)]
fn null_read() -> CaseResult {
    dune::enter()?;
    // SAFETY: ends the process.
    unsafe { asm!("mov {0}, [{0}]", inout(reg) 0x18u64 => _) };
    survived()
}

fn write_to_read_only() -> CaseResult {
    let dune = dune::enter()?;
    let range = probe::small_pages(dune, 1)?;
    probe::protect(dune, range, PagePermissions::READ)?;
    probe::poke(range.start(), 1);
    survived()
}

/// Inside no window at all.
fn unmapped_memory() -> CaseResult {
    dune::enter()?;
    read(0x2000_0000_0000);
    survived()
}

#[inline(never)]
fn non_canonical_access() -> CaseResult {
    dune::enter()?;
    // SAFETY: ends the process.
    unsafe { asm!("mov {0}, [{0}]", inout(reg) NON_CANONICAL => _) };
    survived()
}

fn non_canonical_jump() -> CaseResult {
    dune::enter()?;
    // SAFETY: ends the process.
    unsafe { asm!("jmp {}", in(reg) NON_CANONICAL) };
    survived()
}

fn declines() -> CaseResult {
    let dune = dune::enter()?;
    probe::handle(dune, Vector::INVALID_OPCODE, |_, _| TrapOutcome::Unhandled);
    // SAFETY: ends the process.
    unsafe { asm!("ud2") };
    survived()
}

fn panicking(_: Dune, _: &mut TrapFrame) -> TrapOutcome {
    panic!("the handler's last words")
}

fn panics() -> CaseResult {
    let dune = dune::enter()?;
    probe::handle(dune, Vector::INVALID_OPCODE, panicking);
    // SAFETY: ends the process.
    unsafe { asm!("ud2") };
    survived()
}

fn panics_in_page_fault() -> CaseResult {
    let dune = dune::enter()?;
    probe::handle(dune, Vector::PAGE_FAULT, panicking);
    read(0x10);
    survived()
}

/// The gate of #PF gets an interrupt stack that is not there: #PF while #PF is being delivered makes #DF.
#[inline(never)]
fn double_fault() -> CaseResult {
    const STACK: u64 = 7 << 32;
    let dune = dune::enter()?;
    let table = dune.idt();
    // SAFETY: SIDT told where the 256 gates of 16 bytes are.
    let mut gates = Box::new(unsafe { (table.base as *const [[u64; 2]; 256]).read_unaligned() });
    gates[14][0] |= STACK;
    let gates = Box::leak(gates);
    // SAFETY: Dune's table but for one gate.
    unsafe { dune.load_idt(TablePointer { limit: table.limit, base: gates.as_ptr() as u64 }) };
    // SAFETY: ends the process.
    unsafe { asm!("mov {0}, [{0}]", inout(reg) 8u64 => _) };
    survived()
}

#[inline(never)]
fn triple_fault() -> CaseResult {
    let dune = dune::enter()?;
    // SAFETY: ends the process.
    unsafe {
        dune.load_idt(TablePointer { limit: 0, base: 0 });
        asm!("ud2");
    }
    survived()
}

fn stack_overflow() -> CaseResult {
    #[inline(never)]
    fn recurse(depth: u64) -> u64 {
        let local = std::hint::black_box([depth; 128]);
        if depth == u64::MAX { 0 } else { recurse(depth + 1) + local[3] }
    }
    dune::enter()?;
    std::hint::black_box(recurse(0));
    survived()
}

#[inline(never)]
fn stray_hlt() -> CaseResult {
    dune::enter()?;
    // SAFETY: ends the process.
    unsafe { asm!("hlt") };
    survived()
}

#[inline(never)]
fn port_access() -> CaseResult {
    dune::enter()?;
    // SAFETY: ends the process.
    unsafe { asm!("out dx, al", in("dx") 0x1234u16, in("al") 0u8) };
    survived()
}

fn interrupt() -> CaseResult {
    let dune = dune::enter()?;
    dune.raise_interrupt(Vector::new(77).ok_or("a vector")?)?;
    survived()
}

fn panic_in_the_program() -> CaseResult {
    dune::enter()?;
    panic!("an ordinary panic unwinds as ever");
}

fn abort() -> CaseResult {
    dune::enter()?;
    std::process::abort()
}

/// The program blocks and catches the signal that a report ends with.
fn blocked_signal() -> CaseResult {
    extern "C" fn never(_: i32) {}
    // SAFETY: plain calls with valid arguments.
    unsafe {
        libc::signal(libc::SIGILL, never as extern "C" fn(i32) as *const () as usize);
        let mut set = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
    invalid_opcode()
}
