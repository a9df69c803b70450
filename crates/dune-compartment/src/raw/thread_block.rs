//! What FS leads to in a compartment: the thread control block as C code expects it, and a little more.

use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};

/// At the low end of each stack. Its first words are those of the x86-64 ABI and of glibc (`tcbhead_t`): functions that the compiler protects
/// compare a word of their frame with `canary`.
///
/// There is nothing before it, where a program's thread-local variables would be: those are faults.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct ThreadBlock {
    itself: u64,
    _vector: u64,
    thread: u64,
    _other: [u64; 2],
    canary: u64,
    pointer_guard: u64,
    _more: u64,
    /// Where the heap of C functions is, and its bytes; zeros without one.
    pub heap: [u64; 2],
    /// errno(3).
    error: u64,
}

const _: () = {
    assert!(offset_of!(ThreadBlock, itself) == 0 && offset_of!(ThreadBlock, thread) == 0x10);
    assert!(offset_of!(ThreadBlock, canary) == 0x28 && offset_of!(ThreadBlock, pointer_guard) == 0x30);
    assert!(size_of::<ThreadBlock>() == 11 * 8);
};

/// The offset of errno(3).
pub(super) const ERROR: usize = offset_of!(ThreadBlock, error);
/// The offset of the heap's address.
pub(super) const HEAP: usize = offset_of!(ThreadBlock, heap);

impl ThreadBlock {
    /// One that lies at `address`, with the heap at `heap[0]` of `heap[1]` bytes.
    pub(crate) fn new(address: u64, heap: [u64; 2]) -> ThreadBlock {
        ThreadBlock { itself: address, thread: address, heap, ..ThreadBlock::default() }
    }
}

/// The word at `OFFSET` of the block.
#[inline]
pub(super) fn word<const OFFSET: usize>() -> u64 {
    let word;
    // SAFETY: in a compartment FS leads to the block; elsewhere to the C library's, which is larger.
    unsafe {
        std::arch::asm!(
            "mov {word}, fs:[{offset}]",
            word = out(reg) word,
            offset = const OFFSET,
            options(nostack, readonly, preserves_flags),
        );
    }
    word
}
