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

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};

use crate::engine::kvm::probe;

/// Guest-physical addresses narrower than this cannot hold the windows of an ordinary process.
///
/// 36 bits are 64 GiB, and laptops have 39; the original Dune broke at 36 too, for the same reason.
pub const MINIMUM_PHYSICAL_ADDRESS_BITS: u8 = 36;

/// The way out on a computer that cannot run Dune mode itself.
const EMULATED_MACHINE: &str = "run it in an emulated machine that can: `cargo xtask vm -- COMMAND`";

/// Whether the CPU can virtualize, and whose way it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Virtualization {
    /// Neither `vmx` nor `svm`: no hardware virtualization reaches this system.
    #[default]
    Absent,
    /// The CPU has it, but Linux does not list it: the firmware has switched it off.
    DisabledByFirmware,
    /// Intel VT-x, CPU flag `vmx`.
    Vmx,
    /// AMD-V, CPU flag `svm`.
    Svm,
}

impl Virtualization {
    /// True if Linux can use it.
    pub fn usable(self) -> bool {
        matches!(self, Virtualization::Vmx | Virtualization::Svm)
    }

    /// The word for machines: `vmx`, `svm`, `disabled` or `absent`.
    pub fn name(self) -> &'static str {
        match self {
            Virtualization::Absent => "absent",
            Virtualization::DisabledByFirmware => "disabled",
            Virtualization::Vmx => "vmx",
            Virtualization::Svm => "svm",
        }
    }
}

impl fmt::Display for Virtualization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Virtualization::Absent => "none (neither vmx nor svm among the CPU flags)",
            Virtualization::DisabledByFirmware => "switched off by the firmware",
            Virtualization::Vmx => "Intel VT-x (vmx)",
            Virtualization::Svm => "AMD-V (svm)",
        })
    }
}

/// How the engine turns guest-physical addresses into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Paging {
    /// In hardware: Intel EPT or AMD nested paging.
    TwoDimensional,
    /// In software, by copies of the page tables: slow, and large windows cost the kernel memory.
    Shadow,
    /// The system does not say.
    #[default]
    Unknown,
}

impl Paging {
    /// The word for machines: `two-dimensional`, `shadow` or `unknown`.
    pub fn name(self) -> &'static str {
        match self {
            Paging::TwoDimensional => "two-dimensional",
            Paging::Shadow => "shadow",
            Paging::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Paging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// CPU features that decide what a program can do in Dune mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CpuFeatures {
    /// XSAVE: vector state is kept by size, AVX works. Without it only SSE exists.
    pub xsave: bool,
    /// AVX2, which the C library's string functions use when it is there.
    pub avx2: bool,
    /// Tagged address spaces: a change of page table without a flush.
    pub pcid: bool,
    /// INVPCID: flushing one tagged address space.
    pub invpcid: bool,
    /// RDFSBASE and its relatives, in ring 3 too.
    pub fsgsbase: bool,
    /// Pages of 1 GiB.
    pub pdpe1gb: bool,
    /// SYSENTER and SYSEXIT in 64-bit mode: Intel has them, AMD raises #UD.
    pub sysexit_in_long_mode: bool,
}

impl CpuFeatures {
    /// Each feature by name.
    pub fn list(&self) -> [(&'static str, bool); 7] {
        [
            ("xsave", self.xsave),
            ("avx2", self.avx2),
            ("pcid", self.pcid),
            ("invpcid", self.invpcid),
            ("fsgsbase", self.fsgsbase),
            ("pdpe1gb", self.pdpe1gb),
            ("sysexit in 64-bit mode", self.sysexit_in_long_mode),
        ]
    }
}

/// The processor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CpuFacts {
    /// The maker, as CPUID spells it: `GenuineIntel`, `AuthenticAMD`.
    pub vendor: String,
    /// The name on the box.
    pub model: String,
    /// Hardware virtualization.
    pub virtualization: Virtualization,
    /// What a program in Dune mode can use.
    pub features: CpuFeatures,
}

/// A capability of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capability {
    /// The engine's name for it.
    pub name: &'static str,
    /// True if Dune mode cannot work without it.
    pub required: bool,
    /// What the engine answered: 0 for absent, 1 or a number (a limit, a size, a bit mask) for present.
    pub value: u32,
    /// What Dune does with it.
    pub purpose: &'static str,
}

impl Capability {
    /// True if the engine has it.
    pub fn present(&self) -> bool {
        self.value != 0
    }
}

/// What runs Dune mode here.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineFacts {
    /// `kvm`.
    pub name: &'static str,
    /// Version of the engine's interface.
    pub api_version: i32,
    /// The kernel module behind it, where the system tells.
    pub module: Option<&'static str>,
    /// How guest-physical addresses are translated.
    pub paging: Paging,
    /// Width of guest-physical addresses (MAXPHYADDR as the engine grants it); 0 when not known.
    pub physical_address_bits: u8,
    /// What was asked for and what is there, the required first.
    pub capabilities: Vec<Capability>,
}

impl fmt::Display for EngineFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (API {}", self.name, self.api_version)?;
        if let Some(module) = self.module {
            write!(f, ", module {module}")?;
        }
        write!(f, ", {} paging)", self.paging)
    }
}

/// What [`check`] found on a computer that can run Dune mode.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostFacts {
    /// The processor.
    pub cpu: CpuFacts,
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// What runs Dune mode.
    pub engine: EngineFacts,
}

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
const EBUSY: i32 = linux_raw_sys::errno::EBUSY as i32;

/// The outcome of an examination.
#[derive(Debug)]
pub enum Verdict {
    /// Dune mode can be entered.
    Ready,
    /// It cannot, for this reason.
    Refused(DoctorError),
}

impl Verdict {
    /// True if Dune mode can be entered.
    pub fn is_ready(&self) -> bool {
        matches!(self, Verdict::Ready)
    }

    /// The word for machines: `ready`, or the reason's name.
    pub fn name(&self) -> &'static str {
        match self {
            Verdict::Ready => "ready",
            Verdict::Refused(reason) => reason.name(),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Ready => {
                f.write_str("ready: hardware virtualization and all required capabilities are here")
            }
            Verdict::Refused(obstacle) => f.write_str(&obstacle.reason()),
        }
    }
}

/// Everything the doctor saw, and what it concludes.
#[derive(Debug)]
pub struct Report {
    cpu: CpuFacts,
    kernel: String,
    engine: Option<EngineFacts>,
    verdict: Verdict,
}

impl Report {
    /// The processor.
    pub fn cpu(&self) -> &CpuFacts {
        &self.cpu
    }

    /// The kernel's release, as `uname -r` prints it.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// The engine, unless its device could not be opened.
    pub fn engine(&self) -> Option<&EngineFacts> {
        self.engine.as_ref()
    }

    /// The conclusion.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |wanted: bool| {
            let names: Vec<_> = self
                .cpu
                .features
                .list()
                .iter()
                .filter(|(_, has)| *has == wanted)
                .map(|(name, _)| *name)
                .collect();
            if names.is_empty() { "none".to_string() } else { names.join(", ") }
        };
        writeln!(f, "cpu              {} ({})", self.cpu.model, self.cpu.vendor)?;
        writeln!(f, "virtualization   {}", self.cpu.virtualization)?;
        writeln!(f, "features         {}", names(true))?;
        writeln!(f, "  absent         {}", names(false))?;
        writeln!(f, "kernel           {}", self.kernel)?;
        match &self.engine {
            None => writeln!(f, "engine           none")?,
            Some(engine) => {
                writeln!(f, "engine           {engine}")?;
                match engine.physical_address_bits {
                    0 => writeln!(f, "guest-physical   width not known")?,
                    bits => writeln!(f, "guest-physical   {bits} bits")?,
                }
                writeln!(f, "capabilities")?;
                for capability in &engine.capabilities {
                    let mark = match (capability.present(), capability.required) {
                        (true, _) => "yes",
                        (false, true) => "MISSING",
                        (false, false) => "no",
                    };
                    let value =
                        if capability.value > 1 { capability.value.to_string() } else { String::new() };
                    let kind = if capability.required { "required" } else { "optional" };
                    writeln!(
                        f,
                        "  {:<28} {mark:<8} {value:>6}  {kind}: {}",
                        capability.name, capability.purpose
                    )?;
                }
            }
        }
        write!(f, "verdict          {}", self.verdict)?;
        if let Verdict::Refused(reason) = &self.verdict {
            write!(f, "\nremedy           {}", reason.remedy())?;
        }
        Ok(())
    }
}

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

/// The kernel's release.
fn kernel() -> String {
    match std::fs::read_to_string("/proc/sys/kernel/osrelease") {
        Ok(release) => release.trim().to_string(),
        Err(_) => "unknown".to_string(),
    }
}

/// The processor, from the first entry of /proc/cpuinfo; without /proc, from CPUID alone.
fn cpu() -> CpuFacts {
    let mut cpu = match File::open("/proc/cpuinfo") {
        Ok(file) => parse_cpuinfo(BufReader::new(file)),
        Err(_) => CpuFacts::default(),
    };
    if !cpu.virtualization.usable() && cpuid::has_virtualization() {
        cpu.virtualization = Virtualization::DisabledByFirmware;
    }
    cpu
}

/// Reads one processor's entry: the rest of the file may be long, and each line costs.
fn parse_cpuinfo(cpuinfo: impl BufRead) -> CpuFacts {
    let mut cpu = CpuFacts::default();
    for line in cpuinfo.lines().map_while(Result::ok) {
        let Some((key, value)) = line.split_once(':') else { break };
        let value = value.trim();
        match key.trim() {
            "vendor_id" => cpu.vendor = value.to_string(),
            "model name" => cpu.model = value.to_string(),
            "flags" => read_flags(&mut cpu, value),
            _ => {}
        }
    }
    cpu.features.sysexit_in_long_mode = cpu.vendor == "GenuineIntel";
    cpu
}

fn read_flags(cpu: &mut CpuFacts, flags: &str) {
    for flag in flags.split_ascii_whitespace() {
        match flag {
            "vmx" => cpu.virtualization = Virtualization::Vmx,
            "svm" => cpu.virtualization = Virtualization::Svm,
            "xsave" => cpu.features.xsave = true,
            "avx2" => cpu.features.avx2 = true,
            "pcid" => cpu.features.pcid = true,
            "invpcid" => cpu.features.invpcid = true,
            "fsgsbase" => cpu.features.fsgsbase = true,
            "pdpe1gb" => cpu.features.pdpe1gb = true,
            _ => {}
        }
    }
}

/// What the processor says of itself, whatever Linux made of it.
mod cpuid {
    #[cfg(target_arch = "x86_64")]
    pub(super) fn has_virtualization() -> bool {
        use core::arch::x86_64::__cpuid;
        const VMX: u32 = 1 << 5;
        const SVM: u32 = 1 << 2;
        let vmx = __cpuid(1).ecx & VMX != 0;
        let svm = __cpuid(0x8000_0000).eax >= 0x8000_0001 && __cpuid(0x8000_0001).ecx & SVM != 0;
        vmx || svm
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn has_virtualization() -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
