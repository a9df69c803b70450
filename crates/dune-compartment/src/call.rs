//! How a call is made.

use dune::user::TimeLimit;

use crate::Gates;

/// What a call is given besides function and argument: see [`Compartment::call_with`](crate::Compartment::call_with).
#[derive(Debug, Default)]
pub struct CallOptions<'o, 'h> {
    pub(crate) gates: Option<&'o mut Gates<'h>>,
    pub(crate) limit: Option<&'o TimeLimit>,
}

impl<'o, 'h> CallOptions<'o, 'h> {
    /// No gates, no time limit.
    pub fn new() -> CallOptions<'o, 'h> {
        CallOptions::default()
    }

    /// The gates by which the function may ask.
    pub fn gates(self, gates: &'o mut Gates<'h>) -> CallOptions<'o, 'h> {
        CallOptions { gates: Some(gates), ..self }
    }

    /// When the function is ended. One limit may be for many calls.
    pub fn limit(self, limit: &'o TimeLimit) -> CallOptions<'o, 'h> {
        CallOptions { limit: Some(limit), ..self }
    }
}
