//! The request: how ring 0 asks the host loop for something.
//!
//! Ring 0 fills the [`Request`] of its thread block and executes the engine's exit instruction; the host loop answers in
//! `result` and resumes.

use super::block::ThreadBlock;

/// What a request asks for; the values are part of the assembly's contract.
pub(crate) mod kind {
    /// Nothing: an exit instruction that is not ours.
    pub(crate) const NONE: u64 = 0;
    /// Make the system call `number` with `arguments` for the program.
    pub(crate) const SYSCALL: u64 = 1;
    /// As [`SYSCALL`], even if a signal waits.
    pub(crate) const SYSCALL_FIRST: u64 = 8;
    /// The first instruction in Dune mode has been reached.
    pub(crate) const ENTERED: u64 = 2;
    /// Queue the external interrupt `arguments[0]` for this vCPU.
    pub(crate) const INTERRUPT: u64 = 3;
    /// Give a window to the address `arguments[0]`, unless it has one; the answer is 1 if it has one then.
    pub(crate) const GROW: u64 = 4;
    /// Prepare the thread that the [`Preparation`](super::birth::Preparation) at `arguments[0]` describes; the answer is the
    /// address of its [`Thread`](super::thread::Thread), or 0.
    pub(crate) const PREPARE: u64 = 11;
    /// Make the child that the [`Birth`](super::birth::Birth) at `arguments[0]` describes.
    pub(crate) const BIRTH: u64 = 6;
    /// Go on in host mode with the FS base `arguments[0]` and the stack pointer `arguments[1]`.
    pub(crate) const LEAVE: u64 = 9;
    /// Go on in host mode with the FS base `arguments[0]`, as the signal frame at `arguments[1]` says.
    pub(crate) const LEAVE_FOR_GOOD: u64 = 10;
    /// End the thread with the exit status `arguments[0]`; if `arguments[1]` is not 0, unless a signal waits.
    pub(crate) const EXIT: u64 = 7;
    /// Read the engine's count of second-level faults.
    pub(crate) const SECOND_LEVEL_FAULTS: u64 = 5;
}

/// What a forwarded system call returns that was not made, or not finished, since a signal came first: never seen by
/// the program. Linux's own number for that, which never leaves Linux (ERESTARTSYS of include/linux/errno.h).
pub(crate) const RESTART: u64 = (-512i64) as u64;

/// A request to the host loop and its answer.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Request {
    /// What is asked, see [`kind`]. The host loop clears it, so that a stray HLT is noticed.
    pub kind: u64,
    /// The system call's number.
    pub number: u64,
    /// The system call's arguments in the order of the ABI: RDI, RSI, RDX, R10, R8, R9.
    pub arguments: [u64; 6],
    /// The answer.
    pub result: u64,
    /// Address of the block this request stands in, for ring-0 code that only has GS.
    pub block: *mut ThreadBlock,
}
