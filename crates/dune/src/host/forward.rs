//! Forwarding: the program's system calls, made for it by the host loop.
//!
//! They are ordinary system calls of the thread, so seccomp, ptrace, audit and security modules see them as if the
//! program had made them in host mode.

use linux_raw_sys::general::{__NR_brk, __NR_mmap, __NR_mremap, __NR_shmat};

use crate::memory::Memory;
use crate::sys;

/// Makes system call `number`; the kernel's raw return value. Numbers that the kernel does not know come back as
/// ENOSYS from the kernel itself.
#[inline(always)]
pub(super) fn system_call(number: u64, arguments: &[u64; 6]) -> u64 {
    // SAFETY: the program asked for the call; what it does to memory is the program's doing.
    unsafe { sys::raw_number(number, *arguments) }
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

/// Whether Dune mode can reach the mapping at `address` already.
pub(super) fn is_covered(memory: &Memory, address: u64) -> bool {
    x86_64::VirtAddr::try_new(address).is_ok_and(|address| memory.windows().find(address).is_some())
}
