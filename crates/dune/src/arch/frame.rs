//! What a handler sees of the interrupted code.

use core::fmt;
use core::mem::offset_of;

use x86_64::VirtAddr;
use x86_64::registers::rflags::RFlags;
use x86_64::structures::idt::PageFaultErrorCode;

use super::vector::Vector;

/// The state of the code that a trap interrupted at ring 0.
///
/// A handler may edit it: the interrupted code goes on with what stands here when the handler returns. `cs` and
/// `ss` must stay ring 0's.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct TrapFrame {
    /// General register R15.
    pub r15: u64,
    /// General register R14.
    pub r14: u64,
    /// General register R13.
    pub r13: u64,
    /// General register R12.
    pub r12: u64,
    /// General register RBP.
    pub rbp: u64,
    /// General register RBX.
    pub rbx: u64,
    /// General register R11.
    pub r11: u64,
    /// General register R10.
    pub r10: u64,
    /// General register R9.
    pub r9: u64,
    /// General register R8.
    pub r8: u64,
    /// General register RAX.
    pub rax: u64,
    /// General register RCX.
    pub rcx: u64,
    /// General register RDX.
    pub rdx: u64,
    /// General register RSI.
    pub rsi: u64,
    /// General register RDI.
    pub rdi: u64,
    /// The address a page fault is about, read before anything else could fault. Without meaning for other vectors.
    pub cr2: u64,
    ring3_gs: u64,
    vector: u64,
    /// The CPU's error code, 0 for vectors without one (Intel SDM vol. 3 §6.13).
    pub error_code: u64,
    /// Where the interrupted code goes on: the faulting instruction for faults, the next one for traps.
    pub rip: u64,
    /// Code selector of the interrupted code.
    pub cs: u64,
    /// Flags of the interrupted code.
    pub rflags: u64,
    /// Stack pointer of the interrupted code.
    pub rsp: u64,
    /// Stack selector of the interrupted code.
    pub ss: u64,
}

// The assembly pushes in this order, and calls handlers with the stack pointer at the frame: its size has to keep
// the ABI's 16-byte alignment, as the CPU aligned the stack before its five (or six) words.
const _: () = assert!(size_of::<TrapFrame>() == 24 * 8);
const _: () = assert!(offset_of!(TrapFrame, rdi) == 14 * 8);
const _: () = assert!(offset_of!(TrapFrame, vector) == 17 * 8);

// Offsets for the assembly.
pub(crate) const CR2: usize = offset_of!(TrapFrame, cr2);
pub(crate) const RING3_GS: usize = offset_of!(TrapFrame, ring3_gs);
pub(crate) const VECTOR: usize = offset_of!(TrapFrame, vector);
pub(crate) const RIP: usize = offset_of!(TrapFrame, rip);
pub(crate) const RFLAGS: usize = offset_of!(TrapFrame, rflags);

/// In an error code that names a gate or segment: that of the IDT (Intel SDM vol. 3 §6.13).
pub(crate) const GATE: u64 = 2;
/// The length of INT n.
pub(crate) const SOFTWARE_INTERRUPT_BYTES: u64 = 2;

impl TrapFrame {
    /// The vector that was taken.
    pub fn vector(&self) -> Vector {
        Vector(self.vector as u8)
    }

    /// Makes the trap of INT n what it is in ring 3, where the gate forbids it: a #GP of the instruction, whose error code names
    /// the gate (Intel SDM vol. 3 §6.13).
    pub(crate) fn refuse_software_interrupt(&mut self) {
        self.error_code = self.vector << 3 | GATE;
        self.vector = Vector::GENERAL_PROTECTION.number().into();
        self.rip -= SOFTWARE_INTERRUPT_BYTES;
    }

    /// The address a page fault is about.
    pub fn fault_address(&self) -> VirtAddr {
        VirtAddr::new_truncate(self.cr2)
    }

    /// A page fault's error code in words.
    pub fn page_fault_error(&self) -> PageFaultErrorCode {
        PageFaultErrorCode::from_bits_truncate(self.error_code)
    }

    /// The interrupted code's flags in words.
    pub fn flags(&self) -> RFlags {
        RFlags::from_bits_truncate(self.rflags)
    }
}

impl fmt::Debug for TrapFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  rip {:#018x}  cs {:#06x}  rflags {:#010x}  rsp {:#018x}  ss {:#06x}",
            self.rip, self.cs, self.rflags, self.rsp, self.ss
        )?;
        let registers = [
            ["rax", "rbx", "rcx", "rdx"],
            ["rsi", "rdi", "rbp", "r8"],
            ["r9", "r10", "r11", "r12"],
            ["r13", "r14", "r15", "cr2"],
        ];
        let values = [
            [self.rax, self.rbx, self.rcx, self.rdx],
            [self.rsi, self.rdi, self.rbp, self.r8],
            [self.r9, self.r10, self.r11, self.r12],
            [self.r13, self.r14, self.r15, self.cr2],
        ];
        for (names, values) in registers.iter().zip(values) {
            for (name, value) in names.iter().zip(values) {
                write!(f, "  {name:<3} {value:#018x}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
