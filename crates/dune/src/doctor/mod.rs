//! Can this computer run Dune mode, and if not, what would make it?
//!
//! [`examine`] looks at everything and never fails: its [`Report`] is what `dune doctor` prints. [`check`] is the
//! short form that [`enter`](crate::enter) calls first: the facts, or the one reason why not.
//!
//! ```
//! let report = dune::doctor::examine();
//! println!("{report}");
//! if let dune::doctor::Verdict::Refused(obstacle) = report.verdict() {
//!     eprintln!("{obstacle}");
//! }
//! ```

mod cpuinfo;
mod report;

pub use crate::engine::facts::{
    Capability, CpuFacts, CpuFeatures, EngineFacts, HostFacts, Paging, Virtualization,
};
pub use crate::engine::obstacle::DoctorError;
pub use report::{Report, Verdict};

use crate::engine::probe;
use cpuinfo::{cpu, kernel};

/// Guest-physical addresses narrower than this cannot hold the windows of an ordinary process.
///
/// 36 bits are 64 GiB, and laptops have 39; the original Dune broke at 36 too, for the same reason.
pub const MINIMUM_PHYSICAL_ADDRESS_BITS: u8 = 36;

/// Looks at the whole computer. Never fails: what stands in the way is the verdict.
///
/// Makes a virtual machine to ask it for its capabilities, and drops it.
pub fn examine() -> Report {
    let cpu = cpu();
    let kernel = kernel();
    match engine(&cpu, Depth::Machine) {
        Ok(engine) => {
            let verdict = judge(&cpu, &engine).map_or_else(Verdict::Refused, |()| Verdict::Ready);
            Report { cpu, kernel, engine: Some(engine), verdict }
        }
        Err((engine, reason)) => {
            // A KVM that is no hardware's is the better reason, whatever else went wrong with it.
            let verdict = match engine.as_ref().map(|engine| judge(&cpu, engine)) {
                Some(Err(better)) => Verdict::Refused(better),
                _ => Verdict::Refused(reason),
            };
            Report { cpu, kernel, engine, verdict }
        }
    }
}

/// The facts of a computer that can run Dune mode, or the reason why it cannot. Makes no virtual machine.
///
/// # Errors
///
/// The first reason found, each with its [remedy](DoctorError::remedy).
pub fn check() -> Result<HostFacts, DoctorError> {
    let cpu = cpu();
    let engine = engine(&cpu, Depth::Device).map_err(|(_, reason)| reason)?;
    judge(&cpu, &engine)?;
    Ok(HostFacts { cpu, kernel: kernel(), engine })
}

/// How far to ask the engine.
#[derive(Clone, Copy)]
enum Depth {
    Device,
    Machine,
}

type EngineFailure = (Option<EngineFacts>, DoctorError);

fn engine(cpu: &CpuFacts, depth: Depth) -> Result<EngineFacts, EngineFailure> {
    if cfg!(not(target_arch = "x86_64")) {
        return Err((None, DoctorError::OtherArchitecture { architecture: std::env::consts::ARCH }));
    }
    let kvm = probe::open(cpu).map_err(|reason| (None, reason))?;
    let mut engine = probe::engine(&kvm, cpu).map_err(|reason| (None, reason))?;
    if let Depth::Machine = depth {
        match probe::machine_capabilities(&kvm, cpu) {
            Ok(capabilities) => engine.capabilities = capabilities,
            Err(reason) => return Err((Some(engine), reason)),
        }
    }
    Ok(engine)
}

/// The verdict on an engine whose device could be opened.
fn judge(cpu: &CpuFacts, engine: &EngineFacts) -> Result<(), DoctorError> {
    if !cpu.virtualization.usable() || engine.module == Some("kvm_pvm") {
        return Err(DoctorError::SoftwareKvm { module: engine.module });
    }
    if let (Paging::Shadow, Some(module)) = (engine.paging, engine.module) {
        return Err(DoctorError::ShadowPaging { module });
    }
    if let Some(missing) = engine.capabilities.iter().find(|c| c.required && !c.present()) {
        return Err(DoctorError::MissingCapability { name: missing.name, purpose: missing.purpose });
    }
    match engine.physical_address_bits {
        // Not told: the windows will show.
        0 => Ok(()),
        bits if bits < MINIMUM_PHYSICAL_ADDRESS_BITS => {
            Err(DoctorError::NarrowPhysicalAddresses { bits, needed: MINIMUM_PHYSICAL_ADDRESS_BITS })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::cpuinfo::parse_cpuinfo;
    use super::*;
    use crate::engine::obstacle::EBUSY;

    const INTEL: &str = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Core(TM) i7\n\
        flags\t\t: fpu vmx pcid invpcid fsgsbase pdpe1gb\nvmx flags\t: ept\n\n\
        processor\t: 1\nmodel name\t: another\nflags\t\t: svm xsave\n";

    fn engine_with(module: Option<&'static str>, paging: Paging) -> EngineFacts {
        let required = Capability { name: "KVM_CAP_A", required: true, value: 1, purpose: "a" };
        let optional = Capability { name: "KVM_CAP_B", required: false, value: 0, purpose: "b" };
        EngineFacts {
            name: "kvm",
            api_version: 12,
            module,
            paging,
            physical_address_bits: 40,
            capabilities: vec![required, optional],
        }
    }

    fn cpu_with(virtualization: Virtualization) -> CpuFacts {
        CpuFacts { virtualization, ..CpuFacts::default() }
    }

    #[test]
    fn only_the_first_processor_is_read() {
        let cpu = parse_cpuinfo(INTEL.as_bytes());
        assert_eq!(cpu.model, "Intel(R) Core(TM) i7");
        assert_eq!(cpu.virtualization, Virtualization::Vmx);
        assert!(cpu.features.pcid && cpu.features.pdpe1gb && cpu.features.sysexit_in_long_mode);
        assert!(!cpu.features.xsave && !cpu.features.avx2);
    }

    #[test]
    fn good_hosts_are_ready() {
        for (virtualization, module) in [(Virtualization::Vmx, "kvm_intel"), (Virtualization::Svm, "kvm_amd")]
        {
            assert!(
                judge(&cpu_with(virtualization), &engine_with(Some(module), Paging::TwoDimensional)).is_ok()
            );
            assert!(judge(&cpu_with(virtualization), &engine_with(None, Paging::Unknown)).is_ok());
        }
    }

    #[test]
    fn each_obstacle_has_its_verdict() {
        let good = engine_with(Some("kvm_intel"), Paging::TwoDimensional);
        let verdict = |virtualization, engine: &EngineFacts| {
            judge(&cpu_with(virtualization), engine).expect_err("an obstacle").name()
        };
        assert_eq!(verdict(Virtualization::Absent, &good), "software-kvm");
        assert_eq!(
            verdict(Virtualization::Vmx, &engine_with(Some("kvm_pvm"), Paging::Shadow)),
            "software-kvm"
        );
        assert_eq!(
            verdict(Virtualization::Svm, &engine_with(Some("kvm_amd"), Paging::Shadow)),
            "shadow-paging"
        );
        let mut lacking = good.clone();
        lacking.capabilities[0].value = 0;
        assert_eq!(verdict(Virtualization::Vmx, &lacking), "missing-capability");
        let mut narrow = good;
        narrow.physical_address_bits = 32;
        assert_eq!(verdict(Virtualization::Vmx, &narrow), "narrow-physical-addresses");
    }

    #[test]
    fn a_sentence_names_the_obstacle_and_the_remedy() {
        let reason = DoctorError::SoftwareKvm { module: Some("kvm_pvm") };
        assert!(reason.to_string().contains("kvm_pvm"));
        assert!(reason.remedy().contains("cargo xtask vm"));
        let reason = DoctorError::ShadowPaging { module: "kvm_amd" };
        assert!(reason.remedy().contains("kvm_amd npt=1"));
        let reason = DoctorError::NoDevice { path: "/dev/kvm", virtualization: Virtualization::Vmx };
        assert!(reason.remedy().contains("modprobe kvm_intel"));
        let reason = DoctorError::NoPermission { path: "/dev/kvm" };
        assert!(reason.remedy().contains("group"));
        let busy = io::Error::from_raw_os_error(EBUSY);
        assert!(DoctorError::NoMachine { error: busy }.remedy().contains("other hypervisor"));
    }

    #[test]
    fn the_two_ways_of_asking_agree() {
        let report = examine();
        match check() {
            Ok(facts) => {
                assert_eq!(&facts.cpu, report.cpu());
                assert_eq!(facts.engine.module, report.engine().and_then(|engine| engine.module));
            }
            Err(reason) => assert_eq!(reason.name(), report.verdict().name()),
        }
        let text = report.to_string();
        assert!(text.contains("verdict"), "{text}");
        assert!(text.contains(report.kernel()), "{text}");
    }

    #[test]
    fn a_cpu_without_virtualization_is_never_ready() {
        let report = examine();
        if !report.cpu().virtualization.usable() {
            assert!(!report.verdict().is_ready(), "{report}");
        }
    }
}
