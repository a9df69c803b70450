//! The switch in the middle of a function: the stack of `enter` becomes Dune mode's, the host loop gets its own.

use core::arch::naked_asm;
use core::mem::offset_of;

use super::run_loop::host_loop;
use super::thread::{HostThread, thread_pointer};
use crate::contract::block::REQUEST_KIND;
use crate::contract::callee_saved::{pop_callee_saved, push_callee_saved};
use crate::contract::request::Kind;
use crate::engine::exit_instruction;

/// Where Dune mode starts. [`switch`] fills in the first two; a child thread starts elsewhere.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Continuation {
    pub rip: u64,
    pub rsp: u64,
    pub rbx: u64,
    pub rflags: u64,
    pub fs_base: u64,
}

impl Default for Continuation {
    /// Interrupts are off until the thread allows them: RFLAGS has the bit that is always one.
    fn default() -> Continuation {
        Continuation { rip: 0, rsp: 0, rbx: 0, rflags: 1 << 1, fs_base: 0 }
    }
}

impl Continuation {
    /// In the calling thread, for [`switch`].
    pub(super) fn here() -> Continuation {
        Continuation { fs_base: thread_pointer(), ..Continuation::default() }
    }
}

/// Enters Dune mode. Returns 0 in Dune mode, or 1 in host mode if the CPU did not start it.
///
/// # Safety
///
/// The caller sees to it that
///
/// * `loop_stack` is the top of an unused stack, 16-byte aligned;
/// * `thread` has a vCPU whose GS base will be the thread's block, and windows that cover this code, the current stack
///   and the block;
/// * everything `thread` refers to stays alive until the thread ends, if the function returns 0.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn switch(loop_stack: u64, thread: *mut HostThread) -> u64 {
    // ABI: System V on both returns. Callee-saved registers travel on the stack, which both sides share; vector state
    // and segment bases are loaded into the vCPU.
    naked_asm!(
        push_callee_saved!(),
        "lea rax, [rip + 2f]",
        "mov [rsi + {RIP}], rax",
        "mov [rsi + {RSP}], rsp",
        "mov rbx, rsi",
        "mov rsp, rdi",
        "mov rdi, rsi",
        "call {host_loop}", // extern "C" fn host_loop(&HostThread); returns only if Dune mode did not start
        "mov rsp, [rbx + {RSP}]",
        "mov eax, 1",
        "jmp 3f",
        // First instruction in Dune mode: only RSP, the segments and the vector state are set.
        "2:",
        "mov qword ptr gs:[{KIND}], {ENTERED}",
        exit_instruction!(),
        "sti",
        "xor eax, eax",
        "3:",
        pop_callee_saved!(),
        "ret",
        RIP = const offset_of!(HostThread, continuation) + offset_of!(Continuation, rip),
        RSP = const offset_of!(HostThread, continuation) + offset_of!(Continuation, rsp),
        host_loop = sym host_loop,
        KIND = const REQUEST_KIND,
        ENTERED = const Kind::Entered as u64,
    )
}
