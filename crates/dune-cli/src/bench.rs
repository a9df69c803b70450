//! `dune bench`.

use std::env;
use std::process::{Command, Stdio};

use dune_bench::{Options, Row};

use crate::arguments::BenchOptions;
use crate::failure::Failure;
use crate::output;

/// Measures in silence, then prints.
pub(crate) fn run(arguments: &BenchOptions) -> Result<(), Failure> {
    let mut options = Options {
        repeats: arguments.repeats,
        warm_up: arguments.warm_up,
        linux_only: arguments.linux_only,
        ..Options::default()
    };
    if arguments.sandbox {
        options.rows = Row::SANDBOX.to_vec();
    }
    if !arguments.rows.is_empty() {
        options.rows = arguments.rows.clone();
    }
    let sandbox = if arguments.sandbox { Some(in_sandbox(&options)?) } else { None };
    let mut table = dune_bench::run(&options)?;
    if let Some(json) = sandbox {
        table.add_sandbox(&json)?;
    }
    if arguments.json { output::line(&table.to_json()?) } else { output::line(&table.to_string()) }
}

/// The Linux side of these rows, measured by this program in a sandbox, as JSON. What the sandbox says goes to standard error.
fn in_sandbox(options: &Options) -> Result<String, Failure> {
    let dune = env::current_exe().map_err(Failure::Sandboxed)?;
    let rows: Vec<_> = options.rows.iter().map(|row| row.name()).collect();
    let mut command = Command::new(&dune);
    command.args(["run", "--policy", "allow-all", "--"]).arg(&dune);
    command.args(["bench", "--linux-only", "--json", "--rows", &rows.join(",")]);
    command.args(["--repeats", &options.repeats.to_string(), "--warm-up", &options.warm_up.to_string()]);
    let output =
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().map_err(Failure::Sandboxed)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
