//! `cargo xtask programs`: real programs natively, in Dune mode and in the sandbox on svm, compared, and `docs/programs.md`.

mod cases;
mod checks;
mod compare;
mod denials;
mod disk;
mod earlier;
mod report;
mod store;
mod transcript;

use crate::artifacts::{self, Artifact};
use crate::cli::ProgramsArguments;
use crate::error::{Error, Result};
use crate::machine::{self, Limits, Machine, Run};
use crate::packages;
use crate::process;
use crate::workspace;
pub use cases::Mode;
use cases::{CASES, Case, SCRIPTS};
use disk::Disk;
use report::Conditions;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use store::Store;
use transcript::{End, Ended, Transcript};

/// Memory of the machine in MiB: files in /tmp are in it too.
const MEMORY: u32 = 3072;

/// What the machine needs besides its cases' time.
const MARGIN: Duration = Duration::from_secs(90);

/// Runs the task; gives 0 only if every case is as it should be.
pub fn run(arguments: &ProgramsArguments) -> Result<u8> {
    let chosen: Vec<&Case> = CASES
        .iter()
        .filter(|case| {
            arguments.filter.is_empty() || arguments.filter.iter().any(|word| case.name.contains(word))
        })
        .collect();
    if chosen.is_empty() {
        return Err(Error::NoCase { asked: arguments.filter.join(" "), names: names() });
    }
    let disk = disk::disk()?;
    let mut artifacts = artifacts::release_binaries()?;
    artifacts.extend(own_programs()?);
    if let Some(dune) = &arguments.dune {
        for artifact in artifacts.iter_mut().filter(|artifact| !artifact.example && artifact.name == "dune") {
            artifact.path.clone_from(dune);
        }
    }
    let mut modes = arguments.mode.clone();
    if modes.is_empty() {
        modes = vec![Mode::Native, Mode::Dune, Mode::Sandbox];
    }
    modes.sort_unstable();
    let mut store = Store::read();
    let origin = origin(arguments)?;
    for &mode in &modes {
        let session = Session { arguments, mode, artifacts: &artifacts, disk: &disk, origin: origin.clone() };
        let cases: Vec<&Case> = chosen.iter().copied().filter(|case| case.runs_in(mode)).collect();
        session.run(&cases, &mut store)?;
    }
    let good = tell(&chosen, &store, &modes);
    if !arguments.dry_run {
        write_page(&store, &disk)?;
    }
    Ok(u8::from(!good))
}

/// The names of all cases.
fn names() -> String {
    CASES.iter().map(|case| case.name).collect::<Vec<_>>().join(", ")
}

/// The programs of crates/dune-programs, linked dynamically and statically.
fn own_programs() -> Result<Vec<Artifact>> {
    let mut all = Vec::new();
    for (kind, flags) in [("dynamic", ""), ("static", "-C target-feature=+crt-static")] {
        let mut command = artifacts::cargo();
        command
            .args(["build", "--release", "--package", "dune-programs", "--bins"])
            .args(["--target", "x86_64-unknown-linux-gnu", "--target-dir"])
            .arg(workspace::root().join("target/programs").join(kind))
            .env("RUSTFLAGS", flags);
        let built = artifacts::build(&mut command)?;
        all.extend(
            built.into_iter().map(|program| Artifact { name: format!("{}-{kind}", program.name), ..program }),
        );
    }
    Ok(all)
}

/// The running of cases in one mode.
struct Session<'a> {
    arguments: &'a ProgramsArguments,
    mode: Mode,
    artifacts: &'a [Artifact],
    disk: &'a Disk,
    origin: String,
}

impl Session<'_> {
    /// Runs the cases, in as many machines as it takes: one that goes down is followed by another for the rest.
    fn run(&self, cases: &[&Case], store: &mut Store) -> Result<()> {
        let mut rest = cases;
        while !rest.is_empty() {
            let (ended, error) = self.boot(rest)?;
            for case in &ended {
                let log = store::keep_output(&case.name, self.mode, &case.output)?;
                println!(
                    "{}, {}: {} ({})",
                    case.name,
                    self.mode.name(),
                    report::summary(&case.outcome),
                    log.display()
                );
                store.put(&case.name, self.mode, case.outcome.clone());
            }
            store.write()?;
            if let Some(error) = error {
                return Err(error);
            }
            rest = &rest[ended.len()..];
        }
        Ok(())
    }

    /// Boots a machine for the cases; gives those that have ended, at least one, or fewer with the reason to stop.
    fn boot(&self, cases: &[&Case]) -> Result<(Vec<Ended>, Option<Error>)> {
        let limits: BTreeMap<&str, Duration> =
            cases.iter().map(|case| (case.name, case.limit(self.mode, self.arguments.patience))).collect();
        let longest = limits.values().max().copied().unwrap_or_default();
        let mut transcript = Transcript::new(self.arguments.verbose, limits.clone(), self.origin.clone());
        let run = machine::run(
            &Run {
                machine: Machine::Svm,
                processors: None,
                memory: Some(MEMORY),
                kernel: None,
                append: None,
                artifacts: self.artifacts,
                files: &files(),
                overlay: None,
                disk: Some(&self.disk.image),
                command: &command(cases, self.mode, &limits),
                limits: Limits { whole: None, stall: Some(longest + MARGIN) },
            },
            &mut transcript,
        );
        let (gone, failure) = match run {
            Ok(outcome) => {
                if !outcome.complaints.trim().is_empty() {
                    println!("meanwhile the machine's kernel complained:\n{}", outcome.complaints);
                }
                (format!("its script ended with status {}", outcome.status), None)
            }
            Err(error) if process::interrupted() => {
                let (mut ended, _) = transcript.finish("");
                // The one that was interrupted tells nothing.
                ended.retain(|case| !matches!(case.outcome.end, End::MachineGone(_)));
                return Ok((ended, Some(error)));
            }
            Err(error) => (error.brief(), Some(error)),
        };
        let (ended, aside) = transcript.finish(&gone);
        match failure {
            Some(error) if ended.is_empty() => Err(error),
            Some(error) => {
                println!("{error}");
                Ok((ended, None))
            }
            None if ended.len() < cases.len() => Err(Error::Cases { gone, output: aside }),
            None => Ok((ended, None)),
        }
    }
}

/// The scripts, by their paths inside.
fn files() -> Vec<(String, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/programs");
    let scripts = SCRIPTS.iter().map(|name| ((*name).to_owned(), folder.join("cases").join(name)));
    scripts
        .chain([("inside.sh".to_owned(), folder.join("inside.sh"))])
        .map(|(name, path)| (format!("/dune/programs/{name}"), path))
        .collect()
}

/// What the machine has to do.
fn command(cases: &[&Case], mode: Mode, limits: &BTreeMap<&str, Duration>) -> Vec<OsString> {
    let jobs = cases.iter().map(|case| {
        let limit = limits[case.name].as_secs();
        let (name, mode, policy) = (case.name, mode.name(), case.policy.unwrap_or_default());
        format!("{name},{mode},{limit},{},{},{policy}", case.script, case.argument).into()
    });
    ["sh".into(), "/dune/programs/inside.sh".into()].into_iter().chain(jobs).collect()
}

/// The day.
fn today() -> Result<String> {
    Ok(process::run(Command::new("date").arg("--utc").arg("+%Y-%m-%d"))?.trim().to_owned())
}

/// The day and what `dune` is: the workspace's commit, with a mark if its files are others than those.
fn origin(arguments: &ProgramsArguments) -> Result<String> {
    let git = |words: &[&str]| process::run(Command::new("git").arg("-C").arg(workspace::root()).args(words));
    let dune = match &arguments.dune {
        Some(file) => file.display().to_string(),
        None => {
            let changed =
                git(&["status", "--porcelain", "--untracked-files=no", "--", "crates", "Cargo.lock"])?;
            let mark = if changed.trim().is_empty() { "" } else { "+" };
            format!("{}{mark}", git(&["rev-parse", "--short", "HEAD"])?.trim())
        }
    };
    Ok(format!("{}, {dune}", today()?))
}

/// Tells what is not as it should be; whether that is nothing.
fn tell(chosen: &[&Case], store: &Store, modes: &[Mode]) -> bool {
    let mut good = 0;
    for case in chosen {
        let Some(results) = store.cases.get(case.name) else { continue };
        let mut results = results.clone();
        for (mode, outcome) in [(Mode::Dune, &mut results.dune), (Mode::Sandbox, &mut results.sandbox)] {
            if !modes.contains(&mode) {
                *outcome = None;
            }
        }
        let mut lines = report::details(&results);
        if results.native.is_none() {
            lines.push("there is no native run to compare with: run it with --mode native once".to_owned());
        }
        for line in &lines {
            println!("FAILED {}: {line}", case.name);
        }
        good += usize::from(lines.is_empty());
    }
    println!("programs: {good} of {} cases as they should be", chosen.len());
    good == chosen.len()
}

/// Writes the page, if there is something to say of each case.
fn write_page(store: &Store, disk: &Disk) -> Result<()> {
    let path = workspace::root().join("docs/programs.md");
    let old = fs::read_to_string(&path).unwrap_or_default();
    if !report::is_complete(&old, store) {
        println!(
            "docs/programs.md is left as it is: a case that it does not know has not been run natively yet"
        );
        return Ok(());
    }
    let kernel = packages::kernel()?.modules;
    let conditions = Conditions {
        date: today()?,
        kernel: kernel.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        packages: disk.packages.clone(),
    };
    fs::write(&path, report::page(&old, store, &conditions)).map_err(Error::file("write", &path))?;
    println!("docs/programs.md is written");
    Ok(())
}
