//! memcpy, memmove and memset that need nothing but what they are given.

/// Defines `memcpy`, `memmove` and `memset` for the whole program. For the root of a program whose compartments copy more than some
/// hundred bytes at once.
///
/// The C library's read variables of its own from some size on (glibc: `__x86_shared_non_temporal_threshold`), which compartments do not
/// have: there such a copy is a [`CallError::Fault`](crate::CallError::Fault). The compiler makes such copies for large values, too.
///
/// These use the CPU's string instructions for more than 32 bytes, which CPUs since 2013 execute fast (ERMS).
///
/// ```
/// dune_compartment::memory_functions!();
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! memory_functions {
    () => {
        ::core::arch::global_asm!(
            "    .section .text.dune_memory_functions, \"ax\", @progbits",
            "    .globl memcpy",
            "    .type memcpy, @function",
            "    .globl memmove",
            "    .type memmove, @function",
            "memcpy:",
            "memmove:",
            "    jmp dune_compartment_memcpy",
            "    .size memcpy, . - memcpy",
            "    .size memmove, . - memmove",
            "    .globl memset",
            "    .type memset, @function",
            "memset:",
            "    jmp dune_compartment_memset",
            "    .size memset, . - memset",
            "    .text",
        );
    };
}

std::arch::global_asm!(
    "    .section .text.dune_memory_functions, \"ax\", @progbits",
    // memcpy and memmove: (rdi: to, rsi: from, rdx: bytes) -> rax: to. ABI: System V, xmm0, xmm1 and rcx, rdx, rsi, rdi, r8
    // change. Up to 32 bytes are all loaded before any is stored.
    "    .p2align 5",
    "    .globl dune_compartment_memcpy",
    "    .hidden dune_compartment_memcpy",
    "    .type dune_compartment_memcpy, @function",
    "dune_compartment_memcpy:",
    "    mov rax, rdi",
    "    cmp rdx, 16",
    "    jb 2f",
    "    cmp rdx, 32",
    "    ja 6f",
    "    movups xmm0, [rsi]",
    "    movups xmm1, [rsi + rdx - 16]",
    "    movups [rdi], xmm0",
    "    movups [rdi + rdx - 16], xmm1",
    "    ret",
    "2:  cmp edx, 8",
    "    jb 3f",
    "    mov rcx, [rsi]",
    "    mov r8, [rsi + rdx - 8]",
    "    mov [rdi], rcx",
    "    mov [rdi + rdx - 8], r8",
    "    ret",
    "3:  cmp edx, 4",
    "    jb 4f",
    "    mov ecx, [rsi]",
    "    mov r8d, [rsi + rdx - 4]",
    "    mov [rdi], ecx",
    "    mov [rdi + rdx - 4], r8d",
    "    ret",
    "4:  test edx, edx",
    "    jz 5f",
    // One to three bytes: the first, the middle one, the last.
    "    mov r8, rdx",
    "    shr r8, 1",
    "    movzx ecx, byte ptr [rsi]",
    "    movzx r9d, byte ptr [rsi + r8]",
    "    movzx r10d, byte ptr [rsi + rdx - 1]",
    "    mov [rdi], cl",
    "    mov [rdi + r8], r9b",
    "    mov [rdi + rdx - 1], r10b",
    "5:  ret",
    "6:  mov r8, rdi",
    "    sub r8, rsi",
    "    cmp r8, rdx",
    "    jb 7f",
    "    mov rcx, rdx",
    "    shr rcx, 3",
    "    and edx, 7",
    "    rep movsq",
    "    mov ecx, edx",
    "    rep movsb",
    "    ret",
    // The end of what is copied from lies where it is copied to: backwards.
    "7:  lea rdi, [rdi + rdx - 1]",
    "    lea rsi, [rsi + rdx - 1]",
    "    mov ecx, edx",
    "    and ecx, 7",
    "    std",
    "    rep movsb",
    "    sub rdi, 7",
    "    sub rsi, 7",
    "    mov rcx, rdx",
    "    shr rcx, 3",
    "    rep movsq",
    "    cld",
    "    ret",
    "    .size dune_compartment_memcpy, . - dune_compartment_memcpy",
    "    .size dune_compartment_memmove, . - dune_compartment_memmove",
    // memset: (rdi: to, esi: byte, rdx: bytes) -> rax: to. ABI: System V, rcx, rdx, rdi and r8 change.
    "    .p2align 5",
    "    .globl dune_compartment_memset",
    "    .hidden dune_compartment_memset",
    "    .type dune_compartment_memset, @function",
    "dune_compartment_memset:",
    "    mov r8, rdi",
    "    movzx eax, sil",
    "    mov rcx, 0x0101010101010101",
    "    imul rax, rcx",
    "    mov rcx, rdx",
    "    shr rcx, 3",
    "    and edx, 7",
    "    rep stosq",
    "    mov ecx, edx",
    "    rep stosb",
    "    mov rax, r8",
    "    ret",
    "    .size dune_compartment_memset, . - dune_compartment_memset",
    "    .text",
);

#[cfg(test)]
mod tests {
    memory_functions!();

    unsafe extern "C" {
        fn memcpy(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8;
        fn memmove(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8;
        fn memset(to: *mut u8, byte: i32, bytes: usize) -> *mut u8;
    }

    const LENGTHS: [usize; 22] =
        [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 39, 40, 41, 63, 64, 100, 700];

    fn numbers() -> Vec<u8> {
        (0..3000u32).map(|index| (index * 7 % 251) as u8).collect()
    }

    #[test]
    fn copies_are_those_of_the_standard_library() {
        for length in LENGTHS {
            for (from, to) in [(100, 900), (101, 907), (5, 1000)] {
                let before = numbers();
                let mut expected = before.clone();
                (0..length).for_each(|index| expected[to + index] = before[from + index]);
                let mut bytes = before.clone();
                let start = bytes.as_mut_ptr();
                // SAFETY: both ranges are in the vector, and apart.
                let returned = unsafe { memcpy(start.add(to), start.add(from), length) };
                assert_eq!(returned, start.wrapping_add(to));
                assert!(bytes == expected, "{length} bytes from {from} to {to}");
            }
        }
    }

    #[test]
    fn moves_may_overlap() {
        for length in LENGTHS {
            for distance in [1, 2, 3, 7, 8, 9, 16, 33, 699] {
                for (from, to) in [(800, 800 + distance), (800, 800 - distance), (800, 800)] {
                    let before = numbers();
                    let mut expected = before.clone();
                    (0..length).for_each(|index| expected[to + index] = before[from + index]);
                    let mut bytes = before.clone();
                    let start = bytes.as_mut_ptr();
                    // SAFETY: both ranges are in the vector.
                    let returned = unsafe { memmove(start.add(to), start.add(from), length) };
                    assert_eq!(returned, start.wrapping_add(to));
                    assert!(bytes == expected, "{length} bytes from {from} to {to}");
                }
            }
        }
    }

    #[test]
    fn sets_are_those_of_the_standard_library() {
        for length in LENGTHS {
            for value in [0i32, 0xa5, 0x1ff] {
                let mut expected = numbers();
                (0..length).for_each(|index| expected[300 + index] = value as u8);
                let mut bytes = numbers();
                let start = bytes.as_mut_ptr();
                // SAFETY: the range is in the vector.
                let returned = unsafe { memset(start.add(300), value, length) };
                assert_eq!(returned, start.wrapping_add(300));
                assert!(bytes == expected, "{length} bytes of {value:#x}");
            }
        }
    }
}
