//! `cargo xtask check`: what looks for more than tests do.

mod fuzz;
mod outside;
mod package;
mod sanitizer;
mod seeds;

use crate::cli::CheckArguments;
use crate::error::Result;
use std::time::Duration;

/// How long each fuzz target runs.
const USUAL: Duration = Duration::from_secs(30);
/// How long in `cargo xtask check --long`.
const LONG: Duration = Duration::from_secs(600);

/// Runs the task; gives 0 only if nothing failed.
pub fn run(arguments: &CheckArguments) -> Result<u8> {
    let mut tally = sanitizer::unit_tests()?;
    tally += fuzz::run(if arguments.long { LONG } else { USUAL })?;
    tally += package::run()?;
    tally += outside::run()?;
    println!("{tally}");
    Ok(u8::from(tally.failed > 0))
}
