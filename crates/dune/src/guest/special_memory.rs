//! System calls about memory that is special: locked, secret, or with protection keys.

use core::ops::ControlFlow;

use linux_raw_sys::errno::{ENOSPC, ENOSYS};
use linux_raw_sys::general::{
    __NR_madvise as MADVISE, __NR_memfd_secret as MEMFD_SECRET, __NR_mlockall as MLOCKALL,
    __NR_pkey_alloc as PKEY_ALLOC, MADV_POPULATE_READ, MADV_POPULATE_WRITE, MCL_CURRENT, MCL_FUTURE,
    MCL_ONFAULT,
};

use super::syscall::error;
use crate::arch::page::PagePermissions;
use crate::guest::hypercall::forward;
use crate::linux::maps;
use crate::memory::Memory;

/// The calls that [`handle`] takes.
pub(crate) const NUMBERS: [u32; 3] = [MLOCKALL, PKEY_ALLOC, MEMFD_SECRET];

/// Makes the call if it is one of this module's; the kernel's raw return value.
pub(super) fn handle(memory: &Memory, number: u32, arguments: &[u64; 6]) -> Option<u64> {
    match number {
        MLOCKALL => Some(lock_all(memory, arguments[0])),
        // CR4.PKE is off: WRPKRU is #UD, as on a CPU without protection keys, where there is none to allocate.
        PKEY_ALLOC => Some(error(ENOSPC)),
        // KVM gets at memory as a debugger does, from which this kind is hidden (mm/secretmem.c).
        MEMFD_SECRET => Some(error(ENOSYS)),
        _ => None,
    }
}

/// mlockall(2). Linux would fetch all that is mapped, and so all that is reserved for page tables, a GiB. So it is asked to lock
/// what comes, and to fetch what the program has mapped.
fn lock_all(memory: &Memory, flags: u64) -> u64 {
    let [current, future, on_fault] = [MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT].map(u64::from);
    if flags & current == 0 || flags & !(current | future) != 0 {
        return forward(MLOCKALL, &[flags, 0, 0, 0, 0, 0]);
    }
    // Without MCL_FUTURE this also ends what an earlier call has said of the future, as it should.
    let mut result = forward(MLOCKALL, &[current | on_fault, 0, 0, 0, 0, 0]);
    if result == 0 && flags & future != 0 {
        result = forward(MLOCKALL, &[future, 0, 0, 0, 0, 0]);
    }
    if result == 0 {
        populate_all(memory);
    }
    result
}

/// Has Linux fetch all memory of the program's, as mlockall(2) does: private memory that can be written for writing, and
/// whatever can not be fetched not at all.
fn populate_all(memory: &Memory) {
    let ours = [memory.frames().range(), memory.windows().list()];
    // Without the list pages are fetched and locked when they are touched.
    let _ = maps::for_each(|mapping| {
        let is_written = mapping.permissions.contains(PagePermissions::WRITE) && !mapping.shared;
        let advice = if is_written { MADV_POPULATE_WRITE } else { MADV_POPULATE_READ };
        let is_programs = ours.iter().all(|own| {
            let start = own.start().as_u64();
            mapping.end <= start || mapping.start >= start + own.bytes()
        });
        if is_programs && !mapping.permissions.is_empty() {
            let arguments = [mapping.start, mapping.end - mapping.start, advice.into(), 0, 0, 0];
            let _ = forward(MADVISE, &arguments);
        }
        ControlFlow::Continue(())
    });
}
