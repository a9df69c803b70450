//! The page `docs/programs.md`: written from results, except for the notes in it.

use super::cases::{CASES, Case};
use super::compare;
use super::store::{Results, Store};
use super::transcript::Outcome;
use crate::programs::checks::Verdict;

/// Under which conditions the results came about.
#[derive(Debug)]
pub struct Conditions {
    /// The day of the last run.
    pub date: String,
    /// The machine's kernel.
    pub kernel: String,
    /// The packages on its disk, a line each.
    pub packages: String,
}

const INTRODUCTION: &str = "\
# Programs

Real programs on `svm` (QEMU, 2 CPUs): natively, in Dune mode by `dune enter -- PROGRAM`, and in the sandbox, in ring 3, by
`dune run --policy allow-all -- PROGRAM`. This page is written by `cargo xtask programs`; only what lies between the notes
markers is kept. A case is a script in `xtask/src/programs/cases` that makes checks; a module of Python's tests has its
tests for checks. In the other modes a case is as it should be if it ends as it does natively and every check that passes
natively passes. Seconds are the machine's, which QEMU translates: they
tell whether something hangs, and nothing of speed.
";

const EMPTY_NOTES: &str = "\n";

/// The packages whose versions the page names.
const NAMED: &[&str] = &[
    "bash",
    "busybox",
    "dash",
    "gcc-12",
    "git",
    "libc6",
    "nodejs",
    "openjdk-17-jdk-headless",
    "openssl",
    "postgresql-15",
    "python3",
    "redis-server",
    "sqlite3",
];

/// The page; the notes come from `old`.
pub fn page(old: &str, store: &Store, conditions: &Conditions) -> String {
    let notes = notes(old).unwrap_or(EMPTY_NOTES);
    let nothing = Results::default();
    let results: Vec<(&Case, &Results)> =
        CASES.iter().map(|case| (case, store.cases.get(case.name).unwrap_or(&nothing))).collect();
    let mut text = format!("{INTRODUCTION}\n| | |\n|---|---|\n| date | {} |\n", conditions.date);
    text +=
        &format!("| kernel | {} |\n| packages | {} |\n\n", conditions.kernel, versions(&conditions.packages));
    text += "| case | native | Dune mode | sandbox | differences | what runs |\n|---|---|---|---|---|---|\n";
    for (case, results) in &results {
        let cell = |outcome: &Option<Outcome>| outcome.as_ref().map_or("not run".to_owned(), summary);
        let cells = [
            format!("`{}`", case.name),
            cell(&results.native),
            cell(&results.dune),
            cell(&results.sandbox),
            verdict(results),
            case.what.to_owned(),
        ];
        text += &format!("| {} |\n", cells.join(" | "));
    }
    text += &format!("\n## Causes\n\n<!-- notes -->{notes}<!-- /notes -->\n\n## Differences\n\n");
    let mut different = false;
    for (case, results) in &results {
        for line in details(results) {
            different = true;
            text += &format!("* `{}`: {line}\n", case.name);
        }
    }
    if !different {
        text += "None.\n";
    }
    text
}

/// Whether a page of these results would have a row for each case at all.
pub fn is_complete(store: &Store) -> bool {
    CASES.iter().all(|case| store.cases.get(case.name).is_some_and(|results| results.native.is_some()))
}

/// The outcome in a few words.
pub fn summary(outcome: &Outcome) -> String {
    let count = |wanted| outcome.checks.values().filter(|&&verdict| verdict == wanted).count();
    let mut parts = vec![format!("{} passed", count(Verdict::Passed))];
    let others =
        [(Verdict::Failed, "failed"), (Verdict::Unfinished, "unfinished"), (Verdict::Skipped, "skipped")];
    for (verdict, word) in others {
        if count(verdict) > 0 {
            parts.push(format!("{} {word}", count(verdict)));
        }
    }
    if outcome.end != super::transcript::End::Status(0) {
        parts.push(compare::describe(&outcome.end));
    }
    format!("{}; {:.0} s", parts.join(", "), outcome.seconds)
}

/// The cell on the differences.
fn verdict(results: &Results) -> String {
    let Some(native) = &results.native else { return "–".to_owned() };
    let others: Vec<_> = [&results.dune, &results.sandbox].into_iter().flatten().collect();
    let is_different = others.iter().any(|other| !compare::differences(native, other).is_empty());
    match others[..] {
        [] => "–",
        _ if is_different => "**see below**",
        _ => "none",
    }
    .to_owned()
}

/// What is to be told of a case, one sentence each.
pub fn details(results: &Results) -> Vec<String> {
    let Some(native) = &results.native else { return Vec::new() };
    let fault = compare::native_fault(native).map(|fault| format!("natively: {fault}"));
    let modes = [("in Dune mode", &results.dune), ("in the sandbox", &results.sandbox)];
    let worse = modes.into_iter().flat_map(|(where_, outcome)| {
        let lines = outcome.iter().flat_map(|outcome| compare::differences(native, outcome));
        lines.map(move |line| format!("{where_}: {line}"))
    });
    fault.into_iter().chain(worse).collect()
}

/// The versions of the packages that matter.
fn versions(packages: &str) -> String {
    let versions = packages.lines().filter_map(|line| {
        let (name, version) = line.split_once('=')?;
        NAMED.contains(&name).then(|| format!("{name} {version}"))
    });
    versions.collect::<Vec<_>>().join(", ")
}

/// The notes of a page.
fn notes(page: &str) -> Option<&str> {
    let (_, rest) = page.split_once("<!-- notes -->")?;
    rest.split_once("<!-- /notes -->").map(|(inside, _)| inside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs::cases::Mode;
    use crate::programs::checks;
    use crate::programs::transcript::End;

    fn conditions() -> Conditions {
        Conditions {
            date: "2026-11-22".to_owned(),
            kernel: "6.12".to_owned(),
            packages: "libfoo=1\nsqlite3=3.40.1-2\n".to_owned(),
        }
    }

    fn outcome(status: u8, output: &str) -> Outcome {
        Outcome { end: End::Status(status), seconds: 12.4, checks: checks::parse(output) }
    }

    #[test]
    fn a_page_has_a_row_per_case_and_keeps_its_notes() {
        let mut store = Store::default();
        assert!(!is_complete(&store));
        for case in CASES {
            store.put(case.name, Mode::Native, outcome(0, "@pass a\n@pass b\n@skip c\n"));
        }
        assert!(is_complete(&store));
        let native = page("", &store, &conditions());
        assert!(
            native
                .contains("| `sqlite` | 2 passed, 1 skipped; 12 s | not run | not run | – | sqlite3 builds"),
            "{native}"
        );
        assert!(
            native.contains("| packages | sqlite3 3.40.1-2 |") && native.ends_with("None.\n"),
            "{native}"
        );

        store.put("sqlite", Mode::Dune, outcome(1, "@pass a\n@fail b\n"));
        store.put("redis", Mode::Dune, outcome(0, "@pass a\n@pass b\n"));
        let noted = native.replace("<!-- notes -->\n", "<!-- notes -->\nbecause\n");
        let both = page(&noted, &store, &conditions());
        assert!(both.contains("<!-- notes -->\nbecause\n<!-- /notes -->"), "{both}");
        assert!(
            both.contains("| 1 passed, 1 failed, ended with status 1; 12 s | not run | **see below** |"),
            "{both}"
        );
        assert!(both.contains("* `sqlite`: in Dune mode: failed: `b`\n"), "{both}");
        assert!(
            both.contains("| `redis` | 2 passed, 1 skipped; 12 s | 2 passed; 12 s | not run | none |"),
            "{both}"
        );
        assert_eq!(page(&both, &store, &conditions()), both);
    }
}
