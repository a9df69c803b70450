//! The request: how ring 0 asks the host loop for something.
//!
//! Ring 0 fills the [`Request`] of its thread block and executes the engine's exit instruction; the host loop answers in
//! `result` and resumes.

use core::cell::Cell;

use super::block::ThreadBlock;

/// What a request asks for; the values are part of the assembly's contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Kind {
    /// Nothing: an exit instruction that is not ours.
    None = 0,
    /// Make the system call `number` with `arguments` for the program.
    Syscall = 1,
    /// The first instruction in Dune mode has been reached.
    Entered = 2,
    /// Queue the external interrupt `arguments[0]` for this vCPU.
    Interrupt = 3,
    /// Give a window to the address `arguments[0]`, unless it has one; the answer is 1 if it has one then.
    Grow = 4,
    /// Read the engine's count of second-level faults.
    SecondLevelFaults = 5,
    /// Make the child that the [`Birth`](super::birth::Birth) at `arguments[0]` describes.
    Birth = 6,
    /// End the thread with the exit status `arguments[0]`; if `arguments[1]` is not 0, unless a signal waits.
    Exit = 7,
    /// As [`Syscall`](Kind::Syscall), even if a signal waits.
    SyscallFirst = 8,
    /// Go on in host mode with the FS base `arguments[0]` and the stack pointer `arguments[1]`.
    Leave = 9,
    /// Go on in host mode with the FS base `arguments[0]`, as the signal frame at `arguments[1]` says.
    LeaveForGood = 10,
    /// Prepare the thread that the [`Preparation`](super::birth::Preparation) at `arguments[0]` describes; the answer is the
    /// address of its [`Thread`](super::thread::Thread), or 0.
    Prepare = 11,
    /// Start the timer of the time limit `arguments[1]`, which is over in `arguments[0]` nanoseconds.
    StartTimer = 12,
    /// Stop the timer that the answer to that was.
    StopTimer = 13,
}

impl Kind {
    /// The kind that `word` stands for, if it does.
    pub(crate) fn of(word: u64) -> Option<Kind> {
        const ALL: [Kind; 14] = [
            Kind::None,
            Kind::Syscall,
            Kind::Entered,
            Kind::Interrupt,
            Kind::Grow,
            Kind::SecondLevelFaults,
            Kind::Birth,
            Kind::Exit,
            Kind::SyscallFirst,
            Kind::Leave,
            Kind::LeaveForGood,
            Kind::Prepare,
            Kind::StartTimer,
            Kind::StopTimer,
        ];
        ALL.into_iter().find(|&kind| kind as u64 == word)
    }
}

/// What a forwarded system call returns that was not made, or not finished, since a signal came first: never seen by
/// the program. Linux's own number for that, which never leaves Linux (ERESTARTSYS of include/linux/errno.h).
pub(crate) const RESTART: u64 = (-512i64) as u64;

/// A request to the host loop and its answer. Ring 0 and the host loop of a thread read and write it in turn.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Request {
    /// What is asked, a [`Kind`]. The host loop clears it, so that a stray HLT is noticed.
    pub kind: Cell<u64>,
    /// The system call's number.
    pub number: Cell<u64>,
    /// The system call's arguments in the order of the ABI: RDI, RSI, RDX, R10, R8, R9.
    pub arguments: Cell<[u64; 6]>,
    /// The answer.
    pub result: Cell<u64>,
    /// Address of the block this request stands in, for ring-0 code that only has GS.
    pub block: *mut ThreadBlock,
}
