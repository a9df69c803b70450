//! RDFSBASE, RDGSBASE, WRFSBASE and WRGSBASE of an unmodified program. In ring 0 GS leads to the thread block, which the program must
//! neither see nor lose. So CR4.FSGSBASE is off for such programs, the instructions are undefined (#UD), and are made here.
//!
//! The GS base is 0 for the program, as Linux starts it: a thread that sets another one goes on in host mode. (A load of GS by a
//! selector, which makes it 0, does not trap: `dune_trap_low_address` of trap.S.)

use super::far::{addressed_by, instruction_at};
use super::{filter, signal};
use crate::arch::cpu;
use crate::arch::frame::TrapFrame;
use crate::arch::instruction::{Instruction, Opcode, Operand};
use crate::arch::registers::{Registers, TRAP_FLAG, VectorArea};
use crate::arch::token::Dune;
use crate::arch::vector::Vector;

/// Makes the instruction that the trap of `frame` is about, if it is one of these, or has the thread leave before it. Returns true if
/// `frame` is to go on.
pub(super) fn emulate(dune: Dune, frame: &mut TrapFrame, area: VectorArea) -> bool {
    if frame.vector() != Vector::INVALID_OPCODE || !dune.block().is_unmodified_code(frame.words().rsp) {
        return false;
    }
    let mut registers = Registers::of_trap(frame);
    let Some(instruction) = instruction_at(registers.rip) else { return false };
    let Some(base) = Base::of(&instruction, &registers) else { return false };
    if let Base::SetFs(address) | Base::SetGs(address) = base
        && !is_canonical(address)
    {
        // Intel SDM vol. 2 WRFSBASE/WRGSBASE: #GP(0).
        frame.words_mut().vector = Vector::GENERAL_PROTECTION.number().into();
        return false;
    }
    let is_gs_lost = matches!(base, Base::SetGs(address) if address != 0);
    if is_gs_lost || registers.rflags & TRAP_FLAG != 0 {
        // Or the step behind the instruction would be lost.
        let has_stayed = filter::leave_at(dune, &registers, area).is_some();
        if has_stayed {
            signal::at_interrupt(dune, frame, area);
        }
        return has_stayed;
    }
    let read = match base {
        // SAFETY: ring 0.
        Base::Fs => Some(unsafe { cpu::fs_base() }),
        Base::Gs => Some(0),
        Base::SetFs(address) => {
            // SAFETY: ring 0, a canonical address; the program asks for this thread-local storage.
            unsafe { cpu::set_fs_base(address) };
            None
        }
        Base::SetGs(_) => None,
    };
    if let Some(read) = read
        && !set(&mut registers, &instruction, read)
    {
        return false;
    }
    registers.rip = instruction.next;
    registers.store_to(frame);
    true
}

/// What is asked for.
enum Base {
    Fs,
    Gs,
    SetFs(u64),
    SetGs(u64),
}

impl Base {
    fn of(instruction: &Instruction, registers: &Registers) -> Option<Base> {
        let Operand::Register { reg } = instruction.operand(0) else { return None };
        let operand = || instruction.value(reg, &addressed_by(registers));
        Some(match instruction.opcode() {
            Opcode::RDFSBASE => Base::Fs,
            Opcode::RDGSBASE => Base::Gs,
            Opcode::WRFSBASE => Base::SetFs(operand()?),
            Opcode::WRGSBASE => Base::SetGs(operand()?),
            _ => return None,
        })
    }
}

fn is_canonical(address: u64) -> bool {
    (address << 16) as i64 >> 16 == address as i64
}

/// Loads the instruction's register with `base`, or with its lower half. False if it has none.
fn set(registers: &mut Registers, instruction: &Instruction, base: u64) -> bool {
    let Operand::Register { reg } = instruction.operand(0) else { return false };
    let base = if reg.width() == 4 { base & 0xffff_ffff } else { base };
    let register = registers.by_number().into_iter().nth(reg.num().into());
    register.map(|register| *register = base).is_some()
}
