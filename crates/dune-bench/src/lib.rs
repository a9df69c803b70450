//! The paper's tables as code: what an operation costs on Linux, and what it costs in Dune mode, measured in the
//! same run, by the same loops.
//!
//! ```no_run
//! let table = dune_bench::run(&dune_bench::Options::default())?;
//! println!("{table}");
//! # Ok::<(), dune_bench::BenchError>(())
//! ```
//!
//! The way of a measurement: [`run`] measures the Linux side of every row in host mode, enters Dune mode once,
//! measures the Dune side, and only then gives the [`Table`] away, because output that is still being drained
//! would be measured with the next row. Each file in `rows/` holds one group of rows with its loop, its Linux side
//! and its Dune side. Unsafe code lives in `cycles`, `linux`,
//! `payload`, `ring0` and `workloads` alone.

#![deny(unsafe_code)]

#[expect(
    unsafe_code,
    reason = "reads the time-stamp counter, runs counted loops, makes the store that faults"
)]
mod cycles;
mod error;
#[expect(unsafe_code, reason = "mappings, signal handlers, ptrace and raw system calls")]
mod linux;
#[expect(unsafe_code, reason = "the loop that runs traced, dispatched and in ring 3, in assembly")]
mod payload;
#[expect(
    unsafe_code,
    reason = "vouches for what Dune cannot check: lean handlers, ring-3 memory, page permissions"
)]
mod ring0;
mod rows;
mod stats;
mod table;
#[expect(
    unsafe_code,
    reason = "makes a heap of the collector, and promises where pointers to its objects are"
)]
mod workloads;

pub use cycles::Unit;
pub use error::BenchError;
pub use rows::{Kernel, Row, Way, Workload};
pub use stats::Summary;
pub use table::{Measurement, Table};

use cycles::Clock;
use rows::Session;

/// What to measure, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The rows, in the order of the table.
    pub rows: Vec<Row>,
    /// Measured repeats of each row and side; the median is the figure.
    pub repeats: u32,
    /// Repeats before those, thrown away.
    pub warm_up: u32,
    /// Leave the Dune side out, and stay in host mode.
    pub linux_only: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { rows: Row::TABLE.to_vec(), repeats: 11, warm_up: 2, linux_only: false }
    }
}

/// What `work` costs here, in the [unit of this computer](Unit::of_this_computer), measured as a row is: after `warm_up` times that do
/// not count.
///
/// # Errors
///
/// The first of the work's own.
pub fn cost_of<E: From<BenchError>>(
    repeats: u32,
    warm_up: u32,
    mut work: impl FnMut() -> Result<(), E>,
) -> Result<Summary, E> {
    let clock = Clock::calibrate();
    let mut costs = Vec::new();
    for turn in 0..warm_up + repeats {
        let mut done = Ok(());
        let cost = clock.per_call(1, || done = work());
        done?;
        if turn >= warm_up {
            costs.push(cost);
        }
    }
    Summary::of(costs).ok_or_else(|| BenchError::NoRepeats.into())
}

/// Measures. Prints nothing.
///
/// Unless told to keep to Linux, the calling thread is in Dune mode afterwards.
///
/// # Errors
///
/// A host that cannot run Dune mode is refused before anything is measured. A row that does not do what it should
/// (a wrong answer, a fault not taken, a call not forwarded) is an error, not a figure.
pub fn run(options: &Options) -> Result<Table, BenchError> {
    if options.repeats == 0 {
        return Err(BenchError::NoRepeats);
    }
    let facts = if options.linux_only { None } else { Some(dune::doctor::check()?) };
    let mut session = Session::new(Clock::calibrate(), options);
    let mut table = Table::describe(session.clock.unit(), facts.as_ref());
    table.repeats = options.repeats;

    for &row in &options.rows {
        table.rows.push(Measurement::new(row, row.measure_linux(&session)?));
    }
    if !options.linux_only {
        for measurement in &mut table.rows {
            let dune = measurement.row().measure_from_host(&session)?;
            measurement.set_dune(dune);
        }
        let ring0 = ring0::Ring0::enter()?;
        session.clock = session.clock.recalibrated();
        for measurement in &mut table.rows {
            let dune = measurement.row().measure_dune(&session, ring0)?;
            if dune.is_some() {
                measurement.set_dune(dune);
            }
        }
    }
    Ok(table)
}
