//! The unprivileged program of the interception rows: a loop of getpid that times itself.
//!
//! The same bytes run as the child of a tracer, under Syscall User Dispatch and in ring 3 of Dune mode, so each
//! side's figure is what the intercepted code itself sees per call. The code fills pages of its own: Dune makes them
//! accessible to ring 3, and nothing else of this program.
//!
//! # Safety
//!
//! The loop calls getpid, keeps to registers that system calls leave alone, and writes one [`Outcome`] where it is
//! told to.

use std::arch::global_asm;
use std::ops::Range;

/// What the loop leaves behind.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Outcome {
    /// Ticks of the whole loop, bracketed as by `cycles::start` and `cycles::stop`.
    pub(crate) ticks: u64,
    /// The sum of the answers, which proves that each was given.
    pub(crate) sum: u64,
}

/// The number of the call that says the loop is over, which no Linux has.
pub(crate) const DONE: u64 = 0x1_d0e0;

global_asm!(
    ".pushsection .text.dune_bench_payload, \"ax\", @progbits",
    ".balign 4096",
    ".globl dune_bench_payload",
    ".type dune_bench_payload, @function",
    // (calls: rdi, outcome: rsi)
    "dune_bench_payload:",
    "lfence",
    "rdtsc",
    "lfence",
    "shl rdx, 32",
    "or rax, rdx",
    "mov r8, rax",
    "xor r9d, r9d",
    "2:",
    "mov eax, {getpid}",
    "syscall",
    "add r9, rax",
    "dec rdi",
    "jnz 2b",
    "lfence",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "sub rax, r8",
    "mov [rsi], rax",
    "mov [rsi + 8], r9",
    "ret",
    ".size dune_bench_payload, . - dune_bench_payload",
    // Where the loop returns to in ring 3, which has nobody to return to.
    ".globl dune_bench_payload_done",
    ".type dune_bench_payload_done, @function",
    "dune_bench_payload_done:",
    "mov eax, {done}",
    "syscall",
    "ud2",
    ".size dune_bench_payload_done, . - dune_bench_payload_done",
    ".balign 4096",
    ".globl dune_bench_payload_end",
    "dune_bench_payload_end:",
    ".popsection",
    getpid = const libc::SYS_getpid,
    done = const DONE,
);

unsafe extern "C" {
    fn dune_bench_payload(calls: u64, outcome: *mut Outcome);
    fn dune_bench_payload_done();
    static dune_bench_payload_end: u8;
}

/// Runs the loop as an ordinary function.
///
/// # Safety
///
/// `outcome` must be writable, and `calls` not 0.
pub(crate) unsafe fn run(calls: u32, outcome: *mut Outcome) {
    // SAFETY: the caller vouches for the pointer and the count; the loop clobbers what the C ABI lets it clobber.
    unsafe { dune_bench_payload(calls.into(), outcome) }
}

/// Address of the loop.
pub(crate) fn entry() -> u64 {
    dune_bench_payload as *const () as u64
}

/// Address that the loop must find on its stack to return to when it runs in ring 3.
pub(crate) fn done() -> u64 {
    dune_bench_payload_done as *const () as u64
}

/// The whole pages that hold the loop and nothing else.
pub(crate) fn code() -> Range<u64> {
    entry()..&raw const dune_bench_payload_end as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loop_fills_whole_pages() {
        let code = code();
        assert_eq!(code.start % 4096, 0);
        assert_eq!(code.end % 4096, 0);
        assert!(code.contains(&done()));
    }

    #[test]
    fn each_answer_is_counted() {
        let mut outcome = Outcome::default();
        // SAFETY: a local variable, and ten calls.
        unsafe { run(10, &mut outcome) };
        assert_eq!(outcome.sum, 10 * u64::from(std::process::id()));
        assert!(outcome.ticks > 0);
    }
}
