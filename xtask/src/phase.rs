//! Phases of a task: each between two lines that tell what it is and how it ended, with its counts.

use crate::error::Result;
use crate::process;
use crate::progress::print;
use crate::tally::Tally;
use std::process::Command;
use std::time::Instant;

/// Runs one phase between two lines that tell what it is and how long it took. A phase that fails without having
/// counted a failed test counts as one.
pub fn phase(name: &str, work: impl FnOnce(&mut Tally) -> Result<bool>) -> Result<Tally> {
    print(&format!("==> {name}"));
    let start = Instant::now();
    let mut tally = Tally::default();
    let passed = match work(&mut tally) {
        Ok(passed) => passed,
        Err(error) if process::interrupted() => return Err(error),
        Err(error) => {
            print(&error.to_string());
            false
        }
    };
    if !passed && tally.failed == 0 {
        tally.failed = 1;
    }
    let verdict = if tally.failed == 0 { "ok" } else { "FAILED" };
    print(&format!("==> {name}: {verdict}, {:.1} s", start.elapsed().as_secs_f64()));
    Ok(tally)
}

/// Runs a command whose own output says what is wrong.
pub fn checked(command: &mut Command) -> Result<bool> {
    let (status, ..) = process::run_to_end(command, print)?;
    Ok(status.success())
}

/// A phase that can not run here: one line tells why, and it counts as skipped.
pub fn skipped(name: &str, reason: &str) -> Tally {
    print(&format!("==> {name}: skipped: {reason}"));
    Tally { skipped: 1, ..Tally::default() }
}
