//! Forwarding: the program's system calls, made for it by the host loop.
//!
//! They are ordinary system calls of the thread, so seccomp, ptrace, audit and security modules see them as if the
//! program had made them in host mode.

use core::arch::global_asm;
use core::cell::Cell;
use core::sync::atomic::AtomicU64;

use linux_raw_sys::errno::EINTR;
use linux_raw_sys::general::{__NR_brk, __NR_mmap, __NR_mremap, __NR_shmat};

use crate::contract::request::RESTART;
use crate::contract::signal_frame::SignalContext;

unsafe extern "C" {
    /// Makes system call `number` unless `*pending` is not 0; the kernel's raw return value, or [`RESTART`]. Numbers that
    /// the kernel does not know come back as ENOSYS from the kernel itself.
    /// ABI: System V.
    fn dune_forward(number: u64, arguments: *const [u64; 6], pending: *const AtomicU64) -> u64;
    // Places in its code: only their addresses are used.
    static dune_forward_syscall: u8;
    static dune_forward_interrupted: u8;
}

// Up to and with SYSCALL a signal can come that the program has to see before the call is made, or before Linux makes it
// again: it points the instruction pointer back here (SA_RESTART, signal(7)). Its handler then sends the way to
// `dune_forward_interrupted`.
global_asm!(
    "    .section .text.dune_forward, \"ax\", @progbits",
    "    .balign 64",
    "    .globl dune_forward",
    "    .hidden dune_forward",
    "    .type dune_forward, @function",
    "dune_forward:",
    "    cmp qword ptr [rdx], 0",
    "    jne dune_forward_interrupted",
    "    mov rax, rdi",
    "    mov r11, rsi",
    "    mov rdi, [r11]",
    "    mov rsi, [r11 + 8]",
    "    mov rdx, [r11 + 16]",
    "    mov r10, [r11 + 24]",
    "    mov r8, [r11 + 32]",
    "    mov r9, [r11 + 40]",
    "    .globl dune_forward_syscall",
    "    .hidden dune_forward_syscall",
    "dune_forward_syscall:",
    "    syscall",
    "    ret",
    "    .globl dune_forward_interrupted",
    "    .hidden dune_forward_interrupted",
    "dune_forward_interrupted:",
    "    mov rax, {RESTART}",
    "    ret",
    "    .size dune_forward, . - dune_forward",
    "    .text",
    RESTART = const RESTART as i64,
);

/// Makes system call `number`, unless a signal is `pending`: then the result is [`RESTART`].
#[inline(always)]
pub(super) fn system_call(number: u64, arguments: &Cell<[u64; 6]>, pending: &AtomicU64) -> u64 {
    // SAFETY: the program asked for the call; what it does to memory is the program's doing.
    unsafe { dune_forward(number, arguments.as_ptr(), pending) }
}

/// Makes system call `number` even if a signal is pending.
pub(super) fn system_call_first(number: u64, arguments: &Cell<[u64; 6]>) -> u64 {
    static NOTHING: AtomicU64 = AtomicU64::new(0);
    loop {
        let result = system_call(number, arguments, &NOTHING);
        if result != RESTART {
            return result;
        }
    }
}

/// Whether the interrupted code was told by Linux that a signal had interrupted its forwarded call.
pub(super) fn was_interrupted(registers: &SignalContext) -> bool {
    const SYSCALL_BYTES: u64 = 2;
    registers.rip == &raw const dune_forward_syscall as u64 + SYSCALL_BYTES
        && registers.rax == u64::from(EINTR).wrapping_neg()
}

/// Where a thread goes on that a signal has interrupted at `rip`: not into a call that has not been made.
pub(super) fn after_signal(rip: u64) -> u64 {
    let (start, call) = (dune_forward as *const () as u64, &raw const dune_forward_syscall as u64);
    if (start..=call).contains(&rip) { &raw const dune_forward_interrupted as u64 } else { rip }
}

/// Whether the call returns the address of a mapping that may be new.
#[inline(always)]
pub(super) fn makes_mappings(number: u64) -> bool {
    const CALLS: [u32; 4] = [__NR_mmap, __NR_mremap, __NR_shmat, __NR_brk];
    const BITS: u64 = {
        let mut bits = 0;
        let mut index = 0;
        while index < CALLS.len() {
            assert!(CALLS[index] < 64);
            bits |= 1 << CALLS[index];
            index += 1;
        }
        bits
    };
    number < 64 && BITS & 1 << number != 0
}
