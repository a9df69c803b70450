//! Trap handlers, and the process's table of them; each thread has one that comes before it.
//!
//! A handler is a value that lives for ever: the address of its code in the first word, its state behind. Tables hold its address
//! (`contract/trap_table.rs`). Whoever is still in a handler that was taken away goes on with a state that is there.

use core::fmt;
use core::mem::offset_of;

use crate::arch::frame::TrapFrame;
use crate::arch::token::Dune;
use crate::arch::vector::Vector;
use crate::contract::trap_table::{Entry, Head, Slot};

/// What a handler tells Dune when it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrapOutcome {
    /// Go on with what stands in the frame.
    Resume,
    /// Not mine: ask the next one. After a thread's own handler that is the one for the [range](Dune::set_range_handler) of a #PF,
    /// then the process's, then Dune itself, which settles faults that Linux would not know and makes the signal of all others that
    /// Linux has for them.
    Unhandled,
}

/// What is called for a trap: a function or closure of this signature, or a type of yours with its state.
///
/// It runs at ring 0 on a stack of its own with interrupts off, and the interrupted code's vector state is kept around it. It may
/// cause further traps, also of its own vector, up to [`MAX_NESTING`](crate::MAX_NESTING) levels. A panic does not leave it: it
/// ends the process with a report. What else it may do is a condition of [`Dune::set_handler`].
///
/// Threads call it at the same time, and a thread can while it is in it already; hence `Sync` and `&self`.
pub trait TrapHandler: Sync {
    /// Handles the trap of `frame`.
    fn handle(&self, dune: Dune, frame: &mut TrapFrame) -> TrapOutcome;
}

impl<F: Fn(Dune, &mut TrapFrame) -> TrapOutcome + Sync> TrapHandler for F {
    #[inline]
    fn handle(&self, dune: Dune, frame: &mut TrapFrame) -> TrapOutcome {
        self(dune, frame)
    }
}

/// What a table entry leads to, and trap.S calls.
pub(super) type Code = unsafe fn(&mut TrapFrame, *const Head) -> TrapOutcome;
pub(super) type LeanCode = unsafe extern "C" fn(&mut TrapFrame, *const Head);

/// A [`TrapHandler`] in the form in which traps find it.
///
/// # Example
///
/// ```no_run
/// use core::sync::atomic::{AtomicU64, Ordering};
/// use dune::{Dune, Handler, TrapFrame, TrapHandler, TrapOutcome, Vector};
///
/// struct Count(AtomicU64);
///
/// impl TrapHandler for Count {
///     fn handle(&self, _: Dune, _: &mut TrapFrame) -> TrapOutcome {
///         self.0.fetch_add(1, Ordering::Relaxed);
///         TrapOutcome::Resume
///     }
/// }
///
/// static BREAKPOINTS: Handler<Count> = Handler::new(Count(AtomicU64::new(0)));
///
/// let dune = dune::enter()?;
/// // SAFETY: the handler touches an atomic of its own, and INT3 needs no more than to go on.
/// unsafe { dune.set_handler(Vector::BREAKPOINT, &BREAKPOINTS) };
/// println!("{} so far", BREAKPOINTS.state().0.load(Ordering::Relaxed));
/// # Ok::<(), dune::EnterError>(())
/// ```
#[repr(C)]
pub struct Handler<H> {
    code: Code,
    state: H,
}

impl<H: TrapHandler> Handler<H> {
    /// A handler for a static.
    pub const fn new(state: H) -> Handler<H> {
        Handler { code: enter::<H>, state }
    }

    /// A handler that is made at run time, and lives for ever.
    pub fn leak(state: H) -> &'static Handler<H>
    where
        H: 'static,
    {
        Box::leak(Box::new(Handler::new(state)))
    }

    /// What it works on.
    pub const fn state(&self) -> &H {
        &self.state
    }
}

impl<H: fmt::Debug> fmt::Debug for Handler<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handler").field(&self.state).finish()
    }
}

/// The [`Code`] of a `Handler<H>`.
///
/// # Safety
///
/// The calling thread is at ring 0; `handler` is the address of a `Handler<H>` that lives for ever.
unsafe fn enter<H: TrapHandler>(frame: &mut TrapFrame, handler: *const Head) -> TrapOutcome {
    // SAFETY: the caller's, both.
    let (dune, handler) = unsafe { (Dune::assume(), &*handler.cast::<Handler<H>>()) };
    handler.state.handle(dune, frame)
}

/// A handler that keeps integer registers only, for the shortest way from a fault and back: a function, mostly in assembly, and
/// the state that it works on.
///
/// See [`Dune::set_lean_handler`] for what it must not do.
#[repr(C)]
pub struct LeanHandler<S> {
    function: unsafe extern "C" fn(&mut TrapFrame, &LeanHandler<S>),
    state: S,
}

impl<S> LeanHandler<S> {
    /// Where the state is, in bytes from the second argument of the function.
    pub const STATE: usize = offset_of!(Self, state);

    /// `function`, which gets the frame and this very value.
    pub const fn new(
        function: unsafe extern "C" fn(&mut TrapFrame, &LeanHandler<S>),
        state: S,
    ) -> LeanHandler<S> {
        LeanHandler { function, state }
    }

    /// What it works on.
    pub const fn state(&self) -> &S {
        &self.state
    }
}

impl<S: fmt::Debug> fmt::Debug for LeanHandler<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeanHandler").field("function", &self.function).field("state", &self.state).finish()
    }
}

const _: () = assert!(offset_of!(Handler<u8>, code) == 0 && offset_of!(LeanHandler<u8>, function) == 0);
const _: () = assert!(size_of::<Code>() == size_of::<Head>() && size_of::<LeanCode>() == size_of::<Head>());

/// The entry for `handler`.
pub(super) fn full<H: TrapHandler>(handler: &'static Handler<H>) -> Entry {
    Entry::full(core::ptr::from_ref(handler).cast())
}

/// The entry for a lean `handler`.
pub(super) fn lean<S: Sync>(handler: &'static LeanHandler<S>) -> Entry {
    Entry::lean(core::ptr::from_ref(handler).cast())
}

/// Calls the handler of `entry` for `frame`; without one the trap is unhandled. A lean one does not say that a trap is not its own.
///
/// # Safety
///
/// 1. The calling thread is at ring 0, in a trap with this frame, and the interrupted code's vector state is kept. 2. The entry is
///    from a table of handlers.
#[inline(always)]
pub(super) unsafe fn call(entry: Entry, frame: &mut TrapFrame) -> TrapOutcome {
    let head = entry.head();
    if entry.is_none() {
        TrapOutcome::Unhandled
    } else if entry.is_lean() {
        // SAFETY: entries with the mark are made by `lean`, of a handler that lives for ever and starts with such code.
        unsafe {
            let code = head.cast::<LeanCode>().read();
            code(frame, head);
        }
        TrapOutcome::Resume
    } else {
        // SAFETY: it is there and not lean; the rest is the caller's.
        unsafe { call_full(head, frame) }
    }
}

/// As [`call`], for a handler that is there and not lean.
///
/// # Safety
///
/// As there.
#[inline(always)]
pub(super) unsafe fn call_full(handler: *const Head, frame: &mut TrapFrame) -> TrapOutcome {
    // SAFETY: 1. entries without the mark are made by `full`, of a handler that lives for ever and starts with such code; 2. the
    // rest is the caller's.
    unsafe {
        let code = handler.cast::<Code>().read();
        code(frame, handler)
    }
}

/// The handlers of the process by vector.
pub(super) static PROCESS_HANDLERS: [Slot; 256] = [const { Slot::new() }; 256];

/// The process's entry for `vector`.
pub(super) fn process_slot(vector: Vector) -> &'static Slot {
    &PROCESS_HANDLERS[usize::from(vector.number())]
}
