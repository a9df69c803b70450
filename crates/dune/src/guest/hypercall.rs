//! Making requests: from ring 0 to the host loop and back.

use core::arch::naked_asm;

use crate::arch::cpu;
use crate::contract::block::{REQUEST_ARGUMENTS, REQUEST_KIND, REQUEST_NUMBER, REQUEST_RESULT};
use crate::contract::request::Kind;
use crate::engine::exit_instruction;
use crate::linux::sys;

/// Makes request `kind` with up to two arguments. Interrupts are off until the answer is there, because a
/// handler's system call would use the same block.
///
/// # Safety
///
/// The caller runs at ring 0 in Dune mode and the arguments fit `kind`.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn hypercall(kind: Kind, first: u64, second: u64) -> u64 {
    // ABI: System V. Keeps all callee-saved registers and the flags; the host loop changes memory only.
    naked_asm!(
        "pushfq",
        "cli",
        "mov gs:[{FIRST}], rsi",
        "mov gs:[{SECOND}], rdx",
        "mov gs:[{KIND}], rdi",
        exit_instruction!(),
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
/// signal that waits does so until the handler has ended. In host mode it is an ordinary call.
pub(crate) fn forward(number: u32, arguments: &[u64; 6]) -> u64 {
    forward_as(Kind::SyscallFirst, number, arguments)
}

/// As [`forward`], unless a signal waits or comes before the call: then the call is not made, and the result is
/// [`RESTART`](crate::contract::request::RESTART).
pub(crate) fn forward_unless_signalled(number: u32, arguments: &[u64; 6]) -> u64 {
    forward_as(Kind::Syscall, number, arguments)
}

#[inline]
fn forward_as(kind: Kind, number: u32, arguments: &[u64; 6]) -> u64 {
    // SAFETY: the program asked for the call, or for one that takes it; what it does to memory is the program's doing. At ring 0 that is
    // the host loop's, by a request of this thread's; elsewhere the engine's exit instruction would fault.
    unsafe {
        if cpu::in_dune_mode() {
            forward_raw(number.into(), arguments, kind)
        } else {
            sys::raw(number, *arguments)
        }
    }
}

/// Fills the thread's request and waits for the answer, with interrupts off: a handler's system call would use the
/// same block.
///
/// # Safety
///
/// The caller runs at ring 0 in Dune mode, and the call does not touch memory that Rust relies on.
#[unsafe(naked)]
unsafe extern "C" fn forward_raw(number: u64, arguments: *const [u64; 6], kind: Kind) -> u64 {
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
        exit_instruction!(),
        "mov rax, gs:[{RESULT}]",
        "popfq",
        "ret",
        NUMBER = const REQUEST_NUMBER,
        ARGUMENTS = const REQUEST_ARGUMENTS,
        KIND = const REQUEST_KIND,
        RESULT = const REQUEST_RESULT,
    )
}
