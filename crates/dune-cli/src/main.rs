//! The `dune` command: can this computer run Dune mode (`dune doctor`), what does it cost (`dune bench`), and programs in it
//! (`dune enter`), also such as are not trusted (`dune run`, and `dune changes` for what they have changed in private layers).
//!
//! Errors are one sentence on standard error, with the remedy. Exit statuses: see [`Failure::status`].

#![deny(unsafe_code)]

mod arguments;
mod bench;
mod changes;
mod doctor;
mod enter;
mod failure;
mod output;
mod run;

use std::process::ExitCode;

use clap::CommandFactory;

use arguments::{Arguments, Command};
use failure::Failure;

fn main() -> ExitCode {
    let done = match Arguments::of(std::env::args_os().collect()).command {
        Command::Doctor(options) => doctor::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Enter(options) => enter::run(&options).map(|never| match never {}),
        Command::Changes(options) => changes::run(&options),
        Command::Run(options) => run::run(&options).map(|never| match never {}),
        Command::Completions { shell } => completions(shell),
        Command::TryDuneMode => doctor::trial::enter_and_call(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(sentence) = failure.sentence() {
                eprintln!("dune: {sentence}");
            }
            ExitCode::from(failure.status())
        }
    }
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "dune", &mut script);
    output::write(&script)
}
