//! `cargo xtask demo`: a real process enters Dune mode, and the paper's tables, in one go.

use crate::artifacts::{self, Artifact};
use crate::cli::DemoArguments;
use crate::error::{Error, Result};
use crate::machine::{self, Limits, MachineName, Run, host};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the file to compress lies in a machine.
const SAMPLE: &str = "/dune/share/sample";

/// Runs the task; gives 0 only if all three programs did.
pub fn run(arguments: &DemoArguments) -> Result<u8> {
    let name = arguments.machine.unwrap_or_else(|| match host::virtualization() {
        Ok(()) => MachineName::Host,
        Err(reason) => {
            println!("This computer cannot run Dune itself ({reason}): an emulated Intel computer does, in minutes.");
            MachineName::Vtx
        }
    });
    let artifacts = artifacts::release_binaries()?;
    let sample = sample(&artifacts)?;
    let Some(machine) = name.emulated() else {
        return host::run(&artifacts, &script(&sample), arguments.timeout);
    };
    let outcome = machine::run(
        &Run {
            machine,
            processors: None,
            memory: None,
            kernel: None,
            append: None,
            artifacts: &artifacts,
            files: &[(SAMPLE.to_owned(), sample)],
            overlay: None,
            disk: None,
            command: &script(Path::new(SAMPLE)),
            limits: Limits::whole(arguments.timeout),
        },
        &mut std::io::stdout().lock(),
    )?;
    Ok(outcome.status)
}

/// The programs to run, with a heading each; the first that fails ends it.
fn script(sample: &Path) -> Vec<OsString> {
    const SCRIPT: &str = r#"
        heading() { printf '\n== %s\n\n' "$*"; }
        heading 'Can this computer run Dune? (dune doctor)'
        dune doctor || exit
        heading 'A real program in Dune mode (example compress)'
        compress "$1" || exit
        heading "The paper's tables (dune bench)"
        dune bench
    "#;
    ["sh".into(), "-c".into(), SCRIPT.into(), "demo".into(), sample.into()].into()
}

/// A real file of several MiB that is always at hand: the largest of our own programs, debug information and all.
fn sample(artifacts: &[Artifact]) -> Result<PathBuf> {
    let size = |artifact: &&Artifact| fs::metadata(&artifact.path).map_or(0, |meta| meta.len());
    let largest = artifacts.iter().max_by_key(size);
    largest.map(|artifact| artifact.path.clone()).ok_or(Error::NoPrograms)
}
