//! The page `docs/results.md`: written from measurements, except for the notes in it.

use serde::Deserialize;

/// What `dune bench --json` measured on one machine, and under which conditions.
#[derive(Debug)]
pub struct Measurement {
    bench: Bench,
    date: String,
}

/// The JSON of `dune bench`.
#[derive(Debug, Deserialize)]
struct Bench {
    machine: String,
    cpu: String,
    kernel: String,
    command_line: String,
    huge_pages: String,
    engine: String,
    unit: String,
    repeats: u32,
    rows: Vec<Row>,
}

/// One row. What has no meaning in the unit is null.
#[derive(Debug, Deserialize)]
struct Row {
    name: String,
    linux: Option<f64>,
    dune: Option<f64>,
    ratio: Option<f64>,
    paper_linux: Option<f64>,
    paper_dune: Option<f64>,
    linux_min: Option<f64>,
    linux_max: Option<f64>,
    dune_min: Option<f64>,
    dune_max: Option<f64>,
}

impl Measurement {
    /// Takes the JSON of `dune bench`.
    pub fn parse(output: &str, date: &str) -> Result<Self, String> {
        let bench = serde_json::from_str(output).map_err(|error| error.to_string())?;
        Ok(Self { bench, date: date.to_owned() })
    }

    /// How many rows were measured.
    pub fn rows(&self) -> usize {
        self.bench.rows.len()
    }
}

const INTRODUCTION: &str = "\
# Results

The tables of the Dune paper (OSDI'12), measured by `dune bench` for Linux and for Dune in the same run. This page is
written by `cargo xtask results`; only what lies between the notes markers is kept.

**What an instruction count tells.** On the emulated Intel machine (`vtx`) the time-stamp counter advances by exactly
one per instruction retired. A figure in instructions is therefore the length of the software path: of the program, of
Linux, of KVM. It is the same on every computer and repeats within a few per cent.

**What it does not tell.** It is not time. It knows nothing of caches, of TLB misses, of two-dimensional page walks, nor
of what a transition itself costs: leaving and entering a virtual machine counts as one instruction and takes 1,000 to
1,400 cycles on real hardware. Ratios of instructions must not be read as speed-ups, nor be compared with the paper's
ratios, which are of cycles, without that in mind. On a computer with virtualization hardware `dune bench` reports
cycles; figures in cycles and in instructions are never mixed in one table here.

`paper` is the paper's ratio of Linux to Dune, in cycles; `ratio` is ours, in the table's unit. A ratio above 1 means
that Dune takes less.
";

const EMPTY_NOTES: &str = "\n";

/// What a machine's figures are good for.
fn reading(machine: &str) -> &'static str {
    match machine {
        "svm" => {
            "QEMU translates this machine's code, and a VM exit makes it forget its translations: **timings here mean \
             nothing**. They are listed to show that every row runs on AMD's SVM, and for no other purpose."
        }
        "vtx" => "Bochs interprets this machine's code instruction by instruction: the measuring machine.",
        _ => "A real computer.",
    }
}

/// The part of the page on one machine.
pub fn section(measurement: &Measurement) -> String {
    let Measurement { bench, date } = measurement;
    let mut text = format!(
        "## Machine `{machine}`: {unit}\n\n{reading}\n\n\
         | | |\n|---|---|\n| date | {date} |\n| CPU | {cpu} |\n| engine | {engine} |\n| kernel | {kernel} |\n\
         | kernel command line | `{command_line}` |\n| huge pages | `{huge_pages}` |\n| unit | {unit} |\n\
         | figures | median of {repeats} repeats (smallest–largest where they differ) |\n\n",
        machine = bench.machine,
        unit = bench.unit,
        reading = reading(&bench.machine),
        cpu = bench.cpu,
        engine = bench.engine,
        kernel = bench.kernel,
        command_line = bench.command_line,
        huge_pages = bench.huge_pages,
        repeats = bench.repeats,
    );
    text += "| row | Linux | Dune | ratio | paper: Linux | paper: Dune | paper |\n|---|--:|--:|--:|--:|--:|--:|\n";
    for row in &bench.rows {
        let paper = row.paper_linux.zip(row.paper_dune).map(|(linux, dune)| linux / dune);
        let cells = [
            format!("`{}`", row.name),
            range(row.linux, row.linux_min, row.linux_max),
            range(row.dune, row.dune_min, row.dune_max),
            ratio(row.ratio),
            number(row.paper_linux),
            number(row.paper_dune),
            ratio(paper),
        ];
        text += &format!("| {} |\n", cells.join(" | "));
    }
    text
}

/// The page with `section` in place of what it held on `machine`; other machines and the notes are kept from `old`.
pub fn page(old: &str, machine: &str, section: &str) -> String {
    let notes = between(old, "notes").unwrap_or(EMPTY_NOTES);
    let mut text = format!("{INTRODUCTION}\n<!-- notes -->{notes}<!-- /notes -->\n");
    for name in ["vtx", "svm"] {
        let kept = between(old, name).map(|kept| kept.trim().to_owned());
        if let Some(part) = if name == machine { Some(section.trim().to_owned()) } else { kept } {
            text += &format!("\n<!-- {name} -->\n{part}\n<!-- /{name} -->\n");
        }
    }
    text
}

/// What `page` holds between `<!-- name -->` and `<!-- /name -->`.
fn between<'a>(page: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = page.split_once(&format!("<!-- {name} -->"))?;
    rest.split_once(&format!("<!-- /{name} -->")).map(|(inside, _)| inside)
}

/// A median, with the smallest and largest where they differ.
fn range(median: Option<f64>, min: Option<f64>, max: Option<f64>) -> String {
    match min.zip(max) {
        Some((min, max)) if median.is_some() && number(Some(min)) != number(Some(max)) => {
            format!("{} ({}–{})", number(median), number(Some(min)), number(Some(max)))
        }
        _ => number(median),
    }
}

/// A count with its thousands set apart, a small one with a digit behind the point; a dash where there is none.
fn number(value: Option<f64>) -> String {
    let Some(value) = value else { return "–".to_owned() };
    if value.abs() < 100.0 && value.fract() != 0.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}

/// A ratio with as many digits as mean something.
fn ratio(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value < 10.0 => format!("{value:.2}"),
        Some(value) if value < 100.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = r#"
        {"machine":"vtx","cpu":"Skylake","kernel":"6.12","command_line":"console=ttyS0 quiet","huge_pages":"always [madvise] never","repeats":11,"engine":"kvm","unit":"instructions","extra":1,"rows":[
        {"name":"getpid","linux":315,"dune":3630.4,"ratio":0.0868,"paper_linux":138,"paper_dune":895,"dune_min":3600,"dune_max":4100},
        {"name":"page_walk","linux":null,"dune":null,"ratio":null,"paper_linux":35.8,"paper_dune":86.4}]}"#;

    fn rendered() -> String {
        section(&Measurement::parse(OUTPUT, "2026-11-22").expect("well-formed"))
    }

    #[test]
    fn rows_are_rendered_with_their_range_and_the_papers_ratio() {
        let text = rendered();
        assert!(
            text.contains("| `getpid` | 315 | 3,630 (3,600–4,100) | 0.09 | 138 | 895 | 0.15 |"),
            "{text}"
        );
        assert!(text.contains("| `page_walk` | – | – | – | 35.8 | 86.4 | 0.41 |"), "{text}");
        assert!(text.contains("| kernel command line | `console=ttyS0 quiet` |"), "{text}");
    }

    #[test]
    fn notes_and_other_machines_are_kept() {
        let first = page("", "svm", "## svm");
        let noted = first.replace("<!-- notes -->\n", "<!-- notes -->\nmind this\n");
        let second = page(&noted, "vtx", &rendered());
        assert!(second.contains("<!-- notes -->\nmind this\n<!-- /notes -->"));
        assert!(second.find("`getpid`") < second.find("## svm"));
        assert_eq!(page(&second, "vtx", &rendered()), second);
    }

    #[test]
    fn output_without_json_is_refused() {
        assert!(Measurement::parse("", "").is_err());
        assert!(Measurement::parse("Segmentation fault", "").is_err());
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(number(Some(1_232_000.4)), "1,232,000");
        assert_eq!(number(Some(12.0)), "12");
        assert_eq!(ratio(Some(118.3)), "118");
    }
}
