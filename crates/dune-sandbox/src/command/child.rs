//! A program that runs beside its host.

use std::fmt::{self, Display, Formatter};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{ChildStderr, ChildStdin, ChildStdout, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::order::Reply;
use crate::observe::{FatalCall, NotStarted, Report};

/// How long a launcher may take to end, once it has been told to.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(5);

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The first process ended with this status.
    Exited(i32),
    /// It was ended by this signal.
    Signaled(i32),
    /// The policy had the program ended for a call.
    Denied(FatalCall),
    /// A limit ended it, with this key: [`Limits::by_key`](crate::policy::Limits::by_key). Others may have been reached
    /// ([`Outcome::limits_reached`](crate::Outcome::limits_reached)), as of memory, without ending it.
    Limit(String),
    /// It has not begun.
    NotStarted(NotStarted),
    /// [`Child::kill`] ended it.
    Killed,
}

impl Display for Reason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Exited(status) => write!(f, "exited with status {status}"),
            Reason::Signaled(signal) => write!(f, "ended by signal {signal}"),
            Reason::Denied(call) => write!(f, "ended for the call {}: {}", call.call, call.why),
            Reason::Limit(key) => write!(f, "ended at the limit {key}"),
            Reason::NotStarted(why) => write!(f, "not started: {}", why.why),
            Reason::Killed => f.write_str("killed"),
        }
    }
}

/// A run that is over.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Finished {
    /// How it ended.
    pub reason: Reason,
    /// What else there is to say.
    pub report: Report,
}

impl Finished {
    /// Whether the first process exited with status 0.
    pub fn success(&self) -> bool {
        self.reason == Reason::Exited(0)
    }

    fn of(report: Report, is_killed: bool) -> Finished {
        let outcome = &report.outcome;
        let reason = match (&*outcome.kind, &outcome.denied_call, &outcome.limit, &outcome.not_started) {
            ("killed", ..) => Reason::Killed,
            ("denied", Some(call), ..) => Reason::Denied(call.clone()),
            ("limit", _, Some(limit), _) => Reason::Limit(limit.to_string()),
            ("not_started", .., Some(_)) if is_killed => Reason::Killed,
            ("not_started", .., Some(why)) => Reason::NotStarted(why.clone()),
            _ => match outcome.signal {
                Some(signal) => Reason::Signaled(signal),
                None => Reason::Exited(outcome.status.unwrap_or(1)),
            },
        };
        Finished { reason, report }
    }
}

/// A run that is over, with what the program wrote.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Output {
    /// How it ended.
    pub finished: Finished,
    /// Standard output, if it was piped.
    pub stdout: Vec<u8>,
    /// Standard error, if it was piped: the program's lines, and Dune's, which begin with `dune: `.
    pub stderr: Vec<u8>,
}

/// Why the end of a run is not known.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The launcher has ended without a word.
    #[error(
        "the launcher has ended without a report ({0}); see whether somebody has killed it, or memory is short"
    )]
    NoReport(ExitStatus),
    /// Linux's reason.
    #[error("cannot wait for the launcher: {0}")]
    Wait(#[from] io::Error),
}

/// A program in a sandbox, beside its host: as [`std::process::Child`].
///
/// Unlike that, the run is ended when this is dropped: nothing of it is left over.
#[derive(Debug)]
pub struct Child {
    /// The program's standard input, if it was piped.
    pub stdin: Option<ChildStdin>,
    /// The program's standard output, if it was piped.
    pub stdout: Option<ChildStdout>,
    /// The program's standard error, if it was piped.
    pub stderr: Option<ChildStderr>,
    launcher: std::process::Child,
    /// To the launcher, until it has said all.
    line: Option<UnixStream>,
    heard: Vec<u8>,
    is_killed: bool,
    finished: Option<Finished>,
}

impl Child {
    pub(super) fn new(mut launcher: std::process::Child) -> Child {
        Child {
            stdin: launcher.stdin.take(),
            stdout: launcher.stdout.take(),
            stderr: launcher.stderr.take(),
            launcher,
            line: None,
            heard: Vec::new(),
            is_killed: false,
            finished: None,
        }
    }

    pub(super) fn begin(&mut self, line: UnixStream) {
        self.line = Some(line);
    }

    /// The number of the launcher's process, whose child the program's first process is.
    pub fn id(&self) -> u32 {
        self.launcher.id()
    }

    /// Ends all processes of the run, if they have not ended. [`wait`](Self::wait) tells when they are gone.
    ///
    /// # Errors
    ///
    /// [`WaitError::Wait`].
    pub fn kill(&mut self) -> Result<(), WaitError> {
        if let (Some(line), None) = (&mut self.line, &self.finished) {
            self.is_killed = true;
            match line.write_all(b"k") {
                // It has just ended.
                Err(why) if why.kind() == ErrorKind::BrokenPipe => (),
                done => done?,
            }
        }
        Ok(())
    }

    /// Waits for the end of the run. Standard input is closed first, if it is still there.
    ///
    /// # Errors
    ///
    /// [`WaitError`].
    pub fn wait(&mut self) -> Result<Finished, WaitError> {
        drop(self.stdin.take());
        if let Some(finished) = &self.finished {
            return Ok(finished.clone());
        }
        self.hear(true)?;
        let status = self.launcher.wait()?;
        self.conclude(status)
    }

    /// How the run ended, if it has.
    ///
    /// # Errors
    ///
    /// [`WaitError`].
    pub fn try_wait(&mut self) -> Result<Option<Finished>, WaitError> {
        if self.finished.is_some() || !self.hear(false)? {
            return Ok(self.finished.clone());
        }
        self.launcher.try_wait()?.map(|status| self.conclude(status)).transpose()
    }

    /// Waits for the end of the run, and collects what it writes to standard output and standard error, as far as they are piped.
    ///
    /// # Errors
    ///
    /// [`WaitError`].
    pub fn wait_with_output(mut self) -> Result<Output, WaitError> {
        drop(self.stdin.take());
        let (stdout, stderr) = (self.stdout.take(), self.stderr.take());
        let (stdout, stderr) = thread::scope(|scope| {
            let errors = scope.spawn(|| read_all(stderr));
            let output = read_all(stdout);
            (output, errors.join().unwrap_or_else(|_| Err(ErrorKind::Other.into())))
        });
        let finished = self.wait()?;
        Ok(Output { finished, stdout: stdout?, stderr: stderr? })
    }

    /// Takes what the launcher says; whether that is all.
    fn hear(&mut self, waits: bool) -> io::Result<bool> {
        let Some(line) = &mut self.line else { return Ok(true) };
        line.set_nonblocking(!waits)?;
        match line.read_to_end(&mut self.heard) {
            Err(why) if why.kind() == ErrorKind::WouldBlock => Ok(false),
            // It has ended with something unread.
            Err(why) if why.kind() == ErrorKind::ConnectionReset => Ok(true),
            Err(why) => Err(why),
            Ok(_) => Ok(true),
        }
    }

    /// The launcher has ended.
    fn conclude(&mut self, status: ExitStatus) -> Result<Finished, WaitError> {
        self.line = None;
        let report = match Reply::of(&self.heard) {
            Ok(Reply::Report(report)) => *report,
            Ok(Reply::Failed(status, why)) => {
                let mut report = Report::default();
                report.outcome.kind = "not_started".into();
                report.outcome.not_started = Some(NotStarted { status, why });
                report
            }
            Err(_) => return Err(WaitError::NoReport(status)),
        };
        Ok(self.finished.insert(Finished::of(report, self.is_killed)).clone())
    }
}

fn read_all(from: Option<impl Read>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        from.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.finished.is_some() {
            return;
        }
        // When nobody is at the other end the launcher ends the run.
        drop(self.line.take());
        let start = Instant::now();
        while matches!(self.launcher.try_wait(), Ok(None)) {
            if start.elapsed() > PATIENCE {
                // Its first process goes with it.
                let _ = self.launcher.kill();
                let _ = self.launcher.wait();
                return;
            }
            thread::sleep(PAUSE);
        }
    }
}
