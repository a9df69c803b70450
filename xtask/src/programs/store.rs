//! The results of all runs so far, below `target/`: a run of some cases changes only theirs.

use super::cases::Mode;
use super::transcript::Outcome;
use crate::error::{Error, Result};
use crate::workspace;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// The results of one case.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Results {
    /// The last native run.
    pub native: Option<Outcome>,
    /// The last run in Dune mode.
    pub dune: Option<Outcome>,
    /// The last run in the sandbox.
    #[serde(default)]
    pub sandbox: Option<Outcome>,
}

impl Results {
    /// The last run in that mode.
    pub fn of(&self, mode: Mode) -> Option<&Outcome> {
        match mode {
            Mode::Native => self.native.as_ref(),
            Mode::Dune => self.dune.as_ref(),
            Mode::Sandbox => self.sandbox.as_ref(),
        }
    }
}

/// The results of all cases by their names.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Store {
    /// The cases.
    pub cases: BTreeMap<String, Results>,
}

impl Store {
    /// What was written last; nothing if there is nothing that can be read.
    pub fn read() -> Self {
        let text = fs::read_to_string(folder().join("results.json")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Takes an outcome.
    pub fn put(&mut self, name: &str, mode: Mode, outcome: Outcome) {
        let results = self.cases.entry(name.to_owned()).or_default();
        match mode {
            Mode::Native => results.native = Some(outcome),
            Mode::Dune => results.dune = Some(outcome),
            Mode::Sandbox => results.sandbox = Some(outcome),
        }
    }

    /// Writes everything.
    pub fn write(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(self).expect("maps of plain values become JSON");
        write("results.json", &text)
    }
}

/// Keeps what a case printed; gives where.
pub fn keep_output(name: &str, mode: Mode, output: &str) -> Result<PathBuf> {
    let file = format!("{name}.{}.log", mode.name());
    write(&file, output)?;
    Ok(folder().join(file))
}

fn folder() -> PathBuf {
    workspace::root().join("target/programs")
}

fn write(name: &str, text: &str) -> Result<()> {
    let folder = folder();
    fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;
    let path = folder.join(name);
    fs::write(&path, text).map_err(Error::file("write", &path))
}
