//! The processor and the kernel, from /proc and CPUID.

use std::fs::File;
use std::io::{BufRead, BufReader};

use crate::engine::facts::{CpuFacts, Virtualization};

/// The kernel's release.
pub(super) fn kernel() -> String {
    match std::fs::read_to_string("/proc/sys/kernel/osrelease") {
        Ok(release) => release.trim().to_string(),
        Err(_) => "unknown".to_string(),
    }
}

/// The processor, from the first entry of /proc/cpuinfo; without /proc, from CPUID alone.
pub(super) fn cpu() -> CpuFacts {
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
pub(super) fn parse_cpuinfo(cpuinfo: impl BufRead) -> CpuFacts {
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
