//! All of the crate's unsafe code: system calls, the program's pages, ring 3.

#![expect(unsafe_code, reason = "a supervisor makes system calls for a program, and maps its memory")]

pub(crate) mod atomics;
pub(crate) mod call;
pub(crate) mod launcher;
pub(crate) mod memory;
pub(crate) mod meter;
pub(crate) mod process;
pub(crate) mod ring3;
pub(crate) mod shared;
pub(crate) mod signals;
pub(crate) mod spawning;
pub(crate) mod trust;
pub(crate) mod vdso;

use std::arch::asm;

/// Splits the kernel's raw return value into a value and an error, which stays negative.
pub(crate) fn result(value: i64) -> Result<i64, i64> {
    if value < 0 && value > -4096 { Err(value) } else { Ok(value) }
}

/// The system call `number`; the kernel's raw return value.
///
/// # Safety
///
/// What the call does with memory breaks nothing that Rust relies on.
unsafe fn system_call(number: i64, arguments: [u64; 6]) -> i64 {
    // SAFETY: the caller's.
    meter::linux(|| unsafe { unmeasured(number, arguments) })
}

/// # Safety
///
/// As for [`system_call`].
unsafe fn unmeasured(number: i64, arguments: [u64; 6]) -> i64 {
    let value: i64;
    // SAFETY: 1. the caller's; 2. SYSCALL overwrites RCX and R11 only; 3. no `nomem`: the kernel reads and writes memory.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => value,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            in("r8") arguments[4],
            in("r9") arguments[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    value
}
