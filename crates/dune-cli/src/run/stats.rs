//! Figures of a run, for people.

use std::fmt::Write;

use dune_bench::Unit;
use dune_sandbox::Report;

/// The text after the run.
pub(super) fn text(report: &Report, unit: Unit) -> String {
    let figures = &report.figures;
    let count = |of: fn(&dune_sandbox::CallFigures) -> u64| figures.calls.iter().map(of).sum::<u64>();
    let mut out = String::new();
    let mut line = |text: String| {
        // A String takes everything.
        let _ = writeln!(out, "{text}");
    };
    line(format!(
        "dune: {} processes, {} threads; {} calls, {} errors, {} denied or refused",
        figures.processes,
        figures.threads,
        count(|call| call.count),
        count(|call| call.errors),
        count(|call| call.denied)
    ));
    line(format!(
        "dune: {} exits of Dune mode, {} second-level faults (of {} threads that ended by themselves); {} page faults that \
         were settled, {} faults that were signals",
        figures.exits,
        figures.second_level_faults,
        figures.threads_counted,
        figures.page_faults,
        figures.faults
    ));
    line(format!(
        "dune: {:.3} s CPU time in user mode and ring 3, {:.3} s in Linux, {} KiB resident at most",
        figures.user_seconds, figures.system_seconds, figures.resident_kib
    ));
    line(format!(
        "dune: costs are {unit}: of Linux from the exit to the return, waiting included; of the supervisor, all else of a call"
    ));
    line(format!(
        "{:>10} {:>8} {:>8} {:>16} {:>16} {:>12}  call",
        "calls", "errors", "denied", "Linux", "supervisor", "each"
    ));
    for call in &figures.calls {
        let each = (call.linux + call.supervisor) / call.count.max(1);
        line(format!(
            "{:>10} {:>8} {:>8} {:>16} {:>16} {:>12}  {}",
            call.count, call.errors, call.denied, call.linux, call.supervisor, each, call.name
        ));
    }
    if report.lost > 0 {
        line(format!("dune: {} records of the run are lost", report.lost));
    }
    out
}
