//! A run with a launcher beside it.

use std::ffi::{OsStr, OsString};
use std::fmt::{self, Debug, Formatter};
use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::denials::Denials;
use super::family::Family;
use super::figures::{Counter, Totals};
use super::journal::{Journal, Kind, Reader};
use super::learn::Learner;
use super::learnt::Learnt;
use super::lines::Lines;
use super::report::{Collector, Outcome, Report};
use super::tracing::{Filter, Tracer};
use super::{Observer, Watch};
use crate::Sandbox;
use crate::error::{SandboxError, say};
use crate::layers::Layers;
use crate::policy::{Decision, Limits};
use crate::questions::{Answers, Line, Question, Questions};
use crate::quota::Shared;
use crate::raw::launcher::{self, Ended};
use crate::raw::{meter, process, spawning};

/// How long a call may last, without anything else to show, until a trace shows it as unfinished.
const QUIET: Duration = Duration::from_millis(200);
/// How late the end of the program may be noticed, if its signal came at the wrong moment.
const LATE: Duration = Duration::from_millis(100);

/// What is to be told of a run, besides its [`Report`].
#[derive(Default)]
pub struct Observation {
    trace: Option<(Filter, Box<dyn Write>, bool)>,
    learns: bool,
    is_quiet: bool,
    answers: Option<Answerer>,
}

/// Says what becomes of a call.
type Answerer = Box<dyn FnMut(&Question) -> Decision>;

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

    /// Of the report only how the run ended, and what Linux knows of it: calls are not looked at, and cost nothing more.
    pub fn outcome() -> Observation {
        Observation { is_quiet: true, ..Observation::default() }
    }

    /// Each call that the filter lets through is a line for `out`, when it ends (docs/sandbox.md has the format); all with the number of
    /// their thread if `has_numbers`, else once there is a second one.
    #[must_use]
    pub fn trace(mut self, filter: Filter, out: Box<dyn Write>, has_numbers: bool) -> Observation {
        self.trace = Some((filter, out, has_numbers));
        self
    }

    /// Calls about which the policy [asks](Decision::Ask) are decided by `answers`, in the place of [`Policy::asked`](crate::policy::Policy::asked). Whatever
    /// it takes, a call waits for a minute at most.
    #[must_use]
    pub fn answers(mut self, answers: impl FnMut(&Question) -> Decision + 'static) -> Observation {
        self.answers = Some(Box::new(answers));
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
    /// Runs `program` as [`run`](Self::run) does, but in a child, and waits for its end. If the caller ends, the child does.
    ///
    /// With limits the run is over when the program's first process is, and all of its other processes are ended. Without, what they do after
    /// that is not in the report.
    ///
    /// Signals that are sent to the caller to end or tell it something (SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2) go to the child;
    /// from a terminal both get them. The caller has one thread, and no children but those of the run.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Prepare`] if there can be no such child, or the trace could not be written. Why the program itself was not started
    /// is in the report ([`Outcome::not_started`](super::Outcome::not_started)).
    pub fn run_observed(
        self,
        program: &OsStr,
        words: &[OsString],
        observation: Observation,
    ) -> Result<Report, SandboxError> {
        self.run_beside(program, words, observation, None)
    }

    /// The same. With `is_to_end` the run is ended, all of it, once that says so, or its first process has ended; and the standard input and output of
    /// this process are the program's alone.
    pub(crate) fn run_beside(
        mut self,
        program: &OsStr,
        words: &[OsString],
        observation: Observation,
        is_to_end: Option<&dyn Fn() -> bool>,
    ) -> Result<Report, SandboxError> {
        let prepare = |what| move |why| SandboxError::Prepare { what, why };
        let memory = Shared::WHAT;
        let journal = Journal::new().map_err(prepare(memory))?;
        let totals = Totals::new().map_err(prepare(memory))?;
        let limits = self.limits;
        let told: Vec<_> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let layers =
            self.policy.files().map(|files| Layers::make(&*self.policy, files, self.layer.as_deref(), told));
        let mut layers = layers.transpose()?.flatten();
        // What is told of a layer is of all processes.
        let ends_all = limits.is_any() || is_to_end.is_some() || layers.is_some();
        if ends_all {
            self.shared = Some(Shared::new().map_err(prepare(memory))?);
        }
        let mut observers: Vec<Box<dyn Observer>> = Vec::new();
        let mut lines = None;
        if let Some((filter, out, has_numbers)) = observation.trace {
            observers.push(Box::new(Tracer::new(journal, filter)));
            lines = Some(Lines::new(out, has_numbers));
        }
        let mut learnt = observation.learns.then(Learnt::default);
        if learnt.is_some() {
            observers.push(Box::new(Learner(journal)));
        }
        if !observation.is_quiet {
            observers.push(Box::new(Counter(totals)));
            observers.push(Box::new(Denials(journal)));
        }
        let mut answerer = observation.answers;
        let questions = Questions::new().map_err(prepare(memory))?;
        self.line = Some(Line { journal, questions });
        let mut answers = Answers::new(questions);
        let shared = self.shared;
        let mut family = Family::new(ends_all).map_err(prepare("adopt the program's processes"))?;
        let start = Instant::now();
        let Some(child) = launcher::split().map_err(prepare("start a process for the program"))? else {
            if !observers.is_empty() {
                meter::switch_on();
                self.watch = Some(Watch::new(observers));
            }
            let entered = match (layers, self.policy.files()) {
                (Some(layers), Some(files)) => layers.enter(files),
                _ => Ok(()),
            };
            let run = entered.map_err(prepare("go to the working directory in the private layer"));
            let Err(error) = run.and_then(|()| self.run(program, words));
            let text = format!("{}\n{error}", error.exit_status());
            journal.write(std::process::id() as i32, Kind::NotStarted, text.as_bytes());
            process::exit(error.exit_status().into());
        };
        family.begin(child);
        if let Some(layers) = &mut layers {
            layers.begin();
        }
        if is_to_end.is_some() {
            spawning::leave(&[libc::STDIN_FILENO, libc::STDOUT_FILENO]);
        }
        let end_all = |family: &mut Family| {
            if let Some(shared) = shared {
                shared.end();
            }
            family.end().map_err(prepare("end the program's processes"))
        };
        let mut reader = Reader::new(journal);
        let mut collector = Collector::default();
        let mut last = Instant::now();
        let (mut is_late, mut is_killed) = (false, false);
        let ended = loop {
            let left =
                limits.wall_seconds.map(|most| Duration::from_secs(most).saturating_sub(start.elapsed()));
            let mut ended = family.ended().map_err(prepare("wait for the program"))?;
            if ended.is_none() && is_to_end.is_some_and(|is_to_end| is_to_end()) {
                is_killed = true;
            } else if ended.is_none() {
                is_late = left == Some(Duration::ZERO);
            }
            if is_late || is_killed {
                end_all(&mut family)?;
                ended = family.ended().map_err(prepare("wait for the program"))?;
            }
            let mut is_quiet = true;
            while let Some(record) = reader.next(ended.is_none()) {
                (is_quiet, last) = (false, Instant::now());
                if record.kind == Kind::Asked {
                    answers.answer(&record.bytes, |question| match &mut answerer {
                        Some(answerer) => answerer(question),
                        None => self.policy.asked(question),
                    });
                }
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
                reader.wait(left.unwrap_or(LATE).min(LATE));
            }
        };
        let wall_time = start.elapsed();
        if ends_all {
            end_all(&mut family)?;
        }
        let layer = layers.and_then(Layers::finish);
        let lost = reader.lost();
        if let Some(lines) = lines {
            lines.finish(lost).map_err(prepare("write the trace"))?;
        }
        let mut report = collector.finish();
        report.lost = lost;
        report.layer = layer;
        let command: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        report.learnt = learnt.map(|learnt| learnt.file(&command.join(" ")));
        report.figures = totals.figures();
        report.figures.user_seconds = family.user_time.as_secs_f64();
        report.figures.system_seconds = family.system_time.as_secs_f64();
        report.figures.wall_seconds = wall_time.as_secs_f64();
        report.figures.resident_kib = family.resident;
        report.outcome.limits_reached =
            shared.iter().flat_map(|shared| shared.reached()).map(Into::into).collect();
        report.outcome.end(&ended, limits, is_late);
        if is_killed {
            report.outcome.kind = "killed".into();
        }
        if let Some(sentence) = report.outcome.of_limit(limits, self.policy.name()) {
            say(format_args!("dune: {sentence}"));
        }
        Ok(report)
    }
}

impl Outcome {
    /// How the first process has ended.
    fn end(&mut self, ended: &Ended, limits: Limits, is_late: bool) {
        if self.not_started.is_none() || is_late {
            self.status = libc::WIFEXITED(ended.status).then(|| libc::WEXITSTATUS(ended.status));
            self.signal = libc::WIFSIGNALED(ended.status).then(|| libc::WTERMSIG(ended.status));
            let cpu_time = ended.user_time + ended.system_time;
            let own = self.signal.and_then(|signal| limit(limits, signal, cpu_time));
            self.limit = if is_late { Some("wall_seconds") } else { own }.map(Into::into);
        }
        self.kind = self.kind().into();
    }

    /// The limit that has ended the run, in a sentence.
    fn of_limit(&self, limits: Limits, policy: &str) -> Option<String> {
        let key = self.limit.as_deref()?;
        let what = match self.signal {
            _ if key == "wall_seconds" => "all processes of the run are ended".to_owned(),
            signal => format!("the program is ended by signal {}", signal.unwrap_or_default()),
        };
        let limit = limits.by_key(key).unwrap_or_default();
        Some(format!("the limit {key} ({limit}) of the policy {policy} is reached: {what}"))
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
