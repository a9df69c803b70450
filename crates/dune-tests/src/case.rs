//! One case: what runs in the child process, and how that process has to end.

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Completion, Failed};

use crate::pace;

/// What a case returns: an error is a failure, but for [`Skip`].
pub type CaseResult = Result<(), Box<dyn std::error::Error>>;

/// The error of a case that can not run here, with the reason.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// How the child process has to end.
#[derive(Debug, Clone, Copy)]
pub enum Ending {
    /// With exit status 0.
    Success,
    /// By this signal, having written all these texts to standard error.
    Signal(i32, &'static [&'static str]),
    /// With this exit status.
    Status(i32),
}

/// A test case.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// `subject::what_holds`.
    pub name: &'static str,
    /// Runs in a process of its own.
    pub body: fn() -> CaseResult,
    /// How that process has to end.
    pub ending: Ending,
    /// Whether the slow machine leaves it to the other one.
    pub svm_alone: bool,
}

/// Exit status of a skipped case: Automake's.
const SKIPPED: i32 = 77;
/// What a case may take where it does not have to share the computer. xtask waits half as long again before it ends a machine
/// (`STALL` in xtask/src/test/suite.rs).
const LIMIT: Duration = Duration::from_secs(600);

impl Case {
    /// A case that has to succeed.
    pub const fn new(name: &'static str, body: fn() -> CaseResult) -> Case {
        Case { name, body, ending: Ending::Success, svm_alone: false }
    }

    /// The same case with another ending.
    pub const fn ends(self, ending: Ending) -> Case {
        Case { ending, ..self }
    }

    /// The same case, which `vtx` leaves to `svm`: it takes long there, is about what Linux and this library do, and other cases on `vtx` go the
    /// same ways through the CPU.
    pub const fn on_svm(self) -> Case {
        Case { svm_alone: true, ..self }
    }

    /// Runs the case in a child process and judges its end.
    pub fn run_in_child(self) -> Result<Completion, Failed> {
        if self.svm_alone && pace::is_vtx() {
            let reason = "left to svm, which is faster";
            println!("skip {}: {reason}", self.name);
            return Ok(Completion::ignored_with(reason));
        }
        let mut command = Command::new("/proc/self/exe");
        command.args(["--case", self.name]);
        let end = run_limited(command, LIMIT)?;
        if end.status.code() == Some(SKIPPED) {
            let reason = end.stdout.lines().last().unwrap_or_default().to_owned();
            println!("skip {}: {reason}", self.name);
            return Ok(Completion::ignored_with(reason));
        }
        let good = match self.ending {
            Ending::Success => end.status.success(),
            Ending::Status(status) => end.status.code() == Some(status),
            Ending::Signal(signal, texts) => {
                end.status.signal() == Some(signal) && texts.iter().all(|text| end.stderr.contains(text))
            }
        };
        if good { Ok(Completion::Completed) } else { Err(end.complaint(&self.ending).into()) }
    }
}

/// Runs the body of the case called `name` in this process.
pub fn run_here(cases: Vec<Case>, name: &str) -> ExitCode {
    let Some(case) = cases.iter().find(|case| case.name == name) else {
        eprintln!("dune-tests: no case is called {name}; `dune-tests --list` shows their names");
        return ExitCode::from(2);
    };
    match (case.body)() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Skip>() => {
            println!("{error}");
            ExitCode::from(SKIPPED as u8)
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// How a child process ended and what it wrote.
#[derive(Debug)]
pub struct End {
    /// Its wait status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl End {
    /// Why this is not the end that was expected.
    pub fn complaint(&self, expected: &Ending) -> String {
        format!(
            "expected {expected:?}, got {}\n--- stdout\n{}\n--- stderr\n{}",
            self.status, self.stdout, self.stderr
        )
    }
}

/// Runs `command` to its end and collects what it writes; kills it after `limit`, or later on a computer that is slow by
/// then. What it leaves running must not keep its streams open for longer.
pub fn run_limited(mut command: Command, limit: Duration) -> Result<End, Failed> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{command:?} did not start: {error}"))?;
    let stdout = read_all(child.stdout.take().expect("piped"));
    let stderr = read_all(child.stderr.take().expect("piped"));
    let (ended, timer) = mpsc::channel::<()>();
    let id = child.id();
    let killed = Arc::new(OnceLock::new());
    let watchdog = thread::spawn({
        let killed = Arc::clone(&killed);
        move || {
            let outlasts = |limit| timer.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout);
            let mut whole = limit;
            if outlasts(limit) {
                whole = limit.mul_f64(pace::slowness());
                if outlasts(whole - limit) {
                    let _ = writeln!(std::io::stderr(), "time limit of {whole:?} reached");
                    // SAFETY: kill touches no memory; the child has not been waited for, so the id is its own.
                    unsafe { libc::kill(id as i32, libc::SIGKILL) };
                    let _ = killed.set(Instant::now());
                }
            }
            whole
        }
    });
    // A moment more than the child has.
    const MOMENT: Duration = Duration::from_secs(5);
    let read = |stream: mpsc::Receiver<String>| {
        loop {
            let gone = killed.get().is_some_and(|time| time.elapsed() >= MOMENT);
            match stream.recv_timeout(MOMENT / 5) {
                Ok(text) => return Some(text),
                Err(mpsc::RecvTimeoutError::Timeout) if !gone => (),
                Err(_) => return None,
            }
        }
    };
    let (stdout, stderr) = (read(stdout), read(stderr));
    let status = child.wait().map_err(|error| format!("{command:?} could not be waited for: {error}"))?;
    drop(ended);
    let whole = watchdog.join().unwrap_or(limit);
    match (stdout, stderr) {
        (Some(stdout), Some(mut stderr)) => {
            if killed.get().is_some() {
                stderr += &format!("\ntime limit of {whole:?} reached");
            }
            Ok(End { status, stdout, stderr })
        }
        _ => Err(format!(
            "{command:?} has ended ({status}), but not what it started: that keeps its streams open"
        )
        .into()),
    }
}

/// Reads until all writers have closed.
fn read_all(mut from: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (text, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        let _ = text.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_waits_for_what_a_child_leaves_running() {
        let start = Instant::now();
        let mut shell = Command::new("sh");
        shell.args(["-c", "sleep 60 &"]);
        let error = run_limited(shell, Duration::from_secs(1)).expect_err("the shell's child runs on");
        assert!(error.message().is_some_and(|text| text.contains("keeps its streams open")), "{error:?}");
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
