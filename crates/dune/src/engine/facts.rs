//! What the doctor looks at: the processor, the engine, and what they can do.

use std::fmt;

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

/// What [`check`](crate::doctor::check) found on a computer that can run Dune mode.
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
