//! Which cases have come in, read from the lines of libtest-mimic as a machine sends them.

use crate::tally::Tally;
use std::time::{Duration, Instant};

/// What the suite has said of its cases so far.
#[derive(Debug, Default)]
pub struct Cases {
    /// The last line, while it has no end.
    line: Vec<u8>,
    /// How many there are, once the suite has told.
    pub announced: Option<u64>,
    /// Those that have ended.
    pub tally: Tally,
    /// The names of those that failed.
    pub failed: Vec<String>,
    /// The one that has begun and not ended, and when.
    running: Option<(String, Instant)>,
    /// How long each that has ended took.
    times: Vec<(Duration, String)>,
}

/// How many of the slowest cases are told.
const SLOWEST: usize = 20;

impl Cases {
    /// Takes more of what the suite prints; whether a case began or ended, or the suite told how many there are.
    pub fn take(&mut self, output: &[u8]) -> bool {
        let mut news = false;
        for &byte in output {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                news |= self.read(&String::from_utf8_lossy(&line), true);
            } else {
                self.line.push(byte);
            }
        }
        let unfinished = String::from_utf8_lossy(&self.line).into_owned();
        self.read(&unfinished, false) || news
    }

    /// The case that is running.
    pub fn running(&self) -> Option<&str> {
        self.running.as_ref().map(|(name, _)| name.as_str())
    }

    /// How many have ended.
    pub fn ended(&self) -> u64 {
        self.tally.passed + self.tally.failed + self.tally.skipped
    }

    /// The slowest cases with their times, in words; nothing if none took long.
    pub fn slowest(&self) -> String {
        const LONG: Duration = Duration::from_secs(5);
        let times = self.times();
        let long = times.iter().filter(|(time, _)| *time >= LONG).take(SLOWEST);
        long.map(|(time, name)| format!("{name} {} s", time.as_secs())).collect::<Vec<_>>().join(", ")
    }

    /// How long each case that has ended took, the longest first.
    pub fn times(&self) -> Vec<(Duration, &str)> {
        let mut times: Vec<_> = self.times.iter().map(|(time, name)| (*time, name.as_str())).collect();
        times.sort_by(|one, other| other.cmp(one));
        times
    }

    /// Reads a line like `test NAME ... ok`, or its start. Other lines may come between the start and the end of one: what
    /// the runner or the machine's kernel have to say.
    fn read(&mut self, line: &str, whole: bool) -> bool {
        let line = line.trim_end_matches('\r');
        let title = line.strip_prefix("running ").and_then(|rest| rest.split_once(' '));
        if let Some((count, "test" | "tests")) = title {
            let news = whole && self.announced.is_none();
            self.announced = self.announced.or(count.parse().ok());
            return news;
        }
        let start = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "));
        let (mut news, rest) = match start {
            Some((name, rest)) => (self.begin(name.trim_end()), rest),
            None => (false, line),
        };
        if whole {
            news |= self.end(rest.trim());
        }
        news
    }

    fn begin(&mut self, name: &str) -> bool {
        if self.running() == Some(name) {
            return false;
        }
        self.running = Some((name.to_owned(), Instant::now()));
        true
    }

    /// Takes note of the running case's outcome, if `word` is one.
    fn end(&mut self, word: &str) -> bool {
        let count = match word {
            "ok" => &mut self.tally.passed,
            "FAILED" => &mut self.tally.failed,
            _ if word.starts_with("ignored") => &mut self.tally.skipped,
            _ => return false,
        };
        let Some((name, since)) = self.running.take() else { return false };
        *count += 1;
        self.times.push((since.elapsed(), name.clone()));
        if word == "FAILED" {
            self.failed.push(name);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &[u8] =
        b"\nrunning 5 tests\ntest a::one     ... ok\ntest a::another ... skip a::another: no such CPU\n\
        ignored, no such CPU\ntest b          ... time limit of 600s reached\nFAILED\n\
        test c          ... [   12.3] BUG: soft lockup\r\nok\ntest d          ... ";

    #[test]
    fn cases_are_counted_as_they_come() {
        for size in 1..40 {
            let mut cases = Cases::default();
            OUTPUT.chunks(size).for_each(|piece| _ = cases.take(piece));
            assert_eq!(cases.announced, Some(5), "pieces of {size}");
            assert_eq!(cases.tally, Tally { passed: 2, failed: 1, skipped: 1 }, "pieces of {size}");
            assert_eq!((cases.running(), cases.ended()), (Some("d"), 4), "pieces of {size}");
            assert_eq!(cases.failed, ["b"]);
        }
    }

    #[test]
    fn only_cases_are_progress() {
        let mut cases = Cases::default();
        assert!(!cases.take(b"\nrunning 2 te"));
        assert!(cases.take(b"sts\n"));
        assert!(!cases.take(b"test a "));
        assert!(cases.take(b"... "));
        assert!(!cases.take(b"[   12.3] watchdog: BUG: soft lockup - CPU#1 stuck for 22s!\r\n"));
        assert!(!cases.take(b"[   38.3] watchdog: BUG: soft lockup - CPU#1 stuck for 48s!\r\n"));
        assert!(cases.take(b"ok\n"));
        assert!(!cases.take(b"ok\n"), "no case is running");
        assert_eq!(cases.tally.passed, 1);
    }
}
