//! Which signal an exception is, as Linux tells it (arch/x86/kernel/traps.c, arch/x86/mm/fault.c).

use linux_raw_sys::general::{
    BUS_ADRALN, FPE_FLTDIV, FPE_FLTINV, FPE_FLTOVF, FPE_FLTRES, FPE_FLTUND, FPE_INTDIV, ILL_ILLOPN,
    SEGV_ACCERR, SEGV_CPERR, SEGV_MAPERR, SEGV_PKUERR, SI_KERNEL, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP,
    TRAP_BRKPT, TRAP_HWBKPT, TRAP_TRACE,
};
use x86_64::structures::idt::PageFaultErrorCode;

use super::{info_with_address, vector_state};
use crate::arch::cpu;
use crate::arch::frame::TrapFrame;
use crate::arch::page::TASK_SIZE;
use crate::arch::registers::VectorArea;
use crate::arch::token::Dune;
use crate::arch::vector::Vector;
use crate::contract::signal_frame::{SignalInfo, TrapDetails};
use crate::guest::fault;

/// The signal for the trap, and what its context says about it.
pub(super) fn describe(frame: &TrapFrame, area: VectorArea) -> (SignalInfo, TrapDetails) {
    let vector = frame.vector();
    let mut error_code = frame.words().error_code;
    let (signal, code, address) = match vector {
        Vector::DIVIDE_ERROR => (SIGFPE, FPE_INTDIV, frame.words().rip),
        // SAFETY: ring 0: this module describes traps that were taken there.
        Vector::DEBUG => (SIGTRAP, debug_code(unsafe { cpu::take_dr6() }), frame.words().rip),
        Vector::BREAKPOINT => (SIGTRAP, SI_KERNEL, 0),
        Vector::INVALID_OPCODE => (SIGILL, ILL_ILLOPN, frame.words().rip),
        Vector::SEGMENT_NOT_PRESENT | Vector::STACK_SEGMENT => (SIGBUS, SI_KERNEL, 0),
        Vector::PAGE_FAULT => {
            let (code, error) = page_fault(frame.page_fault_error(), frame.words().cr2);
            error_code = error.bits();
            (SIGSEGV, code, frame.words().cr2)
        }
        Vector::X87_FLOATING_POINT => {
            (SIGFPE, floating_point_code(vector_state::x87_exceptions(area)), frame.words().rip)
        }
        Vector::SIMD_FLOATING_POINT => {
            (SIGFPE, floating_point_code(vector_state::sse_exceptions(area)), frame.words().rip)
        }
        Vector::ALIGNMENT_CHECK => (SIGBUS, BUS_ADRALN, 0),
        Vector::CONTROL_PROTECTION => (SIGSEGV, SEGV_CPERR, 0),
        _ => (SIGSEGV, SI_KERNEL, 0),
    };
    let details = TrapDetails { error_code, number: vector.number().into(), cr2: frame.words().cr2 };
    (info_with_address(signal, code as i32, address), details)
}

/// Keeps what is said of an exception, as Linux does for the thread (`struct thread_struct`): the frames of later signals show it,
/// and of no exception but a page fault the address changes.
pub(super) fn keep(dune: Dune, details: TrapDetails) -> TrapDetails {
    let last = &dune.block().last_exception;
    let is_page_fault = details.number == u64::from(Vector::PAGE_FAULT.number());
    let cr2 = if is_page_fault { details.cr2 } else { last.get().cr2 };
    let details = TrapDetails { cr2, ..details };
    last.set(details);
    details
}

/// Why a #DB came (`get_si_code`), from DR6 (Intel SDM vol. 3 §18.2.3).
fn debug_code(dr6: u64) -> u32 {
    const STEP: u64 = 1 << 14;
    const BREAKPOINTS: u64 = 0xf;
    match dr6 {
        _ if dr6 & STEP != 0 => TRAP_TRACE,
        _ if dr6 & BREAKPOINTS != 0 => TRAP_HWBKPT,
        _ => TRAP_BRKPT,
    }
}

/// What Linux says of a fault at `address`: why it came, and the error code of its own page tables, which some handlers look at. A
/// page fault of a program comes from ring 3 there, a page is in the tables when it has been used, and nothing is told of which
/// of the kernel's are (`sanitize_error_code`).
fn page_fault(error: PageFaultErrorCode, address: u64) -> (u32, PageFaultErrorCode) {
    let error = error | PageFaultErrorCode::USER_MODE;
    let present = PageFaultErrorCode::PROTECTION_VIOLATION;
    if error.contains(PageFaultErrorCode::PROTECTION_KEY) {
        return (SEGV_PKUERR, error);
    }
    match fault::residency(address) {
        None if address >= TASK_SIZE => (SEGV_MAPERR, error | present),
        None => (SEGV_MAPERR, error),
        // Of other accesses Linux finds out only when it has made the page (`access_error`).
        Some(false) if error.contains(PageFaultErrorCode::CAUSED_BY_WRITE) => (SEGV_ACCERR, error - present),
        Some(_) => (SEGV_ACCERR, error),
    }
}

/// The first of the unmasked exceptions of x87 or SSE, in the order of `fpu__exception_code`.
fn floating_point_code(exceptions: u16) -> u32 {
    const CODES: [(u16, u32); 5] = [
        (1, FPE_FLTINV),
        (1 << 2, FPE_FLTDIV),
        (1 << 3, FPE_FLTOVF),
        (1 << 1 | 1 << 4, FPE_FLTUND),
        (1 << 5, FPE_FLTRES),
    ];
    CODES.iter().find(|(bits, _)| exceptions & bits != 0).map_or(0, |&(_, code)| code)
}
