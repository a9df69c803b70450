//! All registers of ring-0 code that is to go on later: after a system call, or after a signal handler.

use core::mem::offset_of;

use super::descriptors::{RING0_CODE, RING0_DATA};
use super::frame::{FrameWords, GeneralRegisters, TrapFrame};

/// The integer registers, in the order in which syscall.S pushes them; the last five are what IRETQ takes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Registers {
    pub rcx: u64,
    pub r11: u64,
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r9: u64,
    pub r8: u64,
    pub r10: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// In a system call the number, then the result.
    pub rax: u64,
    /// Where the code goes on.
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

const _: () = assert!(size_of::<Registers>() == 20 * 8, "as many as syscall.S pushes, and 16-byte aligned");
const _: () = assert!(offset_of!(Registers, rip) == 15 * 8);

/// RFLAGS.TF (Intel SDM vol. 1 §3.4.3.3).
pub(crate) const TRAP_FLAG: u64 = 1 << 8;
/// RFLAGS.IF (Intel SDM vol. 1 §3.4.3.3).
pub(crate) const INTERRUPT_FLAG: u64 = 1 << 9;
/// RFLAGS.IOPL.
pub(crate) const IOPL: u64 = 3 << 12;

impl Registers {
    /// The general registers by their numbers in instructions (Intel SDM vol. 2 table 2-2).
    pub(crate) fn by_number(&mut self) -> [&mut u64; 16] {
        let Registers {
            rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15, ..
        } = self;
        [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15]
    }

    /// The arguments of a system call in the order of the ABI.
    pub(crate) fn arguments(&self) -> [u64; 6] {
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9]
    }

    /// Those of the code that `frame` interrupted.
    pub(crate) fn of_trap(frame: &TrapFrame) -> Registers {
        let GeneralRegisters { r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi } =
            frame.words().registers;
        let FrameWords { rip, rflags, rsp, .. } = *frame.words();
        let (cs, ss) = (RING0_CODE.into(), RING0_DATA.into());
        Registers {
            rcx,
            r11,
            r15,
            r14,
            r13,
            r12,
            rbp,
            rbx,
            r9,
            r8,
            r10,
            rdx,
            rsi,
            rdi,
            rax,
            rip,
            cs,
            rflags,
            rsp,
            ss,
        }
    }

    /// Makes the interrupted code of `frame` go on with these.
    pub(crate) fn store_to(&self, frame: &mut TrapFrame) {
        let Registers { rcx, r11, r15, r14, r13, r12, rbp, rbx, r9, r8, r10, rdx, rsi, rdi, rax, .. } = *self;
        let Registers { rip, rflags, rsp, .. } = *self;
        let words = frame.words_mut();
        words.registers =
            GeneralRegisters { r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi };
        (words.rip, words.rflags, words.rsp) = (rip, rflags, rsp);
    }
}

/// Vector state beside the registers: an XSAVE area of the thread's size, or an FXSAVE area.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(crate) struct VectorArea(*mut u8);

impl VectorArea {
    /// The area of `size` bytes that KEEP_VECTOR_STATE (macros.S) makes below `stack_pointer`.
    pub(crate) fn below(stack_pointer: u64, size: u64) -> VectorArea {
        VectorArea(((stack_pointer - size) & !63) as *mut u8)
    }

    /// Where it starts; aligned to 64 bytes.
    pub(crate) fn as_mut_ptr(self) -> *mut u8 {
        self.0
    }
}
