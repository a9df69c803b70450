//! The fuzz targets of `crates/dune-fuzz`, each for a while, with libFuzzer and AddressSanitizer.
//!
//! They run without capabilities, and hand nothing of what they make up to the kernel. What libFuzzer finds worth keeping
//! stays below `target/fuzz/corpus` for the next run; an input that makes a target fail stays in `target/fuzz`.

use super::{sanitizer, seeds};
use crate::artifacts::{self, Artifact};
use crate::error::{Error, Result};
use crate::phase::{phase, skipped};
use crate::process::{self, find_program, mortal_command};
use crate::tally::Tally;
use crate::workspace;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How every target's program is called.
const PREFIX: &str = "fuzz-";

/// Runs each target for `time`.
pub fn run(time: Duration) -> Result<Tally> {
    const NAME: &str = "fuzz targets";
    if !sanitizer::available()? {
        return Ok(skipped(NAME, "this toolchain has no runtime of AddressSanitizer"));
    }
    // libFuzzer is C++.
    if find_program("c++").is_none() {
        return Ok(skipped(NAME, "there is no C++ compiler to build libFuzzer with; apt install g++"));
    }
    phase(NAME, |tally| {
        let mut command = sanitizer::cargo("build");
        let programs = artifacts::build(command.args(["--package", "dune-fuzz", "--bins"]))?;
        for program in programs.iter().filter(|program| program.name.starts_with(PREFIX)) {
            match run_one(program, time)? {
                true => tally.passed += 1,
                false => tally.failed += 1,
            }
        }
        Ok(tally.passed > 0)
    })
}

/// Runs one target; whether nothing was found, and something tried.
fn run_one(program: &Artifact, time: Duration) -> Result<bool> {
    let all = workspace::root().join("target/fuzz");
    let name = program.name.trim_start_matches(PREFIX);
    let (corpus, seeds) = (all.join("corpus").join(name), all.join("seeds").join(name));
    for folder in [&corpus, &seeds] {
        fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
    }
    for (number, seed) in seeds::of(name).iter().enumerate() {
        let file = seeds.join(number.to_string());
        fs::write(&file, seed).map_err(Error::file("write", &file))?;
    }
    let mut command = powerless();
    command
        .arg(&program.path)
        .arg(&corpus)
        .arg(&seeds)
        .arg(format!("-artifact_prefix={}/{name}-", all.display()))
        .arg(format!("-max_total_time={}", time.as_secs()))
        .args(["-max_len=4096", "-timeout=60", "-rss_limit_mb=2048", "-print_final_stats=1"])
        .stderr(Stdio::piped());
    let (status, _, report) = process::run_to_end(&mut command, |_| ())?;
    let runs = runs(&report).unwrap_or(0);
    if status.success() && runs > 0 {
        println!("{}: {runs} inputs", program.name);
        return Ok(true);
    }
    println!("{report}");
    println!(
        "{}: FAILED ({status}) after {runs} inputs; to see it again: {} {}/{name}-*",
        program.name,
        program.path.display(),
        all.display()
    );
    Ok(false)
}

/// The start of a command that has no capabilities, and can get none.
fn powerless() -> Command {
    let mut command = mortal_command("setpriv");
    command.arg("--no-new-privs");
    if rustix::process::getuid().is_root() {
        command.args(["--bounding-set=-all", "--inh-caps=-all"]);
    }
    command.arg("--");
    command
}

/// How many inputs libFuzzer has tried, by its report.
fn runs(report: &str) -> Option<u64> {
    let line = report.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_counted() {
        let report = "Done 17 runs in 3 second(s)\nstat::number_of_executed_units: 17\nstat::average_exec_per_sec: 5\n";
        assert_eq!(runs(report), Some(17));
        assert_eq!(runs("==1== ERROR: libFuzzer"), None);
    }

    #[test]
    fn a_fuzzer_has_no_capabilities() {
        let mut command = powerless();
        command.args(["sh", "-c", "grep -E '^Cap(Prm|Eff|Bnd):' /proc/self/status"]);
        let status = process::run(&mut command).expect("setpriv runs");
        let is_empty =
            |line: &str| line.split_once(':').is_some_and(|(_, bits)| bits.trim() == "0000000000000000");
        let lines: Vec<&str> = status.lines().filter(|line| !line.starts_with("CapBnd")).collect();
        assert!(lines.len() == 2 && lines.iter().all(|line| is_empty(line)), "{status}");
    }
}
