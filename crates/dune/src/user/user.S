// Into ring 3 and back.
//
// Both directions exist four times, for CPUs with and without XSAVE and FSGSBASE: the thread block points to the
// pair that fits, which saves the tests on a way that is counted in single instructions.

    .section .text.dune_user, "ax", @progbits

// dune_user_enter_*: (rdi: *mut UserContext) -> eax: EXIT_SYSCALL or EXIT_TRAP
// ABI: System V, but RBX, RBP and R12-R15 are lost. Returns when the ring-3 code makes a system call or takes a trap;
// dune_syscall_from_ring3 and dune_trap_from_ring3 have then stored its registers. Keeps the flags, MXCSR, the x87
// control word and the FS base.
.macro USER_ENTER NAME, XSAVE, FSGSBASE
    .balign 64
    .globl \NAME
    .hidden \NAME
    .type \NAME, @function
\NAME:
    pushfq
    sub rsp, 8
    stmxcsr [rsp]
    fnstcw [rsp + 4]
    // From here to ring 3 GS may not be the block's, so no interrupt may come.
    cli
    .if \XSAVE
    mov eax, gs:[{VECTOR_MASK}]
    mov edx, gs:[{VECTOR_MASK} + 4]
    mov rcx, [rdi + {VECTOR_AREA}]
    xrstor64 [rcx]
    .else
    mov rcx, [rdi + {VECTOR_AREA}]
    fxrstor64 [rcx]
    .endif
    .if \FSGSBASE
    rdfsbase rax
    .else
    mov ecx, 0xc0000100                 // IA32_FS_BASE
    rdmsr
    shl rdx, 32
    or rax, rdx
    .endif
    push rax
    mov gs:[{USER_CONTEXT}], rdi
    mov gs:[{USER_RETURN_RSP}], rsp
    .if \FSGSBASE
    mov rax, [rdi + {FS_BASE}]
    wrfsbase rax
    mov rax, [rdi + {GS_BASE}]
    swapgs
    wrgsbase rax
    .else
    mov eax, [rdi + {FS_BASE}]
    mov edx, [rdi + {FS_BASE} + 4]
    wrmsr
    mov eax, [rdi + {GS_BASE}]
    mov edx, [rdi + {GS_BASE} + 4]
    mov ecx, 0xc0000102                 // IA32_KERNEL_GS_BASE
    wrmsr
    swapgs
    .endif
    mov rax, [rdi + {RAX}]
    mov rbx, [rdi + {RBX}]
    mov rbp, [rdi + {RBP}]
    mov rsi, [rdi + {RSI}]
    mov r8, [rdi + {R8}]
    mov r9, [rdi + {R9}]
    mov r10, [rdi + {R10}]
    mov r11, [rdi + {RFLAGS}]
    mov r12, [rdi + {R12}]
    mov r13, [rdi + {R13}]
    mov r14, [rdi + {R14}]
    mov r15, [rdi + {R15}]
    // Whatever the context says: IOPL 1, which marks ring 3, and interrupts on; the bits of RING3_FLAGS are free.
    and r11d, {RING3_FLAGS}
    or r11d, {RING3_ALWAYS}
    cmp dword ptr [rdi + {RETURN_BY}], {BY_SYSRET}
    jne 3f

    // SYSRET: RIP from RCX, flags from R11. run_user has checked that RIP is below the end of the task size.
    mov rdx, [rdi + {RDX}]
    mov rcx, [rdi + {RIP}]
    mov rsp, [rdi + {RSP}]
    mov rdi, [rdi + {RDI}]
    sysretq

3:
    ja 4f
    // IRET: all registers.
    push {RING3_DATA}
    push qword ptr [rdi + {RSP}]
    push r11
    push {RING3_CODE}
    push qword ptr [rdi + {RIP}]
    mov rdx, [rdi + {RDX}]
    mov rcx, [rdi + {RCX}]
    mov r11, [rdi + {R11}]
    mov rdi, [rdi + {RDI}]
    iretq

4:  // SYSEXIT: RIP from RDX, RSP from RCX, flags as they are, interrupts on after it.
    and r11d, ~0x300                    // not TF: it would step this code; not IF: STI comes last
    push r11
    mov rdx, [rdi + {RIP}]
    mov rcx, [rdi + {RSP}]
    mov r11, [rdi + {R11}]
    mov rdi, [rdi + {RDI}]
    popfq
    sti
    sysexitq
    .size \NAME, . - \NAME
.endm

// dune_user_leave_*: from the entry stubs. In: rdi: the context, registers stored; ebx: the exit; GS the block's;
// interrupts off; any stack. Out: to the caller of dune_user_enter_*.
.macro USER_LEAVE NAME, XSAVE, FSGSBASE
    .balign 64
    .globl \NAME
    .hidden \NAME
    .type \NAME, @function
\NAME:
    mov rsp, gs:[{USER_RETURN_RSP}]
    .if \FSGSBASE
    swapgs
    rdgsbase rcx
    swapgs
    mov [rdi + {GS_BASE}], rcx
    rdfsbase rcx
    mov [rdi + {FS_BASE}], rcx
    pop rcx
    wrfsbase rcx
    .else
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
    .endif
    // FS is ring 0's again: see TRAP_BODY_ANY_GS.
    mov qword ptr gs:[{USER_RETURN_RSP}], 0
    mov rcx, [rdi + {VECTOR_AREA}]
    .if \XSAVE
    mov eax, gs:[{VECTOR_MASK}]
    mov edx, gs:[{VECTOR_MASK} + 4]
    xsave64 [rcx]
    .else
    fxsave64 [rcx]
    .endif
    fninit
    ldmxcsr [rsp]
    fldcw [rsp + 4]
    add rsp, 8
    mov eax, ebx
    popfq
    ret
    .size \NAME, . - \NAME
.endm

USER_ENTER dune_user_enter_xsave_fsgsbase, 1, 1
USER_ENTER dune_user_enter_xsave_msr, 1, 0
USER_ENTER dune_user_enter_fxsave_fsgsbase, 0, 1
USER_ENTER dune_user_enter_fxsave_msr, 0, 0
USER_LEAVE dune_user_leave_xsave_fsgsbase, 1, 1
USER_LEAVE dune_user_leave_xsave_msr, 1, 0
USER_LEAVE dune_user_leave_fxsave_fsgsbase, 0, 1
USER_LEAVE dune_user_leave_fxsave_msr, 0, 0
    .text
