//! Limits of runs: a call fails, or all ends, and nothing is left over.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::reports::reported;
use super::{command, path_of};
use crate::case::CaseResult;

type Tried = Result<(Output, Value), Box<dyn std::error::Error>>;

/// A policy with these limits.
fn policy(name: &str, limits: &str) -> std::io::Result<String> {
    let path = format!("/tmp/limit-{name}.toml");
    fs::write(&path, format!("children = true\n[limits]\n{limits}\n"))?;
    Ok(path)
}

/// The program, by a name of its own: processes can be found by it.
fn named(name: &str) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let path = PathBuf::from("/tmp").join(name);
    fs::copy(path_of("confined-static-pie")?, &path)?;
    Ok(path)
}

/// How many processes have that name.
pub(super) fn count(name: &str) -> std::io::Result<usize> {
    let processes = fs::read_dir("/proc")?.flatten();
    let names = processes.filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok());
    Ok(names.filter(|other| other.trim_end() == name).count())
}

/// What the program does in a run with these limits: what it says, and the report. Afterwards nothing of it is there.
fn tried(name: &str, limits: &str) -> Tried {
    let (policy, program) = (policy(name, limits)?, format!("limit-{name}"));
    let path = named(&program)?;
    let (output, report) = reported(&["--policy", &policy], &[&path.display().to_string(), "limits", name])?;
    assert_eq!(count(&program)?, 0, "{output:?}");
    Ok((output, report))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether a limit was reached, and nothing else; and that it was said, once.
fn is_reached(output: &Output, report: &Value, key: &str) -> bool {
    let errors = String::from_utf8_lossy(&output.stderr);
    let sentence = format!("dune: the limit {key} (");
    report["outcome"]["kind"] == "exited"
        && report["outcome"]["limits_reached"] == serde_json::json!([key])
        && report["policy"]["limits"][key].as_u64().is_some()
        && errors.matches(&sentence).count() == 1
}

pub fn of_memory() -> CaseResult {
    let (output, report) = tried("memory", "memory_bytes = 67_108_864")?;
    let expected = "mapped true 12\nonce more None 12\ngrown false 12\nused -1 12\nbreak -1 12\nagain 10\n\
                    kept true\nreplaced true\n";
    assert_eq!(said(&output), expected, "{output:?}");
    assert!(is_reached(&output, &report, "memory_bytes"), "{output:?} {report}");
    let (output, report) = tried("memory-of-all", "memory_bytes = 67_108_864")?;
    assert_eq!(said(&output), "second true\nsecond true\nsecond true\nsmaller 2\n", "{output:?}");
    assert!(is_reached(&output, &report, "memory_bytes"), "{output:?} {report}");
    // A program that has no room is not started.
    let policy = policy("small", "memory_bytes = 40_960")?;
    let output = command(&path_of("busybox")?, &["true"], Some(&policy)).output()?;
    assert_eq!(output.status.code(), Some(126), "{output:?}");
    Ok(())
}

pub fn of_processes() -> CaseResult {
    let (output, report) = tried("processes", "processes = 4")?;
    let round = "children 3 11\nbefore true\n";
    assert_eq!(said(&output), round.repeat(2), "{output:?}");
    assert!(is_reached(&output, &report, "processes"), "{output:?} {report}");
    // A shell that waits for its children goes on and on.
    let policy = policy("shell", "processes = 3")?;
    let script =
        "i=0; while [ $i -lt 12 ]; do (exit 3); i=$((i+1)); done; echo $i; (exit 5) | (exit 6); echo $?";
    let output = command(&path_of("busybox")?, &["sh", "-c", script], Some(&policy)).output()?;
    assert_eq!(said(&output), "12\n6\n", "{output:?}");
    Ok(())
}

pub fn of_threads() -> CaseResult {
    let (output, report) = tried("threads", "threads = 4")?;
    assert_eq!(said(&output), "threads 3 Some(11)\nchild true\n".repeat(2), "{output:?}");
    assert!(is_reached(&output, &report, "threads"), "{output:?} {report}");
    Ok(())
}

pub fn of_files() -> CaseResult {
    let (output, _) = tried("files", "open_files = 20")?;
    let expected = "last 19 24\nlimit 20 20\nmore -1 1\nless 0\nback 0\nthread Some(7)\nchild true\n";
    assert_eq!(said(&output), expected, "{output:?}");
    Ok(())
}

/// In all, by all processes: 740,000 bytes and what is said, and then the rest.
pub fn of_writing() -> CaseResult {
    let folder = "/dev/shm/limit-written";
    fs::create_dir_all(folder)?;
    let limits = format!("written_bytes = 1_000_000\n[files]\nwrite = [{folder:?}]");
    let (output, report) = tried("written", &limits)?;
    fs::remove_dir_all(folder)?;
    let said = said(&output);
    let wrong: Vec<_> = said.lines().filter(|line| !line.ends_with(": 0")).collect();
    assert!(wrong.is_empty() && said.lines().count() == 17, "{wrong:?} {output:?}");
    assert!(output.status.code() == Some(7), "{output:?}");
    assert!(is_reached(&output, &report, "written_bytes"), "{output:?} {report}");
    // What has no end is ended by what it is told.
    let policy = policy("endless", "written_bytes = 300_000")?;
    let output = command(&path_of("busybox")?, &["yes"], Some(&policy)).output()?;
    assert_eq!(output.stdout.len(), 300_000, "{:?}", output.status);
    Ok(())
}

/// A bomb, a spinner, one that burns CPU time.
pub fn of_time() -> CaseResult {
    for (name, limits) in [("bomb", "wall_seconds = 4\nprocesses = 12"), ("spin", "wall_seconds = 2")] {
        let start = Instant::now();
        let (output, report) = tried(name, limits)?;
        assert_eq!(output.status.signal(), Some(libc::SIGKILL), "{output:?}");
        assert!(start.elapsed() > Duration::from_secs(2), "{:?}", start.elapsed());
        let outcome = &report["outcome"];
        assert!(outcome["kind"] == "limit" && outcome["limit"] == "wall_seconds", "{outcome}");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains("is reached: all processes of the run are ended\n"), "{errors}");
    }
    let (output, report) = tried("spin", "cpu_seconds = 1")?;
    assert_eq!(output.status.signal(), Some(libc::SIGXCPU), "{output:?}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        report["outcome"]["limit"] == "cpu_seconds" && errors.contains("limit cpu_seconds (1)"),
        "{errors}"
    );
    Ok(())
}

/// Processes that have left their parents, in sessions of their own, are ended with the first one, also where nobody wants a report. Others'
/// children are not.
pub fn end_all() -> CaseResult {
    let mut other = std::process::Command::new("busybox").args(["sleep", "600"]).spawn()?;
    let (output, report) = tried("family", "processes = 100")?;
    assert!(said(&output) == "alone\n" && output.status.success(), "{output:?} {report}");
    let policy = policy("again", "threads = 100")?;
    let output = command(&named("limit-again")?, &["limits", "family"], Some(&policy)).output()?;
    assert!(said(&output) == "alone\n" && output.status.success(), "{output:?}");
    assert_eq!(count("limit-again")?, 0);
    // Children that a launcher had before it was one.
    let policy = format!("exec dune run --policy {policy} -- /tmp/limit-again limits family");
    let script = format!("busybox sleep 600 > /dev/null 2>&1 & echo $!; {policy}");
    let output = std::process::Command::new("busybox").args(["sh", "-c", &script]).output();
    let _ = other.kill();
    other.wait()?;
    let said = said(&output?);
    let spared: i32 = said.lines().next().and_then(|line| line.parse().ok()).ok_or(said)?;
    // SAFETY: a process that this case has started, and nobody else ends.
    let was_there = unsafe { libc::kill(spared, libc::SIGKILL) };
    assert!(was_there == 0 && count("limit-again")? == 0, "{was_there}");
    Ok(())
}
