//! A tracer (ptrace(2)) that comes while an unmodified program is in Dune mode.
//!
//! Linux shows it the host loop: the signals of the program's own exceptions never reach it, and registers, steps and debug
//! registers are not the program's. So the traced thread leaves Dune mode for good, where that matters: at an exception that
//! is a signal, whose instruction is executed again in host mode; and when a stop has interrupted Dune mode. A thread that
//! asks to be traced leaves at that call (`cpu_calls.rs`).

use core::arch::x86_64::_rdtsc;

use super::{copy, filter};
use crate::arch::frame::TrapFrame;
use crate::arch::registers::{Registers, VectorArea};
use crate::arch::token::Dune;
use crate::arch::vector::Vector;
use crate::linux::proc;

/// After so many ticks of the time-stamp counter, some milliseconds, it is asked again. The answer takes as long as some system
/// calls, and programs take exceptions by the thousand.
const TICKS: u64 = 1 << 24;

/// If the thread is traced, leaves Dune mode before the instruction that made the trap of `frame`. Else returns.
pub(super) fn show(dune: Dune, frame: &TrapFrame, area: VectorArea) {
    // A step has been made: the next is the tracer's.
    if !dune.block().is_unmodified() || frame.vector() == Vector::DEBUG || !has_come(dune) {
        return;
    }
    let mut registers = Registers::of_trap(frame);
    if frame.vector() == Vector::BREAKPOINT {
        registers.rip -= breakpoint_bytes(frame.rip());
    }
    filter::leave_at(dune, &registers, area);
}

/// If the host loop has seen a tracer, leaves Dune mode where the code of `registers` was interrupted. Else returns.
pub(super) fn show_interrupted(dune: Dune, registers: &Registers, area: VectorArea) {
    if dune.block().is_traced.get() {
        filter::leave_at(dune, registers, area);
    }
}

/// Whether the thread is traced, as far as was known a moment ago.
fn has_come(dune: Dune) -> bool {
    let block = dune.block();
    // SAFETY: RDTSC reads a counter.
    let now = unsafe { _rdtsc() };
    let before = block.looked_for_tracer.get();
    if before == 0 || now.wrapping_sub(before) >= TICKS {
        block.looked_for_tracer.set(now);
        block.is_traced.set(proc::is_traced());
    }
    block.is_traced.get()
}

/// The length of the INT3 before `rip`: one byte, or two as INT 3.
fn breakpoint_bytes(rip: u64) -> u64 {
    const INT3: u8 = 0xcc;
    // SAFETY: any bytes make a number.
    let before = unsafe { copy::from_program::<u64>(rip.wrapping_sub(size_of::<u64>() as u64)) };
    if before.is_ok_and(|bytes| bytes.to_le_bytes()[7] != INT3) { 2 } else { 1 }
}
