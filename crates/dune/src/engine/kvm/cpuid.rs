//! What CPUID tells in Dune mode: what it tells in host mode, less what does not work in a machine of KVM's.
//!
//! Words of feature bits are the CPU's as far as KVM supports them (KVM_GET_SUPPORTED_CPUID), with those bits of the CPU's
//! that promise no instruction. What only describes the CPU is the CPU's: names, caches, topology, frequencies, the
//! hypervisor that the computer itself may run under. What describes something that KVM makes, or does not, is KVM's:
//! performance counters, state components, SGX, tracing, AMX, nested virtualization.
//!
//! Some words differ from CPU to CPU: APIC numbers, and on hybrid CPUs more. They are those of the CPU on which the process
//! entered, since KVM refuses to change what a vCPU that has run is told.

use core::arch::x86_64::{__cpuid_count, CpuidResult};

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::ioctl;
use crate::engine::error::EngineError;
use crate::linux::descriptor::Descriptor;

/// As many entries as KVM has ever had (KVM_MAX_CPUID_ENTRIES, Linux arch/x86/include/asm/kvm_host.h).
const ENTRIES: usize = 256;

/// Answers of CPUID, as `struct kvm_cpuid2`.
#[derive(Debug)]
#[repr(C)]
pub(super) struct CpuidList {
    count: u32,
    padding: u32,
    entries: [kvm_cpuid_entry2; ENTRIES],
}

const _: () = assert!(core::mem::offset_of!(CpuidList, entries) == 8);
const _: () = assert!(size_of::<kvm_cpuid_entry2>() == 40);

/// The first function of the basic, of hypervisors', of the extended ones (Intel SDM vol. 2 CPUID).
const BASIC: u32 = 0;
const HYPERVISOR: u32 = 0x4000_0000;
const EXTENDED: u32 = 0x8000_0000;

impl CpuidList {
    fn empty() -> Box<CpuidList> {
        Box::new(CpuidList { count: 0, padding: 0, entries: [kvm_cpuid_entry2::default(); ENTRIES] })
    }

    /// What the KVM of `device` supports.
    pub(super) fn supported(device: &Descriptor) -> Result<Box<CpuidList>, EngineError> {
        let mut list = CpuidList::empty();
        list.count = ENTRIES as u32;
        ioctl::GET_SUPPORTED_CPUID.of(device, &mut *list)?;
        Ok(list)
    }

    /// What Dune mode is told with the KVM of `device`.
    pub(super) fn of(device: &Descriptor) -> Result<Box<CpuidList>, EngineError> {
        let supported = CpuidList::supported(device)?;
        /// A thread that changes its CPU meanwhile reads parts of two.
        const TRIES: usize = 8;
        let mut list = CpuidList::compose(&supported, cpu);
        for _ in 1..TRIES {
            if list.find(1, 0).is_some_and(|entry| entry.ebx == cpu(1, 0).ebx) {
                break;
            }
            list = CpuidList::compose(&supported, cpu);
        }
        Ok(list)
    }

    /// What `cpu` tells, as far as `supported` goes.
    fn compose(supported: &CpuidList, cpu: impl Fn(u32, u32) -> CpuidResult) -> Box<CpuidList> {
        let mut list = CpuidList::empty();
        let has_hypervisor = cpu(1, 0).ecx & FEATURES_1.ecx & 1 << 31 != 0;
        for start in [BASIC, HYPERVISOR, EXTENDED] {
            if start == HYPERVISOR && !has_hypervisor {
                continue;
            }
            let last = last_function(start, &cpu);
            for function in start..=last {
                match described_by(function) {
                    Source::Cpu => list.copy(function, &cpu),
                    Source::Kvm => list.take(function, supported, |entry, _| entry),
                    Source::Both(of_cpu) => list.take(function, supported, |entry, index| {
                        let own = cpu(function, index);
                        let word = |kvm, own, of_cpu| kvm & own | own & of_cpu;
                        kvm_cpuid_entry2 {
                            eax: word(entry.eax, own.eax, of_cpu.eax),
                            ebx: word(entry.ebx, own.ebx, of_cpu.ebx),
                            ecx: word(entry.ecx, own.ecx, of_cpu.ecx),
                            edx: word(entry.edx, own.edx, of_cpu.edx),
                            ..entry
                        }
                    }),
                }
            }
        }
        list
    }

    /// Adds what `supported` has of `function`, changed.
    fn take(
        &mut self,
        function: u32,
        supported: &CpuidList,
        change: impl Fn(kvm_cpuid_entry2, u32) -> kvm_cpuid_entry2,
    ) {
        let entries = supported.entries.iter().take(supported.count as usize);
        for &entry in entries.filter(|entry| entry.function == function) {
            self.push(change(entry, entry.index));
        }
    }

    /// Adds what `cpu` tells of `function`, all its indices.
    fn copy(&mut self, function: u32, cpu: impl Fn(u32, u32) -> CpuidResult) {
        /// No function of these has more.
        const MOST: u32 = 64;
        let indices = indices(function);
        for index in 0..MOST {
            let CpuidResult { eax, ebx, ecx, edx } = cpu(function, index);
            let flags = if indices == Indices::None { 0 } else { KVM_CPUID_FLAG_SIGNIFCANT_INDEX };
            self.push(kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, padding: [0; 3] });
            let is_last = match indices {
                Indices::None => true,
                Indices::ToCacheTypeNone => eax & 0x1f == 0,
                // KVM answers for all indices behind the second by that.
                Indices::ToLevelTypeNone => index > 0 && ecx & 0xff00 == 0,
                Indices::ToFirstEax => index >= cpu(function, 0).eax,
                Indices::To(last) => index == last,
            };
            if is_last {
                return;
            }
        }
    }

    /// Adds an entry, as long as there is room.
    ///
    /// Not one of zeros: KVM answers so for what is not there (`kvm_cpuid`, Linux arch/x86/kvm/cpuid.c), and each costs time when a
    /// child's vCPU is made. Of levels it is told all.
    fn push(&mut self, entry: kvm_cpuid_entry2) {
        let is_level = indices(entry.function) == Indices::ToLevelTypeNone;
        if !is_level && [entry.eax, entry.ebx, entry.ecx, entry.edx] == [0; 4] {
            return;
        }
        if let Some(place) = self.entries.get_mut(self.count as usize) {
            *place = entry;
            self.count += 1;
        }
    }

    /// The answer to `function` (EAX) and `index` (ECX).
    pub(super) fn find(&self, function: u32, index: u32) -> Option<&kvm_cpuid_entry2> {
        let entries = self.entries.iter().take(self.count as usize);
        entries.into_iter().find(|entry| entry.function == function && entry.index == index)
    }
}

/// What the CPU tells in host mode.
fn cpu(function: u32, index: u32) -> CpuidResult {
    __cpuid_count(function, index)
}

/// The last function of the range that begins at `start`.
fn last_function(start: u32, cpu: impl Fn(u32, u32) -> CpuidResult) -> u32 {
    /// More have never been there.
    const MOST: u32 = 0xff;
    /// Hyper-V's interface, "Hv#1" (Microsoft, Hypervisor Top Level Functional Specification): KVM would offer its own of it.
    const HYPER_V: u32 = 0x3123_7648;
    let last = cpu(start, 0).eax;
    if !(start..=start + MOST).contains(&last) || start == HYPERVISOR && cpu(start + 1, 0).eax == HYPER_V {
        return start;
    }
    last
}

/// Who knows what a function tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The CPU: it describes.
    Cpu,
    /// KVM: it makes what the function is about.
    Kvm,
    /// Features of the CPU that KVM supports, and these bits of the CPU's, which only describe.
    Both(CpuidResult),
}

/// The CPU's in function 1: signature, CLFLUSH, numbers of APICs; MONITOR, DS-CPL, EIST, TM2, SDBG, xTPR, hypervisor; PSN, ACPI,
/// HTT, TM, PBE.
const FEATURES_1: CpuidResult = CpuidResult {
    eax: u32::MAX,
    ebx: u32::MAX,
    ecx: 1 << 3 | 1 << 4 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 14 | 1 << 31,
    edx: 1 << 18 | 1 << 22 | 1 << 28 | 1 << 29 | 1 << 31,
};

/// Of function 7: none.
const FEATURES_7: CpuidResult = CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };

/// Of function 0x8000_0001: signature, package; CMP_LEGACY, ExtApicSpace, OSVW, NodeId, TopologyExtensions.
const FEATURES_80000001: CpuidResult =
    CpuidResult { eax: u32::MAX, ebx: u32::MAX, ecx: 1 << 1 | 1 << 3 | 1 << 9 | 1 << 19 | 1 << 22, edx: 0 };

/// Of function 0x8000_0008: widths of guests' addresses, numbers of cores, of RDPRU's registers.
const FEATURES_80000008: CpuidResult = CpuidResult { eax: !0xffff, ebx: 0, ecx: u32::MAX, edx: u32::MAX };

fn described_by(function: u32) -> Source {
    match function {
        1 => Source::Both(FEATURES_1),
        7 => Source::Both(FEATURES_7),
        0x8000_0001 => Source::Both(FEATURES_80000001),
        0x8000_0008 => Source::Both(FEATURES_80000008),
        // Performance counters, state, SGX, Processor Trace, keys, branch records, AMX, AVX10 and what comes.
        0xa | 0xd | 0x12 | 0x14 | 0x19 | 0x1c..=0x1e | 0x20..HYPERVISOR => Source::Kvm,
        // SVM, IBS, LWP, memory encryption, AMD's second features, counters, and what comes.
        0x8000_000a | 0x8000_001b | 0x8000_001c | 0x8000_001f..=0x8000_0025 | 0x8000_0027.. => Source::Kvm,
        _ => Source::Cpu,
    }
}

/// Which values of ECX count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Indices {
    /// None.
    None,
    /// Up to a cache of type 0.
    ToCacheTypeNone,
    /// Up to a level of type 0.
    ToLevelTypeNone,
    /// Up to the number in EAX of the first.
    ToFirstEax,
    /// Up to this one.
    To(u32),
}

fn indices(function: u32) -> Indices {
    match function {
        4 | 0x8000_001d => Indices::ToCacheTypeNone,
        0xb | 0x1f | 0x8000_0026 => Indices::ToLevelTypeNone,
        0x17 | 0x18 => Indices::ToFirstEax,
        0xf => Indices::To(1),
        0x10 => Indices::To(3),
        _ => Indices::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A CPU that has everything, with two levels of topology and three caches.
    fn full(function: u32, index: u32) -> CpuidResult {
        let all = CpuidResult { eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX };
        match (function, index) {
            (BASIC, _) => CpuidResult { eax: 0x1f, ..all },
            (HYPERVISOR, _) => CpuidResult { eax: HYPERVISOR + 1, ebx: 77, ..all },
            (EXTENDED, _) => CpuidResult { eax: EXTENDED + 8, ..all },
            (4, 3..) => CpuidResult { eax: 0, ..all },
            (0xb, 2..) => CpuidResult { ecx: index, ..all },
            _ => all,
        }
    }

    fn supported() -> Box<CpuidList> {
        let mut list = CpuidList::empty();
        for (function, index) in
            [(1, 0), (7, 0), (7, 1), (0xd, 0), (0xd, 1), (HYPERVISOR, 0), (0x8000_0001, 0)]
        {
            let entry = kvm_cpuid_entry2 { function, index, ..Default::default() };
            list.push(kvm_cpuid_entry2 { eax: 5, ebx: 5, ecx: 5, edx: 5, ..entry });
        }
        list
    }

    #[test]
    fn features_are_those_of_both() {
        let list = CpuidList::compose(&supported(), full);
        let words = |function, index| {
            list.find(function, index).map(|entry| [entry.eax, entry.ebx, entry.ecx, entry.edx])
        };
        assert_eq!(words(7, 1), Some([5; 4]));
        assert_eq!(words(1, 0), Some([u32::MAX, u32::MAX, 5 | FEATURES_1.ecx, 5 | FEATURES_1.edx]));
        assert_eq!((words(0xd, 1), words(0xa, 0), words(0x12, 0)), (Some([5; 4]), None, None));
        let none = |_, _| CpuidResult { eax: 0x1f, ebx: 0, ecx: 0, edx: 0 };
        let list = CpuidList::compose(&supported(), none);
        assert_eq!(
            list.find(7, 0).map(|entry| entry.ebx),
            Some(0),
            "the CPU has no feature that KVM emulates"
        );
        assert!(list.find(HYPERVISOR, 0).is_none());
    }

    #[test]
    fn descriptions_are_the_cpus() {
        let list = CpuidList::compose(&supported(), full);
        assert_eq!(list.find(HYPERVISOR, 0).map(|entry| entry.ebx), Some(77));
        assert_eq!(list.find(0x8000_0003, 0).map(|entry| entry.ebx), Some(u32::MAX));
        let indices = |function| {
            let entries = list.entries.iter().take(list.count as usize);
            entries
                .filter(|entry| entry.function == function)
                .map(|entry| (entry.index, entry.flags))
                .collect()
        };
        let (caches, levels, names): (Vec<_>, Vec<_>, Vec<_>) =
            (indices(4), indices(0xb), indices(0x8000_0002));
        assert_eq!(caches, [(0, 1), (1, 1), (2, 1), (3, 1)]);
        assert_eq!(levels, [(0, 1), (1, 1), (2, 1)]);
        assert_eq!(names, [(0, 0)]);
    }

    #[test]
    fn of_hyper_v_only_the_name() {
        let list = CpuidList::compose(&supported(), |function, index| match function {
            0x4000_0001 => CpuidResult { eax: 0x3123_7648, ..full(0, 0) },
            _ => full(function, index),
        });
        assert!(list.find(HYPERVISOR, 0).is_some() && list.find(HYPERVISOR + 1, 0).is_none());
    }

    #[test]
    fn zeros_are_left_out() {
        let list = CpuidList::compose(&supported(), |function, index| match function {
            0x17 | 0xb if index > 0 => CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 },
            0x1e => CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 },
            0x17 => CpuidResult { eax: 3, ebx: 0, ecx: 0, edx: 0 },
            _ => full(function, index),
        });
        let has = |function, index| list.find(function, index).is_some();
        assert!(has(0x17, 0) && !has(0x17, 1) && !has(0x1e, 0));
        assert!(has(0xb, 1), "levels end with one");
    }

    #[test]
    fn more_than_fits_is_left_out() {
        let list = CpuidList::compose(&supported(), |function, index| match function {
            0x17 => CpuidResult { eax: 1000, ebx: index, ecx: 0, edx: 0 },
            0x18 => CpuidResult { eax: 1000, ebx: index, ecx: 0, edx: 0 },
            0xb | 4 => CpuidResult { eax: 1, ebx: 1, ecx: 0x100, edx: 1 },
            _ => full(function, index),
        });
        assert_eq!(list.count as usize, ENTRIES);
    }
}
