//! Segmentation: LGDT and LLDT.
//!
//! In 64-bit code only FS and GS have a base; descriptors still decide what a selector load accepts (Intel SDM
//! vol. 3 §3.4.4), and 32-bit code and data segments in an LDT work as ever.

use core::arch::asm;

use super::error::SegmentError;
use crate::arch::cpu::TablePointer;
use crate::arch::descriptors::{FIRST_FREE, GDT_ENTRIES, Gdt, LOCAL_TABLE, local_table_descriptor};
use crate::arch::token::Dune;

impl Dune {
    /// The table that LGDT loaded last (SGDT).
    pub fn gdt(self) -> TablePointer {
        let mut pointer = TablePointer::default();
        // SAFETY: SGDT stores ten bytes.
        unsafe { asm!("sgdt [{}]", in(reg) &raw mut pointer, options(nostack, preserves_flags)) };
        pointer
    }

    /// Loads a global descriptor table of the program's (LGDT).
    ///
    /// # Safety
    ///
    /// 1. The table stays in place while it is loaded. 2. It holds Dune's descriptors at Dune's selectors: start
    ///    from a copy of the loaded one ([`gdt`](Dune::gdt)).
    pub unsafe fn load_gdt(self, table: TablePointer) {
        // SAFETY: the caller's.
        unsafe { asm!("lgdt [{}]", in(reg) &raw const table, options(nostack, preserves_flags, readonly)) };
    }

    /// Puts `descriptor` into the first free entry of this thread's GDT and reloads it (LGDT). Returns its
    /// selector, with the descriptor's DPL as RPL.
    ///
    /// # Errors
    ///
    /// [`SegmentError::TableFull`] when all entries are taken; [`SegmentError::SystemDescriptor`] for gates, TSS and
    /// LDT descriptors, which take two entries and rights over ring 0.
    pub fn add_segment(self, descriptor: u64) -> Result<u16, SegmentError> {
        const NOT_SYSTEM: u64 = 1 << 44;
        if descriptor & NOT_SYSTEM == 0 {
            return Err(SegmentError::SystemDescriptor { descriptor });
        }
        let entries = &self.block().gdt.0;
        let first = usize::from(FIRST_FREE / 8);
        let free = (first..GDT_ENTRIES)
            .find(|&index| entries[index].get() == 0)
            .ok_or(SegmentError::TableFull { entries: GDT_ENTRIES })?;
        entries[free].set(descriptor);
        let base = entries.as_ptr() as u64;
        // SAFETY: the table that is loaded, in the block, which stays while the thread is here; the new descriptor is in a place that
        // none of Dune's selectors names.
        unsafe { self.load_gdt(TablePointer { limit: Gdt::LIMIT, base }) };
        let privilege = (descriptor >> 45 & 3) as u16;
        Ok((free as u16) << 3 | privilege)
    }

    /// Loads a copy of `table` as this thread's local descriptor table (LLDT), or none. The copy stays for as long as the process, since
    /// the CPU may use it; it also marks there which descriptors it has loaded.
    ///
    /// A selector of entry `n` is `n << 3 | 4 | RPL`.
    ///
    /// # Errors
    ///
    /// [`SegmentError::TooLong`] for more than 8,192 entries; [`SegmentError::SystemDescriptor`] if one is a gate:
    /// call gates would be doors into ring 0 that ring-3 code can use.
    pub fn load_ldt(self, table: Option<&[u64]>) -> Result<(), SegmentError> {
        const NOT_SYSTEM: u64 = 1 << 44;
        const PRESENT: u64 = 1 << 47;
        const MOST: usize = 8192;
        let entries = table.unwrap_or_default();
        if entries.len() > MOST {
            return Err(SegmentError::TooLong { entries: entries.len() });
        }
        if let Some(&descriptor) =
            entries.iter().find(|&&descriptor| descriptor & PRESENT != 0 && descriptor & NOT_SYSTEM == 0)
        {
            return Err(SegmentError::SystemDescriptor { descriptor });
        }
        let selector = if entries.is_empty() { 0 } else { LOCAL_TABLE };
        let copy = Box::into_raw(Box::<[u64]>::from(entries)).cast::<u64>().expose_provenance() as u64;
        let gdt = &self.block().gdt.0;
        let limit = (entries.len() * 8).saturating_sub(1) as u32;
        let at = usize::from(LOCAL_TABLE / 8);
        for (entry, word) in gdt[at..].iter().zip(local_table_descriptor(copy, limit)) {
            entry.set(word);
        }
        // SAFETY: ring 0, by the token; LLDT reads the descriptor that was just stored in the entries for it (no `nomem`), of a table that
        // stays for ever and is the CPU's to write to.
        unsafe { asm!("lldt {:x}", in(reg) selector, options(nostack, preserves_flags)) };
        Ok(())
    }

    /// The LDT's selector (SLDT), 0 for none.
    pub fn ldt(self) -> u16 {
        let selector: u16;
        // SAFETY: SLDT reads a register.
        unsafe { asm!("sldt {:x}", out(reg) selector, options(nostack, nomem, preserves_flags)) };
        selector
    }
}
