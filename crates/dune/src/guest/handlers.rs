//! Tables of trap handlers: one for the process, one per thread that comes before it.
//!
//! An entry is one 64-bit word so that it can be replaced while other threads take traps: 0 for none, a function's
//! address, and bit 63 for the lean kind, which trap.S tests as the sign.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch::frame::TrapFrame;
use crate::arch::token::Dune;

/// What a handler tells Dune when it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrapOutcome {
    /// Go on with what stands in the frame.
    Resume,
    /// Not mine: end the process with a report and the signal that Linux has for this trap.
    Unhandled,
}

/// A handler in Rust. It runs at ring 0 on a stack of its own with interrupts off.
///
/// The interrupted code's vector state is kept around it. It may print, allocate and cause further traps, also of
/// its own vector, up to [`MAX_NESTING`](crate::MAX_NESTING) levels; what it does must be possible where the
/// interrupted code stood, as in a signal handler (signal-safety(7)): a lock that the interrupted code holds is
/// never released.
pub type Handler = fn(Dune, &mut TrapFrame) -> TrapOutcome;

/// A handler that keeps integer registers only, for the shortest way from a fault and back.
///
/// See [`Dune::set_lean_handler`] for what it must not do.
pub type LeanHandler = unsafe extern "C" fn(&mut TrapFrame);

pub(super) const LEAN: u64 = 1 << 63;

/// The handlers of the process by vector.
pub(super) static PROCESS_HANDLERS: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];

/// A handler of either kind, or none.
#[derive(Clone, Copy)]
pub(crate) enum Entry {
    None,
    Full(Handler),
    Lean(LeanHandler),
}

impl Entry {
    fn word(self) -> u64 {
        match self {
            Entry::None => 0,
            Entry::Full(handler) => handler as usize as u64,
            Entry::Lean(handler) => handler as usize as u64 | LEAN,
        }
    }
}

/// Stores `entry` in `slot`.
pub(crate) fn store(slot: &AtomicU64, entry: Entry) {
    slot.store(entry.word(), Ordering::Release);
}

/// The process's slot for `vector`.
pub(crate) fn process_slot(vector: crate::arch::vector::Vector) -> &'static AtomicU64 {
    &PROCESS_HANDLERS[usize::from(vector.number())]
}

/// The Rust handler in `word`, unless it is 0 or lean.
pub(super) fn decode(word: u64) -> Option<Handler> {
    if word == 0 || word & LEAN != 0 {
        return None;
    }
    // SAFETY: 1. a non-zero word without the mark was made from a `Handler` by `Entry::word`; 2. function pointers
    // have the size of usize.
    Some(unsafe { core::mem::transmute::<usize, Handler>(word as usize) })
}
