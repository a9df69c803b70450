//! Whom a program with children may send signals to.

use crate::raw::process;
use crate::wall;

/// Whether kill(2) may be asked to signal what `target` is: by the second wall Linux sees to it that it is a process of the sandbox; where Linux
/// does not, it has to be the caller's own child, which has its number until the caller has waited for it.
pub(super) fn may_signal(target: i32) -> bool {
    wall::scopes_signals() || target > 0 && process::is_child(target)
}
