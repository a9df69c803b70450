//! Finding out whether the calling code is a signal handler.
//!
//! A thread that entered Dune mode inside a handler could never return from it: the frame below belongs to the
//! kernel's sigreturn, which only host mode can use. Linux has no call that answers the question for handlers on
//! the normal stack. Two ways find the frame: the unwinder, which follows the calls down to it, and, should that
//! lose its way in code without unwind tables, a search of the stack for a frame whose signal is still blocked.

use core::ffi::c_void;
use core::mem::{offset_of, size_of};
use core::ops::ControlFlow;

use linux_raw_sys::general::{
    __NR_getpid, __NR_process_vm_readv, __NR_rt_sigprocmask, __NR_sigaltstack, SIG_BLOCK, SS_ONSTACK, iovec,
    stack_t,
};

use crate::memory::maps;
use crate::sys;

/// The code that a handler returns to, whose only form on x86-64 is `mov $15, %rax; syscall`: debuggers and
/// unwinders know it by these bytes, too, with or without the REX prefix.
const RESTORERS: [&[u8]; 2] =
    [&[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05], &[0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05]];

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
    on_stack().or_else(|| unwinder_meets_restorer().then_some(0))
}

fn on_alternate_stack() -> bool {
    let mut stack = stack_t { ss_sp: core::ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    // SAFETY: sigaltstack without a new stack writes the old one to `stack`.
    let known = unsafe { sys::call(__NR_sigaltstack, [0, (&raw mut stack) as u64, 0, 0, 0, 0]) };
    known.is_ok() && stack.ss_flags & SS_ONSTACK as i32 != 0
}

/// Searches the stack above for a frame whose signal is blocked now and was not before, which tells it from the
/// remains of a handler that has returned.
fn on_stack() -> Option<u32> {
    let mut blocked = 0u64;
    // SAFETY: rt_sigprocmask without a new mask writes the old one to `blocked`.
    let _ =
        unsafe { sys::call(__NR_rt_sigprocmask, [SIG_BLOCK.into(), 0, (&raw mut blocked) as u64, 8, 0, 0]) };
    let here = (&raw const blocked) as u64;
    let last = stack_end(here)?.checked_sub(size_of::<RtSigframe>() as u64)?;
    (here..=last).step_by(8).find_map(|address| {
        // SAFETY: `address` is aligned and the whole frame lies below the end of this thread's stack.
        let frame = unsafe { &*(address as *const RtSigframe) };
        let bit = (1..=64).contains(&frame.signal).then(|| 1u64 << (frame.signal - 1))?;
        let running = blocked & bit != 0 && frame.mask & bit == 0;
        (running && frame.registers[SAVED_RSP] > address && is_restorer(frame.return_address))
            .then_some(frame.signal as u32)
    })
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

/// Whether the code at `address`, which may be anything, is a restorer.
fn is_restorer(address: u64) -> bool {
    let mut code = [0u8; 9];
    let to = iovec { iov_base: code.as_mut_ptr().cast(), iov_len: code.len() as _ };
    let from = iovec { iov_base: address as *mut _, iov_len: code.len() as _ };
    // SAFETY: process_vm_readv writes to `code` at most; an address without memory is an error, not a fault.
    let read = unsafe {
        let process = sys::raw(__NR_getpid, [0; 6]);
        sys::call(__NR_process_vm_readv, [process, (&raw const to) as u64, 1, (&raw const from) as u64, 1, 0])
    };
    read.is_ok() && RESTORERS.iter().any(|restorer| code.starts_with(restorer))
}

// The unwinder that std brings along (Itanium C++ ABI: Exception Handling §1.6).
unsafe extern "C" {
    fn _Unwind_Backtrace(
        trace: extern "C" fn(context: *mut c_void, argument: *mut c_void) -> u32,
        argument: *mut c_void,
    ) -> u32;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
}

/// Whether one of the frames below is a restorer's.
fn unwinder_meets_restorer() -> bool {
    const NO_REASON: u32 = 0;
    const STOP: u32 = 4; // _URC_NORMAL_STOP

    extern "C" fn frame(context: *mut c_void, found: *mut c_void) -> u32 {
        // SAFETY: 1. the unwinder passes a valid context; 2. `found` is the bool below.
        unsafe {
            if is_restorer(_Unwind_GetIP(context) as u64) {
                *found.cast::<bool>() = true;
                return STOP;
            }
        }
        NO_REASON
    }

    let mut found = false;
    // SAFETY: the callback does not unwind and `found` outlives the call.
    unsafe { _Unwind_Backtrace(frame, (&raw mut found).cast()) };
    found
}
