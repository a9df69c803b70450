//! Everything that can go wrong, one sentence each: what was the value, and what to do.

use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// The result of a task's step.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a task stopped.
#[derive(Debug, Error)]
pub enum Error {
    #[error("cannot {action} {}: {source}", path.display())]
    File { action: &'static str, path: PathBuf, source: std::io::Error },

    #[error("cannot start `{program}`: {source}; install it, or put it on PATH")]
    Spawn { program: String, source: std::io::Error },

    #[error("`{command}` failed ({status}){}", tail(output))]
    Failed { command: String, status: std::process::ExitStatus, output: String },

    #[error("{what} would come through apt, which this computer lacks: {remedy}")]
    NoApt { what: String, remedy: String },

    #[error("no package of {wanted} exists for this distribution: {remedy}")]
    NoPackage { wanted: String, remedy: String },

    #[error("{} has no module `{module}`, built in or loadable: name the matching /lib/modules/VERSION with --modules", directory.display())]
    NoModule { module: String, directory: PathBuf },

    #[error("--kernel {} names a file, whose modules are wanted too: give --modules /lib/modules/VERSION", path.display())]
    KernelWithoutModules { path: PathBuf },

    #[error(
        "--kernel {version} fetches a kernel with its own modules: leave --modules out, or name a file with --kernel VMLINUZ"
    )]
    ModulesOfVersion { version: String },

    #[error("machine {machine} has one processor, not {asked}: leave --smp out, or use --machine svm")]
    TooManyProcessors { machine: &'static str, asked: u32 },

    #[error(
        "`host` runs on this computer as it is, so {option} has no meaning: leave it out, or name another machine"
    )]
    NotOnHost { option: &'static str },

    #[error("{name} is not what it should be: {what}; see `VARIANTS` in xtask/src/test/variants.rs")]
    Variant { name: String, what: String },

    #[error("machine {machine} has no controller for a disk: use --machine svm")]
    NoDisk { machine: &'static str },

    #[error("no case of `cargo xtask programs` is named like {asked:?}: there are {names}")]
    NoCase { asked: String, names: String },

    #[error("the machine did not run all cases ({gone}): see xtask/src/programs/inside.sh{}", tail(output))]
    Cases { gone: String, output: String },

    #[error("cargo built no program: see that the workspace has its binaries")]
    NoPrograms,

    #[error(
        "`dune bench` ended with status {status} on {machine}: make it run with `cargo xtask vm --machine {machine} -- dune bench`{}",
        tail(output)
    )]
    Bench { machine: &'static str, status: u8, output: String },

    #[error(
        "`dune bench --json` on {machine} gave something else than its tables ({problem}): see xtask/src/results/report.rs{}",
        tail(output)
    )]
    BenchOutput { machine: &'static str, problem: String, output: String },

    #[error("nothing ran to an end within {} s: give --timeout more, or see what hung{}", limit.as_secs(), tail(console))]
    TimedOut { limit: Duration, console: String },

    #[error("nothing has come of it for {} s: see what hung{}", limit.as_secs(), tail(console))]
    Stalled { limit: Duration, console: String },

    #[error("interrupted{}", tail(console))]
    Interrupted { console: String },

    #[error("machine {machine} stopped before the command ended ({reason}){}", tail(console))]
    MachineDied { machine: &'static str, reason: String, console: String, booting: bool },
}

impl Error {
    /// Wraps an I/O error of a file operation; for `map_err`.
    pub fn file(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::File { action, path, source }
    }

    /// The sentence without the console's last lines.
    pub fn brief(&self) -> String {
        let text = self.to_string();
        text.split_once("; the last lines were:").map_or(text.clone(), |(sentence, _)| sentence.to_owned())
    }

    /// The exit status that tells this error from a command's own, by the habit of timeout(1) and the shell.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::TimedOut { .. } | Self::Stalled { .. } => 124,
            Self::Interrupted { .. } => 130,
            _ => 125,
        }
    }
}

/// The last lines of `text`, set apart from the sentence before it; nothing if there are none.
fn tail(text: &str) -> String {
    const LINES: usize = 40;
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        return String::new();
    }
    let last = &lines[lines.len().saturating_sub(LINES)..];
    last.iter().fold(String::from("; the last lines were:"), |all, line| all + "\n  | " + line)
}
