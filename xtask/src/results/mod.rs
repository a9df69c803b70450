//! `cargo xtask results`: measures on the machines and writes `docs/results.md` anew.

mod report;

use crate::artifacts;
use crate::cli::ResultsArguments;
use crate::error::{Error, Result};
use crate::machine::{self, Limits, MachineName, Run};
use crate::process;
use crate::workspace;
use report::Measurement;
use std::ffi::OsString;
use std::fs;
use std::process::Command;

/// Runs the task.
pub fn run(arguments: &ResultsArguments) -> Result<u8> {
    let path = workspace::root().join("docs/results.md");
    let names = match arguments.machine.as_slice() {
        [] => &[MachineName::Vtx, MachineName::Svm],
        names => names,
    };
    let artifacts = artifacts::release_binaries()?;
    let date = process::run(Command::new("date").arg("--utc").arg("+%Y-%m-%d"))?.trim().to_owned();
    for name in names {
        let machine = name.emulated().ok_or(Error::NotOnHost { option: "results" })?;
        let mut output = Vec::new();
        let outcome = machine::run(
            &Run {
                machine,
                processors: None,
                memory: None,
                kernel: None,
                append: arguments.append.as_deref(),
                artifacts: &artifacts,
                files: &[],
                overlay: None,
                disk: None,
                command: &command(),
                limits: Limits::whole(arguments.timeout),
            },
            &mut output,
        )?;
        let output = String::from_utf8_lossy(&output).into_owned();
        if outcome.status != 0 {
            return Err(Error::Bench { machine: machine.name(), status: outcome.status, output });
        }
        let measurement = Measurement::parse(&output, &date).map_err(|problem| Error::BenchOutput {
            machine: machine.name(),
            problem,
            output,
        })?;
        // Read only now: measuring takes minutes, in which somebody may have written notes.
        let page = fs::read_to_string(&path).unwrap_or_default();
        let page = report::page(&page, machine.name(), &report::section(&measurement));
        // Written after each machine: minutes of measuring are not lost when the next one fails.
        let folder = workspace::root().join("docs");
        fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;
        fs::write(&path, &page).map_err(Error::file("write", &path))?;
        println!("{}: {} rows written to docs/results.md", machine.name(), measurement.rows());
    }
    Ok(0)
}

/// The measuring, in silence: what is written to the console while something is measured would be measured too.
fn command() -> Vec<OsString> {
    // Huge pages at the programs' request, as some distributions have it. Linux itself turns them off below 512 MiB, and with
    // `always` it populates fresh memory by them on either side.
    const SCRIPT: &str = "echo madvise >/sys/kernel/mm/transparent_hugepage/enabled
        dune bench --json >/tmp/bench.json 2>/tmp/bench.err; status=$?
        cat /tmp/bench.json; [ $status = 0 ] || cat /tmp/bench.err
        exit $status";
    ["sh", "-c", SCRIPT].map(Into::into).into()
}
