//! Bearing children for Dune mode: the system call itself, and what the child does first.

use core::arch::naked_asm;
use core::mem::offset_of;
use core::sync::atomic::Ordering;

use linux_raw_sys::general::{__NR_exit, __NR_rt_sigreturn, SIGABRT};

use super::run_loop::host_loop;
use super::thread::HostThread;
use super::{enter, signal};
use crate::engine::{Machine, Vcpu};
use crate::error::EngineError;
use crate::guest::clone::{Birth, Child};
use crate::guest::signal::RESTART;
use crate::guest::signal::frame::SignalFrame;
use crate::{report, sys};

/// Makes the child. The result is Linux's: the child's id for the parent, 0 for a child that goes on in Dune mode.
///
/// Without signals: one that this thread has taken and not yet delivered is its own, not its child's.
pub(super) fn bear(thread: &mut HostThread, birth: &Birth) -> u64 {
    let mask = signal::block_all();
    let result =
        if thread.block.signals.is_pending() { RESTART } else { bear_unsignalled(thread, birth, mask) };
    signal::set_mask(mask);
    result
}

fn bear_unsignalled(thread: &mut HostThread, birth: &Birth, mask: u64) -> u64 {
    match birth.child {
        Child::Thread(child) => {
            // SAFETY: ring 0 has prepared the child and the arguments for exactly this, and nobody uses it yet.
            unsafe {
                (*child).first_mask = Some(mask);
                start_thread(birth.number, &raw const birth.arguments, child)
            }
        }
        Child::InHostMode(start) => {
            // SAFETY: the start is the child's own, and the child is not there yet.
            unsafe {
                (*start).context.mask = mask;
                start_in_host_mode(birth, start)
            }
        }
        Child::Fork => fork(thread, birth),
    }
}

fn fork(thread: &mut HostThread, birth: &Birth) -> u64 {
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
    process.survive(thread);
    thread.pending_interrupts = [0; 4];
    // Whoever its parent was, its memory is its own.
    thread.block.is_lent = false;
    // SAFETY: this is the child's only thread, and holds no reference to the machine.
    let machine = unsafe { process.replace_machine() };
    let vcpu = machine.rebuild(process.memory.windows().iter(), &thread.vcpu, state)?;
    thread.vcpu = vcpu;
    Ok(())
}

/// Ends the calling thread, whose place the next thread of the process may take. Returns if a signal was taken before.
pub(super) fn end(thread: &mut HostThread, status: u64) -> u64 {
    let mask = signal::block_all();
    if thread.block.signals.is_pending() {
        signal::set_mask(mask);
        return RESTART;
    }
    if !thread.block.is_lent {
        // Else the parent does so.
        thread.process.depart();
        thread.user.store(enter::thread_id(), Ordering::Release);
    }
    // SAFETY: 1. no signal can come any more that would need this stack; 2. the next thread takes stack and block over
    // only when Linux does not know this one any more.
    unsafe {
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

/// Makes the system call of `birth`; the child goes on in host mode as `start` says.
///
/// # Safety
///
/// `start` is a signal frame that lies on the child's stack, and is valid until the child has loaded it.
#[unsafe(naked)]
unsafe extern "C" fn start_in_host_mode(birth: *const Birth, start: *mut SignalFrame) -> u64 {
    // ABI: System V in the parent. The child leaves the call's stack, which may be its parent's, at once. Linux loads
    // all its registers, its vector state and its signal mask at one blow. (IRETQ could load most of that, but in ring 3
    // QEMU 7.2 makes supervisor accesses for it.)
    naked_asm!(
        "push r12",
        "mov r12, rsi",
        "mov rax, [rdi + {NUMBER}]",
        "mov rsi, [rdi + {ARGUMENTS} + 8]",
        "mov rdx, [rdi + {ARGUMENTS} + 16]",
        "mov r10, [rdi + {ARGUMENTS} + 24]",
        "mov r8, [rdi + {ARGUMENTS} + 32]",
        "mov r9, [rdi + {ARGUMENTS} + 40]",
        "mov rdi, [rdi + {ARGUMENTS}]",
        "syscall",
        "test rax, rax",
        "jz 2f",
        "pop r12",
        "ret",
        // The child. Linux looks for the frame below the return address that a handler has popped.
        "2:",
        "lea rsp, [r12 + 8]",
        "mov eax, {RT_SIGRETURN}",
        "syscall",
        "ud2",
        NUMBER = const offset_of!(Birth, number),
        ARGUMENTS = const offset_of!(Birth, arguments),
        RT_SIGRETURN = const __NR_rt_sigreturn,
    )
}
