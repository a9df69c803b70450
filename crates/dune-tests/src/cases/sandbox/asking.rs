//! Policies in files that ask: a driver answers, and what nobody answers is denied.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::directories::libraries;
use super::path_of;
use super::policies::Tree;
use crate::case::CaseResult;

/// Where the report goes.
const REPORT: &str = "/tmp/policy-asking/report.json";

/// A descriptor that a program gets by its number.
fn handed_down(descriptor: &impl AsRawFd) -> std::io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: a new descriptor, which is not closed by an exec.
    unsafe {
        match libc::dup(descriptor.as_raw_fd()) {
            -1 => Err(std::io::Error::last_os_error()),
            new => Ok(OwnedFd::from_raw_fd(new)),
        }
    }
}

pub fn drivers() -> CaseResult {
    let tree = Tree::new("asking")?;
    let listeners = [
        TcpListener::bind("127.0.0.1:0")?,
        TcpListener::bind("127.0.0.1:0")?,
        TcpListener::bind("127.0.0.1:0")?,
    ];
    let [named, other, third] = &listeners;
    let ports: Vec<u16> = [named, other, third]
        .into_iter()
        .map(|one| one.local_addr().map(|own| own.port()))
        .collect::<Result<_, _>>()?;
    let policy = tree.path("policy.toml");
    let text = format!(
        "denial = \"ask\"\n[files]\nread = [{}]\n[network]\nconnect = [\"127.0.0.1:{}\"]\n",
        libraries(),
        ports[0]
    );
    fs::write(&policy, text)?;
    let (questions, own_to) = std::io::pipe()?;
    let (own_from, mut answers) = std::io::pipe()?;
    let (to, from) = (handed_down(&own_to)?, handed_down(&own_from)?);
    drop((own_to, own_from));
    let words: Vec<String> = ports.iter().map(u16::to_string).collect();
    let program = path_of("confined")?;
    let run = |options: &[&str]| {
        let mut command = std::process::Command::new("dune");
        command.args(["run", "--policy", &policy]).args(options).arg("--").arg(&program);
        command.arg("asking").args(&words);
        command
    };
    let numbers = format!("{},{}", to.as_raw_fd(), from.as_raw_fd());
    let mut command = run(&["--ask", &numbers, "--ask-seconds", "2", "--json", REPORT]);
    let driver = std::thread::spawn(move || -> std::io::Result<Vec<Value>> {
        let mut all = Vec::new();
        for line in BufReader::new(questions).lines() {
            let question: Value = serde_json::from_str(&line?)?;
            let id = &question["id"];
            let answer = match all.len() {
                0 => json!({ "id": id, "answer": "always" }),
                // One that is none, and then one for another question.
                1 => json!({ "id": id, "answer": "certainly" }),
                2 => json!({ "id": id, "answer": "once" }),
                3 => json!({ "id": 1, "answer": "once" }),
                _ => json!("nothing"),
            };
            all.push(question);
            writeln!(answers, "{answer}")?;
        }
        Ok(all)
    });
    let start = Instant::now();
    let output = command.output();
    let elapsed = start.elapsed();
    // The other ends are closed, so the driver ends.
    drop((to, from));
    let asked = driver.join().map_err(|_| "the driver has panicked")??;
    let output = output?;
    let said = String::from_utf8_lossy(&output.stdout);
    // Named; always, and again; denied, once; then nobody answers; a path is not asked about.
    assert_eq!(said, "0 0 0 -13 0 -13 -13 -13\n", "{output:?}");
    assert!(elapsed >= Duration::from_secs(2), "{elapsed:?}");
    let about = |question: &Value| (question["call"].clone(), question["addresses"][0].clone());
    let address = |index: usize| json!(format!("127.0.0.1:{}", ports[index]));
    let expected: Vec<_> = [1, 2, 2, 2, 2].map(|index| (json!("connect"), address(index))).to_vec();
    assert_eq!(asked.iter().map(about).collect::<Vec<_>>(), expected);
    let report: Value = serde_json::from_str(&fs::read_to_string(REPORT)?)?;
    let answers: Vec<_> =
        report["questions"].as_array().into_iter().flatten().map(|one| one["answer"].clone()).collect();
    assert_eq!(answers, ["always", "deny", "once", "none", "none"].map(|word| json!(word)), "{report}");
    assert_eq!(report["policy"]["denial"], "ask");
    // Without a driver and a terminal nothing is asked, which is said.
    let output = run(&[]).stdin(std::process::Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, "0 -13 -13 -13 -13 -13 -13 -13\n", "{output:?}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("dune: there is no terminal to ask at, and no --ask"), "{errors}");
    Ok(())
}
