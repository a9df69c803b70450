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
    /// As [`SYSCALL`], even if a signal waits.
    pub(crate) const SYSCALL_FIRST: u64 = 8;
    /// The first instruction in Dune mode has been reached.
    pub(crate) const ENTERED: u64 = 2;
    /// Queue the external interrupt `arguments[0]` for this vCPU.
    pub(crate) const INTERRUPT: u64 = 3;
    /// Give a window to the address `arguments[0]`, unless it has one; the answer is 1 if it has one then.
    pub(crate) const GROW: u64 = 4;
    /// Make the child that the [`Birth`](crate::guest::clone::Birth) at `arguments[0]` describes.
    pub(crate) const BIRTH: u64 = 6;
    /// Go on in host mode with the FS base `arguments[0]` and the stack pointer `arguments[1]`.
    pub(crate) const LEAVE: u64 = 9;
    /// Go on in host mode with the FS base `arguments[0]`, as the signal frame at `arguments[1]` says.
    pub(crate) const LEAVE_FOR_GOOD: u64 = 10;
    /// End the thread with the exit status `arguments[0]`; if `arguments[1]` is not 0, unless a signal waits.
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

/// Has the host loop make system call `number`: an instruction SYSCALL would come back to its handler in ring 0. A
/// signal that waits does so until the handler has ended.
pub(crate) fn forward(number: u32, arguments: &[u64; 6]) -> u64 {
    // SAFETY: ring 0 in Dune mode, where the guest module is called; the program asked for the call, and what it does to
    // memory is the program's doing.
    unsafe { forward_raw(number.into(), arguments, kind::SYSCALL_FIRST) }
}

/// As [`forward`], unless a signal waits or comes before the call: then the call is not made, and the result is
/// [`RESTART`](crate::guest::signal::RESTART).
pub(crate) fn forward_unless_signalled(number: u32, arguments: &[u64; 6]) -> u64 {
    // SAFETY: as for `forward`.
    unsafe { forward_raw(number.into(), arguments, kind::SYSCALL) }
}

/// Fills the thread's request and waits for the answer, with interrupts off: a handler's system call would use the
/// same block.
///
/// # Safety
///
/// The caller runs at ring 0 in Dune mode, and the call does not touch memory that Rust relies on.
#[unsafe(naked)]
unsafe extern "C" fn forward_raw(number: u64, arguments: *const [u64; 6], kind: u64) -> u64 {
    // ABI: System V. Keeps all callee-saved registers and the flags; the host loop changes memory only.
    naked_asm!(
        "pushfq",
        "cli",
        "mov gs:[{NUMBER}], rdi",
        "mov rax, [rsi]",
        "mov gs:[{ARGUMENTS}], rax",
        "mov rax, [rsi + 8]",
        "mov gs:[{ARGUMENTS} + 8], rax",
        "mov rax, [rsi + 16]",
        "mov gs:[{ARGUMENTS} + 16], rax",
        "mov rax, [rsi + 24]",
        "mov gs:[{ARGUMENTS} + 24], rax",
        "mov rax, [rsi + 32]",
        "mov gs:[{ARGUMENTS} + 32], rax",
        "mov rax, [rsi + 40]",
        "mov gs:[{ARGUMENTS} + 40], rax",
        "mov gs:[{KIND}], rdx",
        "hlt",
        "mov rax, gs:[{RESULT}]",
        "popfq",
        "ret",
        NUMBER = const REQUEST_NUMBER,
        ARGUMENTS = const REQUEST_ARGUMENTS,
        KIND = const REQUEST_KIND,
        RESULT = const REQUEST_RESULT,
    )
}

const _: () = assert!(REQUEST_NUMBER == REQUEST_KIND + 8, "one cache line holds kind, number and arguments");
