//! `cargo xtask test`: the checks on this computer, then the integration suite on each machine, then one line of sums.

mod cases;
mod suite;
mod variants;

use crate::artifacts;
use crate::cli::TestArguments;
use crate::error::{Error, Result};
use crate::machine::{Machine, MachineName, host};
use crate::packages;
use crate::phase::{checked, phase};
use crate::process;
use crate::tally::Tally;
use suite::Suite;

/// Runs the task; gives 0 only if nothing failed.
pub fn run(arguments: &TestArguments) -> Result<u8> {
    let mut tally = Tally::default();
    // Naming machines, tests or a kernel is for the quick way round while working: the suite alone.
    if arguments.machine.is_empty() && arguments.filter.is_empty() && arguments.kernel.is_none() {
        tally += local_checks()?;
    }
    match machines(arguments) {
        Ok(more) => tally += more,
        Err(error) if process::interrupted() => return Err(error),
        // No machine, no emulator: a failure like any other, and the sums are told all the same.
        Err(error) => {
            println!("{error}");
            tally.failed += 1;
        }
    }
    println!("{tally}");
    Ok(u8::from(tally.failed > 0))
}

/// Formatting, lints, unit and doc tests, documentation.
fn local_checks() -> Result<Tally> {
    let mut tally = Tally::default();
    tally += phase("rustfmt", |_| checked(artifacts::cargo().args(["fmt", "--all", "--check"])))?;
    tally += phase("clippy", |_| {
        let mut command = artifacts::cargo();
        checked(command.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    })?;
    tally += phase("unit and doc tests", |tally| {
        let mut command = artifacts::cargo();
        command.args(["test", "--workspace", "--no-fail-fast"]);
        let (status, output, _) = process::run_to_end(&mut command, |line| println!("{line}"))?;
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
fn machines(arguments: &TestArguments) -> Result<Tally> {
    let asked = |name| arguments.machine.is_empty() || arguments.machine.contains(&name);
    let mut programs = Vec::new();
    let mut tally = phase("release build", |_| {
        programs = artifacts::release_binaries()?;
        programs.extend(variants::build(&programs)?);
        Ok(true)
    })?;
    if tally.failed > 0 {
        return Ok(tally);
    }
    let kernel = packages::kernel_version(arguments.kernel.as_deref().unwrap_or(packages::DEFAULT_KERNEL))?;
    let suite = Suite { programs: &programs, filter: &arguments.filter, kernel, limit: arguments.timeout };
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
                println!("==> host: cannot run: {reason}");
                tally.failed += 1;
            }
            Err(reason) => println!("==> host: not run: {reason}"),
        }
    }
    let machines = [(MachineName::Svm, Machine::Svm), (MachineName::Vtx, Machine::Vtx)];
    let machines: Vec<Machine> =
        machines.into_iter().filter(|(name, _)| asked(*name)).map(|(_, machine)| machine).collect();
    tally += suite.on_emulated(&machines)?;
    Ok(tally)
}
