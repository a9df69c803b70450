//! What Linux runs and Dune mode can not: 32-bit system calls by INT 0x80, code of 32 bits, and the page for vsyscalls. An
//! unmodified program's thread that comes to it leaves Dune mode for good, and executes the instruction again in host mode.

use super::{filter, signal};
use crate::arch::frame::{SOFTWARE_INTERRUPT_BYTES, TrapFrame};
use crate::arch::page::PAGE_BYTES;
use crate::arch::registers::{Registers, VectorArea};
use crate::arch::token::Dune;
use crate::arch::vector::Vector;

/// The vector of 32-bit system calls (arch/x86/include/asm/irq_vectors.h).
const SYSTEM_CALL: Vector = Vector(0x80);
/// The error code of a #GP about the selector of 32-bit code (`__USER32_CS`, arch/x86/include/asm/segment.h). Programs may load
/// data segments with it, too.
const CODE32: u64 = 0x20;
/// The page for vsyscalls (arch/x86/include/uapi/asm/vsyscall.h).
const VSYSCALLS: u64 = 0xffff_ffff_ff60_0000;

/// Leaves Dune mode before the instruction that made the trap of `frame`, if host mode alone can execute it. Returns true if
/// `frame` is to go on, as a signal has come first; else, and if the thread is where it can not leave, false.
pub(super) fn leave(dune: Dune, frame: &mut TrapFrame, area: VectorArea) -> bool {
    if !dune.block().is_unmodified_code(frame.words().rsp) {
        return false;
    }
    let mut registers = Registers::of_trap(frame);
    match frame.vector() {
        SYSTEM_CALL => registers.rip -= SOFTWARE_INTERRUPT_BYTES,
        Vector::GENERAL_PROTECTION if frame.words().error_code == CODE32 => (),
        Vector::PAGE_FAULT if is_vsyscall(registers.rip) => (),
        _ => return false,
    }
    let has_stayed = filter::leave_at(dune, &registers, area).is_some();
    if has_stayed {
        registers.store_to(frame);
        signal::at_interrupt(dune, frame, area);
    }
    has_stayed
}

fn is_vsyscall(rip: u64) -> bool {
    rip & !(PAGE_BYTES - 1) == VSYSCALLS
}
