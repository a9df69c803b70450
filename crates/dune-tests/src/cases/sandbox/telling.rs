//! What `dune run` tells of a run.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

use crate::case::CaseResult;

pub(super) fn dune_run(options: &[&str], words: &[&str]) -> Command {
    let mut command = Command::new("dune");
    command.arg("run").args(options).arg("--").args(words).stdin(Stdio::null());
    command
}

fn lines(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect()
}

/// The lines of standard error that are the trace's.
fn traced(output: &Output) -> Vec<String> {
    lines(&output.stderr)
        .into_iter()
        .filter(|line| !line.starts_with("dune: ") && line.contains('('))
        .collect()
}

/// Filters, the marks of what is denied, the end of the program; and errors of the command line.
pub fn trace() -> CaseResult {
    let output = dune_run(&["--trace=denied"], &["busybox", "cat", "/etc/hosts"]).output()?;
    let shown = traced(&output);
    let is_marked = |line: &String| {
        line.ends_with(" = -1 EACCES (denied): open is denied by the policy compute")
            || line.ends_with(" = -1 EACCES (denied): openat is denied by the policy compute")
    };
    let hosts: Vec<_> = shown.iter().filter(|line| line.contains("\"/etc/hosts\", O_RDONLY")).collect();
    assert!(hosts.len() == 1 && hosts.iter().all(|line| is_marked(line)), "{output:?}");
    assert!(
        shown.iter().all(|line| line.contains("(denied)")
            || line.contains("(refused)")
            || line.contains("(not implemented)")
            || line.starts_with("cat: ")),
        "{output:?}"
    );

    // Without another thread lines have no numbers.
    let output = dune_run(&["--trace=memory,write"], &["busybox", "echo", "hello"]).output()?;
    let shown = traced(&output);
    assert!(shown.iter().any(|line| line == "write(1, \"hello\\n\", 6) = 6"), "{output:?}");
    assert!(shown.iter().any(|line| line.starts_with("brk(") || line.starts_with("mmap(")), "{output:?}");
    assert!(!shown.iter().any(|line| line.contains("exit_group(")), "{output:?}");
    assert_eq!(output.stdout, b"hello\n");

    let policy = "/tmp/trace-kill.toml";
    fs::write(policy, "denial = \"kill\"\n")?;
    let output = dune_run(&["--trace", "--policy", policy], &["busybox", "mkdir", "/tmp/made"]).output()?;
    let text = format!(" = ? (denied, fatal): mkdir is denied by the policy {policy}");
    assert!(
        traced(&output)
            .iter()
            .any(|line| line.starts_with("mkdir(\"/tmp/made\", 0777)") && line.ends_with(&text)),
        "{output:?}"
    );
    assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{output:?}");

    for (options, text) in [
        (&["--trace=files"][..], "no class and no system call \"files\""),
        (&["--trace-file", "/nothing/there"], "cannot write /nothing/there"),
    ] {
        let output = dune_run(options, &["busybox", "true"]).output()?;
        let is_said = String::from_utf8_lossy(&output.stderr).contains(text);
        assert!(output.status.code() == Some(2) && is_said, "{options:?}: {output:?}");
    }
    let output = dune_run(&["--trace"], &["no-such-program"]).output()?;
    let errors = lines(&output.stderr);
    assert!(
        output.status.code() == Some(127) && errors.len() == 1 && errors[0].contains("not found"),
        "{output:?}"
    );
    Ok(())
}

/// Children, execs and threads; into a file that they have not, whatever they close.
pub fn trace_of_several() -> CaseResult {
    let file = "/tmp/trace";
    let script = "exec 2>&-; busybox sleep 0.5; (exit 3); exec busybox sh -c 'exit 7'";
    let options =
        ["--policy", "allow-all", "--trace=process,clock_nanosleep,nanosleep", "--trace-file", file];
    let output = dune_run(&options, &["busybox", "sh", "-c", script]).output()?;
    assert_eq!((output.status.code(), output.stderr.len()), (Some(7), 0), "{output:?}");
    let text = fs::read_to_string(file)?;
    let numbered = |line: &str| {
        let (number, rest) = line.strip_prefix('[')?.split_once("] ")?;
        Some((number.parse::<i32>().ok()?, rest.to_owned()))
    };
    let shown: Vec<_> = text.lines().filter_map(numbered).collect();
    assert_eq!(shown.len(), text.lines().count(), "{text}");
    let parent = shown[0].0;
    let has = |is_parents: bool, start: &str, end: &str| {
        shown.iter().position(|(thread, line)| {
            (*thread == parent) == is_parents && line.starts_with(start) && line.ends_with(end)
        })
    };
    let place =
        |is_parents, start, end| has(is_parents, start, end).ok_or_else(|| format!("{start} {end}: {text}"));
    let unfinished = place(true, "wait4(", " <unfinished ...>")?;
    let is_sleep = |(thread, line): &(i32, String)| {
        *thread != parent && line.contains("nanosleep(") && line.ends_with(" = 0")
    };
    let slept = shown.iter().position(is_sleep).ok_or_else(|| format!("no sleep: {text}"))?;
    let child_ended = place(false, "exit_group(0)", " = ?")?;
    let resumed = place(true, "<... resumed> wait4(", "")?;
    assert!(unfinished < child_ended && slept < child_ended && child_ended < resumed, "{text}");
    place(false, "exit_group(3)", " = ?")?;
    place(true, "exit_group(7)", " = ?")?;
    place(true, "execve(", " = 0")?;

    let output =
        dune_run(&["--policy", "allow-all", "--trace=write,exit"], &["program-dynamic-pie", "threads"])
            .output()?;
    let threads: std::collections::BTreeSet<_> =
        traced(&output).iter().filter_map(|line| Some(numbered(line)?.0)).collect();
    assert!(threads.len() >= 3, "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("sum 6\n"), "{output:?}");
    Ok(())
}

/// Signals to the launcher go to the program, which ends with the launcher.
pub fn launchers() -> CaseResult {
    let script = "trap 'echo told; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let options = ["--policy", "allow-all", "--trace-file", "/dev/null"];
    let start = || -> Result<_, std::io::Error> {
        let mut child =
            dune_run(&options, &["busybox", "sh", "-c", script]).stdout(Stdio::piped()).spawn()?;
        let mut said = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        said.read_line(&mut line)?;
        assert_eq!(line, "ready\n");
        Ok((child, said))
    };
    let (mut child, mut said) = start()?;
    // SAFETY: touches no memory.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    let mut line = String::new();
    said.read_line(&mut line)?;
    assert_eq!((line.as_str(), child.wait()?.code()), ("told\n", Some(9)));

    let (mut child, mut said) = start()?;
    child.kill()?;
    child.wait()?;
    // The pipe ends when nobody has it any more.
    assert_eq!(said.read_line(&mut line)?, 0, "the program says more");
    Ok(())
}
