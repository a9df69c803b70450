// Into ring 3 and back.

    .section .text.dune_user, "ax", @progbits

// dune_user_enter: (context: rdi: *mut UserContext's registers) -> eax: EXIT_SYSCALL or EXIT_TRAP
// ABI: System V. Returns when the ring-3 code makes a system call or takes a trap; dune_syscall_from_ring3 and
// dune_trap_from_ring3 have then stored its registers. Keeps callee-saved registers, flags, MXCSR, the x87 control
// word, the FS base and, for nested use, the pointers of an outer call.
    .balign 64
    .globl dune_user_enter
    .hidden dune_user_enter
    .type dune_user_enter, @function
dune_user_enter:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    pushfq
    sub rsp, 8
    stmxcsr [rsp]
    fnstcw [rsp + 4]
    push qword ptr gs:[{USER_CONTEXT}]
    push qword ptr gs:[{USER_RETURN_RSP}]
    // From here to ring 3 GS may not be the block's and no interrupt may come.
    cli
    cmp qword ptr gs:[{HAS_FSGSBASE}], 0
    je 1f
    rdfsbase rax
    push rax
    mov gs:[{USER_CONTEXT}], rdi
    mov gs:[{USER_RETURN_RSP}], rsp
    mov rcx, [rdi + {FS_BASE}]
    wrfsbase rcx
    call dune_user_load_vector_state
    mov rcx, [rdi + {GS_BASE}]
    swapgs
    wrgsbase rcx
    jmp 2f
1:
    mov ecx, 0xc0000100                 // IA32_FS_BASE
    rdmsr
    shl rdx, 32
    or rax, rdx
    push rax
    mov gs:[{USER_CONTEXT}], rdi
    mov gs:[{USER_RETURN_RSP}], rsp
    mov eax, [rdi + {FS_BASE}]
    mov edx, [rdi + {FS_BASE} + 4]
    wrmsr
    call dune_user_load_vector_state
    mov eax, [rdi + {GS_BASE}]
    mov edx, [rdi + {GS_BASE} + 4]
    mov ecx, 0xc0000102                 // IA32_KERNEL_GS_BASE
    wrmsr
    swapgs
2:
    mov rbx, [rdi + {RBX}]
    mov rbp, [rdi + {RBP}]
    mov rsi, [rdi + {RSI}]
    mov r8, [rdi + {R8}]
    mov r9, [rdi + {R9}]
    mov r10, [rdi + {R10}]
    mov r12, [rdi + {R12}]
    mov r13, [rdi + {R13}]
    mov r14, [rdi + {R14}]
    mov r15, [rdi + {R15}]
    mov rax, [rdi + {RAX}]
    cmp dword ptr [rdi + {RETURN_BY}], {BY_SYSRET}
    jb 3f
    ja 4f

    // SYSRET: RIP from RCX, flags from R11. user::run has checked that RIP is canonical and below the sign.
    mov rdx, [rdi + {RDX}]
    mov rcx, [rdi + {RIP}]
    mov r11, [rdi + {RFLAGS}]
    mov rsp, [rdi + {RSP}]
    mov rdi, [rdi + {RDI}]
    sysretq

3:  // IRET: all registers.
    push {RING3_DATA}
    push qword ptr [rdi + {RSP}]
    push qword ptr [rdi + {RFLAGS}]
    push {RING3_CODE}
    push qword ptr [rdi + {RIP}]
    mov rdx, [rdi + {RDX}]
    mov rcx, [rdi + {RCX}]
    mov r11, [rdi + {R11}]
    mov rdi, [rdi + {RDI}]
    iretq

4:  // SYSEXIT: RIP from RDX, RSP from RCX, flags as they are, interrupts on after it.
    mov r11, [rdi + {RFLAGS}]
    and r11, ~0x300                     // not TF: it would step this code; not IF: STI comes last
    push r11
    mov rdx, [rdi + {RIP}]
    mov rcx, [rdi + {RSP}]
    mov r11, [rdi + {R11}]
    mov rdi, [rdi + {RDI}]
    popfq
    sti
    rex64 sysexit
    .size dune_user_enter, . - dune_user_enter

// dune_user_leave: from the entry stubs. In: rax: the context, registers stored; ebx: the exit; GS the block's;
// interrupts off; any stack. Out: to the caller of dune_user_enter.
    .balign 64
    .globl dune_user_leave
    .hidden dune_user_leave
    .type dune_user_leave, @function
dune_user_leave:
    mov rsp, gs:[{USER_RETURN_RSP}]
    mov rdi, rax
    cld
    cmp qword ptr gs:[{HAS_FSGSBASE}], 0
    je 1f
    swapgs
    rdgsbase rcx
    swapgs
    mov [rdi + {GS_BASE}], rcx
    rdfsbase rcx
    mov [rdi + {FS_BASE}], rcx
    pop rcx
    wrfsbase rcx
    jmp 2f
1:
    mov ecx, 0xc0000102                 // IA32_KERNEL_GS_BASE, which SWAPGS has filled with ring 3's
    rdmsr
    mov [rdi + {GS_BASE}], eax
    mov [rdi + {GS_BASE} + 4], edx
    mov ecx, 0xc0000100                 // IA32_FS_BASE
    rdmsr
    mov [rdi + {FS_BASE}], eax
    mov [rdi + {FS_BASE} + 4], edx
    pop rax
    mov rdx, rax
    shr rdx, 32
    wrmsr
2:
    mov rcx, [rdi + {VECTOR_AREA}]
    cmp qword ptr gs:[{HAS_XSAVE}], 0
    je 3f
    mov eax, gs:[{VECTOR_MASK}]
    mov edx, gs:[{VECTOR_MASK} + 4]
    xsave64 [rcx]
    jmp 4f
3:
    fxsave64 [rcx]
4:
    pop qword ptr gs:[{USER_RETURN_RSP}]
    pop qword ptr gs:[{USER_CONTEXT}]
    fninit
    ldmxcsr [rsp]
    fldcw [rsp + 4]
    add rsp, 8
    mov eax, ebx
    popfq
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
    .size dune_user_leave, . - dune_user_leave

// In: rdi: the context. Clobbers rax, rcx, rdx.
    .type dune_user_load_vector_state, @function
dune_user_load_vector_state:
    mov rcx, [rdi + {VECTOR_AREA}]
    cmp qword ptr gs:[{HAS_XSAVE}], 0
    je 1f
    mov eax, gs:[{VECTOR_MASK}]
    mov edx, gs:[{VECTOR_MASK} + 4]
    xrstor64 [rcx]
    ret
1:
    fxrstor64 [rcx]
    ret
    .size dune_user_load_vector_state, . - dune_user_load_vector_state
    .text
