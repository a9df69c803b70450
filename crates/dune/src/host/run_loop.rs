//! The host loop: runs the vCPU and serves what Dune mode asks for.
//!
//! It shares the thread with the program like a signal handler: no allocation, no libc, no thread-local storage, no
//! locks that the program may hold, no unwinding. Signals interrupt it, and go to the program in Dune mode (`signal.rs`).

use core::sync::atomic::Ordering;

use super::thread::HostThread;
use super::{birth, cpu_number, forward, leave, second_level, signal, thread, time_limit, windows};
use crate::arch::vector::Vector;
use crate::contract::birth::{Birth, Preparation};
use crate::contract::request::Kind;
use crate::contract::signal_frame::SignalFrame;
use crate::contract::thread_counters::count;
use crate::engine::{Exit, Vcpu};
use crate::guest::syscall;
use crate::linux::{proc, sys};
use crate::memory::mirror::MirrorMode;
use crate::report;

/// Runs Dune mode. Returns only if it did not start, with the reason in `thread.refused`.
///
/// # Safety
///
/// The thread is the calling one's, which nobody else serves, and the calling code runs on its loop stack, with a continuation that Dune
/// mode may start at.
pub(super) unsafe extern "C" fn host_loop(thread: &HostThread) {
    let state = thread.first_state();
    if let Err(error) = thread.vcpu().load(&state) {
        if thread.entered.get() {
            report::fatal(format_args!("a new thread can not run in Dune mode: {error}"));
        }
        let (what, code) = (error.operation, error.errno.raw() as u64);
        thread.refused.set(Some(Exit::Failed { what, code }));
        return;
    }
    thread.block.task.store(sys::thread_id(), Ordering::Relaxed);
    signal::start(thread);
    loop {
        cpu_number::keep(thread);
        match thread.vcpu().run() {
            Exit::Request => serve(thread),
            Exit::Interrupted => {
                count(&thread.block.counters.interrupted);
                announce_signals(thread);
            }
            Exit::InterruptWindow => {
                count(&thread.block.counters.interrupt_windows);
                inject(thread);
            }
            Exit::SecondLevelFault if thread.entered.get() && second_level::pass_on(thread) => (),
            Exit::PortAccess { .. }
                if thread.process.is_unmodified() && thread.vcpu().refuse_port_access() =>
            {
                // A stop that was asked for meanwhile has been withdrawn.
                announce_signals(thread);
            }
            // KVM emulates some instructions where the computer's CPU raises #UD, as those of the other manufacturer.
            Exit::NotEmulated if thread.process.is_unmodified() && thread.vcpu().refuse_instruction() => {}
            other if !thread.entered.get() => {
                thread.refused.set(Some(other));
                return;
            }
            other => report_exit(thread, other),
        }
    }
}

/// Answers the request in the thread block.
#[inline(always)]
fn serve(thread: &HostThread) {
    let block = &*thread.block;
    let asked = block.request.kind.replace(Kind::None as u64);
    if asked == Kind::Syscall as u64 {
        count(&block.counters.forwarded_syscalls);
        let number = block.request.number.get();
        let result = forward::system_call(number, &block.request.arguments, &block.signals.pending);
        block.request.result.set(result);
        if block.signals.is_pending() {
            // Ring 0 looks for it before the program goes on.
            thread.vcpu().withdraw_stop();
        }
        if forward::makes_mappings(number)
            && thread.process.memory().mapping() == MirrorMode::Full
            && sys::result(result).is_ok()
        {
            windows::give_or_report(thread.process.memory(), thread.process.machine(), result);
        }
    } else {
        serve_own(thread, asked);
    }
}

/// Requests of Dune's own.
#[cold]
fn serve_own(thread: &HostThread, asked: u64) {
    if asked == Kind::None as u64 && thread.process.is_unmodified() && thread.vcpu().refuse_halt() {
        return;
    }
    let (request, counters) = (&thread.block.request, &thread.block.counters);
    let [first, second, ..] = request.arguments.get();
    count(&counters.other_requests);
    let result = match Kind::of(asked) {
        Some(Kind::Entered) => {
            thread.entered.set(true);
            signal::adopt(thread);
            counters.other_requests.set(0);
            0
        }
        Some(Kind::Interrupt) => {
            interrupt(thread, first as u8);
            0
        }
        Some(Kind::SyscallFirst) => {
            counters.other_requests.update(|count| count - 1);
            count(&counters.forwarded_syscalls);
            forward::system_call_first(request.number.get(), &request.arguments)
        }
        Some(Kind::Grow) => {
            windows::give_or_report(thread.process.memory(), thread.process.machine(), first).into()
        }
        Some(Kind::Prepare) => {
            // SAFETY: ring 0 passes the address of a description that it holds while it waits for the answer.
            thread::prepare(thread, unsafe { &*(first as *const Preparation) })
        }
        Some(Kind::Birth) => {
            // SAFETY: this is the thread's host loop, and only `guest::clone` makes this request, with the address of a description that it
            // holds while it waits for the answer.
            unsafe { birth::make_child(thread, &*(first as *const Birth)) }
        }
        Some(Kind::Exit) => birth::end(thread, first, second != 0),
        // SAFETY: this is the thread's host loop, and only `guest::leave` makes this request.
        Some(Kind::Leave) => unsafe { leave::to_host(thread, first, second) },
        // SAFETY: the same, and only `guest::filter` makes this one, with a frame on the thread's system-call stack.
        Some(Kind::LeaveForGood) => unsafe { leave::for_good(thread, first, second as *mut SignalFrame) },
        Some(Kind::StartTimer) => time_limit::start(first, second),
        Some(Kind::StopTimer) => {
            time_limit::stop(first);
            0
        }
        Some(Kind::SecondLevelFaults) => {
            counters.other_requests.update(|count| count - 1);
            thread.vcpu().second_level_faults().unwrap_or(u64::MAX)
        }
        _ => report_registers(thread, format_args!("HLT in Dune mode without a request"), SIGSEGV),
    };
    request.result.set(result);
}

/// Raises the interrupt that makes ring 0 look for signals, and for time limits that are over, if there are some.
fn announce_signals(thread: &HostThread) {
    thread.vcpu().withdraw_stop();
    let news = thread.block.time_limits.take_news();
    if thread.block.signals.is_pending() || news || has_stopped_for_tracer(thread) {
        interrupt(thread, Vector::SIGNAL.number());
    }
}

/// Whether it may have been a tracer's stop that has interrupted Dune mode, one that has come since the process entered. Then
/// ring 0 is to leave.
fn has_stopped_for_tracer(thread: &HostThread) -> bool {
    /// Other things interrupt, too, often perhaps: after so many ticks of the time-stamp counter it is asked again.
    const TICKS: u64 = 1 << 24;
    // SAFETY: RDTSC reads a counter.
    let now = unsafe { core::arch::x86_64::_rdtsc() };
    if !thread.process.is_unmodified() || now.wrapping_sub(thread.looked_for_tracer.get()) < TICKS {
        return false;
    }
    thread.looked_for_tracer.set(now);
    let is_traced = proc::has_new_tracer().unwrap_or(false);
    thread.block.is_traced.set(is_traced);
    is_traced
}

/// Queues the external interrupt `vector`.
fn interrupt(thread: &HostThread, vector: u8) {
    let word = &thread.pending_interrupts[usize::from(vector) / 64];
    word.set(word.get() | 1 << (vector % 64));
    inject(thread);
}

/// Hands the lowest pending interrupt to the vCPU, or asks to be told when it can take one.
fn inject(thread: &HostThread) {
    let pending = &thread.pending_interrupts;
    if let Some(word) = pending.iter().position(|bits| bits.get() != 0) {
        let bits = pending[word].get();
        if thread.vcpu().try_interrupt((word as u32 * 64 + bits.trailing_zeros()) as u8) {
            pending[word].set(bits & (bits - 1));
        } else {
            let block = &thread.block;
            thread
                .vcpu()
                .turn_interrupts_on(|rip, rsp| block.is_unmodified_code(rsp) && !syscall::is_stub(rip));
        }
    }
    let waiting = pending.iter().any(|bits| bits.get() != 0);
    thread.vcpu().request_interrupt_window(waiting);
}

use linux_raw_sys::general::{SIGABRT, SIGBUS, SIGSEGV};

/// Ends the process for an exit that Dune mode can not survive.
#[cold]
fn report_exit(thread: &HostThread, exit: Exit) -> ! {
    match exit {
        Exit::Shutdown => report_registers(thread, format_args!("triple fault in Dune mode"), SIGSEGV),
        Exit::SecondLevelFault => report_registers(
            thread,
            format_args!("access to memory that Linux has not mapped, or not for this kind of access"),
            SIGSEGV,
        ),
        Exit::OutsideWindows { gpa } => report_registers(
            thread,
            format_args!("access to guest-physical address {gpa:#x}, which has no window"),
            SIGBUS,
        ),
        Exit::PortAccess { port } => {
            report_registers(thread, format_args!("access to I/O port {port:#x}"), SIGSEGV)
        }
        Exit::NotEmulated => {
            report_registers(thread, format_args!("an instruction that KVM can not emulate"), SIGABRT)
        }
        Exit::EntryFailed { reason } => report_registers(
            thread,
            format_args!("the CPU refused to go on in Dune mode (hardware reason {reason:#x})"),
            SIGABRT,
        ),
        Exit::Failed { what, code } => report_registers(thread, format_args!("{what} {code}"), SIGABRT),
        Exit::Request | Exit::Interrupted | Exit::InterruptWindow => {
            report_registers(thread, format_args!("exit {exit:?} in the wrong place"), SIGABRT)
        }
    }
}

#[cold]
fn report_registers(thread: &HostThread, what: core::fmt::Arguments<'_>, signal: u32) -> ! {
    report::stopped(what, thread.vcpu().registers().as_ref(), signal)
}
