//! Leaving Dune mode: the host loop ends, and the thread goes on where it was in Dune mode.

use core::arch::naked_asm;
use core::sync::atomic::AtomicU32;

use linux_raw_sys::general::{__NR_arch_prctl, __NR_rt_sigprocmask, SIG_SETMASK};

use super::signal;
use super::thread::{FREE, HostThread, thread_pointer};
use crate::guest::signal::RESTART;
use crate::sys;

/// Goes on in host mode on the program's stack, at `rsp`, with `fs_base`. Returns if a signal has to be seen first.
pub(super) fn to_host(thread: &mut HostThread, fs_base: u64, rsp: u64) -> u64 {
    const ARCH_SET_FS: u64 = 0x1002;
    let mask = signal::block_all();
    if thread.block.signals.is_pending() {
        signal::set_mask(mask);
        return RESTART;
    }
    if fs_base != thread_pointer() {
        // SAFETY: the base that the thread had in Dune mode.
        let _ = unsafe { sys::raw(__NR_arch_prctl, [ARCH_SET_FS, fs_base, 0, 0, 0, 0]) };
    }
    signal::give_stack_back(thread);
    thread.process.depart();
    // SAFETY: guest::leave stands in `switch_back` with what it has pushed at `rsp`; nobody uses the thread when its
    // stack has been left.
    unsafe { resume(rsp, mask, &raw const thread.user) }
}

/// # Safety
///
/// `rsp` is that of `guest::leave::switch_back`; `user` becomes [`FREE`] when this stack is not used any more.
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
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "xor eax, eax",
        "ret",
        RT_SIGPROCMASK = const __NR_rt_sigprocmask,
        SIG_SETMASK = const SIG_SETMASK,
        FREE = const FREE,
    )
}
