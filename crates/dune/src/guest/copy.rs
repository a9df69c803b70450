//! Copies between Dune and memory that the program has named, where a bad address is an answer and not a fault.

use core::arch::global_asm;

use super::handlers::{self, Handler, TrapHandler, TrapOutcome};
use crate::arch::frame::TrapFrame;
use crate::arch::token::Dune;
use crate::arch::vector::Vector;

global_asm!(
    "    .section .text.dune_copy, \"ax\", @progbits",
    "    .globl dune_copy",
    "    .hidden dune_copy",
    "    .type dune_copy, @function",
    "dune_copy:",
    "    mov rcx, rdx",
    "    cld",
    "    .globl dune_copy_access",
    "    .hidden dune_copy_access",
    "dune_copy_access:",
    "    rep movsq",
    "    .globl dune_copy_end",
    "    .hidden dune_copy_end",
    "dune_copy_end:",
    "    mov rax, rcx",
    "    ret",
    "    .size dune_copy, . - dune_copy",
    "    .globl dune_copy_bytes",
    "    .hidden dune_copy_bytes",
    "    .type dune_copy_bytes, @function",
    "dune_copy_bytes:",
    "    mov rcx, rdx",
    "    shr rcx, 3",
    "    and edx, 7",
    "    cld",
    "    .globl dune_copy_bytes_words",
    "    .hidden dune_copy_bytes_words",
    "dune_copy_bytes_words:",
    "    rep movsq",
    "    mov ecx, edx",
    "    .globl dune_copy_bytes_rest",
    "    .hidden dune_copy_bytes_rest",
    "dune_copy_bytes_rest:",
    "    rep movsb",
    "    mov rax, rcx",
    "    ret",
    "    .globl dune_copy_bytes_end",
    "    .hidden dune_copy_bytes_end",
    "dune_copy_bytes_end:",
    "    mov eax, 1",
    "    ret",
    "    .size dune_copy_bytes, . - dune_copy_bytes",
    "    .globl dune_exchange",
    "    .hidden dune_exchange",
    "    .type dune_exchange, @function",
    "dune_exchange:",
    "    mov eax, esi",
    "    .globl dune_exchange_access",
    "    .hidden dune_exchange_access",
    "dune_exchange_access:",
    "    lock cmpxchg dword ptr [rdi], edx",
    "    mov eax, eax",
    "    ret",
    "    .globl dune_exchange_end",
    "    .hidden dune_exchange_end",
    "dune_exchange_end:",
    "    mov rax, -1",
    "    ret",
    "    .size dune_exchange, . - dune_exchange",
    "    .text",
);

unsafe extern "C" {
    /// Copies `words` words of eight bytes; how many are left when a word could not be accessed, 0 at the end.
    /// ABI: System V, only RCX, RSI, RDI and RAX change.
    fn dune_copy(to: u64, from: u64, words: u64) -> u64;
    /// Copies `bytes` bytes; 0, or 1 when one could not be accessed.
    /// ABI: System V, only RCX, RDX, RSI, RDI and RAX change.
    fn dune_copy_bytes(to: u64, from: u64, bytes: u64) -> u64;
    /// Puts `new` in the place of the word at `address` if that is `old`, in one step; what it was, or all ones when it could not be
    /// accessed. ABI: System V, only RAX and the flags change.
    fn dune_exchange(address: u64, old: u32, new: u32) -> u64;
    // Places in their code: only their addresses are used.
    static dune_copy_access: u8;
    static dune_copy_end: u8;
    static dune_copy_bytes_words: u8;
    static dune_copy_bytes_rest: u8;
    static dune_copy_bytes_end: u8;
    static dune_exchange_access: u8;
    static dune_exchange_end: u8;
}

/// The program named memory that it has not, or not for this kind of access (EFAULT).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadAddress;

/// If the trap happened while copying: ends the copy there.
pub(super) fn recover(frame: &mut TrapFrame) -> bool {
    let vector = frame.vector();
    if vector != Vector::PAGE_FAULT && vector != Vector::GENERAL_PROTECTION {
        return false;
    }
    let words = &raw const dune_copy_bytes_words as u64;
    let rest = &raw const dune_copy_bytes_rest as u64;
    frame.words_mut().rip = match frame.words().rip {
        rip if rip == &raw const dune_copy_access as u64 => &raw const dune_copy_end as u64,
        rip if rip == &raw const dune_exchange_access as u64 => &raw const dune_exchange_end as u64,
        rip if rip == words || rip == rest => &raw const dune_copy_bytes_end as u64,
        _ => return false,
    };
    true
}

/// Copies `bytes` bytes from `from` to `to`, one of which is memory that ring 3 may use, the other a buffer on the stack that
/// has been touched. A fault is an answer here, whatever handler for #PF the program has: it may be waiting for a lock that the
/// caller holds.
///
/// # Safety
///
/// The bytes at `to` are the caller's to overwrite; where the page tables allow the accesses, they are accesses to memory that
/// the process means by these addresses.
pub(crate) unsafe fn between_rings(dune: Dune, to: u64, from: u64, bytes: usize) -> Result<(), BadAddress> {
    // SAFETY: as the caller says; a fault ends the copy.
    let left = ending_at_faults(dune, || unsafe { dune_copy_bytes(to, from, bytes as u64) });
    if left == 0 { Ok(()) } else { Err(BadAddress) }
}

/// Puts `new` in the place of the word at `address`, which ring 3 may write, if that is `old`, in one step; what it was. A fault is an answer
/// as for [`between_rings`].
///
/// # Safety
///
/// As for [`between_rings`] with the word at `to`; it is aligned.
pub(crate) unsafe fn compare_exchange(
    dune: Dune,
    address: u64,
    old: u32,
    new: u32,
) -> Result<u32, BadAddress> {
    // SAFETY: as the caller says; a fault ends it.
    let found = ending_at_faults(dune, || unsafe { dune_exchange(address, old, new) });
    u32::try_from(found).map_err(|_| BadAddress)
}

/// Copies `bytes` bytes as [`between_rings`] does, within [`ending_at_faults`]; whether all could be.
///
/// # Safety
///
/// As for [`between_rings`].
#[inline]
pub(crate) unsafe fn ending(to: u64, from: u64, bytes: u64) -> bool {
    // SAFETY: as the caller says; a fault ends the copy.
    unsafe { dune_copy_bytes(to, from, bytes) == 0 }
}

/// Copies `bytes` bytes, which lie where no reference of Rust's leads on one side at least: others may write there at any time.
///
/// # Safety
///
/// The bytes at `to` are the caller's to overwrite, those at `from` can be read, and both stay.
#[inline]
pub(crate) unsafe fn plain(to: u64, from: u64, bytes: u64) {
    // SAFETY: as the caller says, so that no access faults but for the mirror to settle.
    let left = unsafe { dune_copy_bytes(to, from, bytes) };
    debug_assert_eq!(left, 0);
}

/// Makes `bytes` bytes, a multiple of eight, zero.
///
/// # Safety
///
/// As for `to` of [`plain`].
pub(crate) unsafe fn clear(to: u64, bytes: u64) {
    // SAFETY: as the caller says.
    unsafe {
        core::arch::asm!("rep stosq", inout("rdi") to => _, inout("rcx") bytes / 8 => _, in("rax") 0,
            options(nostack, preserves_flags));
    }
}

/// Calls `access`, which calls functions of the above, with a handler for #PF that ends those.
pub(crate) fn ending_at_faults<R>(dune: Dune, access: impl FnOnce() -> R) -> R {
    struct EndCopy;
    impl TrapHandler for EndCopy {
        fn handle(&self, _: Dune, frame: &mut TrapFrame) -> TrapOutcome {
            if recover(frame) { TrapOutcome::Resume } else { TrapOutcome::Unhandled }
        }
    }
    static END_COPY: Handler<EndCopy> = Handler::new(EndCopy);
    dune.without_interrupts(|| {
        let slot = &dune.block().handlers[usize::from(Vector::PAGE_FAULT.number())];
        let before = slot.load();
        slot.store(handlers::full(&END_COPY));
        let result = access();
        slot.store(before);
        result
    })
}

/// Copies `value` to the program's memory at `address`.
///
/// # Safety
///
/// The program wants `value` there: no Rust object of this library's is overwritten. `T` has no padding.
pub(super) unsafe fn to_program<T>(address: u64, value: &T) -> Result<(), BadAddress> {
    // SAFETY: as the caller says; a value is that many bytes.
    unsafe { bytes_to_program(address, core::ptr::from_ref(value) as u64, size_of::<T>() as u64) }
}

/// Copies `bytes` bytes, a multiple of eight, from `from` to the program's memory at `address`.
///
/// # Safety
///
/// As for [`to_program`]; `bytes` bytes at `from` can be read.
pub(super) unsafe fn bytes_to_program(address: u64, from: u64, bytes: u64) -> Result<(), BadAddress> {
    debug_assert!(bytes.is_multiple_of(8));
    // SAFETY: the caller's; a bad address ends the copy (`recover`).
    if unsafe { dune_copy(address, from, bytes / 8) } == 0 { Ok(()) } else { Err(BadAddress) }
}

/// The value at `address` of the program's memory.
///
/// # Safety
///
/// Any bytes make a `T`.
pub(super) unsafe fn from_program<T>(address: u64) -> Result<T, BadAddress> {
    const { assert!(size_of::<T>().is_multiple_of(8)) };
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: 1. `value` is written in full or not used; 2. the caller says that any bytes will do.
    unsafe {
        bytes_from_program(value.as_mut_ptr() as u64, address, size_of::<T>() as u64)?;
        Ok(value.assume_init())
    }
}

/// Copies `bytes` bytes, a multiple of eight, from the program's memory at `address` to `to`.
///
/// # Safety
///
/// `bytes` bytes at `to` are the caller's.
pub(super) unsafe fn bytes_from_program(to: u64, address: u64, bytes: u64) -> Result<(), BadAddress> {
    debug_assert!(bytes.is_multiple_of(8));
    // SAFETY: as above.
    if unsafe { dune_copy(to, address, bytes / 8) } == 0 { Ok(()) } else { Err(BadAddress) }
}

/// Copies `bytes` bytes, any number, from the program's memory at `address` to `to`.
///
/// # Safety
///
/// `bytes` bytes at `to` are the caller's.
pub(super) unsafe fn some_from_program(to: u64, address: u64, bytes: u64) -> Result<(), BadAddress> {
    // SAFETY: as above.
    if unsafe { dune_copy_bytes(to, address, bytes) } == 0 { Ok(()) } else { Err(BadAddress) }
}

/// Copies the string at `address` of the program's memory, without its zero; its length, all of `to` if it is longer.
pub(super) fn string_from_program(to: &mut [u8], address: u64) -> Result<usize, BadAddress> {
    let mut length = 0;
    let mut next = address & !7;
    let mut skipped = (address & 7) as usize;
    loop {
        // Whole words, which do not reach beyond the page of their first byte.
        // SAFETY: any bytes make a word.
        let word: [u8; 8] = unsafe { from_program(next)? };
        for &byte in &word[skipped..] {
            if byte == 0 || length == to.len() {
                return Ok(length);
            }
            to[length] = byte;
            length += 1;
        }
        skipped = 0;
        next = next.wrapping_add(8);
    }
}
