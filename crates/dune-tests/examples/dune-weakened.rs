//! `dune run --policy POLICY -- PROGRAM`, without the defences that DUNE_WEAKENED names: for the attacks of the cases `sandbox::`, which have
//! to succeed here.

use std::error::Error;
use std::ffi::OsString;
use std::path::Path;

use dune_sandbox::{Sandbox, policy};

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
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
