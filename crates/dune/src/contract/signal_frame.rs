//! The frame that a handler finds on its stack, as Linux builds it (arch/x86/kernel/signal_64.c, asm/sigcontext.h).

use core::mem::offset_of;

use crate::arch::registers::Registers;

/// `struct sigcontext_64`: the interrupted registers, which the handler may edit.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct SignalContext {
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rsp: u64,
    pub rip: u64,
    pub rflags: u64,
    pub cs: u16,
    pub gs: u16,
    pub fs: u16,
    pub ss: u16,
    pub error_code: u64,
    pub trap_number: u64,
    pub old_mask: u64,
    pub cr2: u64,
    /// Address of the vector state.
    pub vector_state: u64,
    pub reserved: [u64; 8],
}

/// `stack_t`: an alternate signal stack (sigaltstack(2)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct StackDescription {
    pub start: u64,
    /// `SS_` flags.
    pub flags: i32,
    pub padding: u32,
    pub bytes: u64,
}

/// `struct ucontext`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Ucontext {
    pub flags: u64,
    pub link: u64,
    pub stack: StackDescription,
    pub registers: SignalContext,
    pub mask: u64,
}

/// `siginfo_t`, whose layout after the first three words depends on the signal.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct SignalInfo {
    pub signal: i32,
    pub errno: i32,
    pub code: i32,
    pub padding: i32,
    pub fields: [u64; 14],
}

/// `struct rt_sigframe`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct SignalFrame {
    /// Where the handler returns to: code that calls rt_sigreturn(2).
    pub return_address: u64,
    pub context: Ucontext,
    pub info: SignalInfo,
}

const _: () = assert!(size_of::<SignalContext>() == 256);
const _: () = assert!(size_of::<Ucontext>() == 304);
const _: () = assert!(size_of::<SignalInfo>() == 128);
const _: () = assert!(size_of::<SignalFrame>() == 440);
pub(crate) const CONTEXT: u64 = offset_of!(SignalFrame, context) as u64;
pub(crate) const INFO: u64 = offset_of!(SignalFrame, info) as u64;

/// What a trap adds to the context.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TrapDetails {
    pub error_code: u64,
    pub number: u64,
    pub cr2: u64,
}

/// Flags that a handler may change (`FIX_EFLAGS` of arch/x86/kernel/signal.c).
const CHANGEABLE_FLAGS: u64 = 0x5_0dd5;
/// Selectors that Linux gives to 64-bit programs: what software that looks at them expects.
const USER_CS: u16 = 0x33;
const USER_SS: u16 = 0x2b;

impl SignalContext {
    pub(crate) fn new(from: &Registers, trap: TrapDetails, mask: u64, vector_state: u64) -> SignalContext {
        SignalContext {
            r8: from.r8,
            r9: from.r9,
            r10: from.r10,
            r11: from.r11,
            r12: from.r12,
            r13: from.r13,
            r14: from.r14,
            r15: from.r15,
            rdi: from.rdi,
            rsi: from.rsi,
            rbp: from.rbp,
            rbx: from.rbx,
            rdx: from.rdx,
            rax: from.rax,
            rcx: from.rcx,
            rsp: from.rsp,
            rip: from.rip,
            rflags: from.rflags,
            cs: USER_CS,
            gs: 0,
            fs: 0,
            ss: USER_SS,
            error_code: trap.error_code,
            trap_number: trap.number,
            old_mask: mask,
            cr2: trap.cr2,
            vector_state,
            reserved: [0; 8],
        }
    }

    /// Loads what the handler has left into `to`; selectors and the system's flags stay.
    pub(crate) fn load(&self, to: &mut Registers) {
        *to = Registers {
            rcx: self.rcx,
            r11: self.r11,
            r15: self.r15,
            r14: self.r14,
            r13: self.r13,
            r12: self.r12,
            rbp: self.rbp,
            rbx: self.rbx,
            r9: self.r9,
            r8: self.r8,
            r10: self.r10,
            rdx: self.rdx,
            rsi: self.rsi,
            rdi: self.rdi,
            rax: self.rax,
            rip: self.rip,
            cs: to.cs,
            rflags: self.rflags & CHANGEABLE_FLAGS | to.rflags & !CHANGEABLE_FLAGS,
            rsp: self.rsp,
            ss: to.ss,
        };
    }
}
