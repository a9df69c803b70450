//! Leaving Dune mode: the host loop ends, and the thread goes on where it was in Dune mode.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicU32, Ordering};

use linux_raw_sys::general::{__NR_arch_prctl, __NR_rt_sigprocmask, SIG_SETMASK};

use super::birth::go_on_in_host_mode;
use super::process::HostProcess;
use super::signal;
use super::thread::{HostThread, thread_pointer};
use crate::contract::actions;
use crate::contract::callee_saved::pop_callee_saved;
use crate::contract::request::RESTART;
use crate::contract::signal_frame::SignalFrame;
use crate::contract::thread::User;
use crate::engine::{Engine, Machine};
use crate::linux::{sys, tasks};

/// Goes on in host mode on the program's stack, at `rsp`, with `fs_base`. Returns if a signal has to be seen first.
///
/// # Safety
///
/// The calling thread is that of `thread`, in its host loop, and ring 0 has asked for this in `guest::leave::switch_back`.
pub(super) unsafe fn to_host(thread: &HostThread, fs_base: u64, rsp: u64) -> u64 {
    let mask = signal::block_all();
    if thread.block.signals.is_pending() {
        signal::set_mask(mask);
        return RESTART;
    }
    set_fs_base(fs_base);
    signal::give_stack_back(thread);
    thread.process.depart();
    // SAFETY: guest::leave stands in `switch_back` with what it has pushed at `rsp`; nobody uses the thread when its
    // stack has been left.
    unsafe { resume(rsp, mask, &raw const thread.shared().user) }
}

/// Goes on in host mode as `frame` says, with `fs_base`, for the rest of the thread's life. Returns if a signal has to be seen first.
///
/// # Safety
///
/// The calling thread is that of `thread`, in its host loop, and ring 0 has asked for this with a frame that it has written, and that lasts.
pub(super) unsafe fn for_good(thread: &HostThread, fs_base: u64, frame: *mut SignalFrame) -> u64 {
    let mask = signal::block_all();
    if thread.block.signals.is_pending() {
        signal::set_mask(mask);
        return RESTART;
    }
    set_fs_base(fs_base);
    // SAFETY: ring 0 has written the frame for this, on its system-call stack.
    unsafe {
        (*frame).context.mask = mask;
        (*frame).context.stack = thread.block.alternate_stack.get().description();
    }
    if thread.block.is_vfork_child.get() {
        signal::give_actions_back(|| true);
    } else {
        // The frame has to last until it is used: the next thread may have this place when this one has ended.
        thread.shared().user.store(User::Left(sys::thread_id()).word(), Ordering::Release);
        depart_for_good(thread.process);
    }
    // SAFETY: the frame is a whole one; nobody uses the thread's loop stack any more.
    unsafe {
        go_on_in_host_mode(frame as u64);
        core::hint::unreachable_unchecked()
    }
}

/// Counts the calling thread out of `process`, which goes on as any other where that was the last in Dune mode.
fn depart_for_good(process: &HostProcess) {
    if !process.depart() {
        actions::expect_leavers();
        return;
    }
    signal::give_actions_back(|| process.active_threads() == 0);
    // Nobody enters later where programs know nothing of it.
    let is_last =
        if process.is_unmodified() { tasks::nobody_else_as_far_as_known } else { tasks::nobody_else };
    if is_last(|id| process.is_ending(id)) {
        // How it ends is not known here any more.
        // SAFETY: this was the last thread in Dune mode, and the process has no other that could enter.
        unsafe { process.abandon() };
        if Engine::HAS_TASK {
            tasks::wait_for_workers(|id| process.is_ending(id));
        }
    }
}

fn set_fs_base(fs_base: u64) {
    const ARCH_SET_FS: u64 = 0x1002;
    if fs_base != thread_pointer() {
        // SAFETY: the base that the thread had in Dune mode.
        let _ = unsafe { sys::raw(__NR_arch_prctl, [ARCH_SET_FS, fs_base, 0, 0, 0, 0]) };
    }
}

/// # Safety
///
/// `rsp` is that of `guest::leave::switch_back`; `user` becomes [`User::Nobody`] when this stack is not used any more.
#[unsafe(naked)]
unsafe extern "C" fn resume(rsp: u64, mask: u64, user: *const AtomicU32) -> ! {
    // ABI: System V; returns to the caller of guest::leave::switch_back instead of its own. Signals come again on the
    // program's stack only.
    naked_asm!(
        "mov rsp, rdi",
        "mov rbx, rdx",
        "push rsi",
        "mov rsi, rsp",
        "mov eax, {RT_SIGPROCMASK}",
        "mov edi, {SIG_SETMASK}",
        "xor edx, edx",
        "mov r10d, 8",
        "syscall",
        "mov dword ptr [rbx], {FREE}",
        "add rsp, 8",
        "ldmxcsr [rsp]",
        "fldcw [rsp + 4]",
        "add rsp, 8",
        pop_callee_saved!(),
        "xor eax, eax",
        "ret",
        RT_SIGPROCMASK = const __NR_rt_sigprocmask,
        SIG_SETMASK = const SIG_SETMASK,
        FREE = const User::Nobody.word(),
    )
}
