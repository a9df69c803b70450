// Trap entry: from the CPU's frame on an interrupt stack to a handler, and back by IRETQ.
//
// Each of the 256 vectors has a stub that makes the frames alike: an error code (0 where the CPU pushes none) and
// the vector. One body per interrupt stack follows, because the stack pointer in the TSS has to move down by a
// level while a handler runs: a handler that faults again must not land on its own frame. Interrupt gates turn
// interrupts off, so nothing comes between the CPU's push and that move but a non-maskable interrupt, which has a
// stack of its own.
//
// The frame that handlers see is trap::TrapFrame; FRAME_* are its offsets, checked at compile time.

// Saves what TrapFrame holds. In: rsp at the vector. Out: rsp at the TrapFrame, 16-byte aligned.
.macro SAVE_FRAME
    sub rsp, 16
    push rdi
    push rsi
    push rdx
    push rcx
    push rax
    push r8
    push r9
    push r10
    push r11
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
.endm

// Undoes SAVE_FRAME and drops vector and error code.
.macro RESTORE_FRAME
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    pop r11
    pop r10
    pop r9
    pop r8
    pop rax
    pop rcx
    pop rdx
    pop rsi
    pop rdi
    add rsp, 32
.endm

// Calls the handler of the vector in the frame at rsp.
// IST_SLOT: offset of the interrupt stack's pointer from GS.
// dune_trap_NAME: (TrapFrame on the stack) -> does not return, IRETQ
.macro CALL_HANDLER IST_SLOT
    mov rax, cr2
    mov [rsp + {FRAME_CR2}], rax
    mov eax, [rsp + {FRAME_VECTOR}]
    sub qword ptr gs:[\IST_SLOT], {STACK_LEVEL}
    inc qword ptr gs:[{TRAPS} + rax * 8]
    mov rsi, gs:[{HANDLERS} + rax * 8]
    mov rdi, rsp
    cld
    test rsi, rsi
    js 2f
    jnz 1f
    lea rdx, [rip + {PROCESS_HANDLERS}]
    mov rsi, [rdx + rax * 8]
    test rsi, rsi
    js 2f
1:
    CALL_FOUND_HANDLER \IST_SLOT
.endm

// The end of CALL_HANDLER, with the handler in rsi. In: 1: no lean one; 2f: a lean one.
.macro CALL_FOUND_HANDLER IST_SLOT
    call dune_trap_call_full
    jmp 3f
2:
    // Bit 63 marks a lean handler: a LeanHandler, whose first word is an
    // extern "C" fn(&mut TrapFrame, &LeanHandler), integer registers only.
    btr rsi, 63
    call qword ptr [rsi]
3:
    add qword ptr gs:[\IST_SLOT], {STACK_LEVEL}
.endm

// Makes both GS bases the block's.
// In: rax: the block's address; ecx: 0xc0000101, IA32_GS_BASE. RDX is lost, and the upper half of RAX.
.macro REPAIR_GS
    mov rdx, rax
    shr rdx, 32
    wrmsr
    inc ecx                             // IA32_KERNEL_GS_BASE
    wrmsr
.endm

.macro TRAP_BODY NAME, IST_SLOT
    .balign 64
    .type \NAME, @function
\NAME:
    test byte ptr [rsp + 24], 3
    jnz dune_trap_from_ring3
    SAVE_FRAME
    CALL_HANDLER \IST_SLOT
    RESTORE_FRAME
    iretq
    .size \NAME, . - \NAME
.endm

// As TRAP_BODY for vectors that can come while the CPU is at ring 0 already, or still, but GS or FS are ring 3's: between
// SYSCALL or SYSENTER and the end of dune_user_leave, or at the end of dune_user_enter. The true block's address stands
// at the top of each interrupt stack; ring 0's FS base where USER_RETURN_RSP points, which is 0 outside of these times.
// STEP: the vector is #DB.
.macro TRAP_BODY_ANY_GS NAME, IST_SLOT, STEP=0
    .balign 64
    .type \NAME, @function
\NAME:
    test byte ptr [rsp + 24], 3
    jnz dune_trap_from_ring3
    SAVE_FRAME
    xor r15d, r15d                      // whether r14 holds an FS base of ring 3's
    mov ecx, 0xc0000101                 // IA32_GS_BASE
    rdmsr
    shl rdx, 32
    or rdx, rax
    mov rax, rsp
    or rax, {STACK_SIZE} - 1
    mov rax, [rax - 15]
    cmp rdx, rax
    setne byte ptr [rsp + {FRAME_RING3_GS}]
    je 4f
    cmp qword ptr [rax + {USER_CONTEXT}], 0
    je 33f                              // ring 0 has loaded GS by a selector
    swapgs
4:
    .if \STEP
    // Ring 3 made a system call with TF set: the step of the entry code belongs to no handler. With ring 3's GS it can
    // be nothing else; SYSENTER does not clear TF, so its code is stepped on until it does so itself.
    cmp byte ptr [rsp + {FRAME_RING3_GS}], 0
    jne 5f
    mov rax, [rsp + {FRAME_RIP}]
    lea rcx, [rip + dune_syscall_entry]
    cmp rax, rcx                        // some CPUs make the step of a SYSCALL of ring 0, which has cleared TF
    je 7f
    lea rcx, [rip + dune_sysenter_entry]
    sub rax, rcx
    lea rdx, [rip + dune_sysenter_flags_clear]
    sub rdx, rcx
    cmp rax, rdx
    ja 6f
5:
    and qword ptr [rsp + {FRAME_RFLAGS}], ~0x100
    jmp 7f
6:
    .endif
    mov rbx, gs:[{USER_RETURN_RSP}]
    test rbx, rbx
    jz 8f
    mov ecx, 0xc0000100                 // IA32_FS_BASE
    rdmsr
    mov r14d, eax
    shl rdx, 32
    or r14, rdx
    inc r15d
    mov eax, [rbx]
    mov edx, [rbx + 4]
    wrmsr
8:
    CALL_HANDLER \IST_SLOT
    test r15d, r15d
    jz 7f
    mov ecx, 0xc0000100
    mov eax, r14d
    mov rdx, r14
    shr rdx, 32
    wrmsr
7:
    cmp byte ptr [rsp + {FRAME_RING3_GS}], 0
    je 9f
    swapgs
9:
    RESTORE_FRAME
    iretq
33:
    REPAIR_GS
    mov byte ptr [rsp + {FRAME_RING3_GS}], 0
    jmp 4b
    .size \NAME, . - \NAME
.endm

    .section .text.dune_trap, "ax", @progbits

TRAP_BODY dune_trap_general, {IST_GENERAL}

// As TRAP_BODY. Ring 0 that has loaded GS by a selector has lost its block: on Intel's CPUs the base is 0 then, as it is for the
// program in ring 3. Whatever uses GS next faults at a low address, the stubs too, and comes here.
    .balign 64
    .type dune_trap_page_fault, @function
dune_trap_page_fault:
    test byte ptr [rsp + 24], 3
    jnz dune_trap_from_ring3
    SAVE_FRAME
    mov rax, cr2
    mov [rsp + {FRAME_CR2}], rax
    shr rax, 16
    jz dune_trap_low_address
4:
    sub qword ptr gs:[{IST_PAGE_FAULT}], {STACK_LEVEL}
    inc qword ptr gs:[{TRAPS} + 14 * 8]
    mov rsi, gs:[{HANDLERS} + 14 * 8]
    mov rdi, rsp
    cld
    test rsi, rsi
    js 2f
    jnz 1f
    mov rsi, [rip + {PROCESS_HANDLERS} + 14 * 8]
    test rsi, rsi
    js 2f
1:
    CALL_FOUND_HANDLER {IST_PAGE_FAULT}
    RESTORE_FRAME
    iretq
    .size dune_trap_page_fault, . - dune_trap_page_fault

// A page fault below 64 KiB, which is more than a block has: with a wrong GS it is made right, and the access again.
// In: rsp at the frame.
    .type dune_trap_low_address, @function
dune_trap_low_address:
    mov ecx, 0xc0000101                 // IA32_GS_BASE
    rdmsr
    shl rdx, 32
    or rdx, rax
    mov rax, rsp
    or rax, {STACK_SIZE} - 1
    mov rax, [rax - 15]
    cmp rdx, rax
    je 4b
    REPAIR_GS
    RESTORE_FRAME
    iretq
    .size dune_trap_low_address, . - dune_trap_low_address

TRAP_BODY_ANY_GS dune_trap_double_fault, {IST_DOUBLE_FAULT}
TRAP_BODY_ANY_GS dune_trap_nmi, {IST_NMI}
TRAP_BODY_ANY_GS dune_trap_debug, {IST_DEBUG}, 1
TRAP_BODY_ANY_GS dune_trap_machine_check, {IST_MACHINE_CHECK}

// dune_trap_call_full: (rdi: &mut TrapFrame, rsi: handler or 0) -> (); the Rust side gets a clean vector state and
// flags, and the interrupted code's are kept. All registers but rsp are free: the frame holds them.
    .type dune_trap_call_full, @function
dune_trap_call_full:
    mov rbx, rsp
    mov rbp, rsi
    KEEP_VECTOR_STATE
    push 2
    popfq
    test rbp, rbp
    jz 1f
    call {dispatch}                     // extern "C" fn dispatch(&mut TrapFrame, *const Head) -> bool
    test al, al
    jnz 1f
2:
    RESTORE_VECTOR_STATE
    mov rsp, rbx
    ret
1:
    lea rdi, [rbx + 8]                  // the frame is above the return address
    mov rsi, rbp
    call {refused}                      // extern "C" fn refused(&mut TrapFrame, *const Head)
    jmp 2b
    .size dune_trap_call_full, . - dune_trap_call_full

// A trap taken in ring 3: its registers go to its UserContext, and user::run returns.
// In: rsp at vector, error code, RIP, CS, RFLAGS, RSP, SS on an interrupt stack, which is left at once.
    .type dune_trap_from_ring3, @function
dune_trap_from_ring3:
    test spl, 8
    jz dune_trap_software_interrupt
    swapgs
    cmp qword ptr gs:[{USER_RETURN_RSP}], 0
    je dune_trap_selectors
    push rdi
    mov rdi, gs:[{USER_CONTEXT}]
    mov [rdi + {USER_RAX}], rax
    mov [rdi + {USER_RBX}], rbx
    mov [rdi + {USER_RCX}], rcx
    mov [rdi + {USER_RDX}], rdx
    mov [rdi + {USER_RSI}], rsi
    mov [rdi + {USER_RBP}], rbp
    mov [rdi + {USER_R8}], r8
    mov [rdi + {USER_R9}], r9
    mov [rdi + {USER_R10}], r10
    mov [rdi + {USER_R11}], r11
    mov [rdi + {USER_R12}], r12
    mov [rdi + {USER_R13}], r13
    mov [rdi + {USER_R14}], r14
    mov [rdi + {USER_R15}], r15
    mov rcx, cr2
    mov [rdi + {USER_CR2}], rcx
    pop qword ptr [rdi + {USER_RDI}]
    pop rcx
    inc qword ptr gs:[{TRAPS} + rcx * 8]
    mov [rdi + {USER_VECTOR}], rcx
    pop qword ptr [rdi + {USER_ERROR_CODE}]
    pop qword ptr [rdi + {USER_RIP}]
    pop rcx
    pop qword ptr [rdi + {USER_RFLAGS}]
    pop qword ptr [rdi + {USER_RSP}]
    mov ebx, {EXIT_TRAP}
    jmp qword ptr gs:[{USER_LEAVE}]
    .size dune_trap_from_ring3, . - dune_trap_from_ring3

// The code is ring 0's, which has loaded the selectors that it has outside of Dune mode and in signal frames: those of ring 3,
// by IRET. It has not executed an instruction with them, as its pages are ring 0's, and goes on with ring 0's. Until there
// has been code of ring 3, both GS bases are the block's.
// In: rsp at vector, error code, RIP, CS, RFLAGS, RSP, SS on an interrupt stack.
    .type dune_trap_selectors, @function
dune_trap_selectors:
    swapgs
    mov qword ptr [rsp + 24], {RING0_CODE}
    mov qword ptr [rsp + 48], {RING0_DATA}
    cmp dword ptr [rsp], 1
    je dune_trap_debug
    cmp dword ptr [rsp], 2
    je dune_trap_nmi
    cmp dword ptr [rsp], 18
    je dune_trap_machine_check
    cmp dword ptr [rsp], 14
    jne dune_trap_general
    add rsp, 16
    iretq
    .size dune_trap_selectors, . - dune_trap_selectors

// INT n of ring 0 with the vector of an exception that has an error code, which INT n does not push (Intel SDM vol. 3
// §6.13): each word stands where the one before should, RFLAGS in the place of CS, and the stack is one word too high. Makes
// it the #GP that it is in ring 3, where the gate forbids it, on the stack of its vector.
// In: rsp at vector, RIP, CS, RFLAGS, RSP, SS on an interrupt stack.
    .type dune_trap_software_interrupt, @function
dune_trap_software_interrupt:
    push qword ptr [rsp]
    shl qword ptr [rsp + 8], 3          // the error code names the gate, in the IDT
    or qword ptr [rsp + 8], {GATE}
    sub qword ptr [rsp + 16], {SOFTWARE_INTERRUPT_BYTES} // back to the instruction
    cmp dword ptr [rsp], 14
    mov dword ptr [rsp], 13
    je dune_trap_page_fault
    cmp dword ptr [rsp + 8], 8 << 3 | {GATE}
    je dune_trap_double_fault
    jmp dune_trap_general
    .size dune_trap_software_interrupt, . - dune_trap_software_interrupt

// The 256 stubs, 16 bytes each. Vectors with an error code: 8, 10-14, 17, 21, 29, 30 (Intel SDM vol. 3 §6.13,
// AMD APM vol. 2 §8.2).
    .balign 16
    .globl dune_trap_stubs
    .hidden dune_trap_stubs
dune_trap_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if (vector != 8) && (vector < 10 || vector > 14) && (vector != 17) && (vector != 21) && (vector != 29) && (vector != 30)
    push 0
    .endif
    push vector
    .if vector == 7
    clts                                // #NM: keeping the vector state would raise it again
    .endif
    .if vector == 14
    jmp dune_trap_page_fault
    .elseif vector == 1
    jmp dune_trap_debug
    .elseif vector == 2
    jmp dune_trap_nmi
    .elseif vector == 8
    jmp dune_trap_double_fault
    .elseif vector == 18
    jmp dune_trap_machine_check
    .else
    jmp dune_trap_general
    .endif
    .set vector, vector + 1
    .endr

    .section .rodata.dune_trap, "a", @progbits
    .balign 4
    .globl dune_default_mxcsr
    .hidden dune_default_mxcsr
dune_default_mxcsr:
    .long 0x1f80
    .text
