//! The unit tests of the crates with unsafe code, under AddressSanitizer.
//!
//! The compiler of the stable toolchain has the sanitizer's runtime, but wants to be told that it may use it
//! (RUSTC_BOOTSTRAP). The standard library is not instrumented; what it does to our memory by calls into the C library is seen.

use crate::artifacts;
use crate::error::Result;
use crate::phase::{phase, skipped};
use crate::process;
use crate::tally::Tally;
use crate::workspace;
use std::fs;
use std::process::Command;

/// The flags of a build with AddressSanitizer, and with what libFuzzer wants to know of the branches that are taken (those of
/// cargo-fuzz): one build of all dependencies serves both.
const FLAGS: &str = "-Zsanitizer=address --cfg fuzzing -Cpasses=sancov-module \
     -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
     -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Tests that find the process they are in small, which it is not with the sanitizer's terabytes, or places free that the sanitizer
/// has taken.
const TOO_LARGE: [&str; 3] = [
    "plan::tests::this_process_fits",
    "tests::the_process_is_mapped_in_full",
    "place::tests::places_are_far_from_the_programs_and_aligned",
];

/// Runs the tests, where this toolchain can.
pub fn unit_tests() -> Result<Tally> {
    const NAME: &str = "unit tests under AddressSanitizer";
    if !available()? {
        return Ok(skipped(NAME, "this toolchain has no runtime for it"));
    }
    phase(NAME, |tally| {
        let mut command = cargo("test");
        // What tests leak on purpose (handlers that live for ever) is no fault.
        command.env("ASAN_OPTIONS", "detect_leaks=0");
        command.args(["--package", "libdune", "--package", "dune-loader", "--lib", "--no-fail-fast", "--"]);
        command.args(TOO_LARGE.iter().flat_map(|name| ["--skip", name]));
        let (status, output, _) = process::run_to_end(&mut command, |line| {
            if !line.ends_with(" ... ok") {
                println!("{line}");
            }
        })?;
        *tally = Tally::of_cargo_test(&output);
        Ok(status.success() && tally.passed > 0)
    })
}

/// Whether the toolchain has the sanitizer's runtime.
pub fn available() -> Result<bool> {
    let folder = process::run(Command::new("rustc").args(["--print", "target-libdir"]))?;
    let files = fs::read_dir(folder.trim()).into_iter().flatten().flatten();
    Ok(files.map(|file| file.file_name()).any(|name| name.to_string_lossy().ends_with("_rt.asan.a")))
}

/// A cargo command whose build has the sanitizer in.
pub fn cargo(subcommand: &str) -> Command {
    let mut command = artifacts::cargo();
    command
        .arg(subcommand)
        // With a target build scripts and procedural macros are built as usual.
        .args(["--profile", "sanitized", "--target", "x86_64-unknown-linux-gnu", "--target-dir"])
        .arg(workspace::root().join("target/sanitized"))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", FLAGS);
    command
}
