//! The command as people and scripts call it.

use std::process::{Command, Output};

use serde_json::Value;

fn dune(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dune")).args(arguments).output().expect("the command starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn help_shows_examples_and_exit_statuses() {
    for arguments in [&["--help"][..], &["doctor", "--help"], &["bench", "--help"]] {
        let output = dune(arguments);
        let help = text(&output.stdout);
        assert!(output.status.success());
        assert!(help.contains("Examples:") && help.contains("Exit statuses:"), "{help}");
        assert!(!help.contains("try-dune-mode"), "{help}");
    }
}

#[test]
fn the_doctors_exit_status_agrees_with_its_words() {
    let output = dune(&["doctor", "--json"]);
    let report = json(&output);
    if report["works"] == true {
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(report["verdict"], "ready");
        assert!(report["remedy"].is_null());
    } else {
        assert_eq!(output.status.code(), Some(3));
        assert_ne!(report["verdict"], "ready");
        assert!(report["remedy"].is_string());
    }
    assert!(text(&dune(&["doctor"]).stdout).contains("verdict"));
}

#[test]
fn a_computer_without_virtualization_is_shown_the_way_out() {
    let report = json(&dune(&["doctor", "--json"]));
    if report["cpu"]["virtualization"] != "absent" {
        // It may well work here: the other tests look at that.
        return;
    }
    assert!(report["remedy"].as_str().unwrap().contains("cargo xtask vm"), "{report}");
    let output = dune(&["bench", "--rows", "getpid"]);
    let sentence = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stdout.is_empty());
    assert_eq!(sentence.lines().count(), 1, "{sentence}");
    assert!(sentence.contains("cargo xtask vm"), "{sentence}");
}

#[test]
fn the_linux_side_can_be_measured_anywhere() {
    let output = dune(&["bench", "--linux-only", "--json", "--repeats", "1", "--rows", "trap,getpid"]);
    assert!(output.status.success(), "{output:?}");
    let table = json(&output);
    assert_eq!(table["rows"][0]["name"], "trap");
    assert_eq!(table["rows"][1]["name"], "getpid");
    assert!(table["rows"][1]["linux"].as_f64().unwrap() > 0.0);
    assert!(table["rows"][1]["dune"].is_null() && table["rows"][1]["ratio"].is_null());
    assert_eq!(table["engine"], "none");
}

#[test]
fn a_wrong_command_line_has_status_2() {
    for arguments in [&[][..], &["bench", "--rows", "getppid"], &["bench", "--repeats", "0"], &["walk"]] {
        let output = dune(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = dune(&["completions", shell]);
        assert!(output.status.success());
        let script = text(&output.stdout);
        assert!(script.contains("doctor") && script.contains("page_walk"), "{shell}");
    }
}
