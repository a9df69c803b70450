//! Judges a submission: `judge SUBMISSION FOLDER [ARGUMENT]…` runs it once for each `NAME.in` in the folder, with that as its input, and compares what
//! it writes with `NAME.out`. It may take two seconds and 64 MiB, and call nothing that reaches beyond it.
//!
//! A submission `*.c` is compiled first, by the user's `cc`: natively, since a compiler is trusted here with what it reads. It is linked statically, for
//! the submission has no files, not even libraries.

use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode, Stdio};

use dune_sandbox::policy::{FromFile, Limits};
use dune_sandbox::{Output, Reason, Sandbox};

/// What is not allowed ends the submission.
const POLICY: &str = r#"
denial = "kill"
[limits]
cpu_seconds = 2
wall_seconds = 4
memory_bytes = 67_108_864
threads = 8
open_files = 16
"#;
/// What it writes goes to a file that may be so long.
const OUTPUT: u64 = 1 << 20;

enum Verdict {
    Ok,
    WrongAnswer,
    TimeLimit,
    MemoryLimit,
    OutputLimit,
    RunTimeError(String),
    ForbiddenCall(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Ok => f.write_str("OK"),
            Verdict::WrongAnswer => f.write_str("wrong answer"),
            Verdict::TimeLimit => f.write_str("time limit"),
            Verdict::MemoryLimit => f.write_str("memory limit"),
            Verdict::OutputLimit => f.write_str("output limit"),
            Verdict::RunTimeError(why) => write!(f, "run-time error: {why}"),
            Verdict::ForbiddenCall(call) => write!(f, "forbidden call: {call}"),
        }
    }
}

fn main() -> ExitCode {
    // Before anything else: the sandboxes' processes are this program, too.
    dune_sandbox::hook();
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [submission, folder, arguments @ ..] = words.as_slice() else {
        eprintln!("usage: judge SUBMISSION[.c] FOLDER [ARGUMENT]…");
        return ExitCode::from(2);
    };
    match judge(submission.as_ref(), folder.as_ref(), arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("judge: {error}");
            ExitCode::from(2)
        }
    }
}

/// Prints a line for each test; whether all are passed.
fn judge(submission: &Path, folder: &Path, arguments: &[OsString]) -> Result<bool, Box<dyn Error>> {
    let scratch = std::env::temp_dir().join(format!("judge-{}", process::id()));
    fs::create_dir_all(&scratch)?;
    let done = judge_all(submission, folder, arguments, &scratch);
    fs::remove_dir_all(&scratch)?;
    done
}

fn judge_all(
    submission: &Path,
    folder: &Path,
    arguments: &[OsString],
    scratch: &Path,
) -> Result<bool, Box<dyn Error>> {
    let is_source = submission.extension().is_some_and(|extension| extension == "c");
    let program = if is_source { compile(submission, scratch)? } else { submission.to_owned() };
    let files = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let mut tests: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|end| end == "in")).collect();
    tests.sort();
    let mut is_good = true;
    for input in tests {
        let written = scratch.join("output");
        let output = run(&program, arguments, &input, &written)?;
        let seconds = output.finished.report.figures.wall_seconds;
        let verdict = verdict(&output, &fs::read(&written)?, &fs::read(input.with_extension("out"))?);
        is_good &= matches!(verdict, Verdict::Ok);
        println!("{}: {verdict} ({seconds:.2} s)", input.file_stem().unwrap_or_default().display());
    }
    Ok(is_good)
}

fn compile(source: &Path, scratch: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let program = scratch.join("submission");
    let mut compiler = process::Command::new("cc");
    let status = compiler.args(["-O2", "-static", "-o"]).arg(&program).arg(source).arg("-lm").status()?;
    if status.success() { Ok(program) } else { Err("the submission does not compile".into()) }
}

fn run(
    program: &Path,
    arguments: &[OsString],
    input: &Path,
    written: &Path,
) -> Result<Output, Box<dyn Error>> {
    let policy = FromFile::of_text("judge".as_ref(), POLICY)?;
    let mut limits = Limits::default();
    limits.file_bytes = Some(OUTPUT);
    let command = Sandbox::new(Box::new(policy)).limits(limits).command(program).args(arguments).env_clear();
    let streams = command.stdin(File::open(input)?).stdout(File::create(written)?).stderr(Stdio::piped());
    Ok(streams.spawn()?.wait_with_output()?)
}

fn verdict(output: &Output, written: &[u8], expected: &[u8]) -> Verdict {
    let outcome = &output.finished.report.outcome;
    let lacked_memory = outcome.limits_reached.iter().any(|key| key == "memory_bytes");
    match &output.finished.reason {
        Reason::Exited(0) if written.trim_ascii_end() == expected.trim_ascii_end() => Verdict::Ok,
        Reason::Exited(0) => Verdict::WrongAnswer,
        Reason::Denied(call) => Verdict::ForbiddenCall(call.call.clone()),
        Reason::Limit(key) if key == "file_bytes" => Verdict::OutputLimit,
        Reason::Limit(_) => Verdict::TimeLimit,
        _ if lacked_memory => Verdict::MemoryLimit,
        other => Verdict::RunTimeError(other.to_string()),
    }
}
