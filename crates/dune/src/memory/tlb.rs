//! The translation caches of the CPU: the instructions that empty them, and their typed wrappers.
//!
//! Sources: Intel SDM Vol. 3A §4.10 (caching, PCIDs), Vol. 2 INVLPG, INVPCID, MOV CRn; AMD APM Vol. 2 §5.5.
//! All of them act on the CPU that executes them only. Under two-dimensional paging none of them leaves Dune
//! mode.

use core::arch::asm;

use thiserror::Error;
use x86_64::{PhysAddr, VirtAddr};

use super::flush_counts;
use crate::arch::token::Dune;

/// The kinds of flush that the counters tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FlushKind {
    /// The translations of one page (INVLPG, or INVPCID type 0).
    Page,
    /// The translations of one PCID except global ones (a CR3 load that flushes, or INVPCID type 1).
    Pcid,
    /// Everything (CR4.PGE, or INVPCID types 2 and 3).
    All,
}

/// Why the CPU cannot do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TlbError {
    /// The CPU lacks the feature.
    #[error("this CPU has no {feature} (CPUID {leaf}): {remedy}")]
    Unsupported {
        /// The feature.
        feature: &'static str,
        /// Where CPUID would show it.
        leaf: &'static str,
        /// What to do instead.
        remedy: &'static str,
    },
    /// Not a process-context identifier.
    #[error("{value} is not a PCID: use 0 to {}", Pcid::MAX)]
    PcidOutOfRange {
        /// The number given.
        value: u16,
    },
    /// All process-context identifiers are taken.
    #[error("all {count} PCIDs are taken: drop an address space, or create this one untagged")]
    PcidsExhausted {
        /// How many there are.
        count: u16,
    },
}

/// What the paging unit of the vCPU can do. [`Memory::features`](super::Memory::features) says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PagingFeatures {
    /// `CR4.PCIDE` has to be set where `pcid` is `true`.
    pub(crate) giant_pages: bool,
    pub(crate) pcid: bool,
    pub(crate) invpcid: bool,
}

impl PagingFeatures {
    /// Whether there are pages of 1 GiB: CPUID 8000_0001H:EDX\[26\].
    pub const fn has_giant_pages(self) -> bool {
        self.giant_pages
    }

    /// Whether there are PCIDs: CPUID 01H:ECX\[17\].
    pub const fn has_pcid(self) -> bool {
        self.pcid
    }

    /// Whether there is the INVPCID instruction: CPUID 07H.0:EBX\[10\].
    pub const fn has_invpcid(self) -> bool {
        self.invpcid
    }

    /// Asks CPUID of the CPU that this runs on. In Dune mode that is an exit.
    pub(crate) fn detect() -> PagingFeatures {
        use core::arch::x86_64::{__cpuid, __cpuid_count};
        let (basic, extended) = (__cpuid(0).eax, __cpuid(0x8000_0000).eax);
        PagingFeatures {
            giant_pages: extended >= 0x8000_0001 && __cpuid(0x8000_0001).edx >> 26 & 1 != 0,
            pcid: __cpuid(1).ecx >> 17 & 1 != 0,
            invpcid: basic >= 7 && __cpuid_count(7, 0).ebx >> 10 & 1 != 0,
        }
    }
}

/// A process-context identifier, 0 to 4095: the tag of an address space in the CPU's translation caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pcid(u16);

impl Pcid {
    /// The highest one.
    pub const MAX: u16 = 4095;
    /// The one that a process's first root has.
    pub const FIRST: Pcid = Pcid(0);

    /// The identifier `value`.
    pub const fn new(value: u16) -> Result<Pcid, TlbError> {
        if value > Self::MAX { Err(TlbError::PcidOutOfRange { value }) } else { Ok(Pcid(value)) }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// What becomes of the translations that the caches hold for a PCID when its root is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cached {
    /// They go (bit 63 of the value loaded is clear).
    Flush,
    /// They stay (bit 63 set; needs `CR4.PCIDE`).
    Keep,
}

/// Forgets the translation of the page at `address` in the current address space, global or not, and
/// everything cached about the upper levels of its tables. INVLPG.
#[inline]
pub fn flush_page(_dune: Dune, address: VirtAddr) {
    // SAFETY: 1. the token says that this is ring 0.
    unsafe { instructions::invlpg(address.as_u64()) };
    flush_counts::add(FlushKind::Page, 1);
}

/// Forgets the translations of `count` pages, each `stride` bytes further. INVLPG.
#[inline]
pub(super) fn flush_pages(_dune: Dune, start: u64, stride: u64, count: u64) {
    for page in 0..count {
        // SAFETY: 1. the token says that this is ring 0.
        unsafe { instructions::invlpg(start + page * stride) };
    }
    if count > 0 {
        flush_counts::add(FlushKind::Page, count);
    }
}

/// Forgets all translations of the current address space except global ones, by loading CR3 with what it
/// holds.
#[inline]
pub fn flush_current(_dune: Dune) {
    // SAFETY: 1. the token says that this is ring 0; 2. the root stays the same. Bit 63 reads as 0.
    unsafe { instructions::write_cr3(instructions::read_cr3()) };
    flush_counts::add(FlushKind::Pcid, 1);
}

/// Forgets all translations, of all PCIDs and global ones too, by changing `CR4.PGE` and changing it back.
pub fn flush_all(_dune: Dune) {
    const PGE: u64 = 1 << 7;
    // SAFETY: 1. the token says that this is ring 0; 2. PGE decides nothing but how long translations are
    // cached.
    unsafe {
        let cr4 = instructions::read_cr4();
        instructions::write_cr4(cr4 ^ PGE);
        instructions::write_cr4(cr4);
    }
    flush_counts::add(FlushKind::All, 1);
}

/// The guest-physical address of the root in CR3, and the PCID field (0 where PCIDs are off).
#[inline]
pub fn current_root(_dune: Dune) -> (PhysAddr, Pcid) {
    // SAFETY: 1. the token says that this is ring 0.
    let cr3 = unsafe { instructions::read_cr3() };
    (PhysAddr::new(cr3 & 0x000f_ffff_ffff_f000), Pcid(cr3 as u16 & Pcid::MAX))
}

/// Loads CR3: from here on, `root` translates. Without a tag all translations except global ones go.
///
/// # Safety
///
/// 1. `root` maps, where they are now, all code, stacks, tables and handlers that run before the next load.
/// 2. With a tag, `CR4.PCIDE` is set; without one, it is clear or PCID 0 is meant.
/// 3. With [`Cached::Keep`], nothing that was changed in `root` since its last use waits for a flush.
#[inline]
pub(super) unsafe fn load_root(_dune: Dune, root: PhysAddr, tag: Option<(Pcid, Cached)>) {
    let (pcid, keep) = match tag {
        Some((pcid, cached)) => (pcid.0, cached == Cached::Keep),
        None => (0, false),
    };
    // SAFETY: 1. the token says that this is ring 0; 2. the caller vouches for the value.
    unsafe { instructions::write_cr3(root.as_u64() | u64::from(pcid) | u64::from(keep) << 63) };
    if !keep {
        flush_counts::add(FlushKind::Pcid, 1);
    }
}

/// The INVPCID instruction, on a CPU that has it.
#[derive(Clone, Copy, Debug)]
pub struct Invpcid {
    pcid: bool,
}

impl Invpcid {
    /// Typed [`TlbError::Unsupported`] where the CPU lacks it.
    pub const fn new(features: PagingFeatures) -> Result<Invpcid, TlbError> {
        if features.invpcid {
            Ok(Invpcid { pcid: features.pcid })
        } else {
            let remedy = "use INVLPG, or load CR3";
            Err(TlbError::Unsupported { feature: "INVPCID", leaf: "07H:EBX[10]", remedy })
        }
    }

    /// Type 0: forgets the translation of the page at `address` under `pcid`, unless global.
    pub fn address(self, _dune: Dune, pcid: Pcid, address: VirtAddr) -> Result<(), TlbError> {
        let pcid = self.check(pcid)?;
        // SAFETY: 1. the token says that this is ring 0; 2. the CPU has INVPCID; 3. the PCID passed the
        // check.
        unsafe { instructions::invpcid(0, [u64::from(pcid.0), address.as_u64()]) };
        flush_counts::add(FlushKind::Page, 1);
        Ok(())
    }

    /// Type 1: forgets all translations under `pcid`, except global ones.
    pub fn context(self, _dune: Dune, pcid: Pcid) -> Result<(), TlbError> {
        let pcid = self.check(pcid)?;
        // SAFETY: 1. the token says that this is ring 0; 2. the CPU has INVPCID; 3. the PCID passed the
        // check.
        unsafe { instructions::invpcid(1, [u64::from(pcid.0), 0]) };
        flush_counts::add(FlushKind::Pcid, 1);
        Ok(())
    }

    /// Type 2: forgets everything, of all PCIDs and global ones too.
    pub fn all_with_globals(self, _dune: Dune) {
        // SAFETY: 1. the token says that this is ring 0; 2. the CPU has INVPCID.
        unsafe { instructions::invpcid(2, [0, 0]) };
        flush_counts::add(FlushKind::All, 1);
    }

    /// Type 3: forgets everything of all PCIDs, except global translations.
    pub fn all(self, _dune: Dune) {
        // SAFETY: 1. the token says that this is ring 0; 2. the CPU has INVPCID.
        unsafe { instructions::invpcid(3, [0, 0]) };
        flush_counts::add(FlushKind::All, 1);
    }

    /// While `CR4.PCIDE` is clear, types 0 and 1 raise #GP for every PCID but 0.
    const fn check(self, pcid: Pcid) -> Result<Pcid, TlbError> {
        if self.pcid || pcid.0 == 0 { Ok(pcid) } else { Err(Self::no_pcid()) }
    }

    /// The error where PCIDs are missing.
    pub(super) const fn no_pcid() -> TlbError {
        let remedy = "address spaces are switched with a flush";
        TlbError::Unsupported { feature: "PCID", leaf: "01H:ECX[17]", remedy }
    }
}

/// The bare instructions. None may be hoisted or sunk over memory accesses, hence no `nomem`.
mod instructions {
    use super::asm;

    /// # Safety
    ///
    /// Ring 0.
    #[inline(always)]
    pub unsafe fn invlpg(address: u64) {
        // SAFETY: 1. ring 0; INVLPG faults at no address.
        unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) };
    }

    /// # Safety
    ///
    /// Ring 0, and CPUID has INVPCID. Reserved bits of the descriptor (63:12 of the first word) are clear.
    pub unsafe fn invpcid(kind: u64, descriptor: [u64; 2]) {
        let pointer = descriptor.as_ptr();
        // SAFETY: 1. as the caller vouches; 2. the descriptor lives until the instruction has read it.
        unsafe { asm!("invpcid {}, [{}]", in(reg) kind, in(reg) pointer, options(nostack, preserves_flags)) };
    }

    /// # Safety
    ///
    /// Ring 0.
    #[inline(always)]
    pub unsafe fn read_cr3() -> u64 {
        let value: u64;
        // SAFETY: 1. ring 0.
        unsafe { asm!("mov {}, cr3", out(reg) value, options(nostack, preserves_flags)) };
        value
    }

    /// # Safety
    ///
    /// Ring 0, and the value translates whatever runs and is accessed next.
    #[inline(always)]
    pub unsafe fn write_cr3(value: u64) {
        // SAFETY: 1. as the caller vouches.
        unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack, preserves_flags)) };
    }

    /// # Safety
    ///
    /// Ring 0.
    pub unsafe fn read_cr4() -> u64 {
        let value: u64;
        // SAFETY: 1. ring 0.
        unsafe { asm!("mov {}, cr4", out(reg) value, options(nostack, preserves_flags)) };
        value
    }

    /// # Safety
    ///
    /// Ring 0, and the bits changed are ones that the running code does not depend on.
    pub unsafe fn write_cr4(value: u64) {
        // SAFETY: 1. as the caller vouches.
        unsafe { asm!("mov cr4, {}", in(reg) value, options(nostack, preserves_flags)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_and_missing_features_are_typed() {
        assert_eq!(Pcid::new(4095).unwrap().get(), 4095);
        assert_eq!(Pcid::new(4096), Err(TlbError::PcidOutOfRange { value: 4096 }));
        let without = PagingFeatures::default();
        assert!(matches!(Invpcid::new(without), Err(TlbError::Unsupported { feature: "INVPCID", .. })));
        let only = Invpcid::new(PagingFeatures { invpcid: true, ..without }).unwrap();
        assert!(only.check(Pcid::FIRST).is_ok());
        assert!(matches!(only.check(Pcid(1)), Err(TlbError::Unsupported { feature: "PCID", .. })));
    }
}
