//! Finding out whether the calling code is a signal handler.
//!
//! A thread that entered Dune mode inside a handler could never return from it: the frame below belongs to the
//! kernel's sigreturn, which only host mode can use. Linux has no call that answers the question for handlers on
//! the normal stack, so the stack is searched for the frame itself.

use core::mem::{offset_of, size_of};
use core::ops::ControlFlow;

use linux_raw_sys::general::{
    __NR_rt_sigaction, __NR_rt_sigprocmask, __NR_sigaltstack, SA_NODEFER, SIG_BLOCK, SS_ONSTACK, stack_t,
};

use crate::memory::maps;
use crate::sys;

/// `struct kernel_sigaction` of x86-64.
#[derive(Debug, Default)]
#[repr(C)]
struct KernelSigaction {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

/// The start of the kernel's `struct rt_sigframe` (arch/x86/include/asm/sigframe.h): the return address, the
/// ucontext with the saved registers, and the siginfo behind it.
#[repr(C)]
struct RtSigframe {
    return_address: u64,
    flags: u64,
    link: u64,
    stack: [u64; 3],
    registers: [u64; 23],
    fpstate: u64,
    reserved: [u64; 8],
    mask: u64,
    signal: i32,
}

const SAVED_RSP: usize = 15;
const _: () = assert!(offset_of!(RtSigframe, signal) == 8 + 304);

/// The signal whose handler is running in this thread: `Some(0)` if only that is known, `None` outside of handlers.
pub(super) fn handler_in_progress() -> Option<u32> {
    if on_alternate_stack() {
        return Some(0);
    }
    let mut restorers = [0u64; 65];
    let mut deferring = [false; 65];
    for signal in 1..=64u32 {
        let mut action = KernelSigaction::default();
        // SAFETY: rt_sigaction without a new action writes the old one to `action`.
        let known =
            unsafe { sys::call(__NR_rt_sigaction, [signal.into(), 0, (&raw mut action) as u64, 8, 0, 0]) };
        if known.is_ok() && action.handler > 1 {
            restorers[signal as usize] = action.restorer;
            deferring[signal as usize] = action.flags & u64::from(SA_NODEFER) == 0;
        }
    }
    if restorers.iter().all(|&restorer| restorer == 0) {
        return None;
    }
    let mut blocked = 0u64;
    // SAFETY: rt_sigprocmask without a new mask writes the old one to `blocked`.
    let _ =
        unsafe { sys::call(__NR_rt_sigprocmask, [SIG_BLOCK.into(), 0, (&raw mut blocked) as u64, 8, 0, 0]) };
    let here = (&raw const blocked) as u64;
    let top = stack_end(here)?;
    let last = top.checked_sub(size_of::<RtSigframe>() as u64)?;
    (here..=last).step_by(8).find_map(|address| {
        // SAFETY: `address` is aligned and the whole frame lies below the end of this thread's stack.
        let frame = unsafe { &*(address as *const RtSigframe) };
        let signal = frame.signal as usize;
        let is_frame = (1..=64).contains(&frame.signal)
            && restorers[signal] != 0
            && frame.return_address == restorers[signal]
            && frame.registers[SAVED_RSP] > address;
        // A frame of a handler that has returned may lie in an unused part of the stack; while the handler
        // runs, its signal is blocked, unless it asked otherwise.
        let running = deferring.get(signal).copied().unwrap_or(false) && blocked >> (signal - 1) & 1 != 0;
        let not_deferred = is_frame && !deferring[signal];
        (is_frame && (running || not_deferred)).then_some(signal as u32)
    })
}

fn on_alternate_stack() -> bool {
    let mut stack = stack_t { ss_sp: core::ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    // SAFETY: sigaltstack without a new stack writes the old one to `stack`.
    let known = unsafe { sys::call(__NR_sigaltstack, [0, (&raw mut stack) as u64, 0, 0, 0, 0]) };
    known.is_ok() && stack.ss_flags & SS_ONSTACK as i32 != 0
}

/// The end of the mapping that holds this thread's stack.
fn stack_end(here: u64) -> Option<u64> {
    let mut end = None;
    maps::for_each(|mapping| {
        if (mapping.start..mapping.end).contains(&here) {
            end = Some(mapping.end);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })
    .ok()?;
    end
}
