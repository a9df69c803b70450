//! What runs in ring 0 of Dune mode: trap entry, system-call entry, and the tables the CPU reads.
//!
//! | what happens | entry | goes on in |
//! |---|---|---|
//! | an exception or interrupt at ring 0 | `trap.S` | a handler of [`handlers`], or [`report`](crate::report) |
//! | a trap in ring 3 | `trap.S` | [`user`](crate::user) |
//! | SYSCALL at ring 0 | `syscall.S` | the host loop, through a [`request`]; a few calls in `syscall.rs` |
//! | SYSCALL or SYSENTER in ring 3 | `syscall.S` | [`user`](crate::user) |

mod around;
mod bases;
pub(crate) mod clone;
mod compatibility;
pub(crate) mod copy;
pub(crate) mod cpu_calls;
mod entry;
pub(crate) mod error;
pub(crate) mod exec;
mod far;
pub(crate) mod fault;
pub(crate) mod files;
pub(crate) mod filter;
pub(crate) mod handlers;
pub(crate) mod hypercall;
pub(crate) mod leave;
pub(crate) mod linux_writes;
pub(crate) mod listing;
pub(crate) mod memory_calls;
pub(crate) mod priority;
pub(crate) mod range_handlers;
pub(crate) mod segments;
pub(crate) mod signal;
pub mod snapshot;
pub(crate) mod special_memory;
pub(crate) mod stacks;
pub(crate) mod syscall;
mod tracer;
pub(crate) mod trap;
mod window;

pub use handlers::{Handler, LeanHandler, TrapHandler, TrapOutcome};
pub use linux_writes::LinuxWrites;
pub use stacks::MAX_NESTING;

use crate::arch::page::PageRange;
use crate::arch::token::Dune;
use crate::arch::vector::Vector;
use crate::contract::request::Kind;
use crate::contract::trap_table::Entry;
use crate::memory::streams::Reason;
use error::HandlerError;
use hypercall::hypercall;

impl Dune {
    /// Sets the process's handler for `vector`, in place of one that was set before.
    ///
    /// Threads that are in the other one at this moment finish it; a handler lives for ever, with its state.
    ///
    /// # Safety
    ///
    /// The handler is called wherever this trap can come from, in the middle of any code of the process and on any of its threads,
    /// like a signal handler (signal-safety(7)):
    ///
    /// 1. It and all that it calls can do what they do there. What the interrupted code may be changing they touch by atomics or not
    ///    at all; a lock that it may hold is never released, and the allocator, the standard streams and whatever else does without
    ///    locks what must not be entered twice are for traps that can not come from inside of these. An access to memory, #PF, can
    ///    come from anywhere, so that such a handler neither allocates nor prints unless it knows the code from the frame; INT3, UD2
    ///    and INT n come from where the program has put them.
    /// 2. It does not panic either where the trap can come from inside of the allocator or of the standard streams: the message of
    ///    a panic takes both. (It does not unwind: a panic ends the process.)
    ///
    /// What it does to the frame has conditions of its own there.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use dune::{Dune, Handler, TrapFrame, TrapOutcome, Vector};
    ///
    /// fn breakpoint(_: Dune, frame: &mut TrapFrame) -> TrapOutcome {
    ///     println!("INT3 at {:#x}", frame.rip() - 1);
    ///     TrapOutcome::Resume
    /// }
    ///
    /// let dune = dune::enter()?;
    /// // SAFETY: this program has its INT3 where it may print.
    /// unsafe { dune.set_handler(Vector::BREAKPOINT, Handler::leak(breakpoint)) };
    /// # Ok::<(), dune::EnterError>(())
    /// ```
    ///
    /// Setting one is an obligation, so the compiler refuses it without `unsafe`:
    ///
    /// ```compile_fail,E0133
    /// # use dune::{Dune, Handler, TrapFrame, TrapOutcome, Vector};
    /// # fn breakpoint(_: Dune, _: &mut TrapFrame) -> TrapOutcome { TrapOutcome::Resume }
    /// # let dune = dune::enter().unwrap();
    /// dune.set_handler(Vector::BREAKPOINT, Handler::leak(breakpoint));
    /// ```
    pub unsafe fn set_handler<H: TrapHandler>(self, vector: Vector, handler: &'static Handler<H>) {
        self.store_in_process(vector, handlers::full(handler));
    }

    /// As [`set_handler`](Dune::set_handler), for a vector that is known at run time only.
    ///
    /// # Errors
    ///
    /// [`HandlerError::OutOfRange`] for numbers above 255.
    ///
    /// # Safety
    ///
    /// As for [`set_handler`](Dune::set_handler).
    pub unsafe fn set_handler_by_number<H: TrapHandler>(
        self,
        number: u16,
        handler: &'static Handler<H>,
    ) -> Result<(), HandlerError> {
        let vector = Vector::new(number).ok_or(HandlerError::OutOfRange { number })?;
        // SAFETY: the caller's.
        unsafe { self.set_handler(vector, handler) };
        Ok(())
    }

    /// Sets a handler that keeps only integer registers, for the shortest way from a fault to code and back.
    ///
    /// It can not say that a trap is not its own: a program with one for #PF takes all faults, also those that Dune would settle.
    ///
    /// # Safety
    ///
    /// 1. As for [`set_handler`](Dune::set_handler). 2. The function and what it calls do not execute x87, MMX, SSE or AVX
    ///    instructions, as the interrupted code's vector registers are live. Rust's compiler uses SSE freely, also to copy
    ///    structures: write the function in assembly, or look at what the compiler made of it. 3. It does not panic.
    pub unsafe fn set_lean_handler<S: Sync>(self, vector: Vector, handler: &'static LeanHandler<S>) {
        self.store_in_process(vector, handlers::lean(handler));
    }

    /// Takes the process's handler for `vector` away. Dune then does with the trap what Linux would: a page fault that Linux
    /// would settle is settled, and any other trap becomes the signal that Linux has for it, for the program's handler of that
    /// signal; without one the process ends with a report.
    pub fn clear_handler(self, vector: Vector) {
        self.store_in_process(vector, Entry::NONE);
    }

    /// Sets a handler for `vector` in the calling thread, which comes before the process's.
    ///
    /// # Safety
    ///
    /// As for [`set_handler`](Dune::set_handler), on this thread.
    pub unsafe fn set_thread_handler<H: TrapHandler>(self, vector: Vector, handler: &'static Handler<H>) {
        self.store_in_thread(vector, handlers::full(handler));
    }

    /// Takes the calling thread's own handler for `vector` away; the process's comes into force again.
    pub fn clear_thread_handler(self, vector: Vector) {
        self.store_in_thread(vector, Entry::NONE);
    }

    /// As [`set_lean_handler`](Dune::set_lean_handler) for the calling thread alone.
    ///
    /// # Safety
    ///
    /// As for [`set_lean_handler`](Dune::set_lean_handler).
    pub unsafe fn set_lean_thread_handler<S: Sync>(self, vector: Vector, handler: &'static LeanHandler<S>) {
        self.store_in_thread(vector, handlers::lean(handler));
    }

    /// Sets a handler for page faults at the addresses of `range`, which comes before the process's for #PF. Those who share a
    /// process, each with memory of its own to watch over, need not know of each other.
    ///
    /// With the first range the way of every page fault gets a few dozen instructions longer, and stays so.
    ///
    /// # Errors
    ///
    /// [`HandlerError::RangeTaken`] if part of the range has one; [`HandlerError::TooManyRanges`]; [`HandlerError::Busy`] if this
    /// is called by a handler that has interrupted such a call.
    ///
    /// # Safety
    ///
    /// As for [`set_handler`](Dune::set_handler), for faults at these addresses: they come from whatever code knows them.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use dune::memory::{PagePermissions, PageRange};
    /// use dune::{Dune, Handler, TrapFrame, TrapHandler, TrapOutcome};
    ///
    /// /// Makes pages of its heap writable as they are written to.
    /// struct Barrier(PageRange);
    ///
    /// impl TrapHandler for Barrier {
    ///     fn handle(&self, dune: Dune, frame: &mut TrapFrame) -> TrapOutcome {
    ///         let page = PageRange::page(frame.fault_address());
    ///         match dune.memory().protect_now(dune, page, PagePermissions::READ_WRITE) {
    ///             Ok(()) => TrapOutcome::Resume,
    ///             Err(_) => TrapOutcome::Unhandled,
    ///         }
    ///     }
    /// }
    ///
    /// # fn watch(dune: Dune, heap: PageRange) -> Result<(), dune::HandlerError> {
    /// // SAFETY: the handler takes no locks but those of the page tables, which tell it when they are held, and does not allocate.
    /// unsafe { dune.set_range_handler(heap, Handler::leak(Barrier(heap))) }
    /// # }
    /// ```
    pub unsafe fn set_range_handler<H: TrapHandler>(
        self,
        range: PageRange,
        handler: &'static Handler<H>,
    ) -> Result<(), HandlerError> {
        // Before the handler is there: it is not to see what was arranged.
        let forbid = || self.memory().forbid_arming(Reason::RangeHandlers);
        range_handlers::add(range, handlers::full(handler), forbid)
    }

    /// Takes the handler for `range` away, which is a range as it was given to [`set_range_handler`](Dune::set_range_handler).
    ///
    /// Faults that come later go to the process's handler. Other threads may be in the handler still when this returns. That is
    /// sound, since a handler lives for ever, with its state; if the range is about to be used for something else, let the state say so.
    ///
    /// # Errors
    ///
    /// [`HandlerError::NoSuchRange`]; [`HandlerError::Busy`] as there.
    pub fn clear_range_handler(self, range: PageRange) -> Result<(), HandlerError> {
        range_handlers::remove(range, || self.memory().allow_arming(Reason::RangeHandlers))
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
        unsafe { hypercall(Kind::Interrupt, vector.number().into(), 0) };
        Ok(())
    }

    fn store_in_process(self, vector: Vector, entry: Entry) {
        if vector != Vector::PAGE_FAULT {
            handlers::process_slot(vector).store(entry);
            return;
        }
        if !entry.is_none() {
            // As above.
            self.memory().forbid_arming(Reason::ProcessHandler);
        }
        range_handlers::set_process_handler(entry);
        if entry.is_none() {
            self.memory().allow_arming(Reason::ProcessHandler);
        }
    }

    fn store_in_thread(self, vector: Vector, entry: Entry) {
        let slots = &self.block().handlers;
        if vector == Vector::PAGE_FAULT {
            self.memory().forbid_arming(Reason::ThreadHandler);
        }
        slots[usize::from(vector.number())].store(entry);
    }
}
