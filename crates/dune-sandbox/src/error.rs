//! Why a program was not run.

use std::fmt;
use std::io;

use dune::memory::EditError;
use dune::{EnterError, UserError};
use dune_layer::LayerError;
use dune_loader::LoadError;
use thiserror::Error;

use crate::raw::process;

/// Why a program was not run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The program can not be had.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Dune mode could not be entered.
    #[error(transparent)]
    Enter(#[from] EnterError),
    /// Something of this process is where the program shall be.
    #[error(
        "this process has memory at {start:#x}, below {end:#x}, where the program's place is; \
         start it with a limit for the stack (`ulimit -s 8192`), and not under a tool that moves programs"
    )]
    Occupied {
        /// Where.
        start: u64,
        /// The end of the program's place.
        end: u64,
    },
    /// Linux can not confine the process as the policy does.
    #[error(
        "Linux does not confine this process as the policy does: {what}: {why}; use a kernel with seccomp filters and Landlock (Linux \
         5.13 or later, `landlock` in /sys/kernel/security/lsm), or do without that with `--best-effort` (`Sandbox::best_effort`)"
    )]
    Wall {
        /// The part of the wall that is missing.
        what: &'static str,
        /// The reason.
        why: String,
    },
    /// The directories that the program is to have in the place of others can not be made.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// Nobody is there to make them, and to look after them when the program has ended.
    #[error(
        "the policy {policy} has private layers, directories in memory or hosts, which a launcher beside the program makes; run it with \
         `Sandbox::run_observed` or `Sandbox::command`"
    )]
    NoLauncher {
        /// The policy.
        policy: String,
    },
    /// A step before the program's start failed.
    #[error("cannot {what}: {why}")]
    Prepare {
        /// The step.
        what: &'static str,
        /// Linux's reason.
        #[source]
        why: io::Error,
    },
    /// Arguments and environment are longer than Linux would take.
    #[error(
        "arguments and environment have {bytes} bytes, and {limit} are allowed; pass less, or raise `ulimit -s`"
    )]
    TooLong {
        /// How many bytes they have.
        bytes: u64,
        /// How many they may have.
        limit: u64,
    },
    /// The program's pages could not be given to it.
    #[error(transparent)]
    Tables(#[from] EditError),
    /// Ring 3 could not be entered.
    #[error(transparent)]
    Ring3(#[from] UserError),
}

impl SandboxError {
    /// The exit status by which shells tell the reason: 127 for a program that was not found, 126 for one that can not be executed; and 3
    /// for a computer without Dune mode.
    pub fn exit_status(&self) -> u8 {
        match self {
            SandboxError::Load(error) => error.exit_status(),
            SandboxError::Enter(_) => 3,
            _ => 126,
        }
    }
}

/// Writes a line to standard error, as far as that takes it: it is the program's, too.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    process::write_error(format!("{line}\n").as_bytes());
}
