//! What stands in the way of Dune mode, each with its remedy.

use std::io;

use super::facts::Virtualization;

/// The way out on a computer that cannot run Dune mode itself.
const EMULATED_MACHINE: &str = "run it in an emulated machine that can: `cargo xtask vm -- COMMAND`";

/// Why Dune mode cannot work on this computer.
///
/// Its text is one sentence: the reason, and the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{}; {}", self.reason(), self.remedy())]
#[non_exhaustive]
pub enum DoctorError {
    /// Not an x86-64 processor.
    OtherArchitecture {
        /// What it is instead.
        architecture: &'static str,
    },
    /// The device is not there.
    NoDevice {
        /// The device.
        path: &'static str,
        /// What the CPU could do.
        virtualization: Virtualization,
    },
    /// The device is there, but not for this user.
    NoPermission {
        /// The device.
        path: &'static str,
    },
    /// The device cannot be opened for another reason.
    DeviceFailed {
        /// The device.
        path: &'static str,
        /// What Linux said.
        error: io::Error,
    },
    /// An interface that is not KVM's.
    ApiVersion {
        /// The version found.
        found: i32,
        /// The version understood.
        needed: i32,
    },
    /// KVM without hardware behind it.
    SoftwareKvm {
        /// The module that stands in for the hardware, where the system tells.
        module: Option<&'static str>,
    },
    /// Hardware virtualization without a second level of address translation.
    ShadowPaging {
        /// The module that was told to.
        module: &'static str,
    },
    /// The engine lacks something Dune mode is built on.
    MissingCapability {
        /// The capability.
        name: &'static str,
        /// What it is needed for.
        purpose: &'static str,
    },
    /// Guest-physical addresses are too narrow.
    NarrowPhysicalAddresses {
        /// Bits there are.
        bits: u8,
        /// Bits there must be.
        needed: u8,
    },
    /// Everything is there, and yet no virtual machine can be made.
    NoMachine {
        /// What Linux said.
        error: io::Error,
    },
}

impl DoctorError {
    /// The word for machines.
    pub fn name(&self) -> &'static str {
        match self {
            DoctorError::OtherArchitecture { .. } => "other-architecture",
            DoctorError::NoDevice { .. } => "no-device",
            DoctorError::NoPermission { .. } => "no-permission",
            DoctorError::DeviceFailed { .. } => "device-failed",
            DoctorError::ApiVersion { .. } => "api-version",
            DoctorError::SoftwareKvm { .. } => "software-kvm",
            DoctorError::ShadowPaging { .. } => "shadow-paging",
            DoctorError::MissingCapability { .. } => "missing-capability",
            DoctorError::NarrowPhysicalAddresses { .. } => "narrow-physical-addresses",
            DoctorError::NoMachine { .. } => "no-machine",
        }
    }

    /// What stands in the way, without the remedy.
    pub fn reason(&self) -> String {
        match self {
            DoctorError::OtherArchitecture { architecture } => {
                format!("Dune needs an x86-64 processor, and this is {architecture}")
            }
            DoctorError::NoDevice { path, virtualization } => {
                format!("{path} does not exist (hardware virtualization: {virtualization})")
            }
            DoctorError::NoPermission { path } => format!("{path} may not be opened by this user"),
            DoctorError::DeviceFailed { path, error } => format!("{path} cannot be opened: {error}"),
            DoctorError::ApiVersion { found, needed } => {
                format!("the engine speaks API version {found}, and Dune version {needed}")
            }
            DoctorError::SoftwareKvm { module } => {
                let module = module.map(|module| format!(" (module {module})")).unwrap_or_default();
                format!(
                    "KVM has no hardware virtualization behind it{module}: instructions in ring 0 would be emulated \
                     one by one"
                )
            }
            DoctorError::ShadowPaging { module } => format!(
                "{module} runs without two-dimensional paging, and a process's windows cost too much under shadow \
                 paging"
            ),
            DoctorError::MissingCapability { name, purpose } => {
                format!("this kernel's KVM lacks {name}, which Dune needs: {purpose}")
            }
            DoctorError::NarrowPhysicalAddresses { bits, needed } => format!(
                "guest-physical addresses have {bits} bits here, and a process's windows need at least {needed}"
            ),
            DoctorError::NoMachine { error } => format!("KVM made no virtual machine: {error}"),
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            DoctorError::OtherArchitecture { .. } | DoctorError::SoftwareKvm { .. } => {
                EMULATED_MACHINE.to_string()
            }
            DoctorError::NoDevice { virtualization, .. } => match virtualization {
                Virtualization::Vmx => "load the module: `sudo modprobe kvm_intel`".to_string(),
                Virtualization::Svm => "load the module: `sudo modprobe kvm_amd`".to_string(),
                Virtualization::DisabledByFirmware => {
                    format!("enable VT-x or SVM in the firmware's set-up (BIOS), or {EMULATED_MACHINE}")
                }
                Virtualization::Absent => {
                    format!("in a virtual machine, ask for nested virtualization; or {EMULATED_MACHINE}")
                }
            },
            DoctorError::NoPermission { path } => format!(
                "add yourself to the group that owns {path}: `sudo usermod -aG kvm $USER`, then log in again"
            ),
            DoctorError::DeviceFailed { error, .. } if error.raw_os_error() == Some(EMFILE) => {
                "raise the limit of open files: `ulimit -n 4096`".to_string()
            }
            DoctorError::DeviceFailed { path, .. } => {
                format!("see what `dmesg | grep -i kvm` and `ls -l {path}` say")
            }
            DoctorError::ApiVersion { .. } | DoctorError::MissingCapability { .. } => {
                format!("use Linux 5.16 or newer, or {EMULATED_MACHINE}")
            }
            DoctorError::ShadowPaging { module } => {
                let parameter = if *module == "kvm_amd" { "npt" } else { "ept" };
                format!(
                    "reload the module with it: `sudo modprobe -r {module}; sudo modprobe {module} {parameter}=1`"
                )
            }
            DoctorError::NarrowPhysicalAddresses { .. } => {
                format!(
                    "give the virtual machine wider physical addresses (QEMU: `-cpu …,phys-bits=40`), or {EMULATED_MACHINE}"
                )
            }
            DoctorError::NoMachine { error } if error.raw_os_error() == Some(EBUSY) => {
                "end the other hypervisor that holds the CPU's virtualization (VirtualBox, VMware)"
                    .to_string()
            }
            DoctorError::NoMachine { .. } => {
                "free memory, or raise the limits that `ulimit -a` shows; `dmesg | grep -i kvm` may say more"
                    .to_string()
            }
        }
    }
}

const EMFILE: i32 = linux_raw_sys::errno::EMFILE as i32;
pub(crate) const EBUSY: i32 = linux_raw_sys::errno::EBUSY as i32;
