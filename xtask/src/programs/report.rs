//! The page `docs/programs.md`: written from results, except for the notes in it.

use super::cases::{CASES, Mode};
use super::compare;
use super::denials;
use super::earlier::Earlier;
use super::store::{Results, Store};
use super::transcript::Outcome;
use crate::programs::checks::Verdict;

/// Under which conditions the results came about.
#[derive(Debug)]
pub struct Conditions {
    /// The day on which the page is written.
    pub date: String,
    /// The machine's kernel.
    pub kernel: String,
    /// The packages on its disk, a line each.
    pub packages: String,
}

const INTRODUCTION: &str = "\
# Programs

Real programs on `svm` (QEMU, 2 CPUs): natively, in Dune mode by `dune enter -- PROGRAM`, and in the sandbox, in ring 3, by
`dune run --policy allow-all -- PROGRAM`, or with the policy that the last column names. This page is written by `cargo
xtask programs`; only what lies between the notes
markers is kept. A case is a script in `xtask/src/programs/cases` that makes checks; a module of Python's tests has its
tests for checks. In the other modes a case is as it should be if it ends as it does natively and every check that passes
natively passes; under a policy what is outside must stay there, besides, and what the policy denied is named at the end. Seconds are the machine's, which QEMU translates: they
tell whether something hangs, and nothing of speed. After them come the day of that run, and the commit that `dune` was built from, with `+` if it was
changed since: a run of some cases changes only theirs.
";

const EMPTY_NOTES: &str = "\n";

/// The packages whose versions the page names.
const NAMED: &[&str] = &[
    "apache2-utils",
    "bash",
    "busybox",
    "coreutils",
    "dash",
    "gcc-12",
    "git",
    "libc6",
    "lighttpd",
    "make",
    "nginx",
    "nodejs",
    "openjdk-17-jdk-headless",
    "openssl",
    "perl",
    "postgresql-15",
    "python3",
    "redis-server",
    "sqlite3",
    "stress-ng",
];

/// The page; the notes come from `old`, and so does what the store does not know.
pub fn page(old: &str, store: &Store, conditions: &Conditions) -> String {
    let old = Earlier(old);
    let mut text = format!("{INTRODUCTION}\n| | |\n|---|---|\n| written | {} |\n", conditions.date);
    text +=
        &format!("| kernel | {} |\n| packages | {} |\n\n", conditions.kernel, versions(&conditions.packages));
    text += "| case | native | Dune mode | sandbox | differences | what runs |\n|---|---|---|---|---|---|\n";
    let (mut different, mut denied) = (String::new(), String::new());
    for case in CASES {
        let nothing = Results::default();
        let results = store.cases.get(case.name).unwrap_or(&nothing);
        let is_kept = |mode| results.of(mode).is_none();
        let kept = Mode::ALL.into_iter().filter(|&mode| is_kept(mode));
        let kept = kept.flat_map(|mode| old.details(case.name, mode)).map(str::to_owned);
        let lines: Vec<String> = details(results).into_iter().chain(kept).collect();
        let calls = match &results.sandbox {
            Some(outcome) => denials::sentence(&outcome.denials),
            None => old.denials(case.name).map(str::to_owned),
        };
        calls.iter().for_each(|calls| denied += &format!("* `{}`: denied: {calls}\n", case.name));
        let outcomes = Mode::ALL.map(|mode| {
            let new = results.of(mode).map(summary);
            new.or_else(|| old.cell(case.name, mode).map(str::to_owned))
        });
        let verdict = match &outcomes {
            _ if !lines.is_empty() => "**see below**",
            [Some(_), dune, sandbox] if dune.is_some() || sandbox.is_some() => "none",
            _ => "–",
        };
        let cells = Mode::ALL.into_iter().zip(outcomes).map(|(mode, outcome)| {
            let without = if case.runs_in(mode) { "not run" } else { "–" };
            outcome.unwrap_or_else(|| without.to_owned())
        });
        let cells: Vec<String> = cells.collect();
        text += &format!("| `{}` | {} | {verdict} | {} |\n", case.name, cells.join(" | "), case.what);
        lines.iter().for_each(|line| different += &format!("* `{}`: {line}\n", case.name));
    }
    let notes = old.notes().unwrap_or(EMPTY_NOTES);
    for list in [&mut different, &mut denied] {
        if list.is_empty() {
            *list += "None.\n";
        }
    }
    text + &format!(
        "\n## Causes\n\n<!-- notes -->{notes}<!-- /notes -->\n\n## Denials\n\n{denied}\n## Differences\n\n{different}"
    )
}

/// Whether a page of these results, and of what the old one knows, would have something to say of each case.
pub fn is_complete(old: &str, store: &Store) -> bool {
    CASES.iter().all(|case| {
        let is_known = store.cases.get(case.name).is_some_and(|results| results.native.is_some());
        is_known || Earlier(old).cell(case.name, Mode::Native).is_some()
    })
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
    let mut text = format!("{}; {:.0} s", parts.join(", "), outcome.seconds);
    if !outcome.origin.is_empty() {
        text += &format!("; {}", outcome.origin);
    }
    text
}

/// What is to be told of a case, one sentence each.
pub fn details(results: &Results) -> Vec<String> {
    let Some(native) = &results.native else { return Vec::new() };
    let place = Mode::Native.place();
    let fault = compare::native_fault(native).map(|fault| format!("{place}: {fault}"));
    let worse = [Mode::Dune, Mode::Sandbox].into_iter().flat_map(|mode| {
        let lines = results.of(mode).into_iter().flat_map(|outcome| compare::differences(native, outcome));
        lines.map(move |line| format!("{}: {line}", mode.place()))
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

#[cfg(test)]
mod tests {
    use super::*;
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
        let (checks, origin) = (checks::parse(output), "2026-11-21, abc".to_owned());
        Outcome { end: End::Status(status), seconds: 12.4, checks, denials: denials::parse(output), origin }
    }

    #[test]
    fn a_page_has_a_row_per_case_and_keeps_its_notes() {
        let mut store = Store::default();
        assert!(!is_complete("", &store));
        for case in CASES {
            store.put(case.name, Mode::Native, outcome(0, "@pass a\n@pass b\n@skip c\n"));
        }
        assert!(is_complete("", &store));
        let native = page("", &store, &conditions());
        assert!(
            native
                .contains("| `sqlite` | 2 passed, 1 skipped; 12 s; 2026-11-21, abc | not run | not run | – | sqlite3 builds"),
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
            both.contains(
                "| 1 passed, 1 failed, ended with status 1; 12 s; 2026-11-21, abc | not run | **see below** |"
            ),
            "{both}"
        );
        assert!(both.contains("* `sqlite`: in Dune mode: failed: `b`\n"), "{both}");
        assert!(
            both.contains(
                "1 skipped; 12 s; 2026-11-21, abc | 2 passed; 12 s; 2026-11-21, abc | not run | none |"
            ),
            "{both}"
        );
        assert!(
            both.contains("| `git-build` | 2 passed, 1 skipped; 12 s; 2026-11-21, abc | – | not run |"),
            "{both}"
        );
        assert_eq!(page(&both, &store, &conditions()), both);

        store.put(
            "git-build",
            Mode::Sandbox,
            outcome(0, "@pass a\n@denied socket\n@pass b\n@denied with the path \"/x\"\n"),
        );
        let both = page(&both, &store, &conditions());
        assert!(
            both.contains(
                "\n## Denials\n\n* `git-build`: denied: `socket`, `with the path \"/x\"`\n\n## Differences\n"
            ),
            "{both}"
        );
        assert!(both.contains("| `git-build` | 2 passed, 1 skipped; 12 s; 2026-11-21, abc | – | 2 passed; 12 s; 2026-11-21, abc | none |"), "{both}");

        // Of nothing but the page, it is the same; one new run changes what is said of it only.
        let fresh = Store::default();
        assert!(is_complete(&both, &fresh));
        assert_eq!(page(&both, &fresh, &conditions()), both);
        let mut mended = fresh;
        mended.put("sqlite", Mode::Native, outcome(0, "@pass a\n@pass b\n"));
        mended.put("sqlite", Mode::Dune, outcome(0, "@pass a\n@pass b\n"));
        let mended = page(&both, &mended, &conditions());
        assert!(mended.contains("| `sqlite` | 2 passed; 12 s; 2026-11-21, abc | 2 passed; "), "{mended}");
        assert!(mended.ends_with("None.\n"), "{mended}");
    }
}
