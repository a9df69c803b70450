//! What CPUID tells in Dune mode: all that KVM supports.

use kvm_bindings::kvm_cpuid_entry2;

use super::ioctl;
use crate::engine::error::EngineError;
use crate::linux::descriptor::Descriptor;

/// As many entries as KVM has ever had (KVM_MAX_CPUID_ENTRIES, Linux arch/x86/include/asm/kvm_host.h).
const ENTRIES: usize = 256;

/// Answers of CPUID, as `struct kvm_cpuid2`.
#[derive(Debug)]
#[repr(C)]
pub(super) struct CpuidList {
    count: u32,
    padding: u32,
    entries: [kvm_cpuid_entry2; ENTRIES],
}

const _: () = assert!(core::mem::offset_of!(CpuidList, entries) == 8);
const _: () = assert!(size_of::<kvm_cpuid_entry2>() == 40);

impl CpuidList {
    /// What the KVM of `device` supports. Allocates.
    pub(super) fn supported(device: &Descriptor) -> Result<Box<CpuidList>, EngineError> {
        let entries = [kvm_cpuid_entry2::default(); ENTRIES];
        let mut list = Box::new(CpuidList { count: ENTRIES as u32, padding: 0, entries });
        ioctl::GET_SUPPORTED_CPUID.of(device, &mut list)?;
        Ok(list)
    }

    /// The answer to `function` (EAX) and `index` (ECX).
    pub(super) fn find(&self, function: u32, index: u32) -> Option<&kvm_cpuid_entry2> {
        let entries = self.entries.iter().take(self.count as usize);
        entries.into_iter().find(|entry| entry.function == function && entry.index == index)
    }
}
