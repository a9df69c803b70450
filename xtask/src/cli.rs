//! The command line.

use crate::machine::{MachineName, memory_in_mib};
use crate::programs::Mode;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Development tasks of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub task: Task,
}

/// The tasks.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Run a command inside a machine that has the workspace's release binaries on its PATH.
    ///
    /// The machine's output is streamed as it comes and the command's exit status is passed on. The time limit
    /// gives status 124, Ctrl-C 130, a machine that cannot start or dies 125.
    #[command(after_help = "Examples:\n  \
        cargo xtask vm -- dune doctor\n  \
        cargo xtask vm --machine vtx -- dune bench\n  \
        cargo xtask vm --machine svm --smp 4 --timeout 60 -- sh -c 'nproc; ls -l /dev/kvm'")]
    Vm(VmArguments),

    /// Show Dune at work: `dune doctor`, a real program in Dune mode, a server that is not trusted, the paper's tables.
    ///
    /// Runs on this computer where it has virtualization hardware, else on the emulated Intel machine.
    Demo(DemoArguments),

    /// Run all checks and tests; the last line counts them.
    ///
    /// rustfmt, clippy, unit and doc tests and the documentation on this computer, then the integration suite on svm
    /// and vtx, and on this computer too where it has virtualization hardware. With --machine or names of tests: only
    /// the integration suite.
    #[command(after_help = "Examples:\n  \
        cargo xtask test\n  \
        cargo xtask test --machine svm\n  \
        cargo xtask test --machine svm -- page_fault\n  \
        cargo xtask test --machine svm --kernel 6.1")]
    Test(TestArguments),

    /// Look for what tests do not find: AddressSanitizer, fuzz targets, complete packages, and more tools where installed.
    ///
    /// The last line counts; what can not run here says why and counts as skipped.
    Check(CheckArguments),

    /// Run real programs natively, in Dune mode and in the sandbox on svm, compare, and write docs/programs.md anew.
    ///
    /// Debian's packages of the programs are fetched on the first run. What lies between `<!-- notes -->` and
    /// `<!-- /notes -->` in docs/programs.md is kept. With names of cases only those run; results and output of the
    /// others stay as they are below target/programs.
    #[command(after_help = "Examples:\n  \
        cargo xtask programs\n  \
        cargo xtask programs --mode native\n  \
        cargo xtask programs --verbose -- redis python-test_signal")]
    Programs(ProgramsArguments),

    /// Measure what `dune run` costs beside what people use instead: bubblewrap, Landlock, a seccomp broker.
    ///
    /// Debian's bubblewrap is one of the packages of `cargo xtask programs`, which are fetched on the first run.
    Peers(PeersArguments),

    /// Measure the paper's tables on the emulated machines and write docs/results.md anew.
    ///
    /// What lies between `<!-- notes -->` and `<!-- /notes -->` there is kept.
    Results(ResultsArguments),
}

/// Arguments of `cargo xtask check`.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// Run each fuzz target for ten minutes rather than half a minute.
    #[arg(long)]
    pub long: bool,
}

/// Arguments of `cargo xtask demo`.
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// Where to run it.
    #[arg(long, value_enum)]
    pub machine: Option<MachineName>,

    /// End it after this many seconds, boot included.
    #[arg(long, value_name = "S", default_value = "1800", value_parser = seconds)]
    pub timeout: Duration,
}

/// Arguments of `cargo xtask peers`.
#[derive(Debug, Args)]
pub struct PeersArguments {
    /// What is compared.
    #[arg(value_enum, default_value = "run")]
    pub comparison: Comparison,

    /// Where to run it: vtx counts instructions, the timings of svm mean nothing.
    #[arg(long, value_enum, default_value = "vtx")]
    pub machine: MachineName,

    /// End it after this many seconds, boot included.
    #[arg(long, value_name = "S", default_value = "1800", value_parser = seconds)]
    pub timeout: Duration,
}

/// What `cargo xtask peers` compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Comparison {
    /// Confined programs: `dune run` with bubblewrap, a Landlock launcher and a seccomp broker.
    Run,
    /// The pauses of an in-memory store that saves itself: by a snapshot, and by a fork.
    Store,
    /// A web server with compartments and without, under ab and openssl.
    Web,
}

/// Arguments of `cargo xtask test`.
#[derive(Debug, Args)]
pub struct TestArguments {
    /// Run only the integration suite, on this machine; may be given several times.
    #[arg(long, value_enum)]
    pub machine: Vec<MachineName>,

    /// Give up on a machine after this many seconds, boot included, although cases come in (default: never).
    ///
    /// Without that a machine is given up when no case comes in for long; what is long depends on how fast it proves to be.
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub timeout: Option<Duration>,

    /// Run only the integration suite, on Debian's kernel of this version in place of 6.12, for example 6.1.
    #[arg(long, value_name = "VERSION", value_parser = kernel_version)]
    pub kernel: Option<String>,

    /// Arguments of the integration suite: names of tests to run.
    #[arg(last = true, value_name = "TESTS")]
    pub filter: Vec<OsString>,
}

/// Arguments of `cargo xtask programs`.
#[derive(Debug, Args)]
pub struct ProgramsArguments {
    /// Run the programs in this mode only; may be given several times. Without native runs it compares with the last ones
    /// below target/programs.
    #[arg(long, value_enum)]
    pub mode: Vec<Mode>,

    /// Show what the programs print.
    #[arg(long, short)]
    pub verbose: bool,

    /// Leave docs/programs.md as it is.
    #[arg(long)]
    pub dry_run: bool,

    /// Take this `dune` in place of the workspace's, for example one built elsewhere.
    #[arg(long, value_name = "FILE")]
    pub dune: Option<PathBuf>,

    /// Multiply the cases' time limits by this, for a slow computer.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub patience: u32,

    /// Words of which a case's name must contain one.
    #[arg(last = true, value_name = "CASES")]
    pub filter: Vec<String>,
}

/// Arguments of `cargo xtask results`.
#[derive(Debug, Args)]
pub struct ResultsArguments {
    /// Measure only on this machine, svm or vtx, and keep the other's tables; may be given several times.
    #[arg(long, value_enum)]
    pub machine: Vec<MachineName>,

    /// More words for the kernel's command line, for example mitigations=off; the page names them.
    #[arg(long, value_name = "KERNEL_ARGS", allow_hyphen_values = true)]
    pub append: Option<String>,

    /// Give up on a machine after this many seconds, boot included.
    #[arg(long, value_name = "S", default_value = "1800", value_parser = seconds)]
    pub timeout: Duration,
}

/// Arguments of `cargo xtask vm`.
#[derive(Debug, Args)]
pub struct VmArguments {
    /// Where to run: `host` where hardware virtualization is really there, else `svm`, unless you say.
    #[arg(long, value_enum)]
    pub machine: Option<MachineName>,

    /// Processors of the machine (default: 2 on svm, 1 on vtx, which can have no more).
    #[arg(long, value_name = "N")]
    pub smp: Option<u32>,

    /// Memory of the machine, for example 512M or 4G (default: 2G on svm, 512M on vtx).
    #[arg(long, value_name = "M", value_parser = memory_in_mib)]
    pub memory: Option<u32>,

    /// A directory to lay over the machine's root.
    #[arg(long, value_name = "DIR")]
    pub overlay: Option<PathBuf>,

    /// A kernel to boot in place of Debian's 6.12: another of Debian's by its version, for example 6.1, or a file.
    #[arg(long, value_name = "VERSION|VMLINUZ", value_parser = kernel_choice)]
    pub kernel: Option<KernelChoice>,

    /// The modules of a kernel that is a file, as in /lib/modules/VERSION.
    #[arg(long, value_name = "DIR", requires = "kernel")]
    pub modules: Option<PathBuf>,

    /// More words for the kernel's command line, for example mitigations=off.
    #[arg(long, value_name = "KERNEL_ARGS", allow_hyphen_values = true)]
    pub append: Option<String>,

    /// End the machine after this many seconds, boot included.
    #[arg(long, value_name = "S", default_value = "1800", value_parser = seconds)]
    pub timeout: Duration,

    /// The command to run and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// A kernel to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelChoice {
    /// Debian's of this version.
    Version(String),
    /// The one in this file.
    File(PathBuf),
}

/// Parses a version like 6.1 or 6.12.107.
fn kernel_version(text: &str) -> Result<String, String> {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let numbers = text.split('.').filter(|part| is_number(part)).count();
    if (2..=3).contains(&numbers) && text.split('.').count() == numbers {
        Ok(text.to_owned())
    } else {
        Err("a version like 6.1 or 6.12 is wanted".to_owned())
    }
}

/// Parses a version, or takes the text for a file's name.
fn kernel_choice(text: &str) -> Result<KernelChoice, String> {
    Ok(kernel_version(text).map_or_else(|_| KernelChoice::File(text.into()), KernelChoice::Version))
}

/// Parses a time limit.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("a whole number of seconds above 0 is wanted".to_owned()),
        Ok(number) => Ok(Duration::from_secs(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_versions_or_files() {
        assert_eq!(kernel_choice("6.1"), Ok(KernelChoice::Version("6.1".to_owned())));
        assert_eq!(kernel_choice("6.12.107"), Ok(KernelChoice::Version("6.12.107".to_owned())));
        for file in ["6", "6.", "./6.1", "vmlinuz-6.1", "6.1.0-56"] {
            assert_eq!(kernel_choice(file), Ok(KernelChoice::File(file.into())), "{file}");
        }
    }
}
