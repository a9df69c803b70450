//! Machine state around one instruction: loaded with known values before it, stored after it.
//!
//! The macro `observed` makes a function that fills every general register, the red zone, XMM or YMM registers, flags, MXCSR, x87
//! control word and an x87 value, executes its trigger, and stores all of them again. What differs was not kept.

/// All that is observed. Offsets are written out in the macro.
#[derive(Debug, Clone, PartialEq)]
#[repr(C, align(32))]
pub struct State {
    /// YMM0-15; without AVX the low half of each is used.
    pub vectors: [[u64; 4]; 16],
    /// RAX RBX RCX RDX RSI RDI RBP R8-R15.
    pub general: [u64; 15],
    /// RFLAGS.
    pub flags: u64,
    /// The 128 bytes below the stack pointer.
    pub red_zone: [u64; 16],
    /// MXCSR.
    pub mxcsr: u32,
    /// x87 control word.
    pub x87_control: u32,
    /// An x87 register as FSTP TBYTE stores it, and padding.
    pub x87: [u64; 3],
}

/// Names of [`State::general`].
pub const NAMES: [&str; 15] =
    ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

/// Bytes of a [`State`]; the state after the trigger is stored behind the one before it.
pub const SIZE: usize = size_of::<State>();

const _: () = assert!(std::mem::offset_of!(State, general) == 512);
const _: () = assert!(std::mem::offset_of!(State, flags) == 632);
const _: () = assert!(std::mem::offset_of!(State, red_zone) == 640);
const _: () = assert!(std::mem::offset_of!(State, mxcsr) == 768);
const _: () = assert!(std::mem::offset_of!(State, x87_control) == 772);
const _: () = assert!(std::mem::offset_of!(State, x87) == 776);
const _: () = assert!(SIZE == 800);

/// Carry, parity, adjust, zero, sign, direction, overflow, with interrupts on.
pub const ALL_FLAGS: u64 = 0xed7;
/// None of them.
pub const NO_FLAGS: u64 = 0x202;

impl State {
    /// Values that are unlike each other and unlike anything that is left lying around.
    pub fn pattern(flags: u64) -> State {
        let value = |kind: u64, index: usize| {
            (kind << 56 | 0x5a5a << 32 | index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        };
        let mut state = State {
            vectors: [[0; 4]; 16],
            general: std::array::from_fn(|index| value(1, index)),
            flags,
            red_zone: std::array::from_fn(|index| value(2, index)),
            // Rounding towards zero, all exceptions masked; not the default 0x1f80.
            mxcsr: 0x7f80,
            // Double precision; not the default 0x37f.
            x87_control: 0x027f,
            x87: [0; 3],
        };
        for (index, lane) in state.vectors.as_flattened_mut().iter_mut().enumerate() {
            *lane = value(3, index);
        }
        state
    }

    /// What differs in `after`, but for the general registers named in `lost`.
    pub fn differences(&self, after: &State, lanes: usize, lost: &[&str]) -> Vec<String> {
        let mut found = Vec::new();
        let mut check = |name: String, before: u64, after: u64| {
            if before != after {
                found.push(format!("{name}: {before:#x} became {after:#x}"));
            }
        };
        for ((name, before), after) in NAMES.iter().zip(self.general).zip(after.general) {
            if !lost.contains(name) {
                check((*name).to_string(), before, after);
            }
        }
        for (index, (before, after)) in self.vectors.iter().zip(after.vectors).enumerate() {
            for lane in 0..lanes {
                check(format!("vector register {index} lane {lane}"), before[lane], after[lane]);
            }
        }
        for (index, (before, after)) in self.red_zone.iter().zip(after.red_zone).enumerate() {
            check(format!("red zone word {index}"), *before, after);
        }
        check("flags".into(), self.flags, after.flags);
        check("mxcsr".into(), self.mxcsr.into(), after.mxcsr.into());
        check("x87 control word".into(), self.x87_control.into(), after.x87_control.into());
        // What FLDPI loads, whatever the precision is.
        check("x87 value, low".into(), 0xc90f_daa2_2168_c235, after.x87[0]);
        check("x87 value, high".into(), 0x4000, after.x87[1] & 0xffff);
        found
    }
}

/// Makes `unsafe extern "C" fn NAME(states: *mut [State; 2])`: loads the first, executes the trigger, stores the
/// second. The vector instructions are given as `"movdqu", "xmm"` or `"vmovdqu", "ymm"`.
macro_rules! observed {
    ($name:ident, $move:literal, $register:literal, $($trigger:literal),+) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name(states: *mut [crate::observe::State; 2]) {
            // ABI: System V. Keeps callee-saved registers, MXCSR and the x87 control word on the stack, above the
            // observed red zone.
            std::arch::naked_asm!(
                "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
                "sub rsp, 24",
                "stmxcsr [rsp + 16]",
                "fnstcw [rsp + 20]",
                "mov [rsp], rdi",
                "fninit",
                "ldmxcsr [rdi + 768]",
                "fldcw [rdi + 772]",
                "fldpi",
                concat!($move, " ", $register, "0, [rdi]"), concat!($move, " ", $register, "1, [rdi + 32]"),
                concat!($move, " ", $register, "2, [rdi + 64]"), concat!($move, " ", $register, "3, [rdi + 96]"),
                concat!($move, " ", $register, "4, [rdi + 128]"), concat!($move, " ", $register, "5, [rdi + 160]"),
                concat!($move, " ", $register, "6, [rdi + 192]"), concat!($move, " ", $register, "7, [rdi + 224]"),
                concat!($move, " ", $register, "8, [rdi + 256]"), concat!($move, " ", $register, "9, [rdi + 288]"),
                concat!($move, " ", $register, "10, [rdi + 320]"), concat!($move, " ", $register, "11, [rdi + 352]"),
                concat!($move, " ", $register, "12, [rdi + 384]"), concat!($move, " ", $register, "13, [rdi + 416]"),
                concat!($move, " ", $register, "14, [rdi + 448]"), concat!($move, " ", $register, "15, [rdi + 480]"),
                // The flags before the red zone, as POPFQ needs the stack; MOV changes no flag.
                "push qword ptr [rdi + 632]",
                "popfq",
                ".irp word, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                "mov rax, [rdi + 640 + 8 * \\word]",
                "mov [rsp - 128 + 8 * \\word], rax",
                ".endr",
                "mov rax, [rdi + 512]", "mov rbx, [rdi + 520]", "mov rcx, [rdi + 528]", "mov rdx, [rdi + 536]",
                "mov rsi, [rdi + 544]", "mov rbp, [rdi + 560]", "mov r8, [rdi + 568]", "mov r9, [rdi + 576]",
                "mov r10, [rdi + 584]", "mov r11, [rdi + 592]", "mov r12, [rdi + 600]", "mov r13, [rdi + 608]",
                "mov r14, [rdi + 616]", "mov r15, [rdi + 624]", "mov rdi, [rdi + 552]",
                $($trigger,)+
                "mov [rsp + 8], rdi",
                "mov rdi, [rsp]",
                "mov [rdi + 800 + 512], rax", "mov [rdi + 800 + 520], rbx", "mov [rdi + 800 + 528], rcx",
                "mov [rdi + 800 + 536], rdx", "mov [rdi + 800 + 544], rsi", "mov [rdi + 800 + 560], rbp",
                "mov [rdi + 800 + 568], r8", "mov [rdi + 800 + 576], r9", "mov [rdi + 800 + 584], r10",
                "mov [rdi + 800 + 592], r11", "mov [rdi + 800 + 600], r12", "mov [rdi + 800 + 608], r13",
                "mov [rdi + 800 + 616], r14", "mov [rdi + 800 + 624], r15",
                "mov rax, [rsp + 8]",
                "mov [rdi + 800 + 552], rax",
                ".irp word, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                "mov rax, [rsp - 128 + 8 * \\word]",
                "mov [rdi + 800 + 640 + 8 * \\word], rax",
                ".endr",
                "pushfq",
                "pop qword ptr [rdi + 800 + 632]",
                "cld",
                concat!($move, " [rdi + 800], ", $register, "0"), concat!($move, " [rdi + 832], ", $register, "1"),
                concat!($move, " [rdi + 864], ", $register, "2"), concat!($move, " [rdi + 896], ", $register, "3"),
                concat!($move, " [rdi + 928], ", $register, "4"), concat!($move, " [rdi + 960], ", $register, "5"),
                concat!($move, " [rdi + 992], ", $register, "6"), concat!($move, " [rdi + 1024], ", $register, "7"),
                concat!($move, " [rdi + 1056], ", $register, "8"), concat!($move, " [rdi + 1088], ", $register, "9"),
                concat!($move, " [rdi + 1120], ", $register, "10"), concat!($move, " [rdi + 1152], ", $register, "11"),
                concat!($move, " [rdi + 1184], ", $register, "12"), concat!($move, " [rdi + 1216], ", $register, "13"),
                concat!($move, " [rdi + 1248], ", $register, "14"), concat!($move, " [rdi + 1280], ", $register, "15"),
                "stmxcsr [rdi + 800 + 768]",
                "mov dword ptr [rdi + 800 + 772], 0",
                "fnstcw [rdi + 800 + 772]",
                "fstp tbyte ptr [rdi + 800 + 776]",
                "fninit",
                "ldmxcsr [rsp + 16]",
                "fldcw [rsp + 20]",
                "add rsp, 24",
                "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
                "ret",
            )
        }
    };
}
pub(crate) use observed;
