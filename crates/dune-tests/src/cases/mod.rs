//! The cases by subject.

mod entry;
mod traps;

use crate::case::Case;

/// All cases.
pub fn all() -> Vec<Case> {
    [entry::CASES, traps::CASES].concat()
}
