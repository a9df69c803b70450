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

/// Copies from wherever a compartment says, in builds for attacks.
#[cfg(feature = "_weakened")]
pub(crate) fn read_unseen(from: u64, to: &mut [u8]) {
    let from = std::ptr::with_exposed_provenance::<u8>(from as usize);
    // SAFETY: there is none to give: what is read there is the attack.
    unsafe { from.copy_to(to.as_mut_ptr(), to.len()) };
}

/// Nobody calls it in other builds.
#[cfg(not(feature = "_weakened"))]
pub(crate) fn read_unseen(_: u64, _: &mut [u8]) {}
