//! `examples/tool_runner.py`, with a `dune` in PATH that writes reports as docs/sandbox.md has them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// What the runner answers to one request, when `dune` writes `report`; `None` where there is no Python.
fn answer(report: &Value) -> Option<Value> {
    let folder = tempfile::tempdir().expect("a folder");
    let (dune, text) = (folder.path().join("dune"), folder.path().join("report"));
    fs::write(&text, report.to_string()).expect("written");
    // `dune run --policy P --json FD -- COMMAND`
    let script =
        format!("#!/bin/sh\ncat\necho \"$7\" >&2\ncat {} >/proc/self/fd/$5\nexit 3\n", text.display());
    fs::write(&dune, script).expect("written");
    fs::set_permissions(&dune, fs::Permissions::from_mode(0o755)).expect("changed");
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap_or_default());
    let runner = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/tool_runner.py");
    let mut command = Command::new("python3");
    command.arg(runner).env("PATH", path).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(_) => {
            eprintln!("skipped: there is no python3");
            return None;
        }
    };
    let request = json!({ "command": ["tool", "x"], "input": "given" });
    writeln!(child.stdin.take().expect("a pipe"), "{request}").expect("written");
    let output = child.wait_with_output().expect("it ends");
    Some(serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}")))
}

fn report(schema: &str) -> Value {
    json!({
        "schema": schema,
        "a field that is new": 1,
        "outcome": { "kind": "exited", "status": 3, "signal": null, "denied_call": null, "limit": null, "not_started": null },
        "walls": [{ "by": "no_new_privs", "enforced": true, "why": null }, { "by": "Landlock", "enforced": false, "why": "x" }],
        "denials": [{ "what": "denied", "call": "open", "why": "open is denied", "count": 2 }],
    })
}

#[test]
fn reports_are_understood() {
    let Some(answer) = answer(&report("dune-run/1")) else { return };
    assert!(answer["kind"] == "exited" && answer["status"] == 3, "{answer}");
    assert!(answer["output"] == "given" && answer["errors"] == "tool\n", "{answer}");
    assert_eq!(answer["denials"], json!(["open: open is denied (2 times)"]));
    assert_eq!(answer["not_enforced"], json!(["Landlock"]));
}

#[test]
fn other_versions_are_refused() {
    let Some(answer) = answer(&report("dune-run/2")) else { return };
    assert!(answer["kind"] == "error", "{answer}");
    assert!(answer["why"].as_str().is_some_and(|why| why.contains("dune-run/2")), "{answer}");
}
