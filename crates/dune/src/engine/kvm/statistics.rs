//! KVM's own counters of a vCPU (`KVM_GET_STATS_FD`, Linux 5.14).
//!
//! Second-level faults are served inside Linux; only KVM sees them.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use kvm_ioctls::VcpuFd;
use linux_raw_sys::general::{__NR_ioctl, __NR_pread64};

use crate::sys;

/// _IO(0xAE, 0xce)
const KVM_GET_STATS_FD: u64 = 0xaece;
/// Size of `struct kvm_stats_desc` without the name.
const DESCRIPTOR_SIZE: usize = 16;

/// The statistics file of a vCPU, and where in it the counter of second-level faults stands.
#[derive(Debug)]
pub(super) struct Statistics {
    file: OwnedFd,
    faults_at: u64,
}

impl Statistics {
    /// Opens the statistics of `vcpu`; `None` where the kernel has none or does not count the faults.
    pub(super) fn open(vcpu: &VcpuFd) -> Option<Statistics> {
        let file = open_file(vcpu)?;
        // struct kvm_stats_header: flags, name_size, num_desc, id_offset, desc_offset, data_offset.
        let mut header = [0u8; 24];
        read_at(&file, &mut header, 0)?;
        let field = |n: usize| u32::from_le_bytes(header[4 * n..4 * n + 4].try_into().unwrap_or_default());
        let (name_size, count) = (field(1) as usize, field(2) as usize);
        let (descriptors_at, data_at) = (u64::from(field(4)), u64::from(field(5)));
        let mut descriptors = vec![0u8; count * (DESCRIPTOR_SIZE + name_size)];
        read_at(&file, &mut descriptors, descriptors_at)?;
        let counter = descriptors.chunks_exact(DESCRIPTOR_SIZE + name_size).find(|descriptor| {
            // "pf_taken" counts every fault of the second level under two-dimensional paging.
            descriptor[DESCRIPTOR_SIZE..].starts_with(b"pf_taken\0")
        })?;
        // struct kvm_stats_desc: flags u32, exponent s16, size u16, offset u32, bucket_size u32.
        let offset = u32::from_le_bytes(counter[8..12].try_into().ok()?);
        Some(Statistics { file, faults_at: data_at + u64::from(offset) })
    }

    /// The statistics of `vcpu`, which has the same counters at the same places. Does not allocate.
    pub(super) fn reopen(&self, vcpu: &VcpuFd) -> Option<Statistics> {
        Some(Statistics { file: open_file(vcpu)?, faults_at: self.faults_at })
    }

    /// Faults of the second level of address translation since the vCPU was made.
    pub(super) fn second_level_faults(&self) -> Option<u64> {
        let mut value = [0u8; 8];
        read_at(&self.file, &mut value, self.faults_at)?;
        Some(u64::from_le_bytes(value))
    }
}

fn open_file(vcpu: &VcpuFd) -> Option<OwnedFd> {
    // SAFETY: the call touches no memory and returns a new descriptor.
    unsafe {
        let fd = sys::call(__NR_ioctl, [vcpu.as_raw_fd() as u64, KVM_GET_STATS_FD, 0, 0, 0, 0]).ok()?;
        Some(OwnedFd::from_raw_fd(super::duplicate_high(&OwnedFd::from_raw_fd(fd as i32)).ok()?))
    }
}

/// Fills `buffer` from `offset` of `file` without libc, so that it may be called in Dune mode.
fn read_at(file: &OwnedFd, buffer: &mut [u8], offset: u64) -> Option<()> {
    let address = buffer.as_mut_ptr() as u64;
    // SAFETY: pread64 writes at most `buffer.len()` bytes to `buffer`.
    let count = unsafe {
        sys::call(__NR_pread64, [file.as_raw_fd() as u64, address, buffer.len() as u64, offset, 0, 0])
    };
    (count == Ok(buffer.len() as u64)).then_some(())
}
