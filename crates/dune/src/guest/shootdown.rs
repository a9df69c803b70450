//! Making the other threads' CPUs forget translations.
//!
//! A flush reaches the CPU it is executed on. For the others Linux does the work: taking a page away from the process
//! makes KVM flush every vCPU that may have cached anything of it, and wait for those that run (the MMU notifier,
//! Linux virt/kvm/kvm_main.c `kvm_flush_remote_tlbs`; on Intel an INVEPT, which ends the combined translations of all
//! of them, Intel SDM vol. 3 §29.4.3.1; on AMD a flush of the address-space identifier). So one page is kept for that:
//! it is touched, for there must be something to take away, and given back.
//!
//! No thread has to be interrupted by us, nobody waits for a thread that sleeps in Linux, and nothing can hang.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use linux_raw_sys::general::{__NR_madvise, MADV_DONTNEED};

use crate::Dune;
use crate::sys;

/// The page that is given back: a whole one, in nobody else's.
#[repr(align(4096))]
struct Bait([AtomicU8; 4096]);

static BAIT: Bait = Bait([const { AtomicU8::new(0) }; 4096]);

static SHOOTDOWNS: AtomicU64 = AtomicU64::new(0);

/// Flushes all translations of the other threads in Dune mode, if there are any. When it returns, none of them uses an
/// old one.
#[inline]
pub(crate) fn others(_dune: Dune) {
    if crate::process().active_threads() > 1 {
        all();
    }
}

/// Flushes all translations of all vCPUs, also of those that no thread uses.
#[cold]
#[inline(never)]
pub(crate) fn all() {
    SHOOTDOWNS.fetch_add(1, Ordering::Relaxed);
    // Touched in Dune mode, so that the second level has it. Two threads at once are no harm: who finds the page gone
    // already was preceded by a flush that came after its own edit.
    BAIT.0[0].fetch_add(1, Ordering::SeqCst);
    // SAFETY: the page holds nothing that anybody wants.
    let _ =
        unsafe { sys::raw(__NR_madvise, [(&raw const BAIT) as u64, 4096, MADV_DONTNEED.into(), 0, 0, 0]) };
}

/// How often the other threads were made to flush.
pub(crate) fn count() -> u64 {
    SHOOTDOWNS.load(Ordering::Relaxed)
}
