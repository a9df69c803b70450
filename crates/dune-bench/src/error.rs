//! What can go wrong with a measurement.

use std::io;

use crate::rows::Row;

/// Why there is no table. Its text is one sentence: the reason, and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// This computer cannot run Dune mode.
    #[error(transparent)]
    Host(#[from] dune::doctor::DoctorError),
    /// Dune mode could not be entered, although the host looked able to.
    #[error(transparent)]
    Enter(#[from] dune::EnterError),
    /// No repeat was asked for.
    #[error("0 repeats measure nothing; ask for 1 or more")]
    NoRepeats,
    /// What ran in a sandbox has printed no table.
    #[error(
        "`dune run -- dune bench --linux-only --json` has printed no table but {text:?}; run it by itself to see why"
    )]
    NoTable {
        /// What it has printed.
        text: String,
    },
    /// No row has this name.
    #[error("there is no row {name:?}; choose among {}", Row::all().map(Row::name).collect::<Vec<_>>().join(", "))]
    UnknownRow {
        /// What was asked for.
        name: String,
    },
    /// Linux refused something that a row needs.
    #[error("row {row}: {call} failed: {error}; {}", remedy(call))]
    System {
        /// The row.
        row: Row,
        /// The system call.
        call: &'static str,
        /// What Linux said.
        error: io::Error,
    },
    /// Dune refused something that a row needs.
    #[error("row {row}: {what} failed in Dune mode: {error}; {REPORT_IT}")]
    Dune {
        /// The row.
        row: Row,
        /// What was tried.
        what: &'static str,
        /// What Dune said.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A row did not do what its name says, so its time means nothing.
    #[error("row {row} did not do its work: {what}; {REPORT_IT}")]
    Untrue {
        /// The row.
        row: Row,
        /// What was seen and what was expected.
        what: String,
    },
}

const REPORT_IT: &str =
    "this is a defect of Dune or of the benchmark: report it with the output of `dune doctor`";

/// What to do when Linux refuses `call`.
fn remedy(call: &str) -> &'static str {
    match call {
        "prctl(PR_SET_SYSCALL_USER_DISPATCH)" => {
            "leave the row out with `--rows`, or use Linux 5.11 or newer"
        }
        "ptrace" | "waitpid" => {
            "allow ptrace of one's own children (container policy, seccomp), or leave the row out with `--rows`"
        }
        _ => "free memory or raise the limits that `ulimit -a` shows, or leave the row out with `--rows`",
    }
}
