//! The cases by subject.

mod children;
mod entry;
mod threads;
mod traps;

use crate::case::Case;

/// All cases.
pub fn all() -> Vec<Case> {
    [children::CASES, threads::CASES, entry::CASES, traps::CASES].concat()
}
