//! `dune run`: a program that is not trusted, in ring 3.

use std::convert::Infallible;
use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use dune_sandbox::{Filter, Observation, Sandbox, policy};

use crate::arguments::RunOptions;
use crate::failure::Failure;

/// Becomes the program, or its launcher. Returns only if that fails.
pub(crate) fn run(options: &RunOptions) -> Result<Infallible, Failure> {
    let program = options.command.first().expect("the command line requires a program");
    let shipped = options.policy.to_str().and_then(policy::by_name);
    let policy = match shipped {
        Some(policy) => policy,
        None => Box::new(policy::FromFile::read(&options.policy)?),
    };
    let sandbox = Sandbox::new(policy).best_effort(options.best_effort);
    if !is_observed(options) {
        return Ok(sandbox.run(program, &options.command)?);
    }
    let mut observation = Observation::new();
    if options.trace.is_some() || options.trace_file.is_some() {
        let filter = options.trace.clone().unwrap_or_else(Filter::all);
        let out = match &options.trace_file {
            Some(file) => Box::new(BufWriter::new(create(file)?)) as Box<dyn Write>,
            None => Box::new(io::stderr()),
        };
        observation = observation.trace(filter, out, options.trace_file.is_some());
    }
    let report = sandbox.run_observed(program, &options.command, observation)?;
    if let Some(why) = &report.outcome.not_started {
        eprintln!("dune: {}", why.why);
    }
    report.end()
}

/// Whether somebody wants to know more than what the program does itself.
fn is_observed(options: &RunOptions) -> bool {
    options.trace.is_some() || options.trace_file.is_some()
}

/// A file for what is told.
fn create(path: &Path) -> Result<std::fs::File, Failure> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path);
    file.map_err(|why| Failure::Create { path: path.to_owned(), why })
}
