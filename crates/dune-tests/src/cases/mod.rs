//! The cases by subject.

mod entry;
mod mirror;
mod traps;

use crate::case::Case;

/// All cases.
pub fn all() -> Vec<Case> {
    [entry::CASES, mirror::CASES, traps::CASES].concat()
}
