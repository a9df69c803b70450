//! What a handler sees of the interrupted code.

use core::fmt;
use core::marker::PhantomData;
use core::mem::offset_of;

use x86_64::VirtAddr;
use x86_64::registers::rflags::RFlags;
use x86_64::structures::idt::PageFaultErrorCode;

use super::vector::Vector;

/// The general registers of interrupted code, without the stack pointer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the registers' names say what they are")]
pub struct GeneralRegisters {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
}

/// What the assembly and the CPU have pushed: the words of a [`TrapFrame`].
#[derive(Debug)]
#[repr(C)]
pub(crate) struct FrameWords {
    pub registers: GeneralRegisters,
    pub cr2: u64,
    ring3_gs: u64,
    pub vector: u64,
    pub error_code: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// The state of the code that a trap interrupted at ring 0.
///
/// The interrupted code goes on with what stands here when the handler returns. A handler can read all of it; what changes it is
/// `unsafe`, since the interrupted code may be anything: safe code of a function that has a value in that register.
///
/// A frame is a place on an interrupt stack, and no value of its own: where one trap comes during the handler of another there are two
/// frames, and [`core::mem::swap`] of the two references' targets does nothing. (To Rust its size is 0.)
///
/// Assembly finds its parts at [`RIP`](TrapFrame::RIP) and the other constants.
#[repr(C)]
pub struct TrapFrame {
    place: [FrameWords; 0],
    /// A frame belongs to the thread that took the trap.
    not_send: PhantomData<*mut ()>,
}

const _: () = assert!(size_of::<TrapFrame>() == 0 && align_of::<TrapFrame>() == align_of::<FrameWords>());

// The assembly pushes in this order, and calls handlers with the stack pointer at the frame: its size has to keep
// the ABI's 16-byte alignment, as the CPU aligned the stack before its five (or six) words.
const _: () = assert!(size_of::<FrameWords>() == 24 * 8);
const _: () = assert!(offset_of!(FrameWords, registers.rdi) == 14 * 8);
const _: () = assert!(offset_of!(FrameWords, vector) == 17 * 8);

// Offsets for the assembly beside those of `TrapFrame`.
pub(crate) const RING3_GS: usize = offset_of!(FrameWords, ring3_gs);
pub(crate) const VECTOR: usize = offset_of!(FrameWords, vector);

/// In an error code that names a gate or segment: that of the IDT (Intel SDM vol. 3 §6.13).
pub(crate) const GATE: u64 = 2;
/// The length of INT n.
pub(crate) const SOFTWARE_INTERRUPT_BYTES: u64 = 2;

impl TrapFrame {
    /// Where assembly finds [`rip`](TrapFrame::rip), in bytes from the frame.
    pub const RIP: usize = offset_of!(FrameWords, rip);
    /// Where assembly finds [`rsp`](TrapFrame::rsp).
    pub const RSP: usize = offset_of!(FrameWords, rsp);
    /// Where assembly finds [`flags`](TrapFrame::flags).
    pub const RFLAGS: usize = offset_of!(FrameWords, rflags);
    /// Where assembly finds the address that a page fault is about.
    pub const CR2: usize = offset_of!(FrameWords, cr2);
    /// Where assembly finds the [`registers`](TrapFrame::registers); the offset of one among them comes on top.
    pub const REGISTERS: usize = offset_of!(FrameWords, registers);

    /// What stands there.
    #[inline(always)]
    pub(crate) fn words(&self) -> &FrameWords {
        // SAFETY: trap.S alone makes references to frames, each to the words that it has pushed (no value of this type can be made, and a
        // reference to a place inside of no frame would need one); the stack they are on has been exposed. They live as long as the
        // reference, and nobody else has one.
        unsafe { &*core::ptr::with_exposed_provenance(core::ptr::from_ref(self).addr()) }
    }

    /// What stands there, to be changed.
    #[inline(always)]
    pub(crate) fn words_mut(&mut self) -> &mut FrameWords {
        // SAFETY: as for `words`; and this reference is exclusive.
        unsafe { &mut *core::ptr::with_exposed_provenance_mut(core::ptr::from_mut(self).addr()) }
    }

    /// The vector that was taken.
    pub fn vector(&self) -> Vector {
        Vector(self.words().vector as u8)
    }

    /// The general registers of the interrupted code.
    pub fn registers(&self) -> &GeneralRegisters {
        &self.words().registers
    }

    /// The general registers, to be changed.
    ///
    /// # Safety
    ///
    /// The interrupted code expects the change, as assembly does that declares the register as an output of the instruction that
    /// traps. Any other code has its own values there, references among them.
    pub unsafe fn registers_mut(&mut self) -> &mut GeneralRegisters {
        &mut self.words_mut().registers
    }

    /// Where the interrupted code goes on: the faulting instruction for faults, the next one for traps.
    pub fn rip(&self) -> u64 {
        self.words().rip
    }

    /// Has the interrupted code go on at `rip`.
    ///
    /// # Safety
    ///
    /// There is code which may be jumped to from where the interrupted code stands, with its registers, stack and flags.
    pub unsafe fn set_rip(&mut self, rip: u64) {
        self.words_mut().rip = rip;
    }

    /// The stack pointer of the interrupted code.
    pub fn rsp(&self) -> u64 {
        self.words().rsp
    }

    /// Gives the interrupted code another stack pointer.
    ///
    /// # Safety
    ///
    /// The code at [`rip`](TrapFrame::rip) finds there what it needs, its red zone included.
    pub unsafe fn set_rsp(&mut self, rsp: u64) {
        self.words_mut().rsp = rsp;
    }

    /// The interrupted code's flags.
    pub fn flags(&self) -> RFlags {
        RFlags::from_bits_retain(self.words().rflags)
    }

    /// Gives the interrupted code other flags. IOPL stays 0, by which the entry of system calls tells ring 0 from ring 3.
    ///
    /// # Safety
    ///
    /// The interrupted code expects the change: the direction flag as the ABI wants it, a single step that has a handler.
    pub unsafe fn set_flags(&mut self, flags: RFlags) {
        self.words_mut().rflags = (flags - (RFlags::IOPL_LOW | RFlags::IOPL_HIGH)).bits();
    }

    /// The code selector of the interrupted code: ring 0's.
    pub fn cs(&self) -> u64 {
        self.words().cs
    }

    /// The stack selector of the interrupted code: ring 0's.
    pub fn ss(&self) -> u64 {
        self.words().ss
    }

    /// The CPU's error code, 0 for vectors without one (Intel SDM vol. 3 §6.13).
    pub fn error_code(&self) -> u64 {
        self.words().error_code
    }

    /// Makes the trap of INT n what it is in ring 3, where the gate forbids it: a #GP of the instruction, whose error code names
    /// the gate (Intel SDM vol. 3 §6.13).
    pub(crate) fn refuse_software_interrupt(&mut self) {
        self.words_mut().error_code = self.words().vector << 3 | GATE;
        self.words_mut().vector = Vector::GENERAL_PROTECTION.number().into();
        self.words_mut().rip -= SOFTWARE_INTERRUPT_BYTES;
    }

    /// The address a page fault is about, read before anything else could fault. Without meaning for other vectors.
    pub fn fault_address(&self) -> VirtAddr {
        VirtAddr::new_truncate(self.words().cr2)
    }

    /// A page fault's error code in words.
    pub fn page_fault_error(&self) -> PageFaultErrorCode {
        PageFaultErrorCode::from_bits_truncate(self.words().error_code)
    }
}

impl fmt::Debug for TrapFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  rip {:#018x}  cs {:#06x}  rflags {:#010x}  rsp {:#018x}  ss {:#06x}",
            self.words().rip,
            self.words().cs,
            self.words().rflags,
            self.words().rsp,
            self.words().ss
        )?;
        let registers = [
            ["rax", "rbx", "rcx", "rdx"],
            ["rsi", "rdi", "rbp", "r8"],
            ["r9", "r10", "r11", "r12"],
            ["r13", "r14", "r15", "cr2"],
        ];
        let GeneralRegisters { rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, .. } = self.words().registers;
        let GeneralRegisters { r11, r12, r13, r14, r15, .. } = self.words().registers;
        let values = [
            [rax, rbx, rcx, rdx],
            [rsi, rdi, rbp, r8],
            [r9, r10, r11, r12],
            [r13, r14, r15, self.words().cr2],
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
