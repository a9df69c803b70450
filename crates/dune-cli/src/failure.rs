//! How a command ends when it does not end well.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use dune::EnterError;
use dune_bench::BenchError;
use dune_loader::{LoadError, StartError};
use dune_sandbox::SandboxError;
use dune_sandbox::layer::LayerError;
use dune_sandbox::policy::PolicyError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The doctor's verdict, already printed with its remedy.
    #[error("Dune mode does not work here")]
    NotReady,
    /// Dune mode could not be entered.
    #[error(transparent)]
    Enter(#[from] EnterError),
    /// The program for Dune mode can not be had.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The program for Dune mode was not started.
    #[error(transparent)]
    Start(#[from] StartError<EnterError>),
    /// The file has no policy in it.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A policy that is no file.
    #[error(
        "the policy {} has no files and addresses to which others could be added; --write and --connect are for cli, tool, build, web and files",
        policy.display()
    )]
    AddsNothing { policy: PathBuf },
    /// A policy without layers.
    #[error(
        "the policy {policy} has no private layer, which --layer, --diff, --apply and --discard are about; use the policy tool, or one \
         with `layer` under [files]"
    )]
    NoLayer { policy: String },
    /// A policy that asks about nothing.
    #[error("the policy {policy} asks about nothing, which --ask is about; use one with `denial = \"ask\"`")]
    AsksNothing { policy: String },
    /// Nobody can be asked by this descriptor.
    #[error(
        "cannot ask by the descriptor {number}: {why}; hand down pipes, the first to write to, the second to read from"
    )]
    Asks { number: u32, why: io::Error },
    /// There is no such layer, or nothing can be done with it.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// Some changes were not made, which has been said.
    #[error(
        "{refused} of the changes could not be applied; see the lines above, and apply again when the folder is as it should be"
    )]
    NotApplied { refused: usize },
    /// Options that say how ring 0 is to be.
    #[error("--memory full and --no-follow are for --ring 0; leave them out")]
    OnlyInRing0,
    /// The program was not run in a sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The first system call from Dune mode went wrong.
    #[error("a system call from Dune mode answered {seen} instead of {expected}; report this defect of Dune")]
    Answer { seen: u32, expected: u32 },
    /// The system call of the trial reached Linux by a way that Dune does not know of.
    #[error("a system call from Dune mode was not counted as forwarded; report this defect of Dune")]
    NotForwarded,
    /// No table.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// The table is no JSON: a figure was not a number.
    #[error("cannot write JSON: {0}; report this defect of `dune bench`")]
    Json(#[from] serde_json::Error),
    /// A file that was to be written can not be.
    #[error("cannot write {}: {why}; name another file", path.display())]
    Create { path: PathBuf, why: io::Error },
    /// Standard output takes nothing more.
    #[error("cannot write the output: {0}; see whether the disk is full")]
    Output(#[source] io::Error),
    /// Whoever read standard output has gone, and needs no more of it.
    #[error("nobody reads the output")]
    NobodyReads,
    /// The child that was to measure in a sandbox could not be started.
    #[error("cannot start `dune run` to measure in a sandbox: {0}; see what `ulimit -u` allows")]
    Sandboxed(#[source] io::Error),
    /// The child that was to try Dune mode could not be started.
    #[error("cannot start the trial of Dune mode: {0}; see what `ulimit -u` allows")]
    Spawn(#[source] io::Error),
}

impl Failure {
    /// The exit status: 1 for a failure on the way, 3 for a computer that cannot run Dune mode, 126 and 127 as in shells for a
    /// program that cannot be executed. (2 is clap's, for a command line that was not understood.)
    pub(crate) fn status(&self) -> u8 {
        match self {
            Failure::NobodyReads => 0,
            Failure::NotReady
            | Failure::Enter(_)
            | Failure::Start(StartError::Enter(_))
            | Failure::Bench(BenchError::Host(_) | BenchError::Enter(_)) => 3,
            Failure::Load(error) => error.exit_status(),
            Failure::Sandbox(error) => error.exit_status(),
            Failure::Policy(_)
            | Failure::AddsNothing { .. }
            | Failure::NoLayer { .. }
            | Failure::OnlyInRing0
            | Failure::Create { .. } => 2,
            Failure::Start(_) => 126,
            _ => 1,
        }
    }

    /// The sentence for standard error, unless everything has been said.
    pub(crate) fn sentence(&self) -> Option<String> {
        match self {
            Failure::NotReady | Failure::NobodyReads => None,
            other => Some(other.to_string()),
        }
    }
}

/// How a trial of Dune mode went wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrialError {
    /// It ended by itself.
    #[error("the process that tried Dune mode ended with {status}: {}", if said.is_empty() { "it said nothing" } else { said })]
    Ended {
        /// How.
        status: ExitStatus,
        /// What it wrote to standard error.
        said: String,
    },
    /// It had to be ended.
    #[error("the process that tried Dune mode did not come back within {} seconds", limit.as_secs())]
    Hung {
        /// The time it had.
        limit: Duration,
    },
}
