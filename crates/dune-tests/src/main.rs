//! Integration tests: each case enters Dune mode in a process of its own.
//!
//! The runner starts itself again with `--case NAME` for each case and checks how that process ended: a case may be
//! expected to die by a signal with a report. The last line is `dune-tests: N passed, N failed, N skipped`, which
//! `cargo xtask test` reads. On a computer without Dune mode every case fails, with the reason.

mod allocator;
mod both;
mod case;
mod cases;
mod cgroup;
mod observe;
mod pace;
mod probe;
mod random;
mod ring3;
mod userfault;
mod waits;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

// For the functions that the cases of `compartments` call.
dune_compartment::memory_functions!();

fn main() -> ExitCode {
    // Does not return in the launchers of the cases `sandbox::library_…`.
    cases::hook();
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, flag, name] = arguments.as_slice()
        && flag == "--case"
    {
        return case::run_here(cases::all(), name);
    }
    let mut options = Arguments::from_args();
    // One at a time: a case may measure, and the machines have one or two CPUs.
    options.test_threads = Some(1);
    let trials = cases::all()
        .into_iter()
        .map(|case| Trial::ignorable_test(case.name, move || case.run_in_child()))
        .collect();
    let conclusion = libtest_mimic::run(&options, trials);
    println!(
        "dune-tests: {} passed, {} failed, {} skipped",
        conclusion.num_passed, conclusion.num_failed, conclusion.num_ignored
    );
    conclusion.exit_code()
}
