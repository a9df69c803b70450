//! The words of the thread block that code below it needs: who this thread is, and its page for shoot-downs.
//!
//! At ring 0 GS leads to the block; [`contract::block`](crate::contract::block) has its layout, and asserts these places.

use core::arch::asm;

/// Offset of the block's own address.
pub(crate) const BLOCK: usize = 72;
/// Offset of the address of the thread's page for shoot-downs.
pub(crate) const FLUSH_PAGE: usize = 80;

/// Offset of the number of the thread's task, 32 bits.
pub(crate) const TASK: usize = 96;
/// Offset of the ranks of the locks that it holds, 32 bits.
pub(crate) const LOCK_RANKS: usize = 100;
/// Offset of what is known of its vCPU's caches.
pub(crate) const CACHES: usize = 104;

/// The address of the calling thread's block: what tells threads in Dune mode apart.
///
/// # Safety
///
/// The caller runs at ring 0 in Dune mode, where GS leads to the block.
#[inline(always)]
pub(crate) unsafe fn block() -> u64 {
    let block: u64;
    // SAFETY: in Dune mode GS:[BLOCK] holds the block's own address; the caller vouches for the mode.
    unsafe {
        asm!("mov {}, gs:[{BLOCK}]", out(reg) block, BLOCK = const BLOCK, options(nostack, preserves_flags, readonly));
    }
    block
}

/// The address of the calling thread's page for shoot-downs, which holds nothing and which no other thread uses.
///
/// # Safety
///
/// As for [`block`].
#[inline]
pub(crate) unsafe fn flush_page() -> u64 {
    let flush_page: u64;
    // SAFETY: in Dune mode GS:[FLUSH_PAGE] is the block's field; the caller vouches for the mode.
    unsafe {
        asm!("mov {}, gs:[{FLUSH_PAGE}]", out(reg) flush_page, FLUSH_PAGE = const FLUSH_PAGE, options(nostack, preserves_flags, readonly));
    }
    flush_page
}
