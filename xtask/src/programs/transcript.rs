//! What the machine tells about its cases while they run: see inside.sh.

use super::checks::{self, Checks};
use super::denials::{self, Denials};
use crate::progress::print;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

/// How one case went in one mode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// How long it took, in seconds of the machine's clock.
    pub seconds: f64,
    /// Its checks.
    pub checks: Checks,
    /// What its policy denied.
    #[serde(default)]
    pub denials: Denials,
    /// The day, and the commit of the `dune` that was tried; nothing if a run of before this was kept.
    #[serde(default)]
    pub origin: String,
}

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// With an exit status.
    Status(u8),
    /// It took too long.
    TimedOut,
    /// The machine went down with it, and how.
    MachineGone(String),
}

/// A case that has ended.
#[derive(Debug)]
pub struct Ended {
    /// The case's name.
    pub name: String,
    /// What became of it.
    pub outcome: Outcome,
    /// What it printed.
    pub output: String,
}

/// Collects what the machine says.
#[derive(Debug)]
pub struct Transcript {
    /// Whether to show what the cases print.
    verbose: bool,
    /// How long each case may take.
    limits: BTreeMap<&'static str, Duration>,
    /// Of all outcomes.
    origin: String,
    pending: Vec<u8>,
    running: Option<(String, String)>,
    ended: Vec<Ended>,
    /// What was said outside of cases.
    aside: String,
}

impl Transcript {
    /// An empty one.
    pub fn new(verbose: bool, limits: BTreeMap<&'static str, Duration>, origin: String) -> Self {
        let (pending, running, ended, aside) = (Vec::new(), None, Vec::new(), String::new());
        Self { verbose, limits, origin, pending, running, ended, aside }
    }

    /// The cases that have ended; one that still ran ended by `gone`. Also what was said outside of cases.
    pub fn finish(mut self, gone: &str) -> (Vec<Ended>, String) {
        let rest = std::mem::take(&mut self.pending);
        self.line(&String::from_utf8_lossy(&rest));
        if let Some((name, output)) = self.running.take() {
            let outcome = Outcome {
                end: End::MachineGone(gone.to_owned()),
                seconds: 0.0,
                checks: checks::parse(&output),
                denials: denials::parse(&output),
                origin: self.origin.clone(),
            };
            self.ended.push(Ended { name, outcome, output });
        }
        (self.ended, self.aside)
    }

    fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (words.as_slice(), self.running.take()) {
            (["@case", name, mode], None) => {
                print(&format!("{name}, {mode} ..."));
                self.running = Some(((*name).to_owned(), String::new()));
            }
            (["@end", ended, status, start, end], Some((name, output))) if *ended == name => {
                self.end(name, output, status, start, end);
            }
            (_, Some((name, mut output))) => {
                if self.verbose {
                    print(&format!("{name} | {line}"));
                }
                output.push_str(line);
                output.push('\n');
                self.running = Some((name, output));
            }
            (_, None) => {
                self.aside.push_str(line);
                self.aside.push('\n');
            }
        }
    }

    fn end(&mut self, name: String, output: String, status: &str, start: &str, end: &str) {
        const KILLED: u8 = 128 + 9;
        let number = |text: &str| text.parse::<f64>().unwrap_or_default();
        let seconds = number(end) - number(start);
        let status = status.parse().unwrap_or(u8::MAX);
        let limit = self.limits.get(name.as_str()).map_or(f64::MAX, Duration::as_secs_f64);
        let too_long = status == KILLED && seconds + 1.0 >= limit;
        let end = if too_long { End::TimedOut } else { End::Status(status) };
        let (checks, denials) = (checks::parse(&output), denials::parse(&output));
        let outcome = Outcome { end, seconds, checks, denials, origin: self.origin.clone() };
        self.ended.push(Ended { name, outcome, output });
    }
}

impl Write for Transcript {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        while let Some(length) = self.pending.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=length).collect();
            self.line(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs::checks::Verdict;

    fn transcript() -> Transcript {
        let limits = ["a", "b"].map(|name| (name, Duration::from_secs(10)));
        Transcript::new(false, limits.into(), "today".to_owned())
    }

    fn ended(session: &str, gone: &str) -> Vec<(String, End, usize)> {
        let mut transcript = transcript();
        for piece in session.as_bytes().chunks(7) {
            transcript.write_all(piece).expect("memory takes all");
        }
        let (ended, _) = transcript.finish(gone);
        ended.into_iter().map(|case| (case.name, case.outcome.end, case.outcome.checks.len())).collect()
    }

    #[test]
    fn cases_end_with_a_status_or_too_late() {
        let session = "\n@case a native\n@pass x\n@fail y\n\n@end a 1 5.00 7.50\n\n@case b native\n\
            @end a 0 1 2\n\n@end b 137 8.00 17.90\n";
        let expected = [("a".to_owned(), End::Status(1), 2), ("b".to_owned(), End::TimedOut, 0)];
        assert_eq!(ended(session, "panic"), expected);
    }

    #[test]
    fn a_case_that_takes_the_machine_down_is_told() {
        let session = "@case a dune\n@pass x\n@case is no mark here\n@pass y";
        assert_eq!(ended(session, "panic"), [("a".to_owned(), End::MachineGone("panic".to_owned()), 2)]);
        let mut transcript = transcript();
        transcript.write_all(b"mount: no such device\n").expect("memory takes all");
        let (cases, aside) = transcript.finish("");
        assert!(cases.is_empty());
        assert_eq!(aside.trim(), "mount: no such device");
    }

    #[test]
    fn times_are_differences() {
        let mut transcript = transcript();
        transcript.write_all(b"@case a dune\n@pass x\n@end a 0 5.25 7.50\n").expect("memory takes all");
        let (cases, _) = transcript.finish("");
        let outcome = &cases[0].outcome;
        assert_eq!((outcome.seconds, outcome.checks["x"]), (2.25, Verdict::Passed));
        assert_eq!(outcome.origin, "today");
    }
}
