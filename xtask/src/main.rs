//! Development tasks of this repository: `cargo xtask --help` lists them.
//!
//! The task everything else stands on is [`machine`]: it runs a command inside an emulated computer
//! that has the virtualization hardware which the developer's own computer may lack.
#![deny(unsafe_code)]

mod artifacts;
mod check;
mod cli;
mod console;
mod demo;
mod error;
mod image;
mod initramfs;
mod machine;
mod packages;
mod peers;
mod phase;
mod process;
mod programs;
mod progress;
mod quote;
mod results;
mod tally;
mod test;
mod vm;
mod workspace;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    process::watch_for_interrupts();
    let outcome = match cli::Cli::parse().task {
        cli::Task::Check(arguments) => check::run(&arguments),
        cli::Task::Demo(arguments) => demo::run(&arguments),
        cli::Task::Peers(arguments) => peers::run(&arguments),
        cli::Task::Programs(arguments) => programs::run(&arguments),
        cli::Task::Results(arguments) => results::run(&arguments),
        cli::Task::Test(arguments) => test::run(&arguments),
        cli::Task::Vm(arguments) => vm::run(&arguments),
    };
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::from(error.exit_status())
        }
    }
}
