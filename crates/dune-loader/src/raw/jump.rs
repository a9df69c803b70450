//! The jump into the program.

use std::arch::{is_x86_feature_detected, naked_asm};
use std::mem::offset_of;

use crate::stack::Stack;

/// A vector state like that of a new process, for XRSTOR or FXRSTOR (Intel SDM vol. 1 §10.5.1, §13.4): the header says that all
/// components are in their initial configuration.
#[derive(Debug)]
#[repr(C, align(64))]
struct VectorState {
    control_word: u16,
    legacy: [u8; 22],
    mxcsr: u32,
    rest: [u8; 548],
}

const _: () = assert!(size_of::<VectorState>() == 576 && offset_of!(VectorState, mxcsr) == 24);

/// Everything the jump needs, outside of the stack.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Jump {
    bytes: *const u8,
    length: u64,
    rsp: u64,
    entry: u64,
    has_xsave: u64,
    vectors: VectorState,
}

impl Jump {
    /// Prepares the jump to `entry` with `stack`.
    pub(crate) fn prepare(stack: Stack, entry: u64) -> Box<Jump> {
        let bytes = stack.bytes.leak();
        Box::new(Jump {
            bytes: bytes.as_ptr(),
            length: bytes.len() as u64,
            rsp: stack.rsp,
            entry,
            has_xsave: is_x86_feature_detected!("xsave").into(),
            vectors: VectorState { control_word: 0x37f, legacy: [0; 22], mxcsr: 0x1f80, rest: [0; 548] },
        })
    }

    /// Jumps. The launcher has ended.
    pub(crate) fn now(self: Box<Jump>) -> ! {
        // SAFETY: 1. the stack's bytes and the value are outside of the stack and never freed; 2. the range from `rsp` up belongs to
        // the stack, and only frames that nobody returns to lie in it; 3. the process has one thread, whose program is over.
        unsafe { jump(Box::into_raw(self)) }
    }
}

/// Copies the stack to its place and starts the program: RSP at argc, all other registers and the FS base zero, flags clear but for
/// the interrupt flag, vector state initial (System V ABI, AMD64 Architecture Processor Supplement §3.4.1; Linux's ELF_PLAT_INIT).
///
/// # Safety
///
/// As in [`Jump::now`].
#[unsafe(naked)]
unsafe extern "C" fn jump(jump: *const Jump) -> ! {
    // ABI: System V in, a new process's out. Works at ring 3 and, where SYSCALL reaches Dune's own entry, at ring 0.
    naked_asm!(
        "mov rbx, rdi",
        "mov rsp, [rbx + {RSP}]",
        "cld",
        "mov rsi, [rbx + {BYTES}]",
        "mov rcx, [rbx + {LENGTH}]",
        "mov rdi, rsp",
        "rep movsb",
        "mov eax, {ARCH_PRCTL}",
        "mov edi, {ARCH_SET_FS}",
        "xor esi, esi",
        "syscall",
        "cmp qword ptr [rbx + {HAS_XSAVE}], 0",
        "je 2f",
        // All components but the protection keys' rights (9), which Linux does not start with zero.
        "mov eax, 0xfffffdff",
        "mov edx, 0xffffffff",
        "xrstor64 [rbx + {VECTORS}]",
        "jmp 3f",
        "2:",
        "fxrstor64 [rbx + {VECTORS}]",
        "3:",
        "push qword ptr [rbx + {ENTRY}]",
        "xor eax, eax",
        "xor ebx, ebx",
        "xor ecx, ecx",
        "xor edx, edx",
        "xor esi, esi",
        "xor edi, edi",
        "xor ebp, ebp",
        "xor r8d, r8d",
        "xor r9d, r9d",
        "xor r10d, r10d",
        "xor r11d, r11d",
        "xor r12d, r12d",
        "xor r13d, r13d",
        "xor r14d, r14d",
        "xor r15d, r15d",
        "push 0x202",
        "popfq",
        "ret",
        RSP = const offset_of!(Jump, rsp),
        BYTES = const offset_of!(Jump, bytes),
        LENGTH = const offset_of!(Jump, length),
        ENTRY = const offset_of!(Jump, entry),
        HAS_XSAVE = const offset_of!(Jump, has_xsave),
        VECTORS = const offset_of!(Jump, vectors),
        ARCH_PRCTL = const 158,
        ARCH_SET_FS = const 0x1002,
    )
}
