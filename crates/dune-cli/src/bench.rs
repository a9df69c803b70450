//! `dune bench`.

use dune_bench::Options;

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
    if !arguments.rows.is_empty() {
        options.rows = arguments.rows.clone();
    }
    let table = dune_bench::run(&options)?;
    if arguments.json { output::line(&table.to_json()?) } else { output::line(&table.to_string()) }
}
