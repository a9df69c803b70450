//! Making the other threads' CPUs forget translations.
//!
//! A flush reaches the CPU it is executed on. For the others Linux does the work: taking a page away from the process
//! makes KVM flush every vCPU that may have cached anything of it, and wait for those that run (the MMU notifier,
//! Linux virt/kvm/kvm_main.c `kvm_flush_remote_tlbs`; on Intel an INVEPT, which ends the combined translations of all
//! of them, Intel SDM vol. 3 §29.4.3.1; on AMD a flush of the address-space identifier). So each thread keeps a page for
//! that: it is touched, for there must be something to take away, and given back. With one page for all, a thread could
//! find it taken away by another, whose flush had reached some CPUs before this thread's edit.
//!
//! No thread has to be interrupted by us, nobody waits for a thread that sleeps in Linux, and nothing can hang.

use core::sync::atomic::{AtomicU64, Ordering};

use linux_raw_sys::general::{__NR_madvise, MADV_DONTNEED};

use super::block;
use crate::Dune;
use crate::sys;

static SHOOTDOWNS: AtomicU64 = AtomicU64::new(0);

/// Flushes all translations of the other threads in Dune mode, if there are any. When it returns, none of them uses an
/// old one.
#[inline]
pub(crate) fn others(_dune: Dune) {
    if crate::process().active_threads() > 1 {
        flush();
    }
}

#[cold]
#[inline(never)]
fn flush() {
    SHOOTDOWNS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: 1. ring 0, by the caller's token; the block is this thread's own; 2. the bait is a page of the thread's
    // that holds nothing. It is touched in Dune mode, so that the second level has it.
    unsafe {
        let bait = (*block::current()).bait;
        (*(bait as *const AtomicU64)).fetch_add(1, Ordering::SeqCst);
        let _ = sys::raw(__NR_madvise, [bait, 4096, MADV_DONTNEED.into(), 0, 0, 0]);
    }
}

/// How often the other threads were made to flush.
pub(crate) fn count() -> u64 {
    SHOOTDOWNS.load(Ordering::Relaxed)
}
