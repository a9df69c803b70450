// Shared by the entry stubs of trap.S and syscall.S, which the compiler may or may not give to the same assembler run.
    .ifndef dune_macros_defined
    .set dune_macros_defined, 1

// Keeps the vector state (x87, SSE, AVX… as far as XCR0 goes) of interrupted code under the stack pointer and
// gives Rust the state that the ABI promises to a function.
// In: nothing. Clobbers rax, rcx, rdx, rsp, flags. rbx must hold the stack pointer to return to.
.macro KEEP_VECTOR_STATE
    sub rsp, gs:[{VECTOR_AREA_SIZE}]
    and rsp, -64
    cmp qword ptr gs:[{HAS_XSAVE}], 0
    je 771f
    // XSAVE leaves most of its header alone and XRSTOR wants zeros there (Intel SDM vol. 1 §13.4.2).
    xor eax, eax
    mov [rsp + 512], rax
    mov [rsp + 520], rax
    mov [rsp + 528], rax
    mov [rsp + 536], rax
    mov [rsp + 544], rax
    mov [rsp + 552], rax
    mov [rsp + 560], rax
    mov [rsp + 568], rax
    mov eax, gs:[{VECTOR_MASK}]
    mov edx, gs:[{VECTOR_MASK} + 4]
    xsave64 [rsp]
    jmp 772f
771:
    fxsave64 [rsp]
772:
    fninit
    ldmxcsr [rip + dune_default_mxcsr]
.endm

// Undoes KEEP_VECTOR_STATE, the area being at the stack pointer. Clobbers rax, rdx, flags.
.macro RESTORE_VECTOR_STATE
    cmp qword ptr gs:[{HAS_XSAVE}], 0
    je 773f
    mov eax, gs:[{VECTOR_MASK}]
    mov edx, gs:[{VECTOR_MASK} + 4]
    xrstor64 [rsp]
    jmp 774f
773:
    fxrstor64 [rsp]
774:
.endm
    .endif
