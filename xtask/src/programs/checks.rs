//! The checks in a case's output: lines `@pass NAME`, `@fail NAME`, `@skip NAME`, and those of Python's test runner.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What came of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It passed, or failed as it is expected to.
    Passed,
    /// It failed.
    Failed,
    /// It was not made: something is missing here.
    Skipped,
    /// It was begun, and no result is there.
    Unfinished,
}

/// The checks of one run by their names.
pub type Checks = BTreeMap<String, Verdict>;

/// Finds the checks in a case's output.
pub fn parse(output: &str) -> Checks {
    let mut checks = Checks::new();
    let mut running: Option<String> = None;
    for line in output.lines().map(str::trim_end) {
        if let Some((name, verdict)) = own(line) {
            note(&mut checks, name, verdict);
            continue;
        }
        if let Some(test) = broken(line) {
            note(&mut checks, test, Verdict::Failed);
            continue;
        }
        if let Some(test) = begun(line) {
            checks.entry(test.clone()).or_insert(Verdict::Unfinished);
            running = Some(test);
        }
        if let Some(test) = running.as_deref()
            && let Some(verdict) = verdict_at_end(line)
        {
            note(&mut checks, test.to_owned(), verdict);
            running = None;
        }
    }
    let found = checks.values().filter(|&&verdict| verdict != Verdict::Unfinished).count();
    if python_count(output).is_some_and(|count| found < count) {
        checks.insert("a result of each test that Python counts".to_owned(), Verdict::Failed);
    }
    checks
}

/// How many tests Python's runner says it ran, of all its modules.
fn python_count(output: &str) -> Option<usize> {
    let counts = output.lines().filter_map(|line| {
        let (number, rest) = line.strip_prefix("Ran ")?.split_once(" test")?;
        rest.contains(" in ").then(|| number.parse().ok())?
    });
    counts.fold(None, |sum: Option<usize>, count: usize| Some(sum.unwrap_or(0) + count))
}

/// Takes note of a verdict; a failure stays one, whatever else is said of the check.
fn note(checks: &mut Checks, name: String, verdict: Verdict) {
    let noted = checks.entry(name).or_insert(verdict);
    if *noted != Verdict::Failed {
        *noted = verdict;
    }
}

/// A line of our scripts and programs.
fn own(line: &str) -> Option<(String, Verdict)> {
    let (word, name) = line.strip_prefix('@')?.split_once(' ')?;
    let verdict = match word {
        "pass" => Verdict::Passed,
        "fail" => Verdict::Failed,
        "skip" => Verdict::Skipped,
        _ => return None,
    };
    Some((name.to_owned(), verdict))
}

/// The test in the heading of a failure's description: `FAIL: test_x (test.test_m.Class.test_x)`.
fn broken(line: &str) -> Option<String> {
    begun(line.strip_prefix("FAIL: ").or_else(|| line.strip_prefix("ERROR: "))?)
}

/// The test that a line like `test_x (test.test_m.Class.test_x) ... ok` begins, as `Class.test_x`. The description may
/// come in the next line, and so may the result, after what the test prints.
fn begun(line: &str) -> Option<String> {
    let (name, rest) = line.split_once(" (test.")?;
    let (place, _) = rest.split_once(')')?;
    if name.is_empty() || name.contains(|letter: char| letter != '_' && !letter.is_alphanumeric()) {
        return None;
    }
    let class = place.split_once('.').map_or(place, |(_module, class)| class);
    // Before Python 3.11 the place ends with the class.
    let qualified = class.strip_suffix(name).is_some_and(|before| before.ends_with('.'));
    Some(if qualified { class.to_owned() } else { format!("{class}.{name}") })
}

/// The result that ends a line of Python's runner.
fn verdict_at_end(line: &str) -> Option<Verdict> {
    let results = [
        ("ok", Verdict::Passed),
        ("expected failure", Verdict::Passed),
        ("unexpected success", Verdict::Failed),
        ("FAIL", Verdict::Failed),
        ("ERROR", Verdict::Failed),
    ];
    if let Some((_, verdict)) = results.iter().find(|(word, _)| line.ends_with(word)) {
        return Some(*verdict);
    }
    let quoted = line.ends_with('\'') || line.ends_with('"');
    (quoted && (line.contains("... skipped ") || line.starts_with("skipped "))).then_some(Verdict::Skipped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Failed, Passed, Skipped, Unfinished};

    fn expect(output: &str, expected: &[(&str, Verdict)]) {
        let expected: Checks =
            expected.iter().map(|(name, verdict)| ((*name).to_owned(), *verdict)).collect();
        assert_eq!(parse(output), expected);
    }

    #[test]
    fn our_lines_are_read() {
        expect(
            "noise\n@pass a b\n@fail c\nx@pass no\n@skip d\n@end 0\n@pass c\n",
            &[("a b", Passed), ("c", Failed), ("d", Skipped)],
        );
    }

    #[test]
    fn pythons_lines_are_read() {
        // Taken from a run of test_signal, Python 3.11.
        expect(
            "== cwd: /tmp/x\n\
             test_keyboard_interrupt_exit_code (test.test_signal.PosixTests.test_keyboard_interrupt_exit_code)\n\
             KeyboardInterrupt triggers exit via SIGINT. ... ok\n\
             test_invalid_argument (test.test_signal.RaiseSignalTest.test_invalid_argument) ... skipped 'Windows specific test'\n\
             test_stress (test.test_signal.StressTest.test_stress)\n\
             This test uses dependent signal handlers. ... detected median itimer() resolution: 0.000029 s.\n\
             ok\n\
             Ran 3 tests in 47.546s\n",
            &[
                ("PosixTests.test_keyboard_interrupt_exit_code", Passed),
                ("RaiseSignalTest.test_invalid_argument", Skipped),
                ("StressTest.test_stress", Passed),
            ],
        );
    }

    #[test]
    fn failures_and_what_never_ended_are_told() {
        expect(
            "test_a (test.test_m.C.test_a) ... all was ok\n\
             test_b (test.test_m.C.test_b) ... FAIL\n\
             test_c (test.test_m.C.test_c) ... ERROR\n\
             test_d (test.test_m.C.test_d) ... expected failure\n\
             FAIL: test_a (test.test_m.C.test_a) (i=3)\n\
             ERROR: setUpClass (test.test_m.D)\n\
             test_old (test.test_m.C) ... ok\n\
             test_e (test.test_m.C.test_e) ... talking",
            &[
                ("C.test_a", Failed),
                ("C.test_b", Failed),
                ("C.test_c", Failed),
                ("C.test_d", Passed),
                ("D.setUpClass", Failed),
                ("C.test_old", Passed),
                ("C.test_e", Unfinished),
            ],
        );
    }

    #[test]
    fn a_result_that_is_not_found_is_a_failure() {
        let checks = parse("test_a (test.test_m.C.test_a) ... ok\nRan 2 tests in 0.1s\n");
        assert_eq!(checks.len(), 2);
        assert!(checks.values().any(|&verdict| verdict == Failed));
    }

    #[test]
    fn pythons_count_is_found() {
        assert_eq!(python_count("Ran 55 tests in 47.546s\nx\nRan 1 test in 0.1s\n"), Some(56));
        assert_eq!(python_count("Ran away\n"), None);
    }
}
