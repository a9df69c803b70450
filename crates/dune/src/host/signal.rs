//! Signals as Linux delivers them: to a handler of ours, in host mode.
//!
//! In place of each handler of the program's, Linux knows [`handler`]. On a thread in Dune mode it interrupts the host
//! loop, whose registers and stack are of no interest to the program: it notes the signal in the thread's queue, and ring
//! 0 builds the frame that the program is to see (`guest/signal`). On a thread in host mode it calls the program's
//! handler.
//!
//! The mask that Linux keeps for the thread is the program's at any time: when `handler` returns, Linux loads it from
//! the frame, where `handler` has put the one that is to be in force while the program's own handler runs.

use core::arch::global_asm;

use linux_raw_sys::general::{
    __NR_epoll_pwait as EPOLL_PWAIT, __NR_epoll_pwait2 as EPOLL_PWAIT2, __NR_io_pgetevents as IO_PGETEVENTS,
    __NR_io_uring_enter as IO_URING_ENTER, __NR_ppoll as PPOLL, __NR_pselect6 as PSELECT6, __NR_rt_sigaction,
    __NR_rt_sigprocmask, __NR_rt_sigreturn, __NR_rt_sigsuspend as RT_SIGSUSPEND, __NR_sigaltstack,
    SA_RESTART, SIG_SETMASK, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SS_DISABLE,
};

use super::thread::{HostThread, behind};
use super::{forward, process, time_limit, touch};
use crate::contract::actions::{self, SIGNALS, as_told_to_linux, is_ours};
use crate::contract::alternate_stack::AlternateStack;
use crate::contract::request::Request;
use crate::contract::signal_frame::{SignalInfo, StackDescription, Ucontext};
use crate::contract::signal_queue::{Action, DEFAULT, Taken};
use crate::contract::thread::Thread;
use crate::engine::Vcpu;
use crate::linux::sys;
use crate::report;

/// Blocks every signal that can be; the mask before.
pub(super) fn block_all() -> u64 {
    exchange_mask(u64::MAX)
}

/// Sets the thread's signal mask.
pub(super) fn set_mask(mask: u64) {
    exchange_mask(mask);
}

fn exchange_mask(mask: u64) -> u64 {
    let mut before = 0u64;
    let (new, old) = ((&raw const mask) as u64, (&raw mut before) as u64);
    // SAFETY: the call reads `mask` and writes `before`.
    let _ = unsafe { sys::raw(__NR_rt_sigprocmask, [SIG_SETMASK.into(), new, old, 8, 0, 0]) };
    before
}

/// Before the host loop of `thread` runs Dune mode for the first time.
pub(super) fn start(thread: &HostThread) {
    if let Some(mask) = thread.first_mask.take() {
        set_mask(mask);
    }
}

/// When `thread` has entered: takes over the process's handlers and the thread's alternate stack. Called on the loop
/// stack, as Linux does not let go of a stack in use.
pub(super) fn adopt(thread: &HostThread) {
    let mut stack = StackDescription::default();
    let none = StackDescription { flags: SS_DISABLE as i32, ..StackDescription::default() };
    // SAFETY: the call reads `none` and writes `stack`.
    let known = unsafe {
        sys::call(__NR_sigaltstack, [(&raw const none) as u64, (&raw mut stack) as u64, 0, 0, 0, 0])
    };
    if known.is_ok() {
        thread.block.alternate_stack.set(AlternateStack::adopt(&stack));
    }
    for signal in 1..=SIGNALS {
        let _changes = actions::hold();
        if let Some(action) = known_to_linux(signal)
            && !is_ours(&action)
        {
            actions::set(signal, &action);
            if action.has_handler() {
                tell_linux(signal, &as_told_to_linux(&action));
            }
        }
    }
}

/// Gives the thread's alternate stack back to Linux. Called on the loop stack, with signals blocked.
pub(super) fn give_stack_back(thread: &HostThread) {
    let stack = thread.block.alternate_stack.get().description();
    // SAFETY: the call reads the description of a stack that the program has given.
    let _ = unsafe { sys::raw(__NR_sigaltstack, [(&raw const stack) as u64, 0, 0, 0, 0, 0]) };
}

/// Tells Linux the program's own actions, as long as no thread is in Dune mode, says `is_over`. One that enters meanwhile adopts
/// them again.
pub(super) fn give_actions_back(is_over: impl Fn() -> bool) {
    for signal in 1..=SIGNALS {
        let _changes = actions::hold();
        if !is_over() {
            return;
        }
        if known_to_linux(signal).is_some_and(|known| is_ours(&known)) {
            tell_linux(signal, &actions::get(signal));
        }
    }
}

/// The action for `signal` as Linux has it.
fn known_to_linux(signal: u32) -> Option<Action> {
    let mut known = Action::default();
    // SAFETY: the call writes `known`.
    unsafe { sys::call(__NR_rt_sigaction, [signal.into(), 0, (&raw mut known) as u64, 8, 0, 0]) }.ok()?;
    Some(known)
}

fn tell_linux(signal: u32, action: &Action) {
    let address = core::ptr::from_ref(action) as u64;
    // SAFETY: the call reads the action, whose functions are made for this.
    let _ = unsafe { sys::raw(__NR_rt_sigaction, [signal.into(), address, 0, 8, 0, 0]) };
}

// Unwinders and debuggers know the end of a signal frame by these bytes (`mov rax, 15` and SYSCALL, as in glibc), if the
// one before, where a call would be, is no other function's (libgcc's `x86_64_fallback_frame_state`).
global_asm!(
    "    .section .text.dune_restorer, \"ax\", @progbits",
    "    .balign 16",
    "    nop",
    "    .globl dune_restorer",
    "    .hidden dune_restorer",
    "    .type dune_restorer, @function",
    "dune_restorer:",
    "    .byte 0x48, 0xc7, 0xc0",
    "    .long {NUMBER}",
    "    syscall",
    "    ud2",
    "    .size dune_restorer, . - dune_restorer",
    "    .text",
    "    .globl dune_signal_handler",
    "    .hidden dune_signal_handler",
    "    .type dune_signal_handler, @function",
    // ABI: as Linux calls a signal's handler with SA_SIGINFO.
    "dune_signal_handler:",
    "    jmp {HANDLER}",
    "    .size dune_signal_handler, . - dune_signal_handler",
    NUMBER = const __NR_rt_sigreturn,
    HANDLER = sym handler,
);

/// The handler that Linux knows. It runs with all signals blocked.
extern "C" fn handler(signal: u32, info: &SignalInfo, context: &mut Ucontext) {
    if time_limit::is_ours(signal, info) {
        return end_time(info, context.registers.rsp);
    }
    let action = actions::get(signal);
    if touch::refuse(signal, info, &mut context.registers) {
        if action.is_for_once() {
            // The program has not seen it yet.
            tell_linux(signal, &as_told_to_linux(&action));
        }
        return;
    }
    if action.has_handler() && action.is_for_once() {
        // Linux has done so already.
        actions::reset(signal, &action);
    }
    let added = action.blocked(signal);
    match thread_at(context.registers.rsp) {
        _ if !action.has_handler() => without_handler(signal, &action),
        None => call_in_host_mode(signal, info, context, &action, context.mask | added),
        Some(_) if is_own_fault(signal, info, context.registers.rip) => report::fatal(format_args!(
            "signal {signal} (code {}, address {:#x}) in the host loop at {:#x}",
            info.code, info.fields[0], context.registers.rip
        )),
        Some(thread) => {
            // SAFETY: the thread is this one, between two instructions of its host loop, which has a shared reference, too.
            let thread = unsafe { &*behind(thread) };
            let (block, vcpu) = (&*thread.block, thread.vcpu());
            // The first signal that interrupts a call ends what mask the call had; the next finds that of its handler.
            let is_first = !block.signals.is_pending();
            let mask = if is_first { mask_in_force(context, &block.request) } else { context.mask };
            let handler_mask = mask | added;
            let taken = Taken { info: *info, action, mask: context.mask, handler_mask };
            let more_may_come = block.signals.push(&taken);
            context.mask = if more_may_come { handler_mask } else { u64::MAX };
            context.registers.rip = touch::after_signal(forward::after_signal(context.registers.rip));
            vcpu.request_stop();
        }
    }
}

/// The thread in Dune mode whose host loop has the stack pointer `rsp`.
fn thread_at(rsp: u64) -> Option<*mut Thread> {
    // A child of a fork in host mode has no process of ours until it enters.
    let mut threads = process::current().into_iter().flat_map(|process| process.threads());
    // SAFETY: threads on the list are never freed.
    threads.find(|&thread| unsafe { (*thread).is_in_host_loop(rsp) })
}

/// The timer of a time limit has fired on a thread whose stack pointer is `rsp`.
fn end_time(info: &SignalInfo, rsp: u64) {
    if let Some(thread) = thread_at(rsp) {
        // SAFETY: as in `handler`.
        let thread = unsafe { &*behind(thread) };
        time_limit::fired(&thread.block, info);
        thread.vcpu().request_stop();
    }
}

/// Has Linux call [`handler`] for `signal`, whether the program has a handler for it or not.
pub(super) fn take_over(signal: u32) {
    let _changes = actions::hold();
    if let Some(known) = known_to_linux(signal)
        && !is_ours(&known)
    {
        actions::set(signal, &known);
        let own =
            Action { handler: handler as *const () as u64, flags: SA_RESTART.into(), ..Action::default() };
        tell_linux(signal, &as_told_to_linux(&own));
    }
}

/// The mask that was in force when the signal came to a thread that had made `request`: of a call that waits with a mask
/// of its own if it was interrupted, else the one that the frame has. (Linux knows, but has added all signals to it.)
fn mask_in_force(context: &Ucontext, request: &Request) -> u64 {
    // IORING_ENTER_EXT_ARG, IORING_ENTER_EXT_ARG_REG (<linux/io_uring.h>).
    const EXT_ARG: u64 = 1 << 3;
    const EXT_ARG_REG: u64 = 1 << 6;
    let [first, _, _, fourth, fifth, sixth] = request.arguments.get();
    if !forward::was_interrupted(&context.registers) {
        return context.mask;
    }
    let mask = match request.number.get() as u32 {
        RT_SIGSUSPEND => first,
        PPOLL => fourth,
        EPOLL_PWAIT | EPOLL_PWAIT2 => fifth,
        IO_URING_ENTER if fourth & EXT_ARG == 0 => fifth,
        // A structure that starts with a pointer to a mask.
        IO_URING_ENTER if fourth & EXT_ARG_REG == 0 && fifth != 0 => sys::word_at(fifth).unwrap_or(0),
        PSELECT6 | IO_PGETEVENTS if sixth != 0 => sys::word_at(sixth).unwrap_or(0),
        _ => 0,
    };
    // Linux has read it when the call began; another thread may have unmapped it meanwhile.
    Some(mask).filter(|&mask| mask != 0).and_then(sys::word_at).unwrap_or(context.mask)
}

/// Whether the host loop itself has caused the signal at `rip`, and would again.
fn is_own_fault(signal: u32, info: &SignalInfo, rip: u64) -> bool {
    /// A broken page that nobody has touched yet (`BUS_MCEERR_AO`).
    const ACTION_OPTIONAL: i32 = 5;
    match signal {
        SIGSEGV | SIGILL | SIGFPE => info.code > 0 && !is_at_call(rip),
        SIGBUS => info.code > 0 && info.code != ACTION_OPTIONAL && !is_at_call(rip),
        _ => false,
    }
}

/// Whether Linux was making a system call for the code at `rip`. Signals that come from there are no faults of that code:
/// those that the process has sent to itself, and what KVM_RUN says of a broken page that Dune mode has touched.
fn is_at_call(rip: u64) -> bool {
    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    // Behind the instruction, or at it, when Linux is about to make the call again.
    [rip.wrapping_sub(2), rip].into_iter().any(|place| {
        // SAFETY: Linux has just read what is there, and any bytes make these.
        sys::can_be_read(place) && unsafe { (place as *const [u8; 2]).read() } == SYSCALL
    })
}

/// The program has taken its handler away while the signal was on its way; who does so tells Linux himself.
fn without_handler(signal: u32, action: &Action) {
    if action.handler != DEFAULT {
        return;
    }
    tell_linux(signal, action);
    let now = actions::get(signal);
    if now.has_handler() {
        // Another thread has set one meanwhile.
        tell_linux(signal, &as_told_to_linux(&now));
    }
    // Linux does the rest when the signal is not blocked any more.
    let _ = sys::send_signal(sys::thread_id(), signal);
}

/// Calls the program's handler as Linux would have.
fn call_in_host_mode(
    signal: u32,
    info: &SignalInfo,
    context: &mut Ucontext,
    action: &Action,
    handler_mask: u64,
) {
    set_mask(handler_mask);
    // SAFETY: the program has given this address for a function of this type.
    let program: extern "C" fn(u32, &SignalInfo, &mut Ucontext) =
        unsafe { core::mem::transmute(action.handler as usize) };
    program(signal, info, context);
}
