//! Descriptor tables: GDT and TSS of a thread, IDT of the process.
//!
//! The selectors are Linux's, which SYSCALL, SYSRET and SYSEXIT all fit (Intel SDM vol. 3 §5.8.7-8):
//!
//! ```text
//! 0x00 null          0x20 null (SYSRET to 32-bit code: none)   0x38 ring-3 data again (SYSEXIT's SS)
//! 0x10 ring-0 code   0x2b ring-3 data                          0x40 TSS, 16 bytes
//! 0x18 ring-0 data   0x33 ring-3 code                          0x50 LDT, 16 bytes
//!                                                              0x7b number of the CPU
//!                                                              0x60… else free for the program
//! ```

use core::cell::Cell;
use core::mem::offset_of;

use super::state::Segment;

/// Selector of ring-0 code.
pub(crate) const RING0_CODE: u16 = 0x10;
/// Selector of ring-0 data and stack.
pub(crate) const RING0_DATA: u16 = 0x18;
/// Selector of ring-3 data and stack, with RPL 3.
pub(crate) const RING3_DATA: u16 = 0x2b;
/// Selector of ring-3 64-bit code, with RPL 3.
pub(crate) const RING3_CODE: u16 = 0x33;
/// Selector of the task-state segment.
pub(crate) const TASK_STATE: u16 = 0x40;
/// Selector of the local descriptor table.
pub(crate) const LOCAL_TABLE: u16 = 0x50;
/// Selector of the entry whose limit is the number of the CPU, with RPL 3 (arch/x86/include/asm/segment.h,
/// `__CPUNODE_SEG`).
pub(crate) const CPU_NUMBER: u16 = 0x7b;
/// First selector free for the program's own descriptors.
pub(crate) const FIRST_FREE: u16 = 0x60;
/// Entries of the GDT.
pub(crate) const GDT_ENTRIES: usize = 32;

/// IA32_STAR: SYSCALL loads CS = 0x10, SS = 0x18; SYSRET loads CS = 0x20 + 16, SS = 0x20 + 8, both with RPL 3.
pub(crate) const STAR: u64 = (0x20 | 3) << 48 | (RING0_CODE as u64) << 32;

// Code and data descriptors (Intel SDM vol. 3 §3.4.5): granularity, long mode or 32-bit, present, DPL, type.
const CODE64_RING0: u64 = 0x00af_9b00_0000_ffff;
const DATA_RING0: u64 = 0x00cf_9300_0000_ffff;
const CODE64_RING3: u64 = 0x00af_fb00_0000_ffff;
const DATA_RING3: u64 = 0x00cf_f300_0000_ffff;
const TYPE_TSS_BUSY: u64 = 0xb;
const TYPE_LDT: u64 = 0x2;

/// The 64-bit task-state segment (Intel SDM vol. 3 §8.7, figure 8-11).
#[derive(Debug, Clone)]
#[repr(C, packed(4))]
pub(crate) struct TaskStateSegment {
    reserved0: u32,
    /// Stack pointers for rings 0-2. Unused: every gate has an interrupt stack.
    pub privilege_stacks: [u64; 3],
    reserved1: u64,
    /// IST1 to IST7.
    pub interrupt_stacks: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    /// Offset of the I/O permission bitmap; past the limit means: no port for ring 3.
    pub io_map_base: u16,
}

const _: () = assert!(size_of::<TaskStateSegment>() == 104);
const _: () = assert!(offset_of!(TaskStateSegment, interrupt_stacks) == 0x24);
const _: () = assert!(offset_of!(TaskStateSegment, io_map_base) == 0x66);

impl TaskStateSegment {
    /// A task-state segment with the given interrupt stacks and no I/O permissions.
    pub(crate) const fn new(interrupt_stacks: [u64; 7]) -> TaskStateSegment {
        TaskStateSegment {
            reserved0: 0,
            privilege_stacks: [0; 3],
            reserved1: 0,
            interrupt_stacks,
            reserved2: 0,
            reserved3: 0,
            io_map_base: size_of::<TaskStateSegment>() as u16,
        }
    }
}

/// A thread's global descriptor table. The CPU writes to it, too: it marks descriptors as accessed and busy.
#[derive(Debug)]
#[repr(C, align(16))]
pub(crate) struct Gdt(pub [Cell<u64>; GDT_ENTRIES]);

impl Gdt {
    /// The table with a TSS at linear address `tss` and no LDT.
    pub(crate) fn new(tss: u64) -> Gdt {
        let mut entries = [0; GDT_ENTRIES];
        let index = |selector: u16| usize::from(selector >> 3);
        entries[index(RING0_CODE)] = CODE64_RING0;
        entries[index(RING0_DATA)] = DATA_RING0;
        entries[index(RING3_DATA)] = DATA_RING3;
        entries[index(RING3_CODE)] = CODE64_RING3;
        entries[index(RING3_CODE) + 1] = DATA_RING3;
        let limit = size_of::<TaskStateSegment>() as u32 - 1;
        entries[index(TASK_STATE)..][..2].copy_from_slice(&system_descriptor(tss, limit, TYPE_TSS_BUSY));
        let table = Gdt(entries.map(Cell::new));
        table.set_cpu_number(0);
        table
    }

    /// Makes `number`, of 20 bits, the limit of the entry that is there for it.
    pub(crate) fn set_cpu_number(&self, number: u32) {
        // Accessed, read-only, expand-down data of ring 3, in bytes: what Linux has there, too.
        const DATA: u64 = 0x0040_f500_0000_0000;
        let number = u64::from(number);
        self.0[usize::from(CPU_NUMBER >> 3)].set(DATA | number & 0xffff | (number & 0xf_0000) << 32);
    }

    /// Limit of the table in bytes.
    pub(crate) const LIMIT: u16 = (GDT_ENTRIES * 8 - 1) as u16;
}

/// A 16-byte LDT descriptor at linear address `base` with `limit`.
pub(crate) fn local_table_descriptor(base: u64, limit: u32) -> [u64; 2] {
    system_descriptor(base, limit, TYPE_LDT)
}

/// A 16-byte system descriptor (Intel SDM vol. 3 §8.2.3, figure 8-4), present, DPL 0.
const fn system_descriptor(base: u64, limit: u32, kind: u64) -> [u64; 2] {
    const PRESENT: u64 = 1 << 47;
    let low = (limit as u64 & 0xffff)
        | (base & 0xff_ffff) << 16
        | kind << 40
        | PRESENT
        | (limit as u64 >> 16 & 0xf) << 48
        | (base >> 24 & 0xff) << 56;
    [low, base >> 32]
}

/// Ring-0 code as the vCPU is loaded with it.
pub(crate) const CODE_SEGMENT: Segment =
    Segment { selector: RING0_CODE, base: 0, limit: u32::MAX, rights: 0xa09b };
/// Ring-0 data as the vCPU is loaded with it.
pub(crate) const DATA_SEGMENT: Segment =
    Segment { selector: RING0_DATA, base: 0, limit: u32::MAX, rights: 0xc093 };

/// The task register for a TSS at linear address `base`.
pub(crate) const fn task_segment(base: u64) -> Segment {
    Segment { selector: TASK_STATE, base, limit: size_of::<TaskStateSegment>() as u32 - 1, rights: 0x8b }
}

/// A gate of the IDT (Intel SDM vol. 3 §6.14.1, figure 6-8).
#[derive(Debug, Clone, Copy)]
#[repr(C, align(16))]
pub(crate) struct Gate([u64; 2]);

const _: () = assert!(size_of::<Gate>() == 16);

impl Gate {
    /// An interrupt gate (IF off at entry) to `target` in ring-0 code on interrupt stack `ist`, open to INT n from
    /// rings up to `ring`.
    pub(crate) const fn interrupt(target: u64, ist: u8, ring: u8) -> Gate {
        const PRESENT: u64 = 1 << 47;
        const INTERRUPT_GATE: u64 = 0xe << 40;
        let low = (target & 0xffff)
            | (RING0_CODE as u64) << 16
            | (ist as u64) << 32
            | INTERRUPT_GATE
            | (ring as u64) << 45
            | PRESENT
            | (target >> 16 & 0xffff) << 48;
        Gate([low, target >> 32])
    }
}

/// The interrupt descriptor table of the process.
pub(crate) type Idt = [Gate; 256];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_descriptor_spreads_base_and_limit() {
        let [low, high] = system_descriptor(0x1234_5678_9abc_def0, 0x6_7fff, TYPE_TSS_BUSY);
        assert_eq!(high, 0x1234_5678);
        assert_eq!(low & 0xffff, 0x7fff);
        assert_eq!(low >> 16 & 0xff_ffff, 0xbc_def0);
        assert_eq!(low >> 56, 0x9a);
        assert_eq!(low >> 48 & 0xf, 6);
        assert_eq!(low >> 40 & 0xff, 0x8b);
    }

    #[test]
    fn gate_spreads_the_target() {
        let Gate([low, high]) = Gate::interrupt(0x7fff_1234_5678, 3, 3);
        assert_eq!(high, 0x7fff);
        assert_eq!(low & 0xffff, 0x5678);
        assert_eq!(low >> 48, 0x1234);
        assert_eq!(low >> 32 & 7, 3);
        assert_eq!(low >> 40 & 0xff, 0xee);
    }

    #[test]
    fn sysret_and_sysexit_reach_the_ring_3_segments() {
        assert_eq!((STAR >> 48) as u16 + 16, RING3_CODE);
        assert_eq!((STAR >> 48) as u16 + 8, RING3_DATA);
        assert_eq!((RING0_CODE + 32) | 3, RING3_CODE);
    }
}
