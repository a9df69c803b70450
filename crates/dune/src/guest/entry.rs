//! What the assembly of both entries, traps and system calls, has in common.

/// Assembles `file` of this folder behind the engine's exit and macros.S, with the constants that both entries use and those that follow.
macro_rules! entry_asm {
    ($file:literal, $($operand:tt)*) => {
        core::arch::global_asm!(
            concat!(
                "    .ifndef dune_exit_defined\n    .set dune_exit_defined, 1\n",
                ".macro EXIT_TO_HOST_LOOP\n    ",
                $crate::engine::exit_instruction!(),
                "\n.endm\n    .endif\n",
                include_str!("macros.S"),
                include_str!($file)
            ),
            VECTOR_AREA_SIZE = const $crate::contract::block::VECTOR_AREA_SIZE,
            VECTOR_MASK = const $crate::contract::block::VECTOR_MASK,
            HAS_XSAVE = const $crate::contract::block::HAS_XSAVE,
            USER_CONTEXT = const $crate::contract::block::USER_CONTEXT,
            USER_RETURN_RSP = const $crate::contract::block::USER_RETURN_RSP,
            USER_LEAVE = const $crate::contract::block::USER_LEAVE,
            USER_RAX = const $crate::arch::user_context::offsets::RAX,
            USER_RBX = const $crate::arch::user_context::offsets::RBX,
            USER_RDX = const $crate::arch::user_context::offsets::RDX,
            USER_RSI = const $crate::arch::user_context::offsets::RSI,
            USER_RDI = const $crate::arch::user_context::offsets::RDI,
            USER_RBP = const $crate::arch::user_context::offsets::RBP,
            USER_R8 = const $crate::arch::user_context::offsets::R8,
            USER_R9 = const $crate::arch::user_context::offsets::R9,
            USER_R10 = const $crate::arch::user_context::offsets::R10,
            USER_R11 = const $crate::arch::user_context::offsets::R11,
            USER_R12 = const $crate::arch::user_context::offsets::R12,
            USER_R13 = const $crate::arch::user_context::offsets::R13,
            USER_R14 = const $crate::arch::user_context::offsets::R14,
            USER_R15 = const $crate::arch::user_context::offsets::R15,
            USER_RIP = const $crate::arch::user_context::offsets::RIP,
            USER_RFLAGS = const $crate::arch::user_context::offsets::RFLAGS,
            USER_RSP = const $crate::arch::user_context::offsets::RSP,
            STACK_LEVEL = const $crate::guest::stacks::LEVEL,
            $($operand)*
        );
    };
}
pub(super) use entry_asm;
