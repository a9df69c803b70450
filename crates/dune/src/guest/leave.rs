//! Leaving: from Dune mode back to what the thread was before it entered.

use core::arch::naked_asm;

use super::error::LeaveError;
use crate::arch::cpu;
use crate::arch::registers::INTERRUPT_FLAG;
use crate::arch::token::Dune;
use crate::contract::block::{REQUEST_ARGUMENTS, REQUEST_KIND, REQUEST_RESULT};
use crate::contract::callee_saved::push_callee_saved;
use crate::contract::process::process;
use crate::contract::request::Kind;
use crate::contract::request::RESTART;
use crate::engine::exit_instruction;

/// See [`crate::leave`].
pub(crate) fn leave() -> Result<(), LeaveError> {
    let Some(dune) = Dune::of_caller() else { return Err(LeaveError::NotInDuneMode) };
    // SAFETY: ring 0.
    let (flags, fs_base) = unsafe { (cpu::flags(), cpu::fs_base()) };
    if flags & INTERRUPT_FLAG == 0 {
        return Err(LeaveError::InterruptsOff);
    }
    if dune.block().user_return_rsp.get() != 0 || process().memory().foreign_root().is_some() {
        return Err(LeaveError::OtherAddressSpace);
    }
    // SAFETY: ring 0, on the program's stack, in the process's own address space.
    while unsafe { switch_back(fs_base) } == RESTART {
        // A signal came first: its handler has run by now.
    }
    Ok(())
}

/// Asks the host loop to go on in host mode, with this stack. Returns there, with 0, or here with [`RESTART`].
///
/// # Safety
///
/// The caller runs at ring 0 on the program's stack with interrupts on; `fs_base` is the FS base.
#[unsafe(naked)]
unsafe extern "C" fn switch_back(fs_base: u64) -> u64 {
    // ABI: System V. host::leave::to_host pops what is pushed here, in host mode; as in host::switch, callee-saved state
    // travels on the stack.
    naked_asm!(
        push_callee_saved!(),
        "sub rsp, 8",
        "stmxcsr [rsp]",
        "fnstcw [rsp + 4]",
        "cli",
        "mov gs:[{FS_BASE}], rdi",
        "mov gs:[{STACK}], rsp",
        "mov qword ptr gs:[{KIND}], {LEAVE}",
        exit_instruction!(),
        "mov rax, gs:[{RESULT}]",
        "add rsp, 56",
        "sti",
        "ret",
        FS_BASE = const REQUEST_ARGUMENTS,
        STACK = const REQUEST_ARGUMENTS + 8,
        KIND = const REQUEST_KIND,
        RESULT = const REQUEST_RESULT,
        LEAVE = const Kind::Leave as u64,
    )
}
