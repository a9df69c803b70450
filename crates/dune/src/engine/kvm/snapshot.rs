//! The state of a vCPU, taken before a fork and loaded into the child's vCPU.
//!
//! Nothing here allocates: the child of a fork may not, as its parent's allocator may have been in use.

use kvm_bindings::{kvm_regs, kvm_sregs, kvm_xcrs, kvm_xsave};

use super::ioctl;
use super::registers::{self, MsrList};
use crate::engine::error::EngineError;
use crate::linux::descriptor::Descriptor;

/// Everything that Dune mode can tell of a vCPU between two exits.
#[derive(Debug)]
pub(crate) struct Snapshot {
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: kvm_xsave,
    xcrs: Option<kvm_xcrs>,
    msrs: MsrList,
}

impl Snapshot {
    /// The state of `vcpu`.
    pub(super) fn of(vcpu: &Descriptor, has_xsave: bool) -> Result<Snapshot, EngineError> {
        Ok(Snapshot {
            regs: ioctl::GET_REGS.from(vcpu)?,
            sregs: ioctl::GET_SREGS.from(vcpu)?,
            xsave: ioctl::GET_XSAVE.from(vcpu)?,
            xcrs: has_xsave.then(|| ioctl::GET_XCRS.from(vcpu)).transpose()?,
            msrs: registers::read_msrs(vcpu)?,
        })
    }

    /// Loads the state into `vcpu`.
    pub(super) fn load(&self, vcpu: &Descriptor) -> Result<(), EngineError> {
        ioctl::SET_SREGS.with(vcpu, &self.sregs)?;
        registers::write_msrs(vcpu, &self.msrs)?;
        if let Some(xcrs) = &self.xcrs {
            ioctl::SET_XCRS.with(vcpu, xcrs)?;
        }
        // The area came from a vCPU with the same XCR0, whose state fits into it.
        ioctl::SET_XSAVE.with(vcpu, &self.xsave)?;
        registers::same_time_as_host(vcpu)?;
        ioctl::SET_REGS.with(vcpu, &self.regs).map(drop)
    }
}
