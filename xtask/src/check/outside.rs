//! Tools that the toolchain does not have of itself: each runs where it is installed, and else says how to get it.

use crate::artifacts;
use crate::error::Result;
use crate::phase::{checked, phase, skipped};
use crate::process;
use crate::tally::Tally;
use std::process::{Command, Stdio};

/// Runs miri, cargo-deny and cargo-semver-checks.
pub fn run() -> Result<Tally> {
    let mut tally = miri()?;
    tally += deny()?;
    tally += semver()?;
    Ok(tally)
}

/// Whether `cargo NAME` works here.
fn has(name: &str) -> bool {
    let mut command = artifacts::cargo();
    command.args([name, "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// What needs neither system calls nor assembly, under miri.
fn miri() -> Result<Tally> {
    const NAME: &str = "miri";
    if !has("miri") {
        return Ok(skipped(NAME, "this toolchain has none; nightly has: rustup component add miri"));
    }
    phase(NAME, |tally| {
        for (package, tests) in
            [("dune-loader", ["elf", "script"]), ("libdune", ["linux::maps", "memory::entry"])]
        {
            let mut command = artifacts::cargo();
            command.args(["miri", "test", "--package", package, "--lib", "--"]).args(tests);
            let (status, output, _) = process::run_to_end(&mut command, |line| println!("{line}"))?;
            *tally += Tally::of_cargo_test(&output);
            if !status.success() {
                return Ok(false);
            }
        }
        Ok(tally.passed > 0)
    })
}

/// Licences, sources and duplicates of what we depend on (`deny.toml`), and advisories where their database can be had.
fn deny() -> Result<Tally> {
    if !has("deny") {
        return Ok(skipped("cargo-deny", "not installed: cargo install --locked cargo-deny"));
    }
    let mut tally = phase("cargo-deny", |_| {
        checked(artifacts::cargo().args(["deny", "--all-features", "check", "bans", "licenses", "sources"]))
    })?;
    let mut fetch = artifacts::cargo();
    if fetch.args(["deny", "fetch", "db"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    {
        tally += phase("advisories", |_| checked(artifacts::cargo().args(["deny", "check", "advisories"])))?;
    } else {
        tally += skipped("advisories", "their database does not answer");
    }
    Ok(tally)
}

/// Whether the API is as compatible with the last release as the version number says.
fn semver() -> Result<Tally> {
    const NAME: &str = "cargo-semver-checks";
    if !has("semver-checks") {
        return Ok(skipped(NAME, "not installed: cargo install --locked cargo-semver-checks"));
    }
    let mut describe = Command::new("git");
    describe.args(["describe", "--tags", "--abbrev=0", "--match", "v[0-9]*"]).stderr(Stdio::null());
    let release = describe.output().ok().filter(|output| output.status.success());
    let Some(release) = release.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    else {
        return Ok(skipped(NAME, "there is no release yet, a tag like v0.1.0, to compare with"));
    };
    phase(NAME, |_| {
        let mut command = artifacts::cargo();
        command.args([
            "semver-checks",
            "--baseline-rev",
            &release,
            "--package",
            "libdune",
            "--package",
            "dune-loader",
        ]);
        checked(&mut command)
    })
}
