//! The command line.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use dune_bench::{Options, Row};

const EXIT_STATUSES: &str = "\
Exit statuses:
  0  done; for `dune doctor`: Dune mode works here
  1  something failed on the way
  2  the command line was not understood
  3  this computer cannot run Dune mode";

const EXAMPLES: &str = "\
Examples:
  dune doctor                      can this computer run Dune mode, and if not, what would help?
  dune bench                       the paper's tables, Linux and Dune side by side
  dune bench --rows getpid,trap    only these rows
  dune completions bash > ~/.local/share/bash-completion/completions/dune";

const DOCTOR_EXAMPLES: &str = "\
Examples:
  dune doctor
  dune doctor --json | jq -r .verdict
  dune doctor > /dev/null && ./a-program-that-needs-dune-mode

When the computer looks able, a child process enters Dune mode and makes a system call from there: the exit status is
0 only if that worked.";

const BENCH_EXAMPLES: &str = "\
Examples:
  dune bench
  dune bench --rows getpid,trap,trap_lean --repeats 31
  dune bench --json > result.json
  dune bench --linux-only          the Linux side alone, on a computer that cannot run Dune mode
  cargo xtask vm --machine vtx -- dune bench

Nothing is printed until everything is measured. Where the time-stamp counter counts instructions (the emulated machine
vtx), figures are instruction counts, and page_walk has none; elsewhere they are cycles.";

/// Safe user-level access to privileged CPU features, on a stock Linux kernel.
#[derive(Debug, Parser)]
#[command(name = "dune", version, about, after_help = format!("{EXAMPLES}\n\n{EXIT_STATUSES}"))]
#[command(propagate_version = true, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Tell whether this computer can run Dune mode, and what to do if it cannot.
    #[command(after_help = format!("{DOCTOR_EXAMPLES}\n\n{EXIT_STATUSES}"))]
    Doctor(DoctorOptions),
    /// Measure the paper's tables: what operations cost on Linux, and in Dune mode.
    #[command(after_help = format!("{BENCH_EXAMPLES}\n\n{EXIT_STATUSES}"))]
    Bench(BenchOptions),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Enter Dune mode and make one system call (what `dune doctor` runs as its child).
    #[command(hide = true)]
    TryDuneMode,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorOptions {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchOptions {
    /// Measure these rows only, in this order.
    #[arg(long, value_name = "ROW,…", value_delimiter = ',', value_parser = rows())]
    pub(crate) rows: Vec<Row>,
    /// Measured repeats of each row and side; the figure is their median.
    #[arg(long, value_name = "N", default_value_t = Options::default().repeats,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) repeats: u32,
    /// Repeats before those, thrown away.
    #[arg(long, value_name = "N", default_value_t = Options::default().warm_up)]
    pub(crate) warm_up: u32,
    /// Measure the Linux side only; Dune's figures are null.
    #[arg(long)]
    pub(crate) linux_only: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Row names, which completions and errors then list.
fn rows() -> impl TypedValueParser<Value = Row> {
    PossibleValuesParser::new(Row::ALL.map(Row::name)).try_map(|name| name.parse::<Row>())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn rows_are_split_at_commas() {
        let arguments = Arguments::try_parse_from(["dune", "bench", "--rows", "trap,getpid"]).unwrap();
        let Command::Bench(options) = arguments.command else { panic!("{arguments:?}") };
        assert_eq!(options.rows, [Row::Trap, Row::Getpid]);
    }

    #[test]
    fn an_unknown_row_lists_the_known() {
        let error =
            Arguments::try_parse_from(["dune", "bench", "--rows", "getppid"]).unwrap_err().to_string();
        assert!(error.contains("getppid") && error.contains("page_walk"), "{error}");
    }

    #[test]
    fn no_repeats_are_refused() {
        assert!(Arguments::try_parse_from(["dune", "bench", "--repeats", "0"]).is_err());
    }
}
