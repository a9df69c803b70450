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

use linux_raw_sys::general::{__NR_madvise, __NR_mprotect, MADV_DONTNEED, PROT_NONE, PROT_READ, PROT_WRITE};

use crate::arch::page::PAGE_BYTES;
use crate::arch::thread_words;
use crate::arch::token::Dune;
use crate::linux::sys;
use crate::report;

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
    let bait = unsafe {
        let bait = thread_words::bait();
        (*(bait as *const AtomicU64)).fetch_add(1, Ordering::SeqCst);
        bait
    };
    if !take_away(bait) {
        // Who goes on would let others use what this thread believes to be protected.
        report::fatal(format_args!("Linux refuses each way to make the other threads flush"));
    }
}

/// Takes the page at `bait` away from the process, in the first of several ways that Linux permits; whether it did.
/// Locked memory (mlockall(2)) keeps its pages from MADV_DONTNEED, and kernels before 5.18 know nothing else; a filter
/// of the program's (seccomp(2)) may refuse madvise altogether.
fn take_away(bait: u64) -> bool {
    /// MADV_DONTNEED_LOCKED (Linux 5.18).
    const MADV_DONTNEED_LOCKED: u32 = 24;
    // SAFETY: the page holds nothing, and only this thread uses it.
    let call = |number: u32, last: u32| unsafe {
        sys::call(number, [bait, PAGE_BYTES, last.into(), 0, 0, 0]).is_ok()
    };
    call(__NR_madvise, MADV_DONTNEED)
        || call(__NR_madvise, MADV_DONTNEED_LOCKED)
        || (call(__NR_mprotect, PROT_NONE) && call(__NR_mprotect, PROT_READ | PROT_WRITE))
}

/// How often the other threads were made to flush.
pub(crate) fn count() -> u64 {
    SHOOTDOWNS.load(Ordering::Relaxed)
}
