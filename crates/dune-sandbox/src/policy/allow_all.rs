//! `allow-all`: calls are intercepted and checked, and made.

use super::{Decision, Policy};
use crate::checked::Request;
use crate::command::Recipe;

/// Everything that the supervisor does not refuse by itself. The program has the files, the network and the processes of the user who
/// runs it: this protects the runtime's memory from the program, and nothing else.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAll;

impl Policy for AllowAll {
    fn name(&self) -> &str {
        "allow-all"
    }

    fn decide(&self, _: &Request) -> Decision {
        Decision::Allow
    }

    fn allows_writable_code(&self) -> bool {
        true
    }

    fn recipe(&self) -> Option<Recipe> {
        Some(Recipe::shipped(self.name()))
    }
}
