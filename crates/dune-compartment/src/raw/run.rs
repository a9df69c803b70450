//! Entering ring 3.

use dune::user::{TimeLimit, UserContext, UserExit, UserSpace};
use dune::{Dune, UserError};

/// Runs `context` in `space` until it comes back, or `limit` is over.
///
/// It is safe because a [`Compartments`](crate::Compartments) is needed to have a compartment's space, and whoever made it has promised what
/// [`UserSpace::run`] asks for.
pub(crate) fn run(
    dune: Dune,
    space: &UserSpace,
    context: &mut UserContext,
    limit: Option<&TimeLimit>,
) -> Result<UserExit, UserError> {
    // SAFETY: `Compartments::new`'s caller has promised that nobody takes stacks and heap from ring 0, where the context, its vector state
    // and this stack are.
    unsafe {
        match limit {
            Some(limit) => space.run_until(dune, context, limit),
            None => space.run(dune, context),
        }
    }
}
