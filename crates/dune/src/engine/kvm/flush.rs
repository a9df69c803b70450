//! Making the vCPUs of other threads forget translations.
//!
//! Taking a page away from the process makes KVM flush every vCPU that may have cached anything of it, and wait for those that
//! run (the MMU notifier, Linux virt/kvm/kvm_main.c `kvm_flush_remote_tlbs`; on Intel an INVEPT, which ends the combined
//! translations of all of them, Intel SDM vol. 3 §29.4.3.1; on AMD a flush of the address-space identifier).

use linux_raw_sys::general::{__NR_madvise, __NR_mprotect, MADV_DONTNEED, PROT_NONE, PROT_READ, PROT_WRITE};

use crate::arch::page::PAGE_BYTES;
use crate::linux::sys;

/// Takes the page at `page` away from the process, in the first of several ways that Linux permits; whether it did.
/// Locked memory (mlockall(2)) keeps its pages from MADV_DONTNEED, and kernels before 5.18 know nothing else; a filter
/// of the program's (seccomp(2)) may refuse madvise altogether.
pub(super) fn take_away(page: u64) -> bool {
    /// MADV_DONTNEED_LOCKED (Linux 5.18).
    const MADV_DONTNEED_LOCKED: u32 = 24;
    // SAFETY: the page holds nothing, and only this thread uses it.
    let call = |number: u32, last: u32| unsafe {
        sys::call(number, [page, PAGE_BYTES, last.into(), 0, 0, 0]).is_ok()
    };
    call(__NR_madvise, MADV_DONTNEED)
        || call(__NR_madvise, MADV_DONTNEED_LOCKED)
        || (call(__NR_mprotect, PROT_NONE) && call(__NR_mprotect, PROT_READ | PROT_WRITE))
}
