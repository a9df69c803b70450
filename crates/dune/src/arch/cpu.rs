//! The CPU: what it can do, and the privileged instructions that are not page tables' or ring 3's business.
//!
//! # Safety
//!
//! Instructions that fault outside ring 0 are wrapped here. The public ones hang on the [`Dune`] token, which only
//! [`enter`](crate::enter) hands out.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::sync::OnceLock;

use x86_64::instructions::segmentation::{CS, Segment};

use super::token::Dune;

const IA32_FS_BASE: u32 = 0xc000_0100;

/// How vector state is kept: by XSAVE for the components of XCR0, or by FXSAVE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VectorState {
    /// XCR0 for Dune mode; `None` on a CPU without XSAVE.
    pub xcr0: Option<u64>,
    /// Bytes of an area that holds it.
    pub area_size: usize,
}

/// What the CPU offers to Dune, found out once in host mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Features {
    pub vector_state: VectorState,
    pub fsgsbase: bool,
    /// The CPU itself has UMIP (Intel SDM vol. 3 §2.5).
    pub umip: bool,
    pub intel: bool,
    pub vendor: &'static str,
}

/// State components of XCR0 that need an arch_prctl permission before they can be used, and large areas: AMX.
const XCR0_DYNAMIC: u64 = 1 << 17 | 1 << 18;

/// The features, from CPUID at the first call. That has to be in host mode, where CPUID does not exit.
pub(crate) fn features() -> &'static Features {
    static FEATURES: OnceLock<Features> = OnceLock::new();
    FEATURES.get_or_init(|| {
        let (_, leaf1) = (__cpuid(0), __cpuid(1));
        let vendor = vendor_name();
        let osxsave = leaf1.ecx & 1 << 27 != 0;
        // SAFETY: OSXSAVE says that XGETBV may be used.
        let host_xcr0 = if osxsave { unsafe { _xgetbv(0) } } else { 0 };
        let xcr0 = osxsave.then_some(host_xcr0 & !XCR0_DYNAMIC);
        Features {
            vector_state: VectorState { xcr0, area_size: xcr0.map_or(512, xsave_area_size) },
            // CPUID says what the CPU has; that Linux switched it on, the auxiliary vector says (AT_HWCAP2 bit 1).
            fsgsbase: __cpuid_count(7, 0).ebx & 1 != 0 && hwcap2() & 1 << 1 != 0,
            umip: __cpuid_count(7, 0).ecx & 1 << 2 != 0,
            intel: vendor == "GenuineIntel",
            vendor,
        }
    })
}

/// AT_HWCAP2 of this process (getauxval(3)), from /proc/self/auxv.
fn hwcap2() -> u64 {
    const AT_HWCAP2: u64 = 26;
    let auxv = std::fs::read("/proc/self/auxv").unwrap_or_default();
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
    auxv.chunks_exact(16).find(|pair| word(&pair[..8]) == AT_HWCAP2).map_or(0, |pair| word(&pair[8..]))
}

/// Bytes of an XSAVE area in standard form with the components of `xcr0` (Intel SDM vol. 1 §13.4, CPUID leaf 0xD).
fn xsave_area_size(xcr0: u64) -> usize {
    (2..63)
        .filter(|component| xcr0 & 1 << component != 0)
        .map(|component| {
            let leaf = __cpuid_count(0xd, component);
            (leaf.eax + leaf.ebx) as usize
        })
        .fold(512 + 64, usize::max)
}

fn vendor_name() -> &'static str {
    let leaf = __cpuid(0);
    let bytes = [leaf.ebx.to_le_bytes(), leaf.edx.to_le_bytes(), leaf.ecx.to_le_bytes()].concat();
    match bytes.as_slice() {
        b"GenuineIntel" => "GenuineIntel",
        b"AuthenticAMD" => "AuthenticAMD",
        _ => "unknown vendor",
    }
}

pub(crate) fn vector_state() -> VectorState {
    features().vector_state
}

pub(crate) fn has_sysexit_in_64_bit_code() -> bool {
    features().intel
}

pub(crate) fn vendor() -> &'static str {
    features().vendor
}

/// Whether the calling thread is in Dune mode, i.e. at ring 0.
pub fn in_dune_mode() -> bool {
    // The two low bits of a selector in CS are the current privilege level (Intel SDM vol. 3 §5.5).
    CS::get_reg().0 & 3 == 0
}

/// The FS base.
///
/// # Safety
///
/// Ring 0.
pub(crate) unsafe fn fs_base() -> u64 {
    // SAFETY: ring 0, says the caller; the register exists on every 64-bit CPU.
    unsafe { read_msr(IA32_FS_BASE) }
}

/// Sets the FS base.
///
/// # Safety
///
/// Ring 0; `base` is canonical; the code that goes on finds its thread-local storage there.
pub(crate) unsafe fn set_fs_base(base: u64) {
    // SAFETY: as above.
    unsafe { write_msr(IA32_FS_BASE, base) };
}

/// RFLAGS.
///
/// # Safety
///
/// Ring 0, for the flags to mean what they say.
pub(crate) unsafe fn flags() -> u64 {
    let flags;
    // SAFETY: pushes and pops one word.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(preserves_flags)) };
    flags
}

/// What DR6 says about the last #DB; it is clear then (Intel SDM vol. 3 §18.2.3: the CPU never clears it).
///
/// # Safety
///
/// Ring 0.
pub(crate) unsafe fn take_dr6() -> u64 {
    const CLEAR: u64 = 0xffff_0ff0;
    let dr6: u64;
    // SAFETY: ring 0, says the caller.
    unsafe {
        asm!("mov {}, dr6", out(reg) dr6, options(nostack, nomem, preserves_flags));
        asm!("mov dr6, {}", in(reg) CLEAR, options(nostack, nomem, preserves_flags));
    }
    dr6
}

/// RDMSR.
///
/// # Safety
///
/// Ring 0 and the register exists.
unsafe fn read_msr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's.
    unsafe {
        asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// WRMSR.
///
/// # Safety
///
/// Ring 0, the register exists and takes `value`, and the code that goes on can live with it.
unsafe fn write_msr(register: u32, value: u64) {
    // SAFETY: the caller's.
    unsafe {
        asm!(
            "wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags)
        );
    }
}

/// A descriptor table as LIDT and LGDT take it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C, packed(2))]
pub struct TablePointer {
    /// Size of the table in bytes minus one.
    pub limit: u16,
    /// Linear address of the table.
    pub base: u64,
}

impl Dune {
    /// Whether external interrupts are on (RFLAGS.IF).
    pub fn interrupts_enabled(self) -> bool {
        let flags: u64;
        // SAFETY: reads the flags through the stack.
        unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(preserves_flags)) };
        flags & 1 << 9 != 0
    }

    /// Runs `body` with external interrupts off (CLI) and puts the interrupt flag back as it was (STI).
    ///
    /// An interrupt raised meanwhile is taken afterwards. Intel SDM vol. 3 §6.8.1.
    ///
    /// # Example
    ///
    /// ```no_run
    /// let dune = dune::enter()?;
    /// let value = dune.without_interrupts(|| 7);
    /// # Ok::<(), dune::EnterError>(())
    /// ```
    pub fn without_interrupts<T>(self, body: impl FnOnce() -> T) -> T {
        struct Restore(bool);
        impl Drop for Restore {
            fn drop(&mut self) {
                if self.0 {
                    // SAFETY: ring 0; interrupts were on before.
                    unsafe { asm!("sti", options(nostack)) };
                }
            }
        }
        let _restore = Restore(self.interrupts_enabled());
        // SAFETY: ring 0, by the token.
        unsafe { asm!("cli", options(nostack)) };
        body()
    }

    /// Switches external interrupts on (STI) or off (CLI) until changed again.
    pub fn set_interrupts(self, on: bool) {
        // SAFETY: ring 0, by the token; every vector has a gate and a stack.
        unsafe {
            if on {
                asm!("sti", options(nostack));
            } else {
                asm!("cli", options(nostack));
            }
        }
    }

    /// The table that LIDT loaded last (SIDT).
    pub fn idt(self) -> TablePointer {
        let mut pointer = TablePointer::default();
        // SAFETY: SIDT stores ten bytes.
        unsafe { asm!("sidt [{}]", in(reg) &raw mut pointer, options(nostack, preserves_flags)) };
        pointer
    }

    /// Loads an interrupt descriptor table of the program's (LIDT), for those who bring their own entry code.
    ///
    /// # Safety
    ///
    /// 1. The table stays in place while it is loaded. 2. Its gates lead to code that can take every exception that
    ///    can occur, on stacks of their own (an exception at ring 0 on the interrupted stack destroys the red zone
    ///    of the interrupted function). 3. Dune's handlers do not run until its own table is loaded again.
    pub unsafe fn load_idt(self, table: TablePointer) {
        // SAFETY: the caller's.
        unsafe { asm!("lidt [{}]", in(reg) &raw const table, options(nostack, preserves_flags, readonly)) };
    }

    /// The task register (STR).
    pub fn task_register(self) -> u16 {
        let selector: u16;
        // SAFETY: STR reads a register.
        unsafe { asm!("str {:x}", out(reg) selector, options(nostack, nomem, preserves_flags)) };
        selector
    }

    /// Loads the task register (LTR) with an available 64-bit TSS of the GDT.
    ///
    /// # Safety
    ///
    /// 1. `selector` names an available TSS in the loaded GDT. 2. Its interrupt stacks are what the loaded IDT's
    ///    gates need: with Dune's IDT, they are Dune's own.
    pub unsafe fn load_task_register(self, selector: u16) {
        // SAFETY: the caller's. LTR marks the descriptor busy, hence no `readonly`.
        unsafe { asm!("ltr {:x}", in(reg) selector, options(nostack, preserves_flags)) };
    }
}
