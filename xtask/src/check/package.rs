//! What publishing asks for: complete packages, which build from what is in them, with the oldest Rust that is promised.

use crate::artifacts;
use crate::error::{Error, Result};
use crate::phase::{checked, phase, skipped};
use crate::process::{self, find_program};
use crate::tally::Tally;
use crate::workspace;
use std::fs;
use std::process::Command;

/// The packages that are meant to be published; each finds the others among them.
const PUBLISHED: [&str; 10] = [
    "dune-syscalls",
    "libdune",
    "dune-layer",
    "dune-loader",
    "dune-sandbox",
    "dune-snapshot",
    "dune-gc-derive",
    "dune-gc",
    "dune-bench",
    "dune-cli",
];

/// Makes and builds the packages, and builds with the oldest Rust.
pub fn run() -> Result<Tally> {
    let mut tally = phase("packages", |_| {
        let mut command = artifacts::cargo();
        command.args(["package", "--quiet", "--allow-dirty", "--target-dir"]);
        command.arg(workspace::root().join("target/package-check"));
        command.args(PUBLISHED.iter().flat_map(|name| ["--package", name]));
        checked(&mut command)
    })?;
    tally += oldest_rust()?;
    Ok(tally)
}

/// Builds with the Rust that Cargo.toml promises.
fn oldest_rust() -> Result<Tally> {
    let path = workspace::root().join("Cargo.toml");
    let manifest = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    let promised = promised(&manifest).unwrap_or_default();
    let name = format!("build with Rust {promised}");
    let here = process::run(Command::new("rustc").arg("--version"))?;
    if is_version(&here, promised) {
        return phase(&format!("{name}, which is this one"), |_| {
            checked(artifacts::cargo().args(["check", "--quiet", "--workspace", "--all-targets"]))
        });
    }
    let rustup = |arguments: &[&str]| Command::new("rustup").args(["run", promised]).args(arguments).output();
    if find_program("rustup").is_none()
        || !rustup(&["rustc", "--version"]).is_ok_and(|output| output.status.success())
    {
        return Ok(skipped(&name, &format!("it is not installed: rustup toolchain install {promised}")));
    }
    phase(&name, |_| {
        let mut command = process::mortal_command("rustup");
        command.args(["run", promised, "cargo", "check", "--quiet", "--workspace", "--target-dir"]);
        command.arg(workspace::root().join("target/oldest-rust")).current_dir(workspace::root());
        checked(&mut command)
    })
}

/// The `rust-version` of the workspace.
fn promised(manifest: &str) -> Option<&str> {
    manifest.lines().find_map(|line| Some(line.strip_prefix("rust-version = ")?.trim_matches('"')))
}

/// Whether `rustc --version` is `version`, whatever its last number.
fn is_version(rustc: &str, version: &str) -> bool {
    let number = rustc.split_whitespace().nth(1).unwrap_or_default();
    number == version || number.strip_prefix(version).is_some_and(|rest| rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_rust_is_found() {
        assert_eq!(promised("[workspace.package]\nrust-version = \"1.95\"\n"), Some("1.95"));
        assert!(is_version("rustc 1.95.0 (59807616e 2026-04-14)", "1.95"));
        assert!(!is_version("rustc 1.96.0 (59807616e 2026-06-14)", "1.95"));
        assert!(!is_version("rustc 1.950.0", "1.95"));
    }
}
