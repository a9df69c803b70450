//! The integration suite `dune-tests`, once per machine.

use super::cases::Cases;
use crate::artifacts::Artifact;
use crate::error::{Error, Result};
use crate::machine::{self, Limits, Machine, Output, Run, host};
use crate::packages::Kernel;
use crate::process;
use crate::progress::print;
use crate::tally::Tally;
use crate::workspace;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

/// What to run everywhere.
#[derive(Debug, Clone)]
pub struct Suite<'a> {
    /// Programs for the PATH, the suite among them.
    pub programs: &'a [Artifact],
    /// Arguments of the suite: names of tests.
    pub filter: &'a [OsString],
    /// The kernel of emulated machines.
    pub kernel: Kernel,
    /// When to give up on a machine although cases come in.
    pub limit: Option<Duration>,
}

/// When to give up on a machine from which no case comes in. The suite ends a case itself after 600 s (`LIMIT` in
/// crates/dune-tests/src/case.rs) and goes on with the next: only where it can not is the machine ended.
const STALL: Duration = Duration::from_secs(900);

impl Suite<'_> {
    /// Runs it on this computer.
    pub fn on_host(&self) -> Result<Tally> {
        let mut output = Lines::new("host");
        let verdict = match host::run_into(self.programs, &self.command(), self.limits(), &mut output) {
            Ok(status) => output.verdict(status),
            Err(error) if process::interrupted() => return Err(error),
            Err(error) => output.broken_off(&error),
        };
        Ok(verdict.tally)
    }

    fn limits(&self) -> Limits {
        Limits { whole: self.limit, stall: Some(STALL) }
    }

    /// Runs it on emulated machines, at the same time where there are processors enough; vtx, which takes longest, goes first.
    /// What failed on one is shown again when the last has ended: else it stood hundreds of lines above.
    pub fn on_emulated(&self, machines: &[Machine]) -> Result<Tally> {
        let together = machines.len() > 1 && process::several_processors();
        let verdicts: Vec<Result<Verdict>> = if together {
            // Fetched beforehand, so that one progress bar at a time is drawn.
            for machine in machines {
                machine.prepare()?;
            }
            std::thread::scope(|scope| {
                let one = |machine| {
                    if machine != Machine::Vtx {
                        process::yield_processors();
                    }
                    self.on_one(machine)
                };
                let running: Vec<_> =
                    machines.iter().map(|&machine| scope.spawn(move || one(machine))).collect();
                running
                    .into_iter()
                    .map(|thread| thread.join().expect("a machine's thread does not panic"))
                    .collect()
            })
        } else {
            machines.iter().map(|&machine| self.on_one(machine)).collect()
        };
        let mut sum = Tally::default();
        for (verdict, machine) in verdicts.into_iter().zip(machines) {
            let Verdict { tally, failures } = verdict?;
            sum += tally;
            for line in failures.lines() {
                print(&format!("{} failed | {line}", machine.name()));
            }
        }
        Ok(sum)
    }

    /// Boots one machine for the whole suite. Whatever goes wrong with it is one failure more.
    fn on_one(&self, machine: Machine) -> Result<Verdict> {
        let name = machine.name();
        print(&format!("==> suite on {name}"));
        let start = Instant::now();
        let mut output = Lines::new(name);
        let run = Run {
            machine,
            processors: None,
            memory: None,
            kernel: Some(self.kernel.clone()),
            append: None,
            artifacts: self.programs,
            files: &[],
            overlay: None,
            disk: None,
            command: &self.command(),
            limits: self.limits(),
        };
        let (verdict, boot) = match machine::run(&run, &mut output) {
            Ok(outcome) => {
                for line in outcome.complaints.lines() {
                    print(&format!("{name} kernel | {line}"));
                }
                (output.verdict(outcome.status), outcome.boot)
            }
            Err(error) if process::interrupted() => return Err(error),
            Err(error) => (output.broken_off(&error), Duration::ZERO),
        };
        let tally = verdict.tally;
        let word = if tally.failed == 0 { "ok" } else { "FAILED" };
        let (all, boot) = (start.elapsed().as_secs_f64(), boot.as_secs_f64());
        print(&format!("==> suite on {name}: {word}, {tally}, {all:.1} s ({boot:.1} s of them to boot)"));
        Ok(verdict)
    }

    fn command(&self) -> Vec<OsString> {
        std::iter::once("dune-tests".into()).chain(self.filter.iter().cloned()).collect()
    }
}

/// How a suite has ended.
#[derive(Debug)]
struct Verdict {
    tally: Tally,
    /// What the suite said of its failures, and what is wrong with its end.
    failures: String,
}

/// The part of libtest's report that tells about failed tests, if there are some: all from the first `failures:` on.
fn failures(output: &str) -> &str {
    let Some((_, told)) = output.split_once("\nfailures:\n") else { return "" };
    told.split("\nfailures:\n").next().unwrap_or(told).trim_start_matches('\n')
}

/// Prints what a machine says line by line, each with the machine's name, and keeps it.
#[derive(Debug)]
pub struct Lines {
    name: &'static str,
    all: Vec<u8>,
    shown: usize,
    cases: Cases,
}

impl Lines {
    fn new(name: &'static str) -> Self {
        Self { name, all: Vec::new(), shown: 0, cases: Cases::default() }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.all).into_owned()
    }

    /// Shows an unfinished last line too.
    fn finish(&mut self) {
        if self.shown < self.all.len() {
            self.all.push(b'\n');
            self.show();
        }
    }

    fn show(&mut self) {
        while let Some(length) = self.all[self.shown..].iter().position(|&byte| byte == b'\n') {
            let line = String::from_utf8_lossy(&self.all[self.shown..self.shown + length]);
            print(&format!("{} | {line}", self.name));
            self.shown += length + 1;
        }
    }

    /// Counts the tests that have come in from a machine that was ended, or ended, before its suite: what has passed has
    /// passed, and the end is one failure more, of the case that was running.
    fn broken_off(mut self, error: &Error) -> Verdict {
        self.finish();
        self.tell_slowest();
        let cases = &self.cases;
        let place = match (cases.running(), cases.announced) {
            (Some(name), _) => format!("in case {name}"),
            (None, Some(all)) if cases.ended() == all => "after its last case".to_owned(),
            (None, Some(_)) => "between two cases".to_owned(),
            (None, None) => "before its first case".to_owned(),
        };
        let of = cases.announced.map(|all| format!(" of {all}")).unwrap_or_default();
        let end = format!(
            "FAILED: the suite was broken off {place}, with {}{of} cases ended: {error}",
            cases.ended()
        );
        print(&format!("{} | {end}", self.name));
        // Their reports come at the end of the suite, which has not come.
        let mut failures: String =
            cases.failed.iter().map(|name| format!("{name} failed; its report is lost\n")).collect();
        failures += &format!("{}\n", end.trim_start_matches("FAILED: "));
        let mut tally = cases.tally;
        tally.failed += 1;
        Verdict { tally, failures }
    }

    /// Tells which cases took longest, and leaves the times of all in a file.
    fn tell_slowest(&self) {
        let slowest = self.cases.slowest();
        if slowest.is_empty() {
            return;
        }
        let file = workspace::root().join(format!("target/times-{}.txt", self.name));
        let times = self.cases.times();
        let lines: String =
            times.iter().map(|(time, name)| format!("{:8.2} {name}\n", time.as_secs_f64())).collect();
        let place = match fs::write(&file, lines) {
            Ok(()) => format!("; all: {}", file.display()),
            // Who can not keep them has at least the slowest.
            Err(_) => String::new(),
        };
        print(&format!("{} | slowest: {slowest}{place}", self.name));
    }

    /// Counts the tests, after the suite has ended with `status`. A suite that ran none has failed, and so has one
    /// whose status and last line do not agree.
    fn verdict(mut self, status: u8) -> Verdict {
        self.finish();
        self.tell_slowest();
        let text = self.text();
        let counted = Tally::of_suite(&text);
        let mut failures = failures(&text).to_owned();
        let mut tally = counted.unwrap_or(self.cases.tally);
        let complaint = match counted {
            None => {
                let case = self.cases.running().map(|name| format!(" in case {name},")).unwrap_or_default();
                Some(format!("ended with status {status},{case} without its last line"))
            }
            Some(Tally { passed: 0, failed: 0, .. }) => Some("ran no test".to_owned()),
            Some(Tally { failed: 0, .. }) if status != 0 => {
                Some(format!("ended with status {status}, but counted no failure"))
            }
            Some(_) => None,
        };
        if let Some(complaint) = complaint {
            print(&format!("{} | FAILED: the suite {complaint}", self.name));
            failures += &format!("the suite {complaint}\n");
            tally.failed += 1;
        }
        Verdict { tally, failures }
    }
}

impl Output for Lines {
    /// Shows what came. Only cases are progress: a machine that hangs may have much to say.
    fn take(&mut self, output: &[u8]) -> io::Result<bool> {
        self.all.extend_from_slice(output);
        self.show();
        Ok(self.cases.take(output))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(output: &str, status: u8) -> Verdict {
        let mut lines = Lines::new("test");
        lines.take(output.as_bytes()).expect("memory takes all");
        lines.verdict(status)
    }

    fn broken_off(output: &str) -> Verdict {
        let mut lines = Lines::new("test");
        lines.take(output.as_bytes()).expect("memory takes all");
        lines.broken_off(&Error::Stalled { limit: STALL, console: "its last words".to_owned() })
    }

    #[test]
    fn what_came_in_before_a_machines_end_counts() {
        let Verdict { tally, failures } =
            broken_off("running 9 tests\ntest a ... ok\ntest b ... FAILED\ntest c ... ok\ntest d ... ");
        assert_eq!(tally, Tally { passed: 2, failed: 2, skipped: 0 });
        assert!(failures.starts_with("b failed"), "{failures}");
        assert!(failures.contains("in case d, with 3 of 9 cases ended: nothing has come"), "{failures}");
        assert!(failures.contains("its last words"), "{failures}");
        assert!(broken_off("running 9 tests\ntest a ... ok\n").failures.contains("between two cases"));
        assert!(broken_off("running 1 tests\ntest a ... ok\n").failures.contains("after its last case"));
        let none = broken_off("");
        assert!(none.failures.contains("before its first case"), "{}", none.failures);
        assert_eq!(
            none.tally,
            Tally { failed: 1, ..Tally::default() },
            "a machine that ran no test has failed"
        );
    }

    #[test]
    fn a_suite_without_tests_or_end_has_failed() {
        let failed = |output, status| verdict(output, status).tally.failed;
        assert_eq!(failed("dune-tests: 2 passed, 0 failed, 1 skipped\n", 0), 0);
        assert_eq!(failed("dune-tests: 0 passed, 0 failed, 5 skipped\n", 0), 1);
        assert_eq!(failed("hello", 0), 1);
        assert_eq!(failed("dune-tests: 2 passed, 0 failed, 0 skipped\n", 139), 1);
        assert_eq!(failed("dune-tests: 2 passed, 3 failed, 0 skipped\n", 101), 3);
    }

    #[test]
    fn what_failed_is_told_once_more() {
        let good =
            "test a ... ok\n\ntest result: ok. 1 passed\n\ndune-tests: 1 passed, 0 failed, 0 skipped\n";
        assert_eq!(verdict(good, 0).failures, "");
        let bad = "test a ... FAILED\n\nfailures:\n\n---- a ----\nexpected Success\n\n\nfailures:\n    a\n\n\
            test result: FAILED. 0 passed; 1 failed\n\ndune-tests: 0 passed, 1 failed, 0 skipped\n";
        assert_eq!(verdict(bad, 101).failures.trim_end(), "---- a ----\nexpected Success");
        assert_eq!(verdict("hello", 3).failures, "the suite ended with status 3, without its last line\n");
        let crashed = verdict("running 2 tests\ntest a ... ok\ntest b ... ", 139);
        assert_eq!(crashed.tally, Tally { passed: 1, failed: 1, skipped: 0 });
        assert!(crashed.failures.contains("status 139, in case b, without"), "{}", crashed.failures);
    }
}
