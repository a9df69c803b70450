//! How many tests passed, failed, were skipped.

use std::fmt;
use std::ops::AddAssign;

/// Counts of tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that did what they should.
    pub passed: u64,
    /// Tests that did not, and phases that came to no end.
    pub failed: u64,
    /// Tests that were not run, for a reason they told.
    pub skipped: u64,
}

impl Tally {
    /// The sum of the `test result:` lines in the output of `cargo test`.
    pub fn of_cargo_test(output: &str) -> Self {
        let mut sum = Self::default();
        for line in output.lines().filter(|line| line.starts_with("test result:")) {
            let counts = line.split_once(". ").map_or("", |(_, counts)| counts);
            sum += Self::of_counts(counts, ';');
        }
        sum
    }

    /// What the last `dune-tests: N passed, N failed, N skipped` in the output of the suite says.
    pub fn of_suite(output: &str) -> Option<Self> {
        let counts = output.lines().rev().find_map(|line| line.trim().strip_prefix("dune-tests: "))?;
        Some(Self::of_counts(counts, ','))
    }

    fn of_counts(counts: &str, separator: char) -> Self {
        let mut tally = Self::default();
        for (number, what) in counts.split(separator).filter_map(|count| count.trim().split_once(' ')) {
            let number = number.parse().unwrap_or(0);
            match what {
                "passed" => tally.passed = number,
                "failed" => tally.failed = number,
                "ignored" | "skipped" => tally.skipped = number,
                _ => (),
            }
        }
        tally
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_lines_are_summed() {
        let output = "running 2 tests\ntest a ... ok\n\
            test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.01s\n\
            test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n";
        assert_eq!(Tally::of_cargo_test(output), Tally { passed: 7, failed: 3, skipped: 1 });
    }

    #[test]
    fn the_suites_last_line_counts() {
        let output =
            "dune-tests: 1 passed, 0 failed, 0 skipped\nmore\ndune-tests: 40 passed, 1 failed, 2 skipped\n";
        assert_eq!(Tally::of_suite(output), Some(Tally { passed: 40, failed: 1, skipped: 2 }));
        assert_eq!(Tally::of_suite("nothing"), None);
    }

    #[test]
    fn the_last_line_is_plain() {
        assert_eq!(Tally { passed: 3, failed: 2, skipped: 1 }.to_string(), "3 passed, 2 failed, 1 skipped");
    }
}
