//! KVM's own counters of a vCPU (`KVM_GET_STATS_FD`, Linux 5.14).
//!
//! Second-level faults are served inside Linux; only KVM sees them. The counters are read through a descriptor that is
//! opened for the purpose: one per thread would be too many for the usual limit.

use linux_raw_sys::general::__NR_pread64;

use super::ioctl;
use crate::linux::descriptor::Descriptor;
use crate::linux::sys;

/// Size of `struct kvm_stats_desc` without the name.
const DESCRIPTOR_SIZE: usize = 16;
/// The counter of all faults of the second level under two-dimensional paging.
const COUNTER: &[u8] = b"pf_taken\0";

/// Where in a vCPU's statistics the counter of second-level faults stands: the same for all vCPUs of a kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Statistics {
    faults_at: u64,
}

impl Statistics {
    /// Finds the counter; `None` where the kernel has no statistics or does not count the faults. Does not allocate.
    pub(super) fn find(vcpu: &Descriptor) -> Option<Statistics> {
        let file = ioctl::GET_STATS_FD.make(vcpu, 0).ok()?;
        // struct kvm_stats_header: flags, name_size, num_desc, id_offset, desc_offset, data_offset.
        let mut header = [0u8; 24];
        read_at(&file, &mut header, 0)?;
        let field = |n: usize| u32::from_le_bytes(header[4 * n..4 * n + 4].try_into().unwrap_or_default());
        let (name_size, count) = (u64::from(field(1)), u64::from(field(2)));
        let (descriptors_at, data_at) = (u64::from(field(4)), u64::from(field(5)));
        let mut descriptor = [0u8; DESCRIPTOR_SIZE + COUNTER.len()];
        (0..count).find_map(|index| {
            let at = descriptors_at + index * (DESCRIPTOR_SIZE as u64 + name_size);
            read_at(&file, &mut descriptor, at)?;
            // struct kvm_stats_desc: flags u32, exponent s16, size u16, offset u32, bucket_size u32, name.
            let offset = u32::from_le_bytes(descriptor[8..12].try_into().ok()?);
            (descriptor[DESCRIPTOR_SIZE..] == *COUNTER)
                .then_some(Statistics { faults_at: data_at + u64::from(offset) })
        })
    }

    /// Faults of the second level of address translation since `vcpu` was made.
    pub(super) fn second_level_faults(self, vcpu: &Descriptor) -> Option<u64> {
        let mut value = [0u8; 8];
        read_at(&ioctl::GET_STATS_FD.make(vcpu, 0).ok()?, &mut value, self.faults_at)?;
        Some(u64::from_le_bytes(value))
    }
}

/// Fills `buffer` from `offset` of `file` without libc, so that it may be called on the host-loop stack.
fn read_at(file: &Descriptor, buffer: &mut [u8], offset: u64) -> Option<()> {
    let address = buffer.as_mut_ptr() as u64;
    // SAFETY: pread64 writes at most `buffer.len()` bytes to `buffer`.
    let count =
        unsafe { sys::call(__NR_pread64, [file.argument(), address, buffer.len() as u64, offset, 0, 0]) };
    (count == Ok(buffer.len() as u64)).then_some(())
}
