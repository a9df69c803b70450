//! `dune run --policy POLICY -- PROGRAM`, and attacks on compartments, without the defences that DUNE_WEAKENED names: for the cases
//! `sandbox::attacks_succeed_without_defence` and `compartments::attacks_succeed_without_defence`.

#[path = "../src/cases/compartments/attempts.rs"]
mod attempts;

use std::error::Error;
use std::ffi::OsString;
use std::path::Path;

use dune_sandbox::{Sandbox, policy};

dune_compartment::memory_functions!();

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let [compartment, defence] = &words[..]
        && compartment == "compartment"
    {
        let (dune, compartments) = attempts::new()?;
        let attempt = attempts::ATTACKS.iter().find(|(name, _)| defence == name);
        let (_, attempt) = attempt.ok_or("dune-weakened compartment DEFENCE")?;
        println!("{}", if attempt(dune, &compartments)? { "escaped" } else { "held" });
        return Ok(());
    }
    let [run, option, policy, dashes, command @ ..] = &words[..] else {
        return Err("dune-weakened run --policy POLICY -- PROGRAM ARGUMENTS".into());
    };
    assert!(run == "run" && option == "--policy" && dashes == "--", "{words:?}");
    let policy = match policy.to_str().and_then(policy::by_name) {
        Some(policy) => policy?,
        None => Box::new(policy::FromFile::read(Path::new(policy))?),
    };
    match Sandbox::new(policy).run(&command[0], command)? {}
}
