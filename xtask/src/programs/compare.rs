//! What a case's run in Dune mode, or in the sandbox, lacks against its native run.

use super::checks::{Checks, Verdict};
use super::transcript::{End, Outcome};

/// Whether a native run is fit to compare with: it ended by itself and something passed. If not, why.
pub fn native_fault(outcome: &Outcome) -> Option<String> {
    let failed = names(&outcome.checks, |verdict| !matches!(verdict, Verdict::Passed | Verdict::Skipped));
    match &outcome.end {
        End::Status(0) if !failed.is_empty() => {
            Some(format!("status 0, but not passed: {}", failed.join(", ")))
        }
        End::Status(0) if !outcome.checks.values().any(|&verdict| verdict == Verdict::Passed) => {
            Some("it made no check".to_owned())
        }
        End::Status(0) => None,
        end => Some(format!("{}; not passed: {}", describe(end), list(&failed))),
    }
}

/// What is worse in another mode, one sentence each; nothing if all that passes natively passes.
pub fn differences(native: &Outcome, other: &Outcome) -> Vec<String> {
    let mut all = Vec::new();
    if other.end != native.end {
        all.push(format!("{} (natively: {})", describe(&other.end), describe(&native.end)));
    }
    let verdicts = [
        (Some(Verdict::Failed), "failed"),
        (Some(Verdict::Unfinished), "begun, but not ended"),
        (Some(Verdict::Skipped), "skipped"),
        (None, "not run"),
    ];
    for (verdict, word) in verdicts {
        let lost = names(&native.checks, |native| native == Verdict::Passed)
            .into_iter()
            .filter(|name| other.checks.get(*name).copied() == verdict)
            .collect::<Vec<_>>();
        if !lost.is_empty() {
            all.push(format!("{word}: {}", list(&lost)));
        }
    }
    // What natively does not exist and fails here, for example a class's preparation.
    let new = names(&other.checks, |verdict| verdict == Verdict::Failed)
        .into_iter()
        .filter(|name| !native.checks.contains_key(*name))
        .collect::<Vec<_>>();
    if !new.is_empty() {
        all.push(format!("failed, and natively not run: {}", list(&new)));
    }
    all
}

/// The end of a case in words.
pub fn describe(end: &End) -> String {
    match end {
        End::Status(status @ 129..=192) => format!("ended by signal {}", status - 128),
        End::Status(status) => format!("ended with status {status}"),
        End::TimedOut => "not ended within its time limit".to_owned(),
        End::MachineGone(why) => format!("the machine went down: {why}"),
    }
}

/// The names of the checks with such a verdict.
fn names(checks: &Checks, wanted: impl Fn(Verdict) -> bool) -> Vec<&str> {
    checks.iter().filter(|(_, verdict)| wanted(**verdict)).map(|(name, _)| name.as_str()).collect()
}

/// Names in a row; of many the first ones.
fn list(names: &[&str]) -> String {
    const SHOWN: usize = 40;
    let more = names.len().saturating_sub(SHOWN);
    let shown = names[..names.len() - more].iter().map(|name| format!("`{name}`")).collect::<Vec<_>>();
    let shown = if shown.is_empty() { "nothing".to_owned() } else { shown.join(", ") };
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs::{checks, denials};

    fn outcome(end: End, output: &str) -> Outcome {
        let (checks, denials) = (checks::parse(output), denials::parse(output));
        Outcome { end, seconds: 1.0, checks, denials, origin: String::new() }
    }

    #[test]
    fn the_same_passes_are_no_difference() {
        let native = outcome(End::Status(0), "@pass a\n@skip b\n@pass c\n");
        assert!(differences(&native, &native).is_empty());
        assert_eq!(native_fault(&native), None);
        // What is skipped natively may do as it likes.
        let more = outcome(End::Status(0), "@pass a\n@pass b\n@pass c\n");
        assert!(differences(&native, &more).is_empty());
    }

    #[test]
    fn every_kind_of_loss_is_told() {
        let native = outcome(End::Status(0), "@pass a\n@pass b\n@pass c\n@pass d\n");
        let dune = outcome(End::Status(139), "@pass a\n@fail b\n@skip c\n@fail e\n");
        let expected = [
            "ended by signal 11 (natively: ended with status 0)",
            "failed: `b`",
            "skipped: `c`",
            "not run: `d`",
            "failed, and natively not run: `e`",
        ];
        assert_eq!(differences(&native, &dune), expected);
    }

    #[test]
    fn a_native_run_without_passes_is_no_measure() {
        assert!(native_fault(&outcome(End::Status(0), "")).is_some());
        assert!(native_fault(&outcome(End::Status(0), "@pass a\n@fail b\n")).is_some());
        assert!(native_fault(&outcome(End::TimedOut, "@pass a\n")).is_some());
        assert!(native_fault(&outcome(End::Status(0), "@pass a\n")).is_none());
    }
}
