// System-call entry. SYSCALL leaves the caller's RIP in RCX and its flags in R11 and switches no stack
// (Intel SDM vol. 2 SYSCALL).
//
// The caller's ring is not recorded by the CPU, but flag bit 12 (the low bit of IOPL) tells: ring 3 always runs with
// IOPL 1, which only ring 0 can change (Intel SDM vol. 2 POPF, IRET), and ring 0 runs with IOPL 0, unless it has changed it.

    .section .text.dune_syscall, "ax", @progbits

// Goes to 1b if REGISTER is a descriptor of Dune's. RAX is lost.
.macro IF_KEPT REGISTER
    mov eax, \REGISTER
    cmp eax, {KEPT_DESCRIPTORS}
    jae 3f
    bt qword ptr [rip + {kept}], rax
    jc 1b
3:
.endm

// From ring 0: hands the registers to the host loop through the thread block and returns as SYSCALL's caller expects:
// RAX is the result, RCX and R11 are the RIP and the flags that it goes on with, all else is kept. The caller's stack, which
// may be none, is not touched. IRETQ returns, because SYSRET can not return to ring 0: flags, RIP and RSP come at once, so
// that no interrupt and no single step sees the stub.
    .balign 64
    .globl dune_syscall_entry
    .hidden dune_syscall_entry
    .type dune_syscall_entry, @function
dune_syscall_entry:
    bt r11d, 12
    jc dune_syscall_from_ring3
    bt r11d, 9
    jnc dune_syscall_interrupts_off
dune_syscall_from_ring0:
    mov gs:[{REQUEST_NUMBER}], rax
    mov gs:[{REQUEST_ARGUMENTS}], rdi
    mov gs:[{REQUEST_ARGUMENTS} + 8], rsi
    mov gs:[{REQUEST_ARGUMENTS} + 16], rdx
    mov gs:[{REQUEST_ARGUMENTS} + 24], r10
    mov gs:[{REQUEST_ARGUMENTS} + 32], r8
    mov gs:[{REQUEST_ARGUMENTS} + 40], r9
    cmp rax, {SYSCALL_NUMBERS}
    jae dune_syscall_large_number
4:
    bt qword ptr gs:[{HANDLED_IN_RING0}], rax
    jc dune_syscall_in_ring0
    bt qword ptr [rip + {in_registers}], rax
    jc dune_syscall_names_descriptor
    .globl dune_syscall_forward
    .hidden dune_syscall_forward
dune_syscall_forward:
    mov qword ptr gs:[{REQUEST_KIND}], {KIND_SYSCALL}
    EXIT_TO_HOST_LOOP
    mov rax, gs:[{REQUEST_RESULT}]
    cmp qword ptr gs:[{SIGNALS_PENDING}], 0
    jne dune_syscall_signal
    mov gs:[{SCRATCH}], rsp
    mov rsp, gs:[{SYSCALL_STACK}]
    push {RING0_DATA}
    push qword ptr gs:[{SCRATCH}]
    push r11
    push {RING0_CODE}
    push rcx
    iretq
    .size dune_syscall_entry, . - dune_syscall_entry

// The number is what EAX holds: Linux does not look at the upper half (do_syscall_64, arch/x86/entry/syscall_64.c).
    .type dune_syscall_large_number, @function
dune_syscall_large_number:
    mov eax, eax
    mov gs:[{REQUEST_NUMBER}], rax
    cmp eax, {SYSCALL_NUMBERS}
    jb 4b
    jmp dune_syscall_forward
    .size dune_syscall_large_number, . - dune_syscall_large_number

// From ring 0 with interrupts off: an unmodified program's code, which has tried to turn them off, goes on with them on.
    .type dune_syscall_interrupts_off, @function
dune_syscall_interrupts_off:
    mov gs:[{SCRATCH}], rax
    mov rax, rsp
    sub rax, gs:[{INNER_STACKS}]
    cmp rax, gs:[{INNER_STACK_BYTES}]
    mov rax, gs:[{SCRATCH}]
    jb dune_syscall_from_ring0
    or r11d, {INTERRUPT_FLAG}
    jmp dune_syscall_from_ring0
    .size dune_syscall_interrupts_off, . - dune_syscall_interrupts_off

// A call that names a descriptor in RDI, or in RSI or RDX, too: Rust handles it if that is one of Dune's own.
// In: rax: the number, which stands in the request.
    .type dune_syscall_names_descriptor, @function
dune_syscall_names_descriptor:
    bt qword ptr [rip + {not_only_first}], rax
    jc 2f
    mov eax, edi
    cmp eax, {KEPT_DESCRIPTORS}
    jae dune_syscall_forward
    bt qword ptr [rip + {kept}], rax
    jnc dune_syscall_forward
1:
    mov rax, gs:[{REQUEST_NUMBER}]
    jmp dune_syscall_in_ring0
2:
    IF_KEPT edi
    IF_KEPT esi
    IF_KEPT edx
    jmp dune_syscall_forward
    .size dune_syscall_names_descriptor, . - dune_syscall_names_descriptor

// Builds a registers::Registers of the caller's on the thread's system-call stack, keeps its vector state below, and
// calls FUNCTION: extern "C" fn(&mut Registers, VectorArea).
.macro CALL_WITH_REGISTERS FUNCTION
    mov gs:[{SCRATCH}], rsp
    mov rsp, gs:[{SYSCALL_STACK}]
    sub qword ptr gs:[{SYSCALL_STACK}], {STACK_LEVEL}
    push {RING0_DATA}
    push qword ptr gs:[{SCRATCH}]
    push r11
    push {RING0_CODE}
    push rcx
    push rax
    push rdi
    push rsi
    push rdx
    push r10
    push r8
    push r9
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    push r11
    push rcx
    mov rdi, rsp
    mov rbx, rsp
    KEEP_VECTOR_STATE
    mov rsi, rsp
    call \FUNCTION
.endm

// A signal came during the call: its frame is built before the caller goes on.
    .type dune_syscall_signal, @function
dune_syscall_signal:
    CALL_WITH_REGISTERS {signal}
    jmp dune_syscall_resume
    .size dune_syscall_signal, . - dune_syscall_signal

// A call that Rust handles in ring 0.
    .type dune_syscall_in_ring0, @function
dune_syscall_in_ring0:
    CALL_WITH_REGISTERS {dispatch}
    // A new thread starts here, with rbx at its registers and rsp at its vector area.
    .globl dune_syscall_resume
    .hidden dune_syscall_resume
dune_syscall_resume:
    RESTORE_VECTOR_STATE
    mov rsp, rbx
    pop rcx
    pop r11
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    pop r9
    pop r8
    pop r10
    pop rdx
    pop rsi
    pop rdi
    pop rax
    add qword ptr gs:[{SYSCALL_STACK}], {STACK_LEVEL}
    iretq
    .size dune_syscall_in_ring0, . - dune_syscall_in_ring0

// The registers of ring 3 that both ways below store. In: rdi: the context; gs:[SCRATCH]: ring 3's RDI.
.macro STORE_RING3
    mov [rdi + {USER_RAX}], rax
    mov [rdi + {USER_RBX}], rbx
    mov [rdi + {USER_RDX}], rdx
    mov [rdi + {USER_RSI}], rsi
    mov [rdi + {USER_RBP}], rbp
    mov [rdi + {USER_R8}], r8
    mov [rdi + {USER_R9}], r9
    mov [rdi + {USER_R10}], r10
    mov [rdi + {USER_R12}], r12
    mov [rdi + {USER_R13}], r13
    mov [rdi + {USER_R14}], r14
    mov [rdi + {USER_R15}], r15
    mov rax, gs:[{SCRATCH}]
    mov [rdi + {USER_RDI}], rax
    inc qword ptr gs:[{SYSCALLS_INTERCEPTED}]
    mov ebx, {EXIT_SYSCALL}
    jmp qword ptr gs:[{USER_LEAVE}]
.endm

// From ring 3: the registers go to the UserContext and run_user returns. RCX and R11 are lost to the caller by the
// ABI and not stored. On AMD also entered from compatibility mode (CSTAR).
//
// Ring 0 that has loaded IOPL by POPF comes here, too. Where ring 3 has never run there is no context, and the first store faults
// (syscall.rs, recover): both GS bases are the block's until then. That saves ring 3 a look at each call.
    .balign 64
    .type dune_syscall_from_ring3, @function
    .globl dune_syscall_from_ring3
    .hidden dune_syscall_from_ring3
dune_syscall_from_ring3:
    swapgs
    mov gs:[{SCRATCH}], rdi
    mov rdi, gs:[{USER_CONTEXT}]
    .globl dune_syscall_first_store
    .hidden dune_syscall_first_store
dune_syscall_first_store:
    mov [rdi + {USER_RIP}], rcx
    mov [rdi + {USER_RFLAGS}], r11
    mov [rdi + {USER_RSP}], rsp
    STORE_RING3
    .size dune_syscall_from_ring3, . - dune_syscall_from_ring3

// SYSENTER from ring 3 (Intel only in 64-bit mode). The CPU keeps neither RIP nor RSP nor flags; the convention is
// SYSEXIT's: RDX holds the address to return to, RCX the stack pointer. TF may still be set: trap.S drops the step while
// RIP is between the two labels.
    .balign 64
    .globl dune_sysenter_entry
    .hidden dune_sysenter_entry
    .type dune_sysenter_entry, @function
dune_sysenter_entry:
    swapgs
    mov gs:[{SCRATCH}], rdi
    mov rdi, gs:[{USER_CONTEXT}]
    mov rsp, gs:[{USER_RETURN_RSP}]
    mov [rdi + {USER_R11}], r11
    pushfq
    pop qword ptr [rdi + {USER_RFLAGS}]
    push 2
    popfq
    .globl dune_sysenter_flags_clear
    .hidden dune_sysenter_flags_clear
dune_sysenter_flags_clear:
    mov [rdi + {USER_RIP}], rdx
    mov [rdi + {USER_RSP}], rcx
    STORE_RING3
    .size dune_sysenter_entry, . - dune_sysenter_entry
    .globl dune_syscall_end
    .hidden dune_syscall_end
dune_syscall_end:
    .text
