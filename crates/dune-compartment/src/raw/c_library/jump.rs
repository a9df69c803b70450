//! setjmp(3) and longjmp(3), which know of no shadow stack and no signal mask.

use std::arch::naked_asm;

/// The words of a `jmp_buf` that are used; glibc's has 25.
///
/// ABI: `_setjmp(rdi: buffer) -> eax: 0`, or what `longjmp(rdi: buffer, esi: value)` says, which is 1 for 0. The buffer keeps RBX, RBP,
/// R12 to R15, RSP as it is after the return, and the address to return to.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn setjmp() {
    naked_asm!(
        "mov [rdi], rbx",
        "mov [rdi + 8], rbp",
        "mov [rdi + 16], r12",
        "mov [rdi + 24], r13",
        "mov [rdi + 32], r14",
        "mov [rdi + 40], r15",
        "lea rdx, [rsp + 8]",
        "mov [rdi + 48], rdx",
        "mov rdx, [rsp]",
        "mov [rdi + 56], rdx",
        "xor eax, eax",
        "ret",
    )
}

/// See [`setjmp`].
#[unsafe(naked)]
pub(super) unsafe extern "C" fn longjmp() {
    naked_asm!(
        "mov eax, esi",
        "cmp eax, 1",
        "adc eax, 0",
        "mov rbx, [rdi]",
        "mov rbp, [rdi + 8]",
        "mov r12, [rdi + 16]",
        "mov r13, [rdi + 24]",
        "mov r14, [rdi + 32]",
        "mov r15, [rdi + 40]",
        "mov rsp, [rdi + 48]",
        "jmp qword ptr [rdi + 56]",
    )
}
