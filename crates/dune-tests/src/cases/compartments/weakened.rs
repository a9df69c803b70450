//! Attacks fail, and get out where what stops them is missing.

use std::process::Command;

use super::attempts::{self, ATTACKS};
use crate::case::CaseResult;
use crate::probe;

pub fn fail() -> CaseResult {
    let (dune, compartments) = attempts::new()?;
    for (defence, attempt) in ATTACKS {
        assert!(!attempt(dune, &compartments)?, "{defence}: it got out");
    }
    Ok(())
}

/// A thread alone on its CPU loses what is cached whenever another one runs: there all else is tried.
pub fn succeed_without_defence() -> CaseResult {
    let is_alone = std::thread::available_parallelism().is_ok_and(|count| count.get() == 1);
    let mut held = Vec::new();
    for (defence, _) in ATTACKS.iter().filter(|(defence, _)| !(is_alone && *defence == "Flush")) {
        let output = Command::new("dune-weakened")
            .args(["compartment", defence])
            .env("DUNE_WEAKENED", defence)
            .output()?;
        if String::from_utf8_lossy(&output.stdout) != "escaped\n" {
            held.push(format!("{defence}: {output:?}"));
        }
    }
    if held.is_empty() { Ok(()) } else { probe::fail(held.join("\n")) }
}
