//! The request: how ring 0 asks the host loop for something.
//!
//! Ring 0 fills the [`Request`] of its thread block and executes HLT; the host loop answers in `result` and
//! resumes. Registers passed in memory and HLT as the exit is the cheapest combination on KVM (design.md §3.5).

use core::arch::naked_asm;

use super::block::{REQUEST_ARGUMENTS, REQUEST_KIND, REQUEST_NUMBER, REQUEST_RESULT, ThreadBlock};

/// What a request asks for; the values are part of the assembly's contract.
pub(crate) mod kind {
    /// Nothing: an HLT that is not ours.
    pub(crate) const NONE: u64 = 0;
    /// Make the system call `number` with `arguments` for the program.
    pub(crate) const SYSCALL: u64 = 1;
    /// The first instruction in Dune mode has been reached.
    pub(crate) const ENTERED: u64 = 2;
    /// Queue the external interrupt `arguments[0]` for this vCPU.
    pub(crate) const INTERRUPT: u64 = 3;
    /// Back the window described by the [`Window`](crate::memory::Window) at `arguments[0]`.
    pub(crate) const ADD_WINDOW: u64 = 4;
    /// Make the child that the [`Birth`](super::clone::Birth) at `arguments[0]` describes.
    pub(crate) const BIRTH: u64 = 6;
    /// End the thread with the exit status `arguments[0]`.
    pub(crate) const EXIT: u64 = 7;
    /// Read the engine's count of second-level faults.
    pub(crate) const SECOND_LEVEL_FAULTS: u64 = 5;
}

/// A request to the host loop and its answer.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Request {
    /// What is asked, see [`kind`]. The host loop clears it, so that a stray HLT is noticed.
    pub kind: u64,
    /// The system call's number.
    pub number: u64,
    /// The system call's arguments in the order of the ABI: RDI, RSI, RDX, R10, R8, R9.
    pub arguments: [u64; 6],
    /// The answer.
    pub result: u64,
    /// Address of the block this request stands in, for ring-0 code that only has GS.
    pub block: *mut ThreadBlock,
}

/// Makes request `kind` with up to two arguments. Interrupts are off until the answer is there, because a
/// handler's system call would use the same block.
///
/// # Safety
///
/// The caller runs at ring 0 in Dune mode and the arguments fit `kind`.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn hypercall(kind: u64, first: u64, second: u64) -> u64 {
    // ABI: System V. Keeps all callee-saved registers and the flags; the host loop changes memory only.
    naked_asm!(
        "pushfq",
        "cli",
        "mov gs:[{FIRST}], rsi",
        "mov gs:[{SECOND}], rdx",
        "mov gs:[{KIND}], rdi",
        "hlt",
        "mov rax, gs:[{RESULT}]",
        "popfq",
        "ret",
        FIRST = const REQUEST_ARGUMENTS,
        SECOND = const REQUEST_ARGUMENTS + 8,
        KIND = const REQUEST_KIND,
        RESULT = const REQUEST_RESULT,
    )
}

const _: () = assert!(REQUEST_NUMBER == REQUEST_KIND + 8, "one cache line holds kind, number and arguments");
