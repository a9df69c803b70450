//! Figures, reports as JSON, policies in words, and learnt policies.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use super::path_of;
use super::telling::dune_run;
use crate::case::CaseResult;

/// A run with a report, which goes to a pipe.
pub(super) fn reported(
    options: &[&str],
    words: &[&str],
) -> Result<(Output, Value), Box<dyn std::error::Error>> {
    let mut ends = [0; 2];
    // SAFETY: the call writes two descriptors, which nobody else has.
    let (mut reader, writer) = unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))
    };
    let number = writer.as_raw_fd();
    let mut command = dune_run(&[options, &["--json", &number.to_string()]].concat(), words);
    // SAFETY: the closure makes one call that touches no memory.
    unsafe {
        command.pre_exec(move || {
            libc::fcntl(number, libc::F_SETFD, 0);
            Ok(())
        })
    };
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn()?;
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    let output = child.wait_with_output()?;
    let report = serde_json::from_str(&text).map_err(|error| format!("{error}: {text:?} {output:?}"))?;
    Ok((output, report))
}

pub(super) fn call<'r>(report: &'r Value, name: &str) -> Option<&'r Value> {
    report["figures"]["calls"].as_array()?.iter().find(|call| call["name"] == name)
}

/// How runs end, and what they cost, as JSON.
pub fn json() -> CaseResult {
    let script = "i=0; while [ $i -lt 20 ]; do echo x; i=$((i+1)); done; (exit 3); exit 7";
    let (output, report) = reported(&["--policy", "allow-all"], &["busybox", "sh", "-c", script])?;
    assert_eq!((output.status.code(), output.stdout.len()), (Some(7), 40), "{output:?}");
    assert!(report["schema"] == "dune-run/1" && report["command"][0] == "busybox", "{report}");
    assert!(report["outcome"]["kind"] == "exited" && report["outcome"]["status"] == 7, "{report}");
    let write = call(&report, "write").ok_or("no write")?;
    assert!(write["count"] == 20 && write["errors"] == 0 && write["denied"] == 0, "{write}");
    assert!(write["linux"].as_u64() > Some(1000) && write["supervisor"].as_u64() > Some(100), "{write}");
    let figures = &report["figures"];
    assert!(figures["processes"] == 2 && figures["threads"] == 2, "{figures}");
    assert!(figures["threads_counted"] == 2 && figures["exits"].as_u64() > Some(20), "{figures}");
    assert!(report["policy"]["second_wall"] == false && report["lost"] == 0, "{report}");

    let (output, report) = reported(&[], &["busybox", "cat", "/etc/hosts"])?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let denials = report["denials"].as_array().ok_or("no denials")?;
    let is_open = |denial: &Value| {
        denial["call"].as_str().is_some_and(|call| call.starts_with("open"))
            && denial["what"] == "denied"
            && denial["why"].as_str().is_some_and(|why| why.ends_with("is denied by the policy compute"))
    };
    assert!(denials.iter().any(is_open), "{report}");
    let walls = report["walls"].as_array().ok_or("no walls")?;
    assert!(walls.len() == 3 && walls.iter().all(|wall| wall["enforced"] == true), "{report}");
    assert!(report["policy"]["name"] == "compute" && report["policy"]["denial"] == "EACCES", "{report}");

    let policy = "/tmp/json.toml";
    fs::write(policy, "denial = \"kill\"\n[limits]\nfile_bytes = 1000\n")?;
    let (output, report) = reported(&["--policy", policy], &["busybox", "mkdir", "/tmp/made"])?;
    assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{output:?}");
    let outcome = &report["outcome"];
    assert!(outcome["kind"] == "denied" && outcome["signal"] == libc::SIGSYS, "{outcome}");
    let call = outcome["denied_call"]["call"].as_str();
    assert!(call.is_some_and(|call| call.starts_with("mkdir(\"/tmp/made\"")), "{outcome}");
    fs::write(policy, "[files]\nwrite = [\"/tmp\"]\n[limits]\nfile_bytes = 1000\n")?;
    let script = "while :; do echo 0123456789; done > /tmp/long";
    let (_, report) = reported(&["--policy", policy], &["busybox", "sh", "-c", script])?;
    let outcome = &report["outcome"];
    assert!(outcome["kind"] == "limit" && outcome["limit"] == "file_bytes", "{outcome}");
    let (output, report) = reported(&[], &["no-such-program"])?;
    assert!(output.status.code() == Some(127) && report["outcome"]["kind"] == "not_started", "{report}");
    Ok(())
}

/// The same figures in words.
pub fn stats() -> CaseResult {
    let output = dune_run(&["--stats"], &["busybox", "seq", "3"]).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.stdout, b"1\n2\n3\n");
    for part in
        ["dune: 1 processes, 1 threads; ", " exits of Dune mode", "costs are ", " exit_group\n", " write\n"]
    {
        assert!(errors.contains(part), "{part}: {errors}");
    }
    Ok(())
}

pub fn explain() -> CaseResult {
    let policy = "/tmp/explained.toml";
    fs::write(policy, "[files]\nread = [\"/etc\"]\nwrite = [\"/tmp\"]\n[network]\nfamilies = [\"inet\"]\n")?;
    let explained = |name: &str, more: &[&str]| {
        std::process::Command::new("dune").args(["run", "--explain", name]).args(more).output()
    };
    let output = explained(policy, &[])?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for part in [
        "read, list, ask about: /etc and what is below",
        "write and make files: /tmp and what is below",
        "families can be made: AF_INET\n",
        "gets the error EACCES",
        "by Linux: Landlock",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let report: Value = serde_json::from_slice(&explained("compute", &["--json", "-"])?.stdout)?;
    assert!(report["policy"]["files"].is_null() && report["policy"]["second_wall"] == true, "{report}");
    assert_eq!(explained("/nothing.toml", &[])?.status.code(), Some(2));
    Ok(())
}

/// What a run has needed is what it gets by with.
pub fn learn() -> CaseResult {
    let folder = "/tmp/learning";
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(format!("{folder}/in/below"))?;
    fs::create_dir_all(format!("{folder}/out"))?;
    for name in ["in/one", "in/below/two", "secret"] {
        fs::write(format!("{folder}/{name}"), format!("{name}\n"))?;
    }
    let file = format!("{folder}/learnt.toml");
    let run = |options: &[&str], words: &[&str]| dune_run(options, words).output();
    let (one, new) = (format!("{folder}/in/one"), format!("{folder}/out/new"));
    let shell = format!(
        "read x < {one}; echo $x > {new}; read y < {new}; echo $y; [ -e {folder}/none ] || echo none"
    );
    let listing = format!("{folder}/in");
    let dynamic = path_of("program-dynamic-pie")?.display().to_string();
    let runs: [(&[&str], &str); 4] = [
        (&["busybox", "cat", &one], "in/one\n"),
        (&["busybox", "ls", "-l", &listing], "below"),
        (&["busybox", "sh", "-c", &shell], "in/one\nnone\n"),
        (&[&dynamic, "exit", "7"], ""),
    ];
    for (words, text) in runs {
        let first = run(&["--learn", &file], words)?;
        let learnt = fs::read_to_string(&file)?;
        assert!(String::from_utf8_lossy(&first.stdout).contains(text), "{words:?}: {first:?}");
        let again = run(&["--policy", &file], words)?;
        assert_eq!(
            (again.status.code(), &again.stdout),
            (first.status.code(), &first.stdout),
            "{words:?}: {again:?}\n{learnt}"
        );
        // And no more than that.
        let other = run(&["--policy", &file], &["busybox", "cat", &format!("{folder}/secret")])?;
        assert!(other.status.code() == Some(1) && other.stdout.is_empty(), "{other:?}\n{learnt}");
        assert!(learnt.contains("environment"), "{learnt}");
    }
    // Directories, children, and what they execute.
    let busybox = path_of("busybox")?.display().to_string();
    let script = format!(
        "{busybox} mkdir {folder}/out/made && {dynamic} exit 7; echo $?; {busybox} rmdir {folder}/out/made"
    );
    let words = ["busybox", "sh", "-c", &script];
    let (first, again) = (run(&["--learn", &file], &words)?, run(&["--policy", &file], &words)?);
    let learnt = fs::read_to_string(&file)?;
    let said = [&first, &again].map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    assert!(said.iter().all(|said| said == "ring 3\n7\n"), "{first:?} {again:?}\n{learnt}");
    assert!(!Path::new(&format!("{folder}/out/made")).exists());
    // What a file can not say is said.
    let owned = run(&["--learn", &file], &["busybox", "chown", "0", &one])?;
    let learnt = fs::read_to_string(&file)?;
    let is_said = learnt.lines().any(|line| line.starts_with("#   ") && line.contains("chown (1 times): "));
    assert!(owned.status.success() && is_said, "{learnt}");
    Ok(())
}
