//! `dune run`: a program that is not trusted, in ring 3.

use std::convert::Infallible;

use dune_sandbox::{Sandbox, policy};

use crate::arguments::RunOptions;
use crate::failure::Failure;

/// Becomes the program. Returns only if that fails.
pub(crate) fn run(options: &RunOptions) -> Result<Infallible, Failure> {
    let program = options.command.first().expect("the command line requires a program");
    let shipped = options.policy.to_str().and_then(policy::by_name);
    let policy = match shipped {
        Some(policy) => policy,
        None => Box::new(policy::FromFile::read(&options.policy)?),
    };
    let sandbox = Sandbox::new(policy).trace(options.trace).best_effort(options.best_effort);
    Ok(sandbox.run(program, &options.command)?)
}
