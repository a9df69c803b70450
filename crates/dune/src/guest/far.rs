//! Far jumps, calls and returns to the code selector that a program has outside of Dune mode, and loads of SS with its stack
//! selector: in ring 0 the CPU refuses them by their RPL (#GP; Intel SDM vol. 2 JMP, CALL, RET, MOV). For the code of an
//! unmodified program they are made here, which stays in ring 0. (IRETQ goes to ring 3: `dune_trap_selectors` of trap.S.)

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, OpKind, Register};

use super::copy::{self, BadAddress};
use crate::arch::cpu;
use crate::arch::descriptors::{RING3_CODE, RING3_DATA};
use crate::arch::frame::TrapFrame;
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
    let is_done = match instruction.code() {
        Code::Mov_Sreg_rm16 | Code::Mov_Sreg_r32m16 | Code::Mov_Sreg_r64m16 => {
            load_stack_segment(&instruction, &mut registers)
        }
        Code::Retfq | Code::Retfq_imm16 | Code::Retfd | Code::Retfd_imm16 => {
            far_return(&instruction, &mut registers)
        }
        Code::Jmp_m1664 | Code::Jmp_m1632 => jump(&instruction, &mut registers),
        Code::Call_m1664 | Code::Call_m1632 => call(&instruction, &mut registers),
        _ => Err(BadAddress),
    };
    let is_done = is_done.is_ok() && registers.rip < TASK_SIZE;
    if is_done {
        registers.store_to(frame);
    }
    is_done
}

/// The instruction at `rip`. Its decoder has made its tables when the process entered.
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
    let mut instruction = Instruction::default();
    Decoder::with_ip(64, &code, rip, DecoderOptions::NONE).decode_out(&mut instruction);
    (!instruction.is_invalid()).then_some(instruction)
}

/// MOV to SS: it has that selector, as far as the program can tell. Fails with any other.
fn load_stack_segment(instruction: &Instruction, registers: &mut Registers) -> Result<(), BadAddress> {
    let selector = match instruction.op1_kind() {
        OpKind::Register => value(registers, instruction.op1_register()).ok_or(BadAddress)?,
        _ => word(operand(instruction, registers)?)?,
    };
    if instruction.op0_register() != Register::SS || selector as u16 != RING3_DATA {
        return Err(BadAddress);
    }
    registers.rip = instruction.next_ip();
    Ok(())
}

fn far_return(instruction: &Instruction, registers: &mut Registers) -> Result<(), BadAddress> {
    let is_wide = matches!(instruction.code(), Code::Retfq | Code::Retfq_imm16);
    let taken = match instruction.code() {
        Code::Retfq_imm16 | Code::Retfd_imm16 => instruction.immediate16().into(),
        _ => 0,
    };
    let (target, selector, popped) = if is_wide {
        (word(registers.rsp)?, word(registers.rsp.wrapping_add(8))?, 16)
    } else {
        let both = word(registers.rsp)?;
        (both & 0xffff_ffff, both >> 32, 8)
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
    let (target, back) = (pointer(instruction, registers)?, instruction.next_ip());
    let selector = u64::from(RING3_CODE);
    let (rsp, frame) = if instruction.code() == Code::Call_m1664 {
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
    let at = operand(instruction, registers)?;
    if matches!(instruction.code(), Code::Jmp_m1664 | Code::Call_m1664) {
        return checked(word(at)?, word(at.wrapping_add(2))? >> 48);
    }
    let both = word(at)?;
    checked(both & 0xffff_ffff, both >> 32)
}

/// `target`, if the selector is the one that programs know.
fn checked(target: u64, selector: u64) -> Result<u64, BadAddress> {
    if selector as u16 == RING3_CODE { Ok(target) } else { Err(BadAddress) }
}

/// The address of the operand in memory.
fn operand(instruction: &Instruction, registers: &Registers) -> Result<u64, BadAddress> {
    let index = if instruction.op0_kind() == OpKind::Memory { 0 } else { 1 };
    instruction.virtual_address(index, 0, |register, _, _| value(registers, register)).ok_or(BadAddress)
}

/// The word at `address` of the program's memory.
fn word(address: u64) -> Result<u64, BadAddress> {
    // SAFETY: any bytes make a word.
    unsafe { copy::from_program(address) }
}

/// The value of a register, or the base of a segment.
pub(super) fn value(registers: &Registers, register: Register) -> Option<u64> {
    let Registers { rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15, .. } =
        *registers;
    // In the order of their numbers (Intel SDM vol. 2 table 2-2).
    let all = [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
    match register {
        // SAFETY: ring 0.
        Register::FS => Some(unsafe { cpu::fs_base() }),
        Register::ES | Register::CS | Register::SS | Register::DS => Some(0),
        _ if register.is_gpr64() => all.get(register.number()).copied(),
        _ if register.is_gpr32() || register.is_gpr16() => {
            let mask = if register.is_gpr32() { 0xffff_ffff } else { 0xffff };
            all.get(register.full_register().number()).map(|value| value & mask)
        }
        _ => None,
    }
}
