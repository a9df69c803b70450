//! Traps: the entry stubs, the IDT over them, and the dispatch to handlers that keep vector state.

use linux_raw_sys::general::SIGABRT;

use super::entry::entry_asm;
use super::handlers::{self, PROCESS_HANDLERS, TrapOutcome};
use super::{bases, compatibility, copy, far, fault, signal, stacks, syscall};
use crate::arch::descriptors::{Gate, Idt};
use crate::arch::frame::{self, TrapFrame};
use crate::arch::registers::{INTERRUPT_FLAG, IOPL, VectorArea};
use crate::arch::token::Dune;
use crate::arch::user_context::offsets as user;
use crate::arch::vector::Vector;
use crate::contract::block;
use crate::contract::trap_table::Head;
use crate::lock::held;
use crate::report;

entry_asm!(
    "trap.S",
    FRAME_CR2 = const TrapFrame::CR2,
    FRAME_RIP = const TrapFrame::RIP,
    FRAME_RFLAGS = const TrapFrame::RFLAGS,
    FRAME_VECTOR = const frame::VECTOR,
    FRAME_RING3_GS = const frame::RING3_GS,
    GATE = const frame::GATE,
    RING0_CODE = const crate::arch::descriptors::RING0_CODE,
    RING0_DATA = const crate::arch::descriptors::RING0_DATA,
    SOFTWARE_INTERRUPT_BYTES = const frame::SOFTWARE_INTERRUPT_BYTES,
    STACK_SIZE = const stacks::SIZE,
    IST_GENERAL = const block::interrupt_stack(Stack::General as usize),
    IST_PAGE_FAULT = const block::interrupt_stack(Stack::PageFault as usize),
    IST_DOUBLE_FAULT = const block::interrupt_stack(Stack::DoubleFault as usize),
    IST_NMI = const block::interrupt_stack(Stack::NonMaskable as usize),
    IST_DEBUG = const block::interrupt_stack(Stack::Debug as usize),
    IST_MACHINE_CHECK = const block::interrupt_stack(Stack::MachineCheck as usize),
    TRAPS = const block::TRAPS,
    HANDLERS = const block::HANDLERS,
    PROCESS_HANDLERS = sym PROCESS_HANDLERS,
    USER_RCX = const user::RCX,
    USER_VECTOR = const user::VECTOR,
    USER_ERROR_CODE = const user::ERROR_CODE,
    USER_CR2 = const user::CR2,
    EXIT_TRAP = const user::EXIT_TRAP,
    dispatch = sym dispatch,
    refused = sym refused,
);

unsafe extern "C" {
    /// 256 stubs of 16 bytes; not functions of Rust's, the IDT's targets.
    static dune_trap_stubs: [[u8; 16]; 256];
}

/// The interrupt stacks, by their number in the TSS (IST1 to IST6). A vector that can interrupt the handler of
/// another before that one has moved its stack needs a stack of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stack {
    General = 1,
    PageFault = 2,
    DoubleFault = 3,
    NonMaskable = 4,
    Debug = 5,
    MachineCheck = 6,
}

impl Stack {
    /// All of them.
    pub(crate) const ALL: [Stack; 6] = [
        Stack::General,
        Stack::PageFault,
        Stack::DoubleFault,
        Stack::NonMaskable,
        Stack::Debug,
        Stack::MachineCheck,
    ];

    /// The stack that `vector` is taken on. trap.S jumps by the same rule.
    const fn of(vector: Vector) -> Stack {
        match vector {
            Vector::PAGE_FAULT => Stack::PageFault,
            Vector::DOUBLE_FAULT => Stack::DoubleFault,
            Vector::NON_MASKABLE_INTERRUPT => Stack::NonMaskable,
            Vector::DEBUG => Stack::Debug,
            Vector::MACHINE_CHECK => Stack::MachineCheck,
            _ => Stack::General,
        }
    }
}

/// The gates for all vectors. Ring 3 may raise #BP by INT3, as on Linux, and nothing else by INT n.
pub(crate) fn gates() -> Idt {
    core::array::from_fn(|number| {
        let vector = Vector(number as u8);
        // SAFETY: the address of a stub is taken, the stub is not read.
        let target = unsafe { (&raw const dune_trap_stubs[number]) as u64 };
        let ring = if vector == Vector::BREAKPOINT { 3 } else { 0 };
        Gate::interrupt(target, Stack::of(vector) as u8, ring)
    })
}

/// Calls `handler`, which the table entry that trap.S found for the frame's vector leads to; whether it has refused.
///
/// Runs on an interrupt stack with interrupts off; the interrupted code's vector state is already kept. Where an
/// unwinder looks for somebody who stops a panic, it ends here: `extern "C"` lets none out.
///
/// # Safety
///
/// Ring 0, in the trap of `frame`; `handler` is one that trap.S has found in a table, and not lean.
unsafe extern "C" fn dispatch(frame: &mut TrapFrame, handler: *const Head) -> bool {
    let _interrupted = held::interrupt();
    // SAFETY: the caller's.
    unsafe { call(frame, handler) != TrapOutcome::Resume }
}

/// Calls `handler`, and reports where the trap came from should it panic.
///
/// A function of its own, so that the report is in the way of the unwinder that is stopped by [`dispatch`]: the guard
/// costs nothing unless there is a panic, where `catch_unwind` would cost a third of the whole way.
///
/// # Safety
///
/// As for [`dispatch`].
#[inline(never)]
unsafe fn call(frame: &mut TrapFrame, handler: *const Head) -> TrapOutcome {
    struct Panicked(*const TrapFrame);

    impl Drop for Panicked {
        fn drop(&mut self) {
            // SAFETY: the frame outlives the handler, whose borrow of it has ended.
            let frame = unsafe { &*self.0 };
            report::unhandled_trap_with_signal(frame, "its handler panicked", SIGABRT);
        }
    }

    let panicked = Panicked(frame);
    // SAFETY: the caller's; dune_trap_call_full has kept the vector state.
    let outcome = unsafe { handlers::call_full(handler, frame) };
    core::mem::forget(panicked);
    outcome
}

/// A trap that `handler` has refused, or for which there is none, null. If that was the thread's own, the process's is next.
///
/// Runs as [`dispatch`] does.
///
/// # Safety
///
/// Ring 0, in the trap of `frame`, whose vector state is kept.
#[cold]
unsafe extern "C" fn refused(frame: &mut TrapFrame, handler: *const Head) {
    let _interrupted = held::interrupt();
    if handler.is_null() {
        return unhandled(frame, "no handler is set for this vector");
    }
    let next = handlers::process_slot(frame.vector()).load();
    let outcome = if next.is_none() || next.head() == handler {
        TrapOutcome::Unhandled
    } else if next.is_lean() {
        // SAFETY: the caller's; the entry is from the process's table.
        unsafe { handlers::call(next, frame) }
    } else {
        // SAFETY: the caller's; the handler is from the process's table, and not lean.
        unsafe { call(frame, next.head()) }
    };
    if outcome != TrapOutcome::Resume {
        unhandled(frame, "its handler returned Unhandled");
    }
}

/// A trap that no handler of the program's wants. A page fault may be about a mapping that the page tables lack, which
/// they get, or about an address that a system call was given; signals come as an interrupt; everything else is a
/// signal itself, as on Linux, or ends the process.
#[cold]
#[inline(never)]
fn unhandled(frame: &mut TrapFrame, why: &str) {
    // SAFETY: this code runs at ring 0 in Dune mode.
    let dune = unsafe { Dune::assume() };
    if syscall::recover(dune, frame) {
        return;
    }
    if dune.block().is_unmodified_code(frame.words().rsp) && !syscall::is_stub(frame.words().rip) {
        frame.words_mut().rflags = frame.words().rflags & !IOPL | INTERRUPT_FLAG;
    }
    // Where dune_trap_call_full has kept the vector state: below the address that it returns to, below the frame.
    let area_size = dune.block().vector_area_size;
    let area = VectorArea::below(core::ptr::from_mut(frame) as u64 - size_of::<u64>() as u64, area_size);
    if frame.vector() == Vector::SIGNAL {
        signal::at_interrupt(dune, frame, area);
        return;
    }
    let is_page_fault = frame.vector() == Vector::PAGE_FAULT;
    let second_level = (dune.block().second_level_fault)
        .take()
        .filter(|fault| is_page_fault && fault.is_of(frame) && fault::is_allowed(dune, frame))
        .map(|fault| fault.info);
    let handled = is_page_fault && second_level.is_none() && fault::resolve(dune, frame)
        || copy::recover(frame)
        || compatibility::leave(dune, frame, area)
        || bases::emulate(dune, frame, area)
        || far::emulate(dune, frame)
        || signal::from_trap(dune, frame, area, second_level);
    if !handled {
        let signal = second_level.map_or(frame.vector().signal(), |info| info.signal as u32);
        report::unhandled_trap_with_signal(frame, why, signal);
    }
}
