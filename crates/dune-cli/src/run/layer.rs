//! What becomes of a private layer when the program has ended.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use dune_sandbox::layer::Layer;
use dune_sandbox::{LayerReport, Outcome};

use crate::arguments::LayerOptions;
use crate::changes;
use crate::failure::Failure;

/// The most lines that are said unasked.
const MOST: usize = 20;

/// Shows, applies, throws away or keeps what has changed, and notes that in the report. Standard output is the program's: this goes to standard error.
/// What could not be done is an error when all else has been told.
pub(super) fn after(
    report: &mut LayerReport,
    outcome: &Outcome,
    options: &LayerOptions,
) -> Result<(), Failure> {
    let Some(directory) = report.directory.clone() else { return Ok(()) };
    let layer = Layer::open(Path::new(&directory))?;
    let name = changes::name(layer.directory());
    if options.discard {
        layer.remove()?;
        report.directory = None;
        return Ok(());
    }
    let list = match layer.changes() {
        Ok(list) => list,
        Err(error) => {
            say(&format!("{error}; what the program has changed is in {directory}"));
            return Ok(());
        }
    };
    let texts = changes::texts(&layer, &list, options.diff, !io::stderr().is_terminal());
    let folders: Vec<_> = layer.folders().map(dune_sandbox::layer::shown).collect();
    say(&format!("{} in a private layer of {}:", changes::count(list.len()), folders.join(" and ")));
    let most = if options.diff { texts.len() } else { MOST };
    let mut out: String = texts.iter().take(most).map(String::as_str).collect();
    if texts.len() > most {
        out.push_str(&format!("and {} more\n", texts.len() - most));
    }
    // Whoever reads standard error may have gone.
    let _ = io::stderr().write_all(out.as_bytes());
    if options.apply && outcome.status == Some(0) {
        let refused = changes::apply(layer, &list)?;
        report.applied = Some(list.len() - refused);
        if refused > 0 {
            return Err(Failure::NotApplied { refused });
        }
        report.directory = None;
        return Ok(());
    }
    if options.apply {
        say("they are not applied, for the program has not ended with status 0");
    }
    say(&format!(
        "`dune changes --diff {name}` shows them, `dune changes --apply {name}` applies them, `dune changes --discard {name}` throws \
         them away"
    ));
    Ok(())
}

fn say(text: &str) {
    let _ = io::stderr().write_all(format!("dune: {text}\n").as_bytes());
}
