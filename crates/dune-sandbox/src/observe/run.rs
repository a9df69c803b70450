//! A run with a launcher beside it.

use std::ffi::{OsStr, OsString};
use std::fmt::{self, Debug, Formatter};
use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::denials::Denials;
use super::figures::{Counter, Totals};
use super::journal::{Journal, Kind, Reader};
use super::learn::Learner;
use super::learnt::Learnt;
use super::lines::Lines;
use super::report::{Collector, Report};
use super::tracing::{Filter, Tracer};
use super::{Observer, Watch};
use crate::Sandbox;
use crate::error::SandboxError;
use crate::policy::Limits;
use crate::raw::{launcher, meter, process};

/// How long a call may last, without anything else to show, until a trace shows it as unfinished.
const QUIET: Duration = Duration::from_millis(200);
/// How late the end of the program may be noticed, if its signal came at the wrong moment.
const LATE: Duration = Duration::from_millis(100);

/// What is to be told of a run, besides its [`Report`].
#[derive(Default)]
pub struct Observation {
    trace: Option<(Filter, Box<dyn Write>, bool)>,
    learns: bool,
}

impl Debug for Observation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let filter = self.trace.as_ref().map(|(filter, ..)| filter);
        f.debug_struct("Observation").field("trace", &filter).finish_non_exhaustive()
    }
}

impl Observation {
    /// Nothing but the report.
    pub fn new() -> Observation {
        Observation::default()
    }

    /// Each call that the filter lets through is a line for `out`, when it ends (docs/sandbox.md has the format); all with the number of
    /// their thread if `has_numbers`, else once there is a second one.
    #[must_use]
    pub fn trace(mut self, filter: Filter, out: Box<dyn Write>, has_numbers: bool) -> Observation {
        self.trace = Some((filter, out, has_numbers));
        self
    }

    /// What the run needs becomes a policy, as a file (docs/sandbox.md): [`Report::learnt`].
    #[must_use]
    pub fn learn(mut self, learns: bool) -> Observation {
        self.learns = learns;
        self
    }
}

impl Sandbox {
    /// Runs `program` as [`run`](Self::run) does, but in a child, and waits for its end. What other processes of the program's do after
    /// that is not in the report. If the caller ends, the child does.
    ///
    /// Signals that are sent to the caller to end or tell it something (SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2) go to the child;
    /// from a terminal both get them. The caller has one thread.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Prepare`] if there can be no such child, or the trace could not be written. Why the program itself was not started
    /// is in the report ([`Outcome::not_started`](super::Outcome::not_started)).
    pub fn run_observed(
        mut self,
        program: &OsStr,
        words: &[OsString],
        observation: Observation,
    ) -> Result<Report, SandboxError> {
        let prepare = |what| move |why| SandboxError::Prepare { what, why };
        let memory = "map memory that is shared with the program's processes";
        let journal = Journal::new().map_err(prepare(memory))?;
        let totals = Totals::new().map_err(prepare(memory))?;
        meter::switch_on();
        let mut observers: Vec<Box<dyn Observer>> =
            vec![Box::new(Counter(totals)), Box::new(Denials(journal))];
        let mut lines = None;
        if let Some((filter, out, has_numbers)) = observation.trace {
            observers.push(Box::new(Tracer::new(journal, filter)));
            lines = Some(Lines::new(out, has_numbers));
        }
        let mut learnt = observation.learns.then(Learnt::default);
        if learnt.is_some() {
            observers.push(Box::new(Learner(journal)));
        }
        let limits = self.policy.limits();
        let Some(child) = launcher::split().map_err(prepare("start a process for the program"))? else {
            self.watch = Some(Watch::new(observers));
            self.journal = Some(journal);
            let Err(error) = self.run(program, words);
            let text = format!("{}\n{error}", error.exit_status());
            journal.write(std::process::id() as i32, Kind::NotStarted, text.as_bytes());
            process::exit(error.exit_status().into());
        };
        let mut reader = Reader::new(journal);
        let mut collector = Collector::default();
        let mut last = Instant::now();
        let ended = loop {
            let ended = launcher::ended(child).map_err(prepare("wait for the program"))?;
            let mut is_quiet = true;
            while let Some(record) = reader.next(ended.is_none()) {
                (is_quiet, last) = (false, Instant::now());
                collector.take(&record);
                if let Some(learnt) = &mut learnt {
                    learnt.take(&record);
                }
                if let Some(lines) = &mut lines {
                    lines.take(&record);
                }
            }
            if let Some(ended) = ended {
                break ended;
            }
            if is_quiet {
                if let Some(lines) = &mut lines {
                    if last.elapsed() > QUIET {
                        lines.show_unfinished(u64::MAX);
                    }
                    lines.flush();
                }
                reader.wait(LATE);
            }
        };
        let lost = reader.lost();
        if let Some(lines) = lines {
            lines.finish(lost).map_err(prepare("write the trace"))?;
        }
        let mut report = collector.finish();
        report.lost = lost;
        let command: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        report.learnt = learnt.map(|learnt| learnt.file(&command.join(" ")));
        report.figures = totals.figures();
        report.figures.user_seconds = ended.user_time.as_secs_f64();
        report.figures.system_seconds = ended.system_time.as_secs_f64();
        report.figures.resident_kib = ended.resident;
        let outcome = &mut report.outcome;
        if outcome.not_started.is_none() {
            outcome.status = libc::WIFEXITED(ended.status).then(|| libc::WEXITSTATUS(ended.status));
            outcome.signal = libc::WIFSIGNALED(ended.status).then(|| libc::WTERMSIG(ended.status));
            let cpu_time = ended.user_time + ended.system_time;
            outcome.limit = outcome.signal.and_then(|signal| limit(limits, signal, cpu_time));
        }
        outcome.kind = outcome.kind();
        Ok(report)
    }
}

/// The limit that a process has reached that was ended by `signal`.
fn limit(limits: Limits, signal: i32, cpu_time: Duration) -> Option<&'static str> {
    let is_over = |seconds: u64| cpu_time >= Duration::from_secs(seconds);
    match signal {
        libc::SIGXCPU => limits.cpu_seconds.map(|_| "cpu_seconds"),
        libc::SIGKILL => limits.cpu_seconds.filter(|seconds| is_over(*seconds)).map(|_| "cpu_seconds"),
        libc::SIGXFSZ => limits.file_bytes.map(|_| "file_bytes"),
        _ => None,
    }
}

impl Report {
    /// Ends the process as the program has ended: with its status, or by its signal. Nothing is done before, nor is memory dumped.
    pub fn end(&self) -> ! {
        let _ = io::stdout().flush();
        match (&self.outcome.not_started, self.outcome.signal) {
            (Some(why), _) => process::exit(why.status),
            (None, Some(signal)) => {
                let _ = process::forbid_core_dumps();
                process::die(signal)
            }
            (None, None) => process::exit(self.outcome.status.unwrap_or(1)),
        }
    }
}
