//! Far jumps, calls and returns to the code selector that a program has outside of Dune mode, and loads of SS with its stack
//! selector: in ring 0 the CPU refuses them by their RPL (#GP; Intel SDM vol. 2 JMP, CALL, RET, MOV). For the code of an
//! unmodified program they are made here, which stays in ring 0. (IRETQ goes to ring 3: `dune_trap_selectors` of trap.S.)

use super::copy::{self, BadAddress};
use crate::arch::cpu;
use crate::arch::descriptors::{RING3_CODE, RING3_DATA};
use crate::arch::frame::TrapFrame;
use crate::arch::instruction::{AddressRegisters, Instruction, LONGEST, Opcode, Operand, SS};
use crate::arch::page::TASK_SIZE;
use crate::arch::registers::Registers;
use crate::arch::token::Dune;
use crate::arch::vector::Vector;

/// Makes the transfer or the load that the trap of `frame` is about, if it is one.
pub(super) fn emulate(dune: Dune, frame: &mut TrapFrame) -> bool {
    let is_theirs = dune.block().is_unmodified_code(frame.words().rsp);
    if frame.vector() != Vector::GENERAL_PROTECTION || !is_theirs {
        return false;
    }
    let mut registers = Registers::of_trap(frame);
    let Some(instruction) = instruction_at(registers.rip) else { return false };
    let is_done = match instruction.opcode() {
        Opcode::MOV => load_stack_segment(&instruction, &mut registers),
        Opcode::RETF => far_return(&instruction, &mut registers),
        Opcode::JMPF => jump(&instruction, &mut registers),
        Opcode::CALLF => call(&instruction, &mut registers),
        _ => Err(BadAddress),
    };
    let is_done = is_done.is_ok() && registers.rip < TASK_SIZE;
    if is_done {
        registers.store_to(frame);
    }
    is_done
}

/// The instruction at `rip`.
pub(super) fn instruction_at(rip: u64) -> Option<Instruction> {
    let mut code = [0u8; 16];
    // Two words: the second may be on a page that is not there.
    for (to, at) in code.chunks_exact_mut(8).zip([0, 8]) {
        // SAFETY: any bytes make a word.
        match unsafe { copy::from_program::<[u8; 8]>(rip.wrapping_add(at)) } {
            Ok(word) => to.copy_from_slice(&word),
            Err(_) if at == 0 => return None,
            Err(_) => break,
        }
    }
    Instruction::decode(&code[..LONGEST], rip).ok()
}

/// MOV to SS: it has that selector, as far as the program can tell. Fails with any other.
fn load_stack_segment(instruction: &Instruction, registers: &mut Registers) -> Result<(), BadAddress> {
    let selector = match instruction.operand(1) {
        Operand::Register { reg } => instruction.value(reg, &addressed_by(registers)).ok_or(BadAddress)?,
        _ => word(operand(instruction, 1, registers)?)?,
    };
    if instruction.operand(0) != (Operand::Register { reg: SS }) || selector as u16 != RING3_DATA {
        return Err(BadAddress);
    }
    registers.rip = instruction.next;
    Ok(())
}

fn far_return(instruction: &Instruction, registers: &mut Registers) -> Result<(), BadAddress> {
    let taken = match instruction.operand(0) {
        Operand::ImmediateU16 { imm } => imm.into(),
        Operand::ImmediateI16 { imm } => (imm as u16).into(),
        _ => 0,
    };
    let (target, selector, popped) = match instruction.far_offset_bytes() {
        8 => (word(registers.rsp)?, word(registers.rsp.wrapping_add(8))?, 16),
        4 => {
            let both = word(registers.rsp)?;
            (both & 0xffff_ffff, both >> 32, 8)
        }
        _ => return Err(BadAddress),
    };
    registers.rip = checked(target, selector)?;
    registers.rsp = registers.rsp.wrapping_add(popped + taken);
    Ok(())
}

fn jump(instruction: &Instruction, registers: &mut Registers) -> Result<(), BadAddress> {
    registers.rip = pointer(instruction, registers)?;
    Ok(())
}

fn call(instruction: &Instruction, registers: &mut Registers) -> Result<(), BadAddress> {
    let (target, back) = (pointer(instruction, registers)?, instruction.next);
    let selector = u64::from(RING3_CODE);
    let (rsp, frame) = if instruction.far_offset_bytes() == 8 {
        let rsp = registers.rsp.wrapping_sub(16);
        (rsp, [back, selector])
    } else {
        let rsp = registers.rsp.wrapping_sub(8);
        // SAFETY: the program's stack below what it uses.
        unsafe { copy::to_program(rsp, &(back & 0xffff_ffff | selector << 32)) }?;
        (registers.rip, registers.rsp) = (target, rsp);
        return Ok(());
    };
    // SAFETY: as above.
    unsafe { copy::to_program(rsp, &frame) }?;
    (registers.rip, registers.rsp) = (target, rsp);
    Ok(())
}

/// The target of the far pointer that the instruction names.
fn pointer(instruction: &Instruction, registers: &Registers) -> Result<u64, BadAddress> {
    let at = operand(instruction, 0, registers)?;
    match instruction.far_offset_bytes() {
        8 => checked(word(at)?, word(at.wrapping_add(2))? >> 48),
        4 => {
            let both = word(at)?;
            checked(both & 0xffff_ffff, both >> 32)
        }
        _ => Err(BadAddress),
    }
}

/// `target`, if the selector is the one that programs know.
fn checked(target: u64, selector: u64) -> Result<u64, BadAddress> {
    if selector as u16 == RING3_CODE { Ok(target) } else { Err(BadAddress) }
}

/// The address of an operand in memory.
fn operand(instruction: &Instruction, operand: u8, registers: &Registers) -> Result<u64, BadAddress> {
    instruction.address(operand, &addressed_by(registers)).ok_or(BadAddress)
}

pub(super) fn addressed_by(registers: &Registers) -> AddressRegisters {
    // SAFETY: ring 0.
    AddressRegisters::new(registers, unsafe { cpu::fs_base() })
}

/// The word at `address` of the program's memory.
fn word(address: u64) -> Result<u64, BadAddress> {
    // SAFETY: any bytes make a word.
    unsafe { copy::from_program(address) }
}
