//! Making children for Dune mode: the system call itself, and what the child does first.

use core::arch::naked_asm;
use core::mem::offset_of;
use core::sync::atomic::Ordering;

use linux_raw_sys::errno::EAGAIN;
use linux_raw_sys::general::{__NR_exit, __NR_exit_group, __NR_rt_sigreturn, SIGABRT};

use super::childs_word::ChildsWord;
use super::run_loop::host_loop;
use super::thread::{HostThread, behind};
use super::{cpu_number, signal};
use crate::contract::birth::{Birth, Child};
use crate::contract::request::RESTART;
use crate::contract::thread::User;
use crate::engine::error::EngineError;
use crate::engine::{EngineVcpu, Machine, Vcpu};
use crate::guest::clone::free_locks_from;
use crate::linux::{kept, sys, tasks};
use crate::report;

/// Makes the child. The result is Linux's: the child's id for the parent, 0 for a child that goes on in Dune mode.
///
/// Without signals: one that this thread has taken and not yet delivered is its own, not its child's.
///
/// # Safety
///
/// The calling thread is that of `thread`, in its host loop, and ring 0 has prepared what `birth` describes, the child's stack and frame
/// or thread, for this one call.
pub(super) unsafe fn make_child(thread: &HostThread, birth: &Birth) -> u64 {
    let mask = signal::block_all();
    let result =
        if thread.block.signals.is_pending() { RESTART } else { make_unsignalled(thread, birth, mask) };
    signal::set_mask(mask);
    result
}

fn make_unsignalled(thread: &HostThread, birth: &Birth, mask: u64) -> u64 {
    match birth.child {
        Child::Thread(child) => {
            // SAFETY: ring 0 has prepared the child and the arguments for exactly this, and nobody uses it yet.
            unsafe {
                let child = behind(child.cast_mut());
                (*child).first_mask.set(Some(mask));
                clone(birth, serve, child as u64)
            }
        }
        Child::InHostMode(start) => {
            // SAFETY: the start is the child's own, and the child is not there yet.
            unsafe {
                (*start).context.mask = mask;
                clone(birth, go_on_in_host_mode, start as u64)
            }
        }
        Child::Fork => fork(thread, birth),
    }
}

fn fork(thread: &HostThread, birth: &Birth) -> u64 {
    // As if Linux could not have one more process, which is what the program gets.
    if !thread.process.machine().can_be_rebuilt(thread.vcpu()) {
        return u64::from(EAGAIN).wrapping_neg();
    }
    // The child can not ask its parent's vCPU.
    let state = match thread.vcpu().snapshot() {
        Ok(state) => state,
        Err(error) => return (error.errno.raw() as u64).wrapping_neg(),
    };
    let word = ChildsWord::expected(birth);
    // SAFETY: a fork: the child gets a copy of everything, this stack included.
    let result = unsafe { sys::raw_number(birth.number, birth.arguments) };
    if result != 0 {
        return word.map_or(result, |word| word.wait_for(result));
    }
    match (revive(thread, &state), word) {
        (Ok(()), word) => word.map_or((), ChildsWord::lives),
        (Err(_), Some(word)) => word.dies(),
        (Err(error), None) => {
            report::message(format_args!("dune: the child of a fork can not go on in Dune mode: {error}"));
            report::die(SIGABRT);
        }
    }
    0
}

/// In the child of a fork: puts a machine and a vCPU of its own in place of the parent's. Allocates nothing, because
/// the allocator may have been in use in the parent.
fn revive(thread: &HostThread, state: &<EngineVcpu as Vcpu>::Snapshot) -> Result<(), EngineError> {
    kept::renew().map_err(|errno| EngineError { operation: "opening /proc/self/maps", errno })?;
    let process = thread.process;
    // SAFETY: the thread is the only one in this process, and its place is never freed.
    unsafe { process.survive(thread.place_pointer()) };
    thread.pending_interrupts.iter().for_each(|bits| bits.set(0));
    // Whoever its parent was, its memory is its own.
    thread.block.is_vfork_child.set(false);
    thread.block.task.store(sys::thread_id(), Ordering::Relaxed);
    // SAFETY: this is the child's only thread, with its signals blocked, and holds no reference to the machine or its vCPU.
    let (machine, vcpu) = unsafe { (process.replace_machine(), &mut *HostThread::vcpu_place(thread)) };
    *vcpu = machine.rebuild(process.memory().windows().iter(), vcpu, state)?;
    process.set_descriptors(machine.descriptors());
    thread.shared().descriptor.store(vcpu.descriptor(), Ordering::Relaxed);
    thread.shared().table.store(thread.block.file_table.get().word(), Ordering::Relaxed);
    thread.cpu_number.set(cpu_number::UNKNOWN);
    Ok(())
}

/// Ends the calling thread, whose place the next thread of the process may take. Returns if a signal was taken before and the
/// call `may_restart`.
pub(super) fn end(thread: &HostThread, status: u64, may_restart: bool) -> u64 {
    let mask = signal::block_all();
    if may_restart && thread.block.signals.is_pending() {
        signal::set_mask(mask);
        return RESTART;
    }
    let mut call = __NR_exit;
    if !thread.block.is_vfork_child.get() {
        // Else the parent does all this. The next thread with this block shall not find locks in its name.
        let block = core::ptr::from_ref(&*thread.block).expose_provenance() as u64;
        free_locks_from(thread.process, block);
        // Whoever is the last to depart has to know of the others.
        thread.shared().user.store(User::Ending(sys::thread_id()).word(), Ordering::Release);
        if thread.process.depart() && tasks::nobody_else(|id| thread.process.is_ending(id)) {
            call = __NR_exit_group;
        }
    }
    // SAFETY: 1. no signal can come any more that would need this stack; 2. the next thread takes stack and block over
    // only when Linux does not know this one any more.
    unsafe {
        loop {
            let _ = sys::raw(call, [status, 0, 0, 0, 0, 0]);
        }
    }
}

/// Makes the system call of `birth`, a clone that shares memory; the child goes on in `start` with `argument`.
///
/// # Safety
///
/// The child's stack is free below where the arguments put it. Without a stack in the arguments it is this one, and the
/// parent does not return before the child has left it.
#[unsafe(naked)]
unsafe extern "C" fn clone(birth: *const Birth, start: unsafe extern "C" fn(u64), argument: u64) -> u64 {
    // ABI: System V in the parent. In the child `start` does not return.
    naked_asm!(
        "push r12",
        "push r13",
        "mov r12, rsi",
        "mov r13, rdx",
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
        "pop r13",
        "pop r12",
        "ret",
        "2:",
        "xor ebp, ebp",
        "and rsp, -16",
        "mov rdi, r13",
        "call r12",
        "ud2",
        NUMBER = const offset_of!(Birth, number),
        ARGUMENTS = const offset_of!(Birth, arguments),
    )
}

/// The start of a thread in Dune mode: serves the [`HostThread`] at `thread`, on its own loop stack.
unsafe extern "C" fn serve(thread: u64) {
    // SAFETY: ring 0 has prepared the thread for its new Linux thread, which is this one, on its loop stack.
    unsafe { host_loop(&*(thread as *const HostThread)) };
}

/// The start of a child in host mode: goes on as the signal frame at `frame`, on the child's stack, says.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn go_on_in_host_mode(frame: u64) {
    // ABI: never returns. Linux loads all registers, the vector state and the signal mask at one blow, from below the
    // return address that a handler has popped. (IRETQ could load most of that, but in ring 3 QEMU 7.2 makes supervisor
    // accesses for it.)
    naked_asm!(
        "lea rsp, [rdi + 8]",
        "mov eax, {RT_SIGRETURN}",
        "syscall",
        "ud2",
        RT_SIGRETURN = const __NR_rt_sigreturn,
    )
}
