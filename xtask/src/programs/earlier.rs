//! What the page says already, of runs whose results are not below `target/`: in a fresh checkout, of all.

use super::cases::Mode;

/// The page as it stands.
#[derive(Debug, Clone, Copy)]
pub struct Earlier<'a>(pub &'a str);

impl<'a> Earlier<'a> {
    /// What came of the case in that mode; nothing if it was not run.
    pub fn cell(self, case: &str, mode: Mode) -> Option<&'a str> {
        let start = format!("| `{case}` | ");
        let row = self.0.lines().find_map(|line| line.strip_prefix(&start))?;
        let cell = row.split(" | ").nth(mode as usize)?;
        // An outcome tells its seconds.
        cell.contains("; ").then_some(cell)
    }

    /// What is told of the case in that mode.
    pub fn details(self, case: &str, mode: Mode) -> impl Iterator<Item = &'a str> {
        let place = format!("{}: ", mode.place());
        self.sentences(case).filter(move |sentence| sentence.starts_with(&place))
    }

    /// What the case's policy denied.
    pub fn denials(self, case: &str) -> Option<&'a str> {
        self.sentences(case).find_map(|sentence| sentence.strip_prefix("denied: "))
    }

    /// The lines of lists that are about the case.
    fn sentences(self, case: &str) -> impl Iterator<Item = &'a str> {
        let start = format!("* `{case}`: ");
        self.0.lines().filter_map(move |line| line.strip_prefix(&start))
    }

    /// The notes.
    pub fn notes(self) -> Option<&'a str> {
        let (_, rest) = self.0.split_once("<!-- notes -->")?;
        rest.split_once("<!-- /notes -->").map(|(inside, _)| inside)
    }
}
