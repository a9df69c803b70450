//! What runs in ring 0 of Dune mode: trap entry, system-call entry, and the tables the CPU reads.
//!
//! | what happens | entry | goes on in |
//! |---|---|---|
//! | an exception or interrupt at ring 0 | `trap.S` | a handler of [`handlers`], or [`report`](crate::report) |
//! | a trap in ring 3 | `trap.S` | [`user`](crate::user) |
//! | SYSCALL at ring 0 | `syscall.S` | the host loop, through a [`request`]; a few calls in `syscall.rs` |
//! | SYSCALL or SYSENTER in ring 3 | `syscall.S` | [`user`](crate::user) |

mod around;
pub(crate) mod clone;
mod copy;
mod entry;
pub(crate) mod error;
pub(crate) mod exec;
pub(crate) mod fault;
pub(crate) mod files;
pub(crate) mod filter;
mod grow;
pub(crate) mod handlers;
pub(crate) mod hypercall;
pub(crate) mod leave;
pub(crate) mod memory_calls;
pub(crate) mod segments;
pub(crate) mod signal;
pub(crate) mod special_memory;
pub(crate) mod stacks;
pub(crate) mod syscall;
pub(crate) mod trap;

pub use crate::arch::vector::Vector;
pub use handlers::{Handler, LeanHandler, TrapOutcome};
pub use stacks::MAX_NESTING;

use crate::arch::token::Dune;
use crate::contract::block;
use crate::contract::request::kind;
use crate::memory::streams::Reason;
use error::HandlerError;
use handlers::Entry;
use hypercall::hypercall;

impl Dune {
    /// Sets the process's handler for `vector`, in place of one that was set before.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use dune::{Dune, TrapFrame, TrapOutcome, Vector};
    ///
    /// fn breakpoint(_: Dune, frame: &mut TrapFrame) -> TrapOutcome {
    ///     println!("INT3 at {:#x}", frame.rip - 1);
    ///     TrapOutcome::Resume
    /// }
    ///
    /// let dune = dune::enter()?;
    /// dune.set_handler(Vector::BREAKPOINT, breakpoint);
    /// # Ok::<(), dune::EnterError>(())
    /// ```
    pub fn set_handler(self, vector: Vector, handler: Handler) {
        self.store_in_process(vector, Entry::Full(handler));
    }

    /// As [`set_handler`](Dune::set_handler), for a vector that is known at run time only.
    ///
    /// # Errors
    ///
    /// [`HandlerError::OutOfRange`] for numbers above 255.
    pub fn set_handler_by_number(self, number: u16, handler: Handler) -> Result<(), HandlerError> {
        let vector = Vector::new(number).ok_or(HandlerError::OutOfRange { number })?;
        self.set_handler(vector, handler);
        Ok(())
    }

    /// Sets a handler that keeps only integer registers, for the shortest way from a fault to code and back.
    ///
    /// # Safety
    ///
    /// `handler` and what it calls must not execute x87, MMX, SSE or AVX instructions, as the interrupted code's
    /// vector registers are live. Rust's compiler uses SSE freely, also to copy structures: write the handler in
    /// assembly, or look at what the compiler made of it. It must not panic.
    pub unsafe fn set_lean_handler(self, vector: Vector, handler: LeanHandler) {
        self.store_in_process(vector, Entry::Lean(handler));
    }

    /// Takes the process's handler for `vector` away: the trap then ends the process with a report.
    pub fn clear_handler(self, vector: Vector) {
        self.store_in_process(vector, Entry::None);
    }

    /// Sets a handler for `vector` in the calling thread, which comes before the process's.
    pub fn set_thread_handler(self, vector: Vector, handler: Handler) {
        self.store_in_thread(vector, Entry::Full(handler));
    }

    /// Takes the calling thread's own handler for `vector` away; the process's comes into force again.
    pub fn clear_thread_handler(self, vector: Vector) {
        self.store_in_thread(vector, Entry::None);
    }

    /// As [`set_lean_handler`](Dune::set_lean_handler) for the calling thread alone.
    ///
    /// # Safety
    ///
    /// As for [`set_lean_handler`](Dune::set_lean_handler).
    pub unsafe fn set_lean_thread_handler(self, vector: Vector, handler: LeanHandler) {
        self.store_in_thread(vector, Entry::Lean(handler));
    }

    /// Queues external interrupt `vector` for this thread: it is taken as soon as interrupts are on.
    ///
    /// # Errors
    ///
    /// [`HandlerError::VectorReserved`] for the vectors below 32, which belong
    /// to exceptions.
    pub fn raise_interrupt(self, vector: Vector) -> Result<(), HandlerError> {
        if vector.number() < Vector::FIRST_FREE {
            return Err(HandlerError::VectorReserved { vector });
        }
        // SAFETY: ring 0, by the token; the request takes a vector.
        unsafe { hypercall(kind::INTERRUPT, vector.number().into(), 0) };
        Ok(())
    }

    fn store_in_process(self, vector: Vector, entry: Entry) {
        let is_set = !matches!(entry, Entry::None);
        if vector == Vector::PAGE_FAULT && is_set {
            // Before the handler is there: it is not to see what was arranged.
            self.memory().forbid_arming(Reason::ProcessHandler);
        }
        handlers::store(handlers::process_slot(vector), entry);
        if vector == Vector::PAGE_FAULT && !is_set {
            self.memory().allow_arming(Reason::ProcessHandler);
        }
    }

    fn store_in_thread(self, vector: Vector, entry: Entry) {
        // SAFETY: ring 0, by the token; the block lives as long as the thread is in Dune mode.
        let slots = unsafe { &(*block::current()).handlers };
        if vector == Vector::PAGE_FAULT {
            self.memory().forbid_arming(Reason::ThreadHandler);
        }
        handlers::store(&slots[usize::from(vector.number())], entry);
    }
}
