//! Reports as JSON: docs/sandbox.md has the schema.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use dune_bench::Unit;
use dune_sandbox::{Effective, Report};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output;

/// What changes in a way that readers have to know of gets another number.
const SCHEMA: &str = "dune-run/1";

/// Where JSON goes.
pub(super) enum Target {
    Output,
    File(PathBuf, File),
}

impl Target {
    /// A file by its path, standard output (`-`), or an open descriptor by its number.
    pub(super) fn open(to: &Path) -> Result<Target, Failure> {
        let text = to.to_string_lossy();
        let file = match text.parse::<u32>() {
            _ if text == "-" => return Ok(Target::Output),
            // Linux opens another description of the same file, or the same pipe.
            Ok(number) => OpenOptions::new().append(true).open(format!("/proc/self/fd/{number}")),
            Err(_) => OpenOptions::new().write(true).create(true).truncate(true).open(to),
        };
        let file = file.map_err(|why| Failure::Create { path: to.to_owned(), why })?;
        Ok(Target::File(to.to_owned(), file))
    }

    pub(super) fn write(self, value: &Value) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value)?;
        match self {
            Target::Output => output::line(&text),
            Target::File(path, mut file) => match file.write_all(format!("{text}\n").as_bytes()) {
                Err(why) if why.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Create { path, why }),
                _ => Ok(()),
            },
        }
    }
}

/// A policy, explained.
pub(super) fn explained(policy: &Effective) -> Value {
    json!({ "schema": SCHEMA, "dune": env!("CARGO_PKG_VERSION"), "policy": policy })
}

/// A run that is over.
pub(super) fn report(
    command: &[OsString],
    policy: &Effective,
    report: &Report,
    questions: Option<Vec<Value>>,
    unit: Unit,
) -> Value {
    let command: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    let mut value = json!({
        "schema": SCHEMA,
        "dune": env!("CARGO_PKG_VERSION"),
        "command": command,
        "policy": policy,
        "questions": questions,
        "unit": unit,
    });
    let report = serde_json::to_value(report).unwrap_or_default();
    if let (Some(all), Value::Object(more)) = (value.as_object_mut(), report) {
        all.extend(more);
    }
    value
}
