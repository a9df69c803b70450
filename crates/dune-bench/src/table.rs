//! The result: as text for people, as JSON for programs.

use std::fmt;

use dune::doctor::{HostFacts, Virtualization, examine};
use serde::Serialize;
use serde::ser::SerializeStruct;

use crate::cycles::Unit;
use crate::error::BenchError;
use crate::rows::Row;
use crate::stats::Summary;

/// A table of measurements, and where they were made.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Table {
    /// The emulated machine (`svm`, `vtx`), or `host`.
    pub machine: String,
    /// The processor's name.
    pub cpu: String,
    /// The kernel's release.
    pub kernel: String,
    /// The kernel's command line: `mitigations=off` and the like change path lengths.
    pub command_line: String,
    /// What Linux says of huge pages for anonymous memory; the word in brackets counts.
    pub huge_pages: String,
    /// What ran Dune mode; `none` if only Linux was measured.
    pub engine: String,
    /// What the figures count. The two kinds compare with nothing of the other.
    pub unit: Unit,
    /// Repeats behind each median.
    pub repeats: u32,
    /// The rows.
    pub rows: Vec<Measurement>,
}

/// One row, measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measurement {
    row: Row,
    linux: Option<Summary>,
    dune: Option<Summary>,
    sandbox: Option<Summary>,
}

impl Measurement {
    /// A row whose Dune side is yet to come.
    pub(crate) fn new(row: Row, linux: Option<Summary>) -> Measurement {
        Measurement { row, linux, dune: None, sandbox: None }
    }

    pub(crate) fn set_dune(&mut self, dune: Option<Summary>) {
        self.dune = dune;
    }

    /// Which row.
    pub fn row(&self) -> Row {
        self.row
    }

    /// The figure in host mode, if it was measured.
    pub fn linux(&self) -> Option<Summary> {
        self.linux
    }

    /// The figure in Dune mode, if it was measured.
    pub fn dune(&self) -> Option<Summary> {
        self.dune
    }

    /// The figure of the same work in a sandbox, if it was measured.
    pub fn sandbox(&self) -> Option<Summary> {
        self.sandbox
    }

    /// How many times cheaper Dune is: Linux's median by Dune's.
    pub fn ratio(&self) -> Option<f64> {
        match (self.linux, self.dune) {
            (Some(linux), Some(dune)) if dune.median > 0.0 => Some(linux.median / dune.median),
            _ => None,
        }
    }

    /// The same of the paper's figures.
    pub fn paper_ratio(&self) -> Option<f64> {
        self.row.paper().map(|paper| paper.linux / paper.dune)
    }
}

/// Two digits behind the point are more than any figure holds.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

impl Serialize for Measurement {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let figure = |summary: Option<Summary>, of: fn(Summary) -> f64| summary.map(of).map(round);
        // A ratio below 1 needs its leading digits.
        let ratio = self.ratio().map(|ratio| (ratio * 10_000.0).round() / 10_000.0);
        let paper = self.row.paper();
        let mut row =
            serializer.serialize_struct("Measurement", if self.sandbox.is_some() { 13 } else { 10 })?;
        row.serialize_field("name", &self.row)?;
        row.serialize_field("linux", &figure(self.linux, |summary| summary.median))?;
        row.serialize_field("dune", &figure(self.dune, |summary| summary.median))?;
        row.serialize_field("ratio", &ratio)?;
        row.serialize_field("paper_linux", &paper.map(|paper| paper.linux))?;
        row.serialize_field("paper_dune", &paper.map(|paper| paper.dune))?;
        row.serialize_field("linux_min", &figure(self.linux, |summary| summary.min))?;
        row.serialize_field("linux_max", &figure(self.linux, |summary| summary.max))?;
        row.serialize_field("dune_min", &figure(self.dune, |summary| summary.min))?;
        row.serialize_field("dune_max", &figure(self.dune, |summary| summary.max))?;
        if let Some(sandbox) = self.sandbox {
            row.serialize_field("sandbox", &round(sandbox.median))?;
            row.serialize_field("sandbox_min", &round(sandbox.min))?;
            row.serialize_field("sandbox_max", &round(sandbox.max))?;
        }
        row.end()
    }
}

impl Table {
    /// An empty table that says where it is made. Without `facts`, Dune mode has no part in it.
    pub(crate) fn describe(unit: Unit, facts: Option<&HostFacts>) -> Table {
        let (cpu, kernel, engine) = match facts {
            Some(facts) => {
                let technique = match facts.cpu.virtualization {
                    Virtualization::Vmx => "VT-x",
                    Virtualization::Svm => "SVM",
                    _ => "unknown",
                };
                let engine = format!("{} ({technique}, {} paging)", facts.engine.name, facts.engine.paging);
                (facts.cpu.model.clone(), facts.kernel.clone(), engine)
            }
            None => {
                let report = examine();
                (report.cpu().model.clone(), report.kernel().to_string(), "none".to_string())
            }
        };
        Table {
            machine: std::env::var("DUNE_MACHINE").unwrap_or_else(|_| "host".to_string()),
            cpu,
            kernel,
            command_line: first_line("/proc/cmdline"),
            huge_pages: first_line("/sys/kernel/mm/transparent_hugepage/enabled"),
            engine,
            unit,
            repeats: 0,
            rows: Vec::new(),
        }
    }

    /// The table as JSON, in lines.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    /// Adds what the Linux side of these rows costs in a sandbox: the JSON that `dune bench --linux-only` has printed there.
    ///
    /// # Errors
    ///
    /// [`BenchError::NoTable`] if it is none.
    pub fn add_sandbox(&mut self, json: &str) -> Result<(), BenchError> {
        let other: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
        let rows = other["rows"].as_array().ok_or_else(|| BenchError::NoTable { text: json.to_owned() })?;
        for row in &mut self.rows {
            let found = rows.iter().find(|other| other["name"] == row.row.name());
            let figure = |of: &str| found.and_then(|found| found[of].as_f64());
            let all = (figure("linux"), figure("linux_min"), figure("linux_max"));
            if let (Some(median), Some(min), Some(max)) = all {
                row.sandbox = Some(Summary { median, min, max });
            }
        }
        Ok(())
    }

    /// What a reader must know of the unit.
    fn unit_note(&self) -> &'static str {
        match (self.unit, self.machine.as_str()) {
            (Unit::Instructions, _) => {
                "instructions per operation: path length, the same on every computer; caches, TLB misses and the cost \
                 of a VM exit itself are not in it"
            }
            (Unit::Cycles, "svm") => {
                "cycles of the computer below the emulator: on this machine they tell nothing about Dune or Linux"
            }
            (Unit::Cycles, "vtx") => {
                "cycles: the time-stamp counter does not count instructions here, although this machine's should"
            }
            (Unit::Cycles, _) => "cycles of the time-stamp counter per operation",
        }
    }
}

fn first_line(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_string()
}

/// `1234567.8` as `1,234,568`; small figures keep a digit behind the point, a missing one is `-`.
fn figure(value: Option<f64>) -> String {
    let Some(value) = value else { return "-".to_string() };
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A ratio with three digits that mean something.
fn ratio(value: Option<f64>) -> String {
    match value {
        None => "-".to_string(),
        Some(value) if value < 10.0 => format!("{value:.2}"),
        Some(value) if value < 100.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}

fn spread(summary: Option<Summary>) -> String {
    match summary {
        None => "-".to_string(),
        Some(summary) => format!("{} - {}", figure(Some(summary.min)), figure(Some(summary.max))),
    }
}

const HEADINGS: [&str; 7] =
    ["row", "Linux", "Dune", "Linux/Dune", "paper", "Linux min - max", "Dune min - max"];
/// Where a sandbox has been measured.
const MORE_HEADINGS: [&str; 2] = ["sandbox", "sandbox min - max"];

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "machine  {}", self.machine)?;
        writeln!(f, "cpu      {}", self.cpu)?;
        writeln!(f, "kernel   {}", self.kernel)?;
        writeln!(f, "         {}", self.command_line)?;
        writeln!(f, "huge     {}", self.huge_pages)?;
        writeln!(f, "engine   {}", self.engine)?;
        writeln!(f, "unit     {}", self.unit_note())?;
        writeln!(f, "figures  median of {} repeats", self.repeats)?;
        writeln!(f)?;

        let has_sandbox = self.rows.iter().any(|row| row.sandbox.is_some());
        let more = |cells: [String; 2]| cells.into_iter().filter(move |_| has_sandbox);
        let mut cells: Vec<Vec<String>> = vec![
            HEADINGS.map(str::to_string).into_iter().chain(more(MORE_HEADINGS.map(str::to_string))).collect(),
        ];
        for row in &self.rows {
            let own = [
                row.row.name().to_string(),
                figure(row.linux.map(|summary| summary.median)),
                figure(row.dune.map(|summary| summary.median)),
                ratio(row.ratio()),
                ratio(row.paper_ratio()),
                spread(row.linux),
                spread(row.dune),
            ];
            let sandbox = [figure(row.sandbox.map(|summary| summary.median)), spread(row.sandbox)];
            cells.push(own.into_iter().chain(more(sandbox)).collect());
        }
        let widths: Vec<usize> = (0..cells[0].len())
            .map(|column| cells.iter().map(|row| row[column].len()).max().unwrap_or(0))
            .collect();
        for (index, row) in cells.iter().enumerate() {
            write!(f, "{:<width$}", row[0], width = widths[0])?;
            for column in 1..row.len() {
                write!(f, "  {:>width$}", row[column], width = widths[column])?;
            }
            writeln!(f)?;
            if index == 0 {
                writeln!(f, "{}", "-".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1)))?;
            }
        }
        writeln!(f)?;
        for row in &self.rows {
            writeln!(f, "{:<width$}  {}", row.row.name(), row.row.description(), width = widths[0])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(median: f64) -> Option<Summary> {
        Some(Summary { median, min: median - 1.0, max: median + 1.0 })
    }

    fn table() -> Table {
        let mut table = Table {
            machine: "vtx".to_string(),
            cpu: "a processor".to_string(),
            kernel: "6.12".to_string(),
            command_line: "quiet".to_string(),
            huge_pages: "always [madvise] never".to_string(),
            engine: "kvm (VT-x, two-dimensional paging)".to_string(),
            unit: Unit::Instructions,
            repeats: 11,
            rows: Row::TABLE.into_iter().map(|row| Measurement::new(row, None)).collect(),
        };
        table.rows[0] =
            Measurement { row: Row::Getpid, linux: summary(315.0), dune: summary(3630.0), sandbox: None };
        table.rows[8] = Measurement {
            row: Row::Appel1,
            linux: summary(1_232_000.0),
            dune: summary(30_800.0),
            sandbox: None,
        };
        table
    }

    #[test]
    fn json_has_the_agreed_fields() {
        let json: serde_json::Value = serde_json::from_str(&table().to_json().unwrap()).unwrap();
        for key in ["machine", "cpu", "kernel", "engine", "unit", "rows"] {
            assert!(json.get(key).is_some(), "{key}");
        }
        assert_eq!(json["unit"], "instructions");
        assert_eq!(json["rows"].as_array().unwrap().len(), Row::TABLE.len());
        let getpid = &json["rows"][0];
        let keys: Vec<_> = getpid.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = [
            "name",
            "linux",
            "dune",
            "ratio",
            "paper_linux",
            "paper_dune",
            "linux_min",
            "linux_max",
            "dune_min",
            "dune_max",
        ];
        expected.sort_unstable();
        let mut sorted = keys;
        sorted.sort_unstable();
        assert_eq!(sorted, expected);
        assert_eq!(getpid["name"], "getpid");
        assert_eq!(getpid["linux"], 315.0);
        assert_eq!(getpid["ratio"], 0.0868);
        assert_eq!(getpid["paper_dune"], 895.0);
        assert_eq!(getpid["dune_max"], 3631.0);
    }

    #[test]
    fn a_sandbox_is_a_column_more() {
        let mut with = table();
        let other = r#"{"rows":[{"name":"getpid","linux":4000.5,"linux_min":4000,"linux_max":4001},{"name":"trap","linux":null}]}"#;
        with.add_sandbox(other).unwrap();
        let json: serde_json::Value = serde_json::from_str(&with.to_json().unwrap()).unwrap();
        assert!(json["rows"][0]["sandbox"] == 4000.5 && json["rows"][6].get("sandbox").is_none(), "{json}");
        let text = with.to_string();
        let getpid = text.lines().find(|line| line.starts_with("getpid ")).unwrap();
        let cells: Vec<_> = getpid.split_ascii_whitespace().rev().take(4).collect();
        assert_eq!(cells, ["4,001", "-", "4,000", "4,000"], "{text}");
        assert!(!table().to_string().contains("sandbox"));
        assert!(with.add_sandbox("nothing").unwrap_err().to_string().contains("nothing"));
    }

    #[test]
    fn what_was_not_measured_is_null() {
        let json: serde_json::Value = serde_json::from_str(&table().to_json().unwrap()).unwrap();
        let walk = &json["rows"][2];
        assert_eq!(walk["name"], "page_walk");
        for key in ["linux", "dune", "ratio", "linux_min", "dune_max"] {
            assert!(walk[key].is_null(), "{key}");
        }
        assert_eq!(walk["paper_linux"], 35.8);
        let lean = &json["rows"][7];
        assert_eq!(lean["name"], "trap_lean");
        assert!(lean["paper_linux"].is_null());
    }

    #[test]
    fn text_is_aligned_and_shows_both_ratios() {
        let text = table().to_string();
        let start = text.lines().position(|line| line.starts_with("row ")).unwrap();
        let rows: Vec<_> = text.lines().skip(start).take(Row::TABLE.len() + 2).collect();
        assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{text}");
        let appel: Vec<_> = rows[10].split_ascii_whitespace().collect();
        assert_eq!(&appel[..5], ["appel1", "1,232,000", "30,800", "40.0", "7.42"]);
        assert!(text.contains("instructions per operation"), "{text}");
    }

    #[test]
    fn figures_are_grouped_and_small_ones_keep_a_digit() {
        for (value, expected) in
            [(35.84, "35.8"), (100.2, "100"), (1000.0, "1,000"), (1_234_567.8, "1,234,568")]
        {
            assert_eq!(figure(Some(value)), expected);
        }
        assert_eq!(figure(None), "-");
    }

    #[test]
    fn a_free_dune_side_has_no_ratio() {
        let free = Some(Summary { median: 0.0, min: 0.0, max: 0.0 });
        assert_eq!(
            Measurement { row: Row::Trap, linux: summary(10.0), dune: free, sandbox: None }.ratio(),
            None
        );
    }
}
