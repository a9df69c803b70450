//! What the assembly of both entries, traps and system calls, has in common.

/// Assembles `file` of this folder behind macros.S, with the constants that both entries use and those that follow.
macro_rules! entry_asm {
    ($file:literal, $($operand:tt)*) => {
        core::arch::global_asm!(
            concat!(include_str!("macros.S"), include_str!($file)),
            VECTOR_AREA_SIZE = const $crate::guest::block::VECTOR_AREA_SIZE,
            VECTOR_MASK = const $crate::guest::block::VECTOR_MASK,
            HAS_XSAVE = const $crate::guest::block::HAS_XSAVE,
            USER_CONTEXT = const $crate::guest::block::USER_CONTEXT,
            USER_RETURN_RSP = const $crate::guest::block::USER_RETURN_RSP,
            USER_LEAVE = const $crate::guest::block::USER_LEAVE,
            USER_RAX = const $crate::user::context::offsets::RAX,
            USER_RBX = const $crate::user::context::offsets::RBX,
            USER_RDX = const $crate::user::context::offsets::RDX,
            USER_RSI = const $crate::user::context::offsets::RSI,
            USER_RDI = const $crate::user::context::offsets::RDI,
            USER_RBP = const $crate::user::context::offsets::RBP,
            USER_R8 = const $crate::user::context::offsets::R8,
            USER_R9 = const $crate::user::context::offsets::R9,
            USER_R10 = const $crate::user::context::offsets::R10,
            USER_R11 = const $crate::user::context::offsets::R11,
            USER_R12 = const $crate::user::context::offsets::R12,
            USER_R13 = const $crate::user::context::offsets::R13,
            USER_R14 = const $crate::user::context::offsets::R14,
            USER_R15 = const $crate::user::context::offsets::R15,
            USER_RIP = const $crate::user::context::offsets::RIP,
            USER_RFLAGS = const $crate::user::context::offsets::RFLAGS,
            USER_RSP = const $crate::user::context::offsets::RSP,
            STACK_LEVEL = const $crate::guest::stacks::LEVEL,
            $($operand)*
        );
    };
}
pub(super) use entry_asm;
