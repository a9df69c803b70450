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
use crate::arch::vector::Vector;
use crate::contract::block;
use crate::linux::proc;

/// After so many ticks of the time-stamp counter, some milliseconds, it is asked again. The answer takes as long as some system
/// calls, and programs take exceptions by the thousand.
const TICKS: u64 = 1 << 24;

/// If the thread is traced, leaves Dune mode before the instruction that made the trap of `frame`. Else returns.
pub(super) fn show(frame: &TrapFrame, area: VectorArea) {
    // SAFETY: ring 0; the block is this thread's own.
    let is_unmodified = unsafe { (*block::current()).is_unmodified() };
    // A step has been made: the next is the tracer's.
    if !is_unmodified || frame.vector() == Vector::DEBUG || !has_come() {
        return;
    }
    let mut registers = Registers::of_trap(frame);
    if frame.vector() == Vector::BREAKPOINT {
        registers.rip -= breakpoint_bytes(frame.rip);
    }
    filter::leave_at(&registers, area);
}

/// If the host loop has seen a tracer, leaves Dune mode where the code of `registers` was interrupted. Else returns.
pub(super) fn show_interrupted(registers: &Registers, area: VectorArea) {
    // SAFETY: ring 0; the block is this thread's own.
    if unsafe { (*block::current()).is_traced } {
        filter::leave_at(registers, area);
    }
}

/// Whether the thread is traced, as far as was known a moment ago.
fn has_come() -> bool {
    // SAFETY: ring 0; the block is this thread's own. RDTSC reads a counter.
    let (block, now) = unsafe { (&mut *block::current(), _rdtsc()) };
    if block.looked_for_tracer != 0 && now.wrapping_sub(block.looked_for_tracer) < TICKS {
        return block.is_traced;
    }
    block.looked_for_tracer = now;
    block.is_traced = proc::is_traced();
    block.is_traced
}

/// The length of the INT3 before `rip`: one byte, or two as INT 3.
fn breakpoint_bytes(rip: u64) -> u64 {
    const INT3: u8 = 0xcc;
    // SAFETY: any bytes make a number.
    let before = unsafe { copy::from_program::<u64>(rip.wrapping_sub(size_of::<u64>() as u64)) };
    if before.is_ok_and(|bytes| bytes.to_le_bytes()[7] != INT3) { 2 } else { 1 }
}
