//! Running the program.

use dune::user::{UserContext, UserExit};
use dune::{Dune, UserError};

/// Runs the program until it makes a system call or takes a trap, or a signal waits for the thread.
#[inline(always)]
pub(crate) fn run(dune: Dune, context: &mut UserContext) -> Result<UserExit, UserError> {
    // SAFETY: the context, its vector state and this stack are the runtime's: in its part of the address space no call of the
    // program's changes anything (`memory.rs`), and the runtime itself takes no rights from its own pages.
    super::signals::with_flag(|flag| unsafe { dune.run_user_unless(context, flag) })
}
