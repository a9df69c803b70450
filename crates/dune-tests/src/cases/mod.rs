//! The cases by subject.

mod children;
mod entry;
mod traps;

use crate::case::Case;

/// All cases.
pub fn all() -> Vec<Case> {
    [children::CASES, entry::CASES, traps::CASES].concat()
}
