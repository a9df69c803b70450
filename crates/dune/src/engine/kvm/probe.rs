//! What this computer's KVM can do, asked before anything is built on it.
//!
//! The answers leave this file as the doctor's own types ([`crate::doctor`]): KVM's stay here.

use std::fs;
use std::io;
use std::path::Path;

use kvm_bindings::*;

use super::cpuid::CpuidList;
use super::{KvmMachine, ioctl};
use crate::engine::Machine;
use crate::engine::facts::{Capability, CpuFacts, EngineFacts, Paging};
use crate::engine::obstacle::DoctorError;
use crate::linux::descriptor::Descriptor;

/// The device that the engine opens.
const DEVICE: &str = match KvmMachine::DEVICE.to_str() {
    Ok(path) => path,
    Err(_) => panic!("not UTF-8"),
};

/// The only version of the KVM API there has been since Linux 2.6.22.
const API_VERSION: i32 = KVM_API_VERSION as i32;

/// Something that answers KVM_CHECK_EXTENSION.
///
/// Some answers of a machine differ from those of the device: [`machine_capabilities`] asks both.
trait Extensions {
    fn extension(&self, number: u32) -> i32;
}

impl Extensions for Descriptor {
    fn extension(&self, number: u32) -> i32 {
        ioctl::CHECK_EXTENSION.with(self, number.into()).map_or(-1, |value| value as i32)
    }
}

/// When Dune cannot do without a capability.
#[derive(Clone, Copy)]
enum Need {
    Always,
    WithXsave,
    Never,
}

/// A capability that the engine uses, or a limit that holds for it: its name and number, whether it must be there, and what for.
struct Wanted(&'static str, u32, Need, &'static str);

/// All of them, the required ones first.
const WANTED: &[Wanted] = &[
    Wanted("KVM_CAP_USER_MEMORY", KVM_CAP_USER_MEMORY, Need::Always, "windows onto the process's own memory"),
    Wanted("KVM_CAP_SYNC_MMU", KVM_CAP_SYNC_MMU, Need::Always, "Dune mode sees what Linux maps and unmaps"),
    Wanted("KVM_CAP_NR_MEMSLOTS", KVM_CAP_NR_MEMSLOTS, Need::Always, "how many windows there can be"),
    Wanted(
        "KVM_CAP_EXT_CPUID",
        KVM_CAP_EXT_CPUID,
        Need::Always,
        "CPUID of the CPU, as far as KVM supports it",
    ),
    Wanted(
        "KVM_CAP_IMMEDIATE_EXIT",
        KVM_CAP_IMMEDIATE_EXIT,
        Need::Always,
        "leaving for a signal without a race",
    ),
    Wanted(
        "KVM_CAP_VCPU_ATTRIBUTES",
        KVM_CAP_VCPU_ATTRIBUTES,
        Need::Always,
        "the host's time-stamp counter, which the vDSO clock reads",
    ),
    Wanted(
        "KVM_CAP_VCPU_EVENTS",
        KVM_CAP_VCPU_EVENTS,
        Need::Always,
        "page faults for what the second level has not",
    ),
    Wanted("KVM_CAP_XSAVE", KVM_CAP_XSAVE, Need::Always, "floating-point and vector registers kept on entry"),
    Wanted("KVM_CAP_XCRS", KVM_CAP_XCRS, Need::WithXsave, "XCR0, without which AVX raises #UD"),
    Wanted(
        "KVM_CAP_MAX_VCPUS",
        KVM_CAP_MAX_VCPUS,
        Need::Never,
        "how many threads can be in Dune mode at a time",
    ),
    Wanted("KVM_CAP_MAX_VCPU_ID", KVM_CAP_MAX_VCPU_ID, Need::Never, "how far vCPUs can be numbered"),
    Wanted("KVM_CAP_BINARY_STATS_FD", KVM_CAP_BINARY_STATS_FD, Need::Never, "counting second-level faults"),
];

/// Opens the device. The descriptor is closed on exec.
///
/// Whether the CPU can virtualize decides what to advise when the device is missing.
pub(crate) fn open(cpu: &CpuFacts) -> Result<Descriptor, DoctorError> {
    ioctl::open_device().map_err(|error| match error.errno.raw() {
        errno::ENOENT | errno::ENODEV | errno::ENXIO => {
            DoctorError::NoDevice { path: DEVICE, virtualization: cpu.virtualization }
        }
        errno::EACCES | errno::EPERM => DoctorError::NoPermission { path: DEVICE },
        other => DoctorError::DeviceFailed { path: DEVICE, error: io::Error::from_raw_os_error(other) },
    })
}

/// What the device alone tells. Cheap: a few dozen ioctls, no machine is made.
pub(crate) fn engine(kvm: &Descriptor, cpu: &CpuFacts) -> Result<EngineFacts, DoctorError> {
    let version = ioctl::GET_API_VERSION.with(kvm, 0).map_or(-1, |version| version as i32);
    if version != API_VERSION {
        return Err(DoctorError::ApiVersion { found: version, needed: API_VERSION });
    }
    let (module, paging) = module();
    Ok(EngineFacts {
        name: "kvm",
        api_version: version,
        module,
        paging,
        physical_address_bits: physical_address_bits(kvm),
        capabilities: all_capabilities(kvm, kvm, cpu),
    })
}

/// What a machine answers where it may differ from the device. Makes a machine and drops it.
pub(crate) fn machine_capabilities(kvm: &Descriptor, cpu: &CpuFacts) -> Result<Vec<Capability>, DoctorError> {
    match ioctl::CREATE_VM.make(kvm, 0) {
        Ok(machine) => Ok(all_capabilities(kvm, &machine, cpu)),
        Err(error) => Err(DoctorError::NoMachine { error: io::Error::from_raw_os_error(error.errno.raw()) }),
    }
}

fn all_capabilities(kvm: &Descriptor, source: &impl Extensions, cpu: &CpuFacts) -> Vec<Capability> {
    let mut all = capabilities(source, cpu);
    all.extend(protections(kvm));
    all
}

/// What protects ring 0 from ring 3, as KVM's virtual CPUs have it: it makes up for UMIP on some CPUs that lack it.
fn protections(kvm: &Descriptor) -> [Capability; 2] {
    let features = CpuidList::supported(kvm).ok().and_then(|cpuid| cpuid.find(7, 0).copied());
    let (ebx, ecx) = features.map_or((0, 0), |leaf| (leaf.ebx, leaf.ecx));
    let one = |name, has: u32, purpose| Capability { name, required: false, value: has, purpose };
    [
        one("UMIP", ecx >> 2 & 1, "ring 3 learns no address by SGDT and SIDT"),
        one("SMEP", ebx >> 7 & 1, "ring 0 executes no page of code that is not trusted"),
    ]
}

fn capabilities(source: &impl Extensions, cpu: &CpuFacts) -> Vec<Capability> {
    WANTED
        .iter()
        .map(|&Wanted(name, number, need, purpose)| Capability {
            name,
            required: match need {
                Need::Always => true,
                Need::WithXsave => cpu.features.xsave,
                Need::Never => false,
            },
            value: source.extension(number).max(0) as u32,
            purpose,
        })
        .collect()
}

/// Width of the guest-physical addresses that KVM accepts, 0 when it does not say.
fn physical_address_bits(kvm: &Descriptor) -> u8 {
    const ADDRESS_SIZES: u32 = 0x8000_0008;
    let Ok(cpuid) = CpuidList::supported(kvm) else { return 0 };
    let Some(sizes) = cpuid.find(ADDRESS_SIZES, 0) else { return 0 };
    // Bits 16-23 hold what four-level second-level tables can map, where that is less (Linux 6.10).
    match (sizes.eax as u8, (sizes.eax >> 16) as u8) {
        (all, 0) => all,
        (all, guest) => all.min(guest),
    }
}

/// The kernel module behind the device and how it translates addresses.
fn module() -> (Option<&'static str>, Paging) {
    module_in(Path::new("/sys/module"))
}

fn module_in(modules: &Path) -> (Option<&'static str>, Paging) {
    for (module, parameter) in [("kvm_intel", "ept"), ("kvm_amd", "npt")] {
        let directory = modules.join(module);
        if !directory.exists() {
            continue;
        }
        let paging = match fs::read_to_string(directory.join("parameters").join(parameter))
            .as_deref()
            .map(str::trim)
        {
            Ok("Y" | "1") => Paging::TwoDimensional,
            Ok("N" | "0") => Paging::Shadow,
            _ => Paging::Unknown,
        };
        return (Some(module), paging);
    }
    if modules.join("kvm_pvm").exists() { (Some("kvm_pvm"), Paging::Shadow) } else { (None, Paging::Unknown) }
}

/// The error numbers told apart here, as `i32`.
mod errno {
    use linux_raw_sys::errno;

    pub(super) const EACCES: i32 = errno::EACCES as i32;
    pub(super) const ENODEV: i32 = errno::ENODEV as i32;
    pub(super) const ENOENT: i32 = errno::ENOENT as i32;
    pub(super) const ENXIO: i32 = errno::ENXIO as i32;
    pub(super) const EPERM: i32 = errno::EPERM as i32;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A throw-away imitation of /sys/module.
    struct Modules(std::path::PathBuf);

    impl Modules {
        fn new(name: &str, files: &[(&str, &str)]) -> Modules {
            let root = std::env::temp_dir().join(format!("dune-probe-{}-{name}", std::process::id()));
            for (path, content) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
            Modules(root)
        }
    }

    impl Drop for Modules {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn paging_comes_from_the_module_parameter() {
        for (name, files, expected) in [
            ("ept", &[("kvm_intel/parameters/ept", "Y\n")][..], (Some("kvm_intel"), Paging::TwoDimensional)),
            ("no-ept", &[("kvm_intel/parameters/ept", "N\n")], (Some("kvm_intel"), Paging::Shadow)),
            ("npt", &[("kvm_amd/parameters/npt", "1\n")], (Some("kvm_amd"), Paging::TwoDimensional)),
            ("no-npt", &[("kvm_amd/parameters/npt", "0\n")], (Some("kvm_amd"), Paging::Shadow)),
            ("silent", &[("kvm_amd/version", "1\n")], (Some("kvm_amd"), Paging::Unknown)),
            ("pvm", &[("kvm_pvm/parameters/force", "N\n")], (Some("kvm_pvm"), Paging::Shadow)),
            ("none", &[("ext4/version", "1\n")], (None, Paging::Unknown)),
        ] {
            let modules = Modules::new(name, files);
            assert_eq!(module_in(&modules.0), expected, "{name}");
        }
    }

    #[test]
    fn the_required_come_first_and_none_twice() {
        let required: Vec<bool> = WANTED.iter().map(|wanted| !matches!(wanted.2, Need::Never)).collect();
        assert!(required.is_sorted_by(|before, after| before >= after));
        let mut numbers: Vec<u32> = WANTED.iter().map(|wanted| wanted.1).collect();
        numbers.sort_unstable();
        assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn xcr0_is_required_only_where_the_cpu_has_xsave() {
        struct Nothing;
        impl Extensions for Nothing {
            fn extension(&self, _: u32) -> i32 {
                -1
            }
        }
        let mut cpu = CpuFacts::default();
        let xcrs = |cpu: &CpuFacts| {
            capabilities(&Nothing, cpu).into_iter().find(|c| c.name == "KVM_CAP_XCRS").unwrap().required
        };
        assert!(!xcrs(&cpu));
        cpu.features.xsave = true;
        assert!(xcrs(&cpu));
        assert!(capabilities(&Nothing, &cpu).iter().all(|c| !c.present()));
    }
}
