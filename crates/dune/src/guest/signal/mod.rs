//! Signals in Dune mode: handlers of the program's run at ring 0, on frames as Linux would have built them.
//!
//! Linux delivers a signal to a handler of ours in the host loop (`host/signal.rs`), which puts it into the thread's
//! [`queue`](crate::contract::signal_queue::Queue). Ring 0 takes it from there when the program's code is about to go on: at the end of a
//! system call, or in an interrupt that the host loop raises. The thread's signal mask is Linux's all the time.
//!
//! Code with interrupts off is not disturbed: Dune's own, and trap handlers. Its signals wait.

pub(crate) mod action;
mod exception;
mod sigaltstack;
mod vector_state;

use core::mem::MaybeUninit;

use linux_raw_sys::general::{
    __NR_rt_sigaction as RT_SIGACTION, __NR_rt_sigprocmask, __NR_rt_sigreturn as RT_SIGRETURN,
    __NR_sigaltstack as SIGALTSTACK, SA_ONSTACK, SI_KERNEL, SIG_BLOCK, SIG_SETMASK, SIGSEGV, SIGSYS,
    SS_DISABLE,
};

use super::copy::{self, BadAddress};
use super::tracer;
use crate::arch::frame::TrapFrame;
use crate::arch::registers::{INTERRUPT_FLAG, Registers, VectorArea};
use crate::arch::token::Dune;
use crate::arch::vector::Vector;
use crate::contract::actions;
use crate::contract::block::ThreadBlock;
use crate::contract::process::process;
use crate::contract::request::{Kind, RESTART};
use crate::contract::signal_frame::{
    self, SignalContext, SignalFrame, SignalInfo, StackDescription, TrapDetails, Ucontext,
};
use crate::contract::signal_queue::{self, Action, Taken};
use crate::guest::hypercall::{forward, forward_unless_signalled, hypercall};
use crate::report;

/// The calls that [`handle`] takes.
pub(crate) const NUMBERS: [u32; 3] = [RT_SIGACTION, SIGALTSTACK, RT_SIGRETURN];

/// The length of SYSCALL.
pub(super) const SYSCALL_BYTES: u64 = 2;

/// A filter has had a system call trapped (<asm-generic/siginfo.h>).
const SYS_SECCOMP: i32 = 1;

/// Below the stack pointer the ABI lets functions keep data (System V ABI §3.2.2).
pub(super) const RED_ZONE: u64 = 128;

/// Makes the call if it is one of this module's. The result is in `registers`.
pub(super) fn handle(dune: Dune, number: u32, registers: &mut Registers, area: VectorArea) -> bool {
    match number {
        RT_SIGACTION => registers.rax = action::system_call(dune, &registers.arguments()),
        SIGALTSTACK => {
            let mut stack = dune.block().alternate_stack.get();
            registers.rax = stack.system_call(registers.rdi, registers.rsi, registers.rsp);
            dune.block().alternate_stack.set(stack);
        }
        RT_SIGRETURN => sigreturn(dune, registers, area),
        _ => return false,
    }
    true
}

/// Whether a signal waits for the calling thread.
pub(super) fn is_pending(dune: Dune) -> bool {
    dune.block().signals.is_pending()
}

/// At the end of a system call: builds frames for what is pending, and sees to it that a call that was interrupted
/// before it had an effect is made.
pub(super) fn at_syscall_end(dune: Dune, registers: &mut Registers, area: VectorArea, number: u64) {
    // rt_sigreturn leaves the interrupted code's RAX, which may be any number.
    let restart = number != u64::from(RT_SIGRETURN) && registers.rax == RESTART;
    if registers.rflags & INTERRUPT_FLAG == 0 {
        // The program is not to be disturbed. The interrupt comes when it allows interrupts again.
        if restart {
            registers.rax = forward(number as u32, &registers.arguments());
        }
        // SAFETY: ring 0; the request takes a vector.
        unsafe { hypercall(Kind::Interrupt, Vector::SIGNAL.number().into(), 0) };
        return;
    }
    if restart {
        registers.rax = number;
        registers.rip -= SYSCALL_BYTES;
    }
    deliver(dune, registers, area);
}

/// In the interrupt [`Vector::SIGNAL`].
pub(super) fn at_interrupt(dune: Dune, frame: &mut TrapFrame, area: VectorArea) {
    if frame.words().rflags & INTERRUPT_FLAG != 0 {
        let mut registers = Registers::of_trap(frame);
        tracer::show_interrupted(dune, &registers, area);
        deliver(dune, &mut registers, area);
        registers.store_to(frame);
    }
}

/// Builds frames for all pending signals: the code of `registers` and `area` goes on when their handlers have returned.
fn deliver(dune: Dune, registers: &mut Registers, area: VectorArea) {
    let queue = &dune.block().signals;
    let mut mask = None;
    while let Some(taken) = queue.pop() {
        mask = Some(push_frame(dune, registers, area, &taken, dune.block().last_exception.get()));
    }
    if let Some(mask) = mask
        && queue.end_throttling()
    {
        set_mask(SIG_SETMASK, mask);
    }
}

/// Makes a trap that nobody wants a signal, if the program has a handler for that; false if it has to die. What the host
/// loop knows of it, it knows better.
pub(super) fn from_trap(
    dune: Dune,
    frame: &mut TrapFrame,
    area: VectorArea,
    second_level: Option<SignalInfo>,
) -> bool {
    if frame.vector().number() >= Vector::FIRST_FREE {
        // Without a handler for the signal, whoever reads the report learns of the interrupt.
        if !is_software_interrupt(frame) || !action::of_fault(dune, SIGSEGV).has_handler() {
            return false;
        }
        frame.refuse_software_interrupt();
    }
    if frame.words().rflags & INTERRUPT_FLAG != 0 {
        tracer::show(dune, frame, area);
    }
    let (info, details) = exception::describe(frame, area);
    let details = exception::keep(dune, details);
    let info = second_level.unwrap_or(info);
    let signal = info.signal as u32;
    let action = action::of_fault(dune, signal);
    // Code with interrupts off is Dune's or a trap handler's, where no signal handler may come.
    if frame.words().rflags & INTERRUPT_FLAG == 0 || !action.has_handler() {
        return false;
    }
    let mut registers = Registers::of_trap(frame);
    let blocked = action.blocked(signal);
    let before = match block_unless_signalled(blocked) {
        Some(before) => before,
        None if may_be_put_off(dune, frame) => {
            // The signal that waits has come before the fault, which comes again when its handler has returned.
            deliver(dune, &mut registers, area);
            registers.store_to(frame);
            return true;
        }
        // The other way round: the signal interrupts the handler of this one.
        None => {
            let now = set_mask(SIG_BLOCK, blocked);
            dune.block().signals.block(blocked).unwrap_or(now)
        }
    };
    if before & bit(signal) != 0 {
        // As for Linux, a program that blocks the signal of its own fault can not go on.
        return false;
    }
    if action.is_for_once() {
        reset(dune, signal);
    }
    let taken = Taken { info, action, mask: before, handler_mask: before | blocked };
    push_frame(dune, &mut registers, area, &taken, details);
    registers.store_to(frame);
    if is_pending(dune) {
        // One that came with the change of the mask, or before it. IRETQ does not look for it as the end of a call does.
        // SAFETY: ring 0; the request takes a vector.
        unsafe { hypercall(Kind::Interrupt, Vector::SIGNAL.number().into(), 0) };
    }
    true
}

/// Whether the exception of `frame` will come again, since its instruction is executed again (Intel SDM vol. 3 §6.5,
/// *Faults*); but under a stream of signals it must get its turn.
fn may_be_put_off(dune: Dune, frame: &TrapFrame) -> bool {
    const MOST: u32 = 4;
    let is_fault = ![Vector::DEBUG, Vector::BREAKPOINT, Vector::OVERFLOW].contains(&frame.vector());
    is_fault && dune.block().put_off.count(frame, 1) <= MOST
}

/// Whether the program made the trap of `frame`, of which it goes on behind, by INT n.
fn is_software_interrupt(frame: &TrapFrame) -> bool {
    const INT: u8 = 0xcd;
    // SAFETY: any bytes make a number.
    let before =
        unsafe { copy::from_program::<u64>(frame.words().rip.wrapping_sub(size_of::<u64>() as u64)) };
    // The instruction is the last two bytes.
    before.is_ok_and(|bytes| bytes.to_le_bytes()[6..] == [INT, frame.vector().number()])
}

/// Blocks `signals`; the mask before, or `None` if a signal waits, which has changed the mask already.
fn block_unless_signalled(signals: u64) -> Option<u64> {
    let (mask, mut before) = (signals, 0u64);
    let arguments = [SIG_BLOCK.into(), (&raw const mask) as u64, (&raw mut before) as u64, 8, 0, 0];
    (forward_unless_signalled(__NR_rt_sigprocmask, &arguments) != RESTART).then_some(before)
}

/// Sets the mask unless a signal waits, which has changed it already; whether it did.
fn set_mask_unless_signalled(mask: u64) -> bool {
    let arguments = [SIG_SETMASK.into(), (&raw const mask) as u64, 0, 8, 0, 0];
    forward_unless_signalled(__NR_rt_sigprocmask, &arguments) != RESTART
}

/// Sets the action of `signal` to the default, as SA_RESETHAND wants it.
fn reset(dune: Dune, signal: u32) {
    let default = Action { handler: signal_queue::DEFAULT, ..action::of_caller(dune, signal) };
    if !dune.block().is_vfork_child.get() {
        actions::set(signal, &default);
    }
    forward(RT_SIGACTION, &[signal.into(), (&raw const default) as u64, 0, 8, 0, 0]);
}

/// rt_sigprocmask(2); the mask before.
fn set_mask(how: u32, mask: u64) -> u64 {
    let mut before = 0u64;
    forward(__NR_rt_sigprocmask, &[how.into(), (&raw const mask) as u64, (&raw mut before) as u64, 8, 0, 0]);
    before
}

/// Puts a frame for `taken` on the program's stack, or its alternate one, and points `registers` to the handler. The mask
/// that this runs with.
fn push_frame(
    dune: Dune,
    registers: &mut Registers,
    area: VectorArea,
    taken: &Taken,
    trap: TrapDetails,
) -> u64 {
    if write_frame(dune, registers, area, taken, trap).is_ok() {
        return taken.handler_mask;
    }
    let instead =
        no_room_for(dune, taken).filter(|instead| write_frame(dune, registers, area, instead, trap).is_ok());
    instead.unwrap_or_else(|| report::die(SIGSEGV)).handler_mask
}

/// The signal that comes in place of one whose frame can not be written, if the program can handle it (`force_sigsegv` of
/// Linux's kernel/signal.c).
fn no_room_for(dune: Dune, taken: &Taken) -> Option<Taken> {
    let action = action::of_caller(dune, SIGSEGV);
    if taken.info.signal == SIGSEGV as i32 || !action.has_handler() || taken.mask & bit(SIGSEGV) != 0 {
        return None;
    }
    let blocked = action.blocked(SIGSEGV);
    let handler_mask = taken.mask | blocked;
    let queue = &dune.block().signals;
    if queue.block(blocked).is_some() || !set_mask_unless_signalled(handler_mask) {
        // Signals that wait have changed the mask already, and interrupt the handler.
        set_mask(SIG_BLOCK, blocked);
        queue.block(blocked);
    }
    if action.is_for_once() {
        reset(dune, SIGSEGV);
    }
    let info = info_with_address(SIGSEGV, SI_KERNEL as i32, 0);
    Some(Taken { info, action, mask: taken.mask, handler_mask })
}

/// The bit of `signal` in a mask.
fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

fn write_frame(
    dune: Dune,
    registers: &mut Registers,
    area: VectorArea,
    taken: &Taken,
    trap: TrapDetails,
) -> Result<(), BadAddress> {
    let Taken { info, action, mask, .. } = taken;
    let block = dune.block();
    let mut stack = block.alternate_stack.get();
    let alternate =
        if action.flags & u64::from(SA_ONSTACK) != 0 { stack.top_for(registers.rsp) } else { None };
    let top = alternate.unwrap_or(registers.rsp.wrapping_sub(RED_ZONE));
    let place = Place::below(top, block);
    let address = place.frame;
    let is_on_it = alternate.is_some() || stack.is_used_at(registers.rsp);
    if is_on_it && stack.overflows(address) {
        return Err(BadAddress);
    }
    let mut info = *info;
    if (info.signal, info.code) == (SIGSYS as i32, SYS_SECCOMP) {
        // The call was made for the program from another place (`si_call_addr`).
        info.fields[0] = registers.rip;
    }
    let context = Ucontext {
        flags: vector_state::context_flags(block),
        link: 0,
        stack: stack.save(),
        registers: SignalContext::new(registers, trap, *mask, place.vector_state),
        mask: *mask,
    };
    block.alternate_stack.set(stack);
    place.write(&SignalFrame { return_address: action.restorer, context, info }, area, block)?;
    vector_state::initialise(area, block);
    /// DF, which the ABI wants clear, TF and RF.
    const CLEARED: u64 = 1 << 10 | 1 << 8 | 1 << 16;
    registers.rip = action.handler;
    registers.rsp = address;
    registers.rdi = info.signal as u64;
    registers.rsi = address + signal_frame::INFO;
    registers.rdx = address + signal_frame::CONTEXT;
    registers.rax = 0;
    registers.rflags &= !CLEARED;
    Ok(())
}

/// Where a frame and its vector state go on the program's stack.
#[derive(Debug, Clone, Copy)]
struct Place {
    frame: u64,
    vector_state: u64,
}

impl Place {
    fn below(top: u64, block: &ThreadBlock) -> Place {
        let vector_state = vector_state::place_below(top, block);
        // As after a call: 16-byte aligned before the return address was pushed.
        let frame = (vector_state.wrapping_sub(size_of::<SignalFrame>() as u64) & !15).wrapping_sub(8);
        Place { frame, vector_state }
    }

    fn write(self, frame: &SignalFrame, area: VectorArea, block: &ThreadBlock) -> Result<(), BadAddress> {
        vector_state::write(area, self.vector_state, block)?;
        // SAFETY: the program's stack below what it uses.
        unsafe { copy::to_program(self.frame, frame) }
    }
}

/// Room for the frame of [`write_start`]: signal frame and vector state, of AMX too, and what the first steps take.
pub(super) struct StartRoom(MaybeUninit<[u8; StartRoom::BYTES]>);

impl StartRoom {
    const BYTES: usize = 32 << 10;

    pub(super) fn new() -> StartRoom {
        StartRoom(MaybeUninit::uninit())
    }

    /// The address behind it.
    pub(super) fn top(&mut self) -> u64 {
        self.0.as_mut_ptr() as u64 + Self::BYTES as u64
    }
}

/// Writes a frame below `top`, by which Linux starts `registers` in host mode (rt_sigreturn(2)). The mask is left to the host
/// loop. Where it is.
pub(super) fn write_start(
    dune: Dune,
    registers: &Registers,
    area: VectorArea,
    top: u64,
) -> Result<u64, BadAddress> {
    let block = dune.block();
    let place = Place::below(top, block);
    let context = Ucontext {
        flags: vector_state::context_flags(block),
        link: 0,
        stack: StackDescription { flags: SS_DISABLE as i32, ..StackDescription::default() },
        registers: SignalContext::new(registers, TrapDetails::default(), 0, place.vector_state),
        mask: 0,
    };
    let info = info_with_address(0, 0, 0);
    place.write(&SignalFrame { return_address: 0, context, info }, area, block)?;
    Ok(place.frame)
}

/// rt_sigreturn(2): the code goes on that the frame above the stack pointer describes. The handler has popped the
/// return address.
fn sigreturn(dune: Dune, registers: &mut Registers, area: VectorArea) {
    let frame = registers.rsp.wrapping_sub(8);
    let bad = |what: &str, address: u64| -> ! {
        report::message(format_args!("dune: rt_sigreturn with {what} {address:#x}"));
        report::die(SIGSEGV)
    };
    // SAFETY: any bytes make a context.
    let read = unsafe { copy::from_program::<Ucontext>(frame.wrapping_add(signal_frame::CONTEXT)) };
    let Ok(context) = read else { bad("no readable signal frame at", frame) };
    if context.registers.rip >= crate::arch::page::TASK_SIZE {
        bad("an instruction pointer beyond the address space,", context.registers.rip);
    }
    // A signal that waits is one that interrupts the handler: when its own has returned, this call is made again. Its frame
    // must have the mask of the handler, and the mask that this call sets must not be lost.
    let may_wait = registers.rflags & INTERRUPT_FLAG != 0;
    if may_wait && !set_mask_unless_signalled(context.mask) {
        registers.rax = RT_SIGRETURN.into();
        registers.rip -= SYSCALL_BYTES;
        return;
    }
    let block = dune.block();
    if vector_state::read(area, context.registers.vector_state, block).is_err() {
        bad("no readable vector state at", context.registers.vector_state);
    }
    // As on Linux a stack that can not be set is no error.
    let mut stack = block.alternate_stack.get();
    let stack_first = process().restores_stack_first();
    let _ = stack.set(&context.stack, if stack_first { registers.rsp } else { context.registers.rsp });
    block.alternate_stack.set(stack);
    context.registers.load(registers);
    if !may_wait {
        set_mask(SIG_SETMASK, context.mask);
    }
}

/// A [`SignalInfo`] with an address, as for faults.
pub(crate) fn info_with_address(signal: u32, code: i32, address: u64) -> SignalInfo {
    let mut fields = [0; 14];
    fields[0] = address;
    SignalInfo { signal: signal as i32, errno: 0, code, padding: 0, fields }
}
