//! Traps and their handlers.

use std::arch::asm;
use std::sync::atomic::{AtomicU64, Ordering};

use dune::{Dune, TrapFrame, TrapOutcome, Vector};

use crate::case::{Case, CaseResult, Ending};

pub const CASES: &[Case] = &[
    Case::new("traps::breakpoint_is_handled", breakpoint_is_handled),
    Case::new("traps::unhandled_invalid_opcode_dies_by_sigill", unhandled_invalid_opcode).ends(
        Ending::Signal(libc::SIGILL, &["unhandled trap 6 #UD", "traps::unhandled_invalid_opcode", "rip"]),
    ),
];

static SEEN: AtomicU64 = AtomicU64::new(0);

fn breakpoint_is_handled() -> CaseResult {
    fn handler(_: Dune, frame: &mut TrapFrame) -> TrapOutcome {
        SEEN.store(frame.rip, Ordering::Relaxed);
        frame.rax = 77;
        println!("breakpoint at {:#x}", frame.rip);
        TrapOutcome::Resume
    }
    let dune = dune::enter()?;
    dune.set_handler(Vector::BREAKPOINT, handler);
    let value: u64;
    // SAFETY: the handler returns behind the INT3 with RAX changed.
    unsafe { asm!("int3", out("rax") value) };
    assert_eq!(value, 77);
    assert_ne!(SEEN.load(Ordering::Relaxed), 0);
    assert_eq!(dune.counters().traps(Vector::BREAKPOINT), 1);
    Ok(())
}

fn unhandled_invalid_opcode() -> CaseResult {
    dune::enter()?;
    // SAFETY: ends the process.
    unsafe { asm!("ud2") };
    Ok(())
}
