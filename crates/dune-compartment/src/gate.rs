//! Gates: how a compartment asks its caller.

use std::fmt;
use std::marker::PhantomData;

use bytemuck::{AnyBitPattern, NoUninit};
use thiserror::Error;

use crate::raw::entry;
use crate::weakness::{Defence, lacks};

/// A question that compartments may ask whoever called them, with an argument of type `A` and an answer of type `R`.
///
/// ```no_run
/// use dune_compartment::{CallOptions, Compartments, Gate, Gates};
///
/// /// The square of a number.
/// const SQUARE: Gate<u64, u64> = Gate::new(0);
///
/// fn sum_of_squares(most: &u64) -> u64 {
///     (1..=*most).filter_map(|number| SQUARE.ask(&number).ok()).sum()
/// }
///
/// # let dune = dune::enter()?;
/// # let compartments = unsafe { Compartments::new(dune)? };
/// # let compartment = compartments.create(dune)?;
/// let mut gates = Gates::new().with(SQUARE, |number| number * number);
/// let options = CallOptions::new().gates(&mut gates);
/// assert_eq!(compartment.call_with(dune, options, sum_of_squares, &3)?, 14);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Gate<A, R> {
    number: u16,
    _types: PhantomData<fn(A) -> R>,
}

/// Why a question has no answer: it was asked outside of a compartment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("gate {number} was used outside of a compartment: call the function by Compartment::call")]
pub struct GateError {
    number: u16,
}

impl<A: NoUninit + AnyBitPattern, R: NoUninit + AnyBitPattern> Gate<A, R> {
    /// The gate with this number. Each has to have one of its own.
    pub const fn new(number: u16) -> Gate<A, R> {
        Gate { number, _types: PhantomData }
    }

    /// Asks. For code in a compartment.
    ///
    /// If the caller has no such gate, the call has ended with [`CallError::NoGate`](crate::CallError::NoGate), and this does not
    /// return.
    ///
    /// # Errors
    ///
    /// [`GateError`] where nobody could hear it.
    #[inline]
    pub fn ask(self, argument: &A) -> Result<R, GateError> {
        let mut answer = R::zeroed();
        if entry::ask(self.number, bytemuck::bytes_of(argument), bytemuck::bytes_of_mut(&mut answer)) {
            Ok(answer)
        } else {
            Err(GateError { number: self.number })
        }
    }
}

impl<A, R> Clone for Gate<A, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A, R> Copy for Gate<A, R> {}

impl<A, R> fmt::Debug for Gate<A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gate({})", self.number)
    }
}

/// What answers: from the bytes of an argument to those of the answer.
type Answer<'h> = Box<dyn FnMut(&[u8], &mut [u8]) + 'h>;

/// A gate's handler, and the bytes that it takes and gives.
pub(crate) struct Handler<'h> {
    number: u16,
    pub argument: usize,
    pub answer: usize,
    pub handle: Answer<'h>,
}

/// The gates of a call, with what answers at each.
#[derive(Default)]
pub struct Gates<'h>(Vec<Handler<'h>>);

impl<'h> Gates<'h> {
    /// None.
    pub fn new() -> Gates<'h> {
        Gates::default()
    }

    /// These and `gate`, where `handle` answers, in place of what answered there before.
    ///
    /// Of the argument any bits may come: it is a stranger's.
    pub fn with<A, R>(mut self, gate: Gate<A, R>, mut handle: impl FnMut(A) -> R + 'h) -> Gates<'h>
    where
        A: NoUninit + AnyBitPattern,
        R: NoUninit + AnyBitPattern,
    {
        self.0.retain(|handler| handler.number != gate.number);
        let handle: Answer<'h> = Box::new(move |argument, answer| {
            answer.copy_from_slice(bytemuck::bytes_of(&handle(bytemuck::pod_read_unaligned(argument))));
        });
        self.0.push(Handler {
            number: gate.number,
            argument: size_of::<A>(),
            answer: size_of::<R>(),
            handle,
        });
        self
    }

    pub(crate) fn get(&mut self, number: u16) -> Option<&mut Handler<'h>> {
        self.0.iter_mut().find(|handler| handler.number == number || lacks(Defence::GateNumbers))
    }
}

impl fmt::Debug for Gates<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|handler| handler.number)).finish()
    }
}
