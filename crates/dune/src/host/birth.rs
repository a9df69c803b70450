//! Bearing children for Dune mode: the system call itself, and what the child does first.

use core::arch::naked_asm;
use core::mem::offset_of;
use core::sync::atomic::Ordering;

use linux_raw_sys::general::{__NR_exit, __NR_rt_sigprocmask, SIG_SETMASK, SIGABRT};

use super::enter;
use super::run_loop::host_loop;
use super::thread::HostThread;
use crate::engine::{Machine, Vcpu};
use crate::error::EngineError;
use crate::guest::clone::Birth;
use crate::guest::syscall::SyscallFrame;
use crate::{counters, report, sys};

/// Makes the child. The result is Linux's: the child's id for the parent, 0 for a child that goes on in Dune mode.
pub(super) fn bear(thread: &mut HostThread, birth: &Birth) -> u64 {
    if let Some(child) = birth.thread {
        // SAFETY: ring 0 has prepared the child and the arguments for exactly this.
        return unsafe { start_thread(birth.number, &raw const birth.arguments, child) };
    }
    if birth.in_host_mode {
        let mask = thread.block.vector_mask;
        // SAFETY: frame and vector area are the child's own, or the caller's who waits until the child has another program
        // or is gone; so may they share this stack, unless the arguments give the child another.
        return unsafe { start_in_host_mode(birth, thread.block.has_xsave, mask) };
    }
    // The child can not ask its parent's vCPU.
    let state = match thread.vcpu.snapshot() {
        Ok(state) => state,
        Err(error) => return (error.errno.raw() as u64).wrapping_neg(),
    };
    // SAFETY: a fork: the child gets a copy of everything, this stack included.
    let result = unsafe { sys::raw_number(birth.number, birth.arguments) };
    if result == 0
        && let Err(error) = revive(thread, &state)
    {
        report::message(format_args!("dune: the child of a fork can not go on in Dune mode: {error}"));
        report::die(SIGABRT);
    }
    result
}

/// In the child of a fork: puts a machine and a vCPU of its own in place of the parent's. Allocates nothing, because
/// the allocator may have been in use in the parent.
fn revive(
    thread: &mut HostThread,
    state: &<crate::engine::kvm::KvmVcpu as Vcpu>::Snapshot,
) -> Result<(), EngineError> {
    let process = thread.process;
    enter::adopt();
    process.survive(thread);
    thread.pending_interrupts = [0; 4];
    // SAFETY: this is the child's only thread, and holds no reference to the machine.
    let machine = unsafe { process.replace_machine() };
    let vcpu = machine.rebuild(process.memory.windows().iter(), &thread.vcpu, state)?;
    thread.vcpu = vcpu;
    Ok(())
}

/// Ends the calling thread, whose place the next thread of the process may take.
pub(super) fn end(thread: &mut HostThread, status: u64) -> ! {
    thread.flushed_at = counters::flush_generation();
    thread.process.depart();
    let everything = u64::MAX;
    // SAFETY: 1. no signal can come any more that would need this stack; 2. the next thread takes stack and block over
    // only when Linux does not know this one any more.
    unsafe {
        let _ =
            sys::raw(__NR_rt_sigprocmask, [SIG_SETMASK.into(), (&raw const everything) as u64, 0, 8, 0, 0]);
        thread.user.store(enter::thread_id(), Ordering::Release);
        loop {
            let _ = sys::raw(__NR_exit, [status, 0, 0, 0, 0, 0]);
        }
    }
}

/// Makes the system call `number` with `arguments`, a clone with a stack of its own; the child serves `thread`.
///
/// # Safety
///
/// The arguments share memory and give the child the top of `thread`'s loop stack; `thread` is nobody else's.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn start_thread(
    number: u64,
    arguments: *const [u64; 6],
    thread: *mut HostThread,
) -> u64 {
    // ABI: System V in the parent. The child starts with an empty stack and never returns.
    naked_asm!(
        "push r12",
        "mov r12, rdx",
        "mov rax, rdi",
        "mov r11, rsi",
        "mov rdi, [r11]",
        "mov rsi, [r11 + 8]",
        "mov rdx, [r11 + 16]",
        "mov r10, [r11 + 24]",
        "mov r8, [r11 + 32]",
        "mov r9, [r11 + 40]",
        "syscall",
        "test rax, rax",
        "jz 2f",
        "pop r12",
        "ret",
        "2:",
        "xor ebp, ebp",
        "mov rdi, r12",
        "call {host_loop}", // extern "C" fn host_loop(&mut HostThread)
        "ud2",
        host_loop = sym host_loop,
    )
}

/// Makes the system call of `birth`; in the child, loads the registers of its frame and goes on there in host mode.
///
/// # Safety
///
/// The call gives the child a stack or does not return in the parent while the child uses this one; frame and vector area
/// are valid until the child has loaded them; `mask` is XCR0's, if `has_xsave` is not 0.
#[unsafe(naked)]
unsafe extern "C" fn start_in_host_mode(birth: *const Birth, has_xsave: u64, mask: u64) -> u64 {
    // ABI: System V in the parent. The child gets its stack pointer at the end only; until then it uses the call's stack,
    // which is its own, or its parent's below what that one's frames hold.
    naked_asm!(
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov r13, rsi",
        "mov r14, rdx",
        "mov r15, [rdi + {VECTOR_AREA}]",
        "mov r12, rdi",
        "mov rax, [r12 + {NUMBER}]",
        "mov rdi, [r12 + {ARGUMENTS}]",
        "mov rsi, [r12 + {ARGUMENTS} + 8]",
        "mov rdx, [r12 + {ARGUMENTS} + 16]",
        "mov r10, [r12 + {ARGUMENTS} + 24]",
        "mov r8, [r12 + {ARGUMENTS} + 32]",
        "mov r9, [r12 + {ARGUMENTS} + 40]",
        "mov r12, [r12 + {FRAME}]",
        "syscall",
        "test rax, rax",
        "jz 2f",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "ret",
        // The child.
        "2:",
        "test r13, r13",
        "jz 3f",
        "mov eax, r14d",
        "mov rdx, r14",
        "shr rdx, 32",
        "xrstor64 [r15]",
        "jmp 4f",
        "3:",
        "fxrstor64 [r15]",
        "4:",
        "mov rax, r12",
        "push qword ptr [rax + {RFLAGS}]",
        "popfq",
        "mov r15, [rax + {R15}]",
        "mov r14, [rax + {R14}]",
        "mov r13, [rax + {R13}]",
        "mov r12, [rax + {R12}]",
        "mov rbp, [rax + {RBP}]",
        "mov rbx, [rax + {RBX}]",
        "mov r9, [rax + {R9}]",
        "mov r8, [rax + {R8}]",
        "mov r10, [rax + {R10}]",
        "mov rdx, [rax + {RDX}]",
        "mov rsi, [rax + {RSI}]",
        "mov rdi, [rax + {RDI}]",
        "mov rsp, [rax + {RSP}]",
        // As after SYSCALL: RCX holds the address to go on at.
        "mov rcx, [rax + {RIP}]",
        "mov eax, 0",
        "jmp rcx",
        NUMBER = const offset_of!(Birth, number),
        ARGUMENTS = const offset_of!(Birth, arguments),
        FRAME = const offset_of!(Birth, frame),
        VECTOR_AREA = const offset_of!(Birth, vector_area),
        R15 = const offset_of!(SyscallFrame, r15),
        R14 = const offset_of!(SyscallFrame, r14),
        R13 = const offset_of!(SyscallFrame, r13),
        R12 = const offset_of!(SyscallFrame, r12),
        RBP = const offset_of!(SyscallFrame, rbp),
        RBX = const offset_of!(SyscallFrame, rbx),
        R9 = const offset_of!(SyscallFrame, r9),
        R8 = const offset_of!(SyscallFrame, r8),
        R10 = const offset_of!(SyscallFrame, r10),
        RDX = const offset_of!(SyscallFrame, rdx),
        RSI = const offset_of!(SyscallFrame, rsi),
        RDI = const offset_of!(SyscallFrame, rdi),
        RIP = const offset_of!(SyscallFrame, rip),
        RFLAGS = const offset_of!(SyscallFrame, rflags),
        RSP = const offset_of!(SyscallFrame, rsp),
    )
}
