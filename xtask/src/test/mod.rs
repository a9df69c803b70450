//! `cargo xtask test`: the integration suite on each machine, beside it the checks on this computer, then one line of sums.

mod cases;
mod suite;
mod variants;

use crate::artifacts::{self, Artifact};
use crate::cli::TestArguments;
use crate::error::{Error, Result};
use crate::machine::{Machine, MachineName, host};
use crate::packages;
use crate::phase::{checked, phase};
use crate::process;
use crate::progress::print;
use crate::tally::Tally;
use suite::Suite;

/// Runs the task; gives 0 only if nothing failed.
pub fn run(arguments: &TestArguments) -> Result<u8> {
    // Naming machines, tests or a kernel is for the quick way round while working: the suite alone.
    let is_whole = arguments.machine.is_empty() && arguments.filter.is_empty() && arguments.kernel.is_none();
    let mut tally = Tally::default();
    if is_whole {
        tally += phase("rustfmt", |_| checked(artifacts::cargo().args(["fmt", "--all", "--check"])))?;
    }
    let mut programs = Vec::new();
    let built = phase("release build", |_| {
        programs = artifacts::release_binaries()?;
        programs.extend(variants::build(&programs)?);
        Ok(true)
    })?;
    let is_built = built.failed == 0;
    tally += built;
    let suites = || if is_built { machines(arguments, &programs) } else { Ok(Tally::default()) };
    if is_whole && process::several_processors() {
        // vtx takes longest: all else is done beside it, and gives way to it.
        let (suites, checks) = std::thread::scope(|scope| {
            let checks = scope.spawn(|| {
                process::yield_processors();
                local_checks()
            });
            (suites(), checks.join().expect("the thread of the checks does not panic"))
        });
        tally += told(suites)?;
        tally += checks?;
    } else {
        tally += told(suites())?;
        if is_whole {
            tally += local_checks()?;
        }
    }
    println!("{tally}");
    Ok(u8::from(tally.failed > 0))
}

/// No machine, no emulator: a failure like any other, and the sums are told all the same.
fn told(suites: Result<Tally>) -> Result<Tally> {
    match suites {
        Err(error) if !process::interrupted() => {
            println!("{error}");
            Ok(Tally { failed: 1, ..Tally::default() })
        }
        end => end,
    }
}

/// Lints, unit and doc tests, documentation.
fn local_checks() -> Result<Tally> {
    let mut tally = Tally::default();
    tally += phase("clippy", |_| {
        let mut command = artifacts::cargo();
        checked(command.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    })?;
    tally += phase("unit and doc tests", |tally| {
        let mut command = artifacts::cargo();
        command.args(["test", "--workspace", "--no-fail-fast"]);
        let (status, output, _) = process::run_to_end(&mut command, print)?;
        *tally = Tally::of_cargo_test(&output);
        Ok(status.success())
    })?;
    tally += phase("documentation", |_| {
        let mut command = artifacts::cargo();
        command.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
        checked(&mut command)
    })?;
    Ok(tally)
}

/// Runs the integration suite on the machines asked for, or on all that there are.
fn machines(arguments: &TestArguments, programs: &[Artifact]) -> Result<Tally> {
    let asked = |name| arguments.machine.is_empty() || arguments.machine.contains(&name);
    let mut tally = Tally::default();
    let kernel = packages::kernel_version(arguments.kernel.as_deref().unwrap_or(packages::DEFAULT_KERNEL))?;
    let suite = Suite { programs, filter: &arguments.filter, kernel, limit: arguments.timeout };
    if arguments.kernel.is_some() && arguments.machine.contains(&MachineName::Host) {
        return Err(Error::NotOnHost { option: "--kernel" });
    }
    if asked(MachineName::Host) && arguments.kernel.is_none() {
        match host::virtualization() {
            Ok(()) => {
                tally += phase("suite on host", |tally| {
                    *tally = suite.on_host()?;
                    Ok(true)
                })?;
            }
            // Asked for by name, a suite that cannot run is a failure.
            Err(reason) if arguments.machine.contains(&MachineName::Host) => {
                print(&format!("==> host: cannot run: {reason}"));
                tally.failed += 1;
            }
            Err(reason) => print(&format!("==> host: not run: {reason}")),
        }
    }
    let machines = [(MachineName::Svm, Machine::Svm), (MachineName::Vtx, Machine::Vtx)];
    let machines: Vec<Machine> =
        machines.into_iter().filter(|(name, _)| asked(*name)).map(|(_, machine)| machine).collect();
    tally += suite.on_emulated(&machines)?;
    Ok(tally)
}
