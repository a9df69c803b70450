//! The state of a vCPU, taken before a fork and loaded into the child's vCPU.
//!
//! Nothing here allocates: the child of a fork may not, as its parent's allocator may have been in use.

use kvm_bindings::{kvm_regs, kvm_sregs, kvm_xcrs, kvm_xsave};
use kvm_ioctls::VcpuFd;

use super::registers::{self, MsrList};
use crate::error::EngineError;

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
    pub(super) fn of(vcpu: &VcpuFd, has_xsave: bool) -> Result<Snapshot, EngineError> {
        let xcrs = has_xsave
            .then(|| vcpu.get_xcrs().map_err(|e| EngineError::new("KVM_GET_XCRS", e)))
            .transpose()?;
        Ok(Snapshot {
            regs: vcpu.get_regs().map_err(|e| EngineError::new("KVM_GET_REGS", e))?,
            sregs: vcpu.get_sregs().map_err(|e| EngineError::new("KVM_GET_SREGS", e))?,
            xsave: vcpu.get_xsave().map_err(|e| EngineError::new("KVM_GET_XSAVE", e))?,
            xcrs,
            msrs: registers::read_msrs(vcpu)?,
        })
    }

    /// Loads the state into `vcpu`.
    pub(super) fn load(&self, vcpu: &VcpuFd) -> Result<(), EngineError> {
        vcpu.set_sregs(&self.sregs).map_err(|e| EngineError::new("KVM_SET_SREGS", e))?;
        registers::write_msrs(vcpu, &self.msrs)?;
        if let Some(xcrs) = &self.xcrs {
            vcpu.set_xcrs(xcrs).map_err(|e| EngineError::new("KVM_SET_XCRS", e))?;
        }
        // SAFETY: the area came from a vCPU with the same XCR0, whose state fits into it.
        unsafe { vcpu.set_xsave(&self.xsave) }.map_err(|e| EngineError::new("KVM_SET_XSAVE", e))?;
        registers::same_time_as_host(vcpu)?;
        vcpu.set_regs(&self.regs).map_err(|e| EngineError::new("KVM_SET_REGS", e))
    }
}
