//! `dune changes`: what programs have changed in private layers.

use std::io::IsTerminal;
use std::path::Path;

use dune_sandbox::layer::{self, Change, Layer, shown};
use serde_json::json;

use crate::arguments::ChangesOptions;
use crate::failure::Failure;
use crate::output;

pub(crate) fn run(options: &ChangesOptions) -> Result<(), Failure> {
    let Some(path) = &options.layer else { return list(options.json) };
    let layer = Layer::open(path)?;
    if options.discard {
        return Ok(layer.remove()?);
    }
    let changes = layer.changes()?;
    if options.apply {
        let refused = apply(layer, &changes)?;
        return if refused == 0 { Ok(()) } else { Err(Failure::NotApplied { refused }) };
    }
    if options.json {
        let folders: Vec<_> = layer.folders().map(Path::to_string_lossy).collect();
        let value = json!({
            "schema": "dune-changes/1", "layer": layer.directory().to_string_lossy(), "folders": folders, "changes": changes,
        });
        return output::line(&serde_json::to_string_pretty(&value)?);
    }
    let is_plain = !std::io::stdout().is_terminal();
    for text in texts(&layer, &changes, options.diff, is_plain) {
        output::write(text.as_bytes())?;
    }
    Ok(())
}

/// The changes as lines, each with its end, or as differences, by folders if there are several.
pub(crate) fn texts(layer: &Layer, changes: &[Change], diff: bool, is_plain: bool) -> Vec<String> {
    let folders: Vec<_> = layer.folders().collect();
    let mut texts = Vec::new();
    let mut last = None;
    for change in changes {
        if folders.len() > 1 && last != Some(change.folder) {
            texts.push(format!("{}:\n", shown(folders[change.folder])));
            last = Some(change.folder);
        }
        texts.push(match diff {
            true => layer.difference(change, is_plain),
            false => format!("{}\n", Layer::line(change)),
        });
    }
    texts
}

/// Makes the changes in the folders, and says which are not made. The layer is kept if there are such; else it is removed.
pub(crate) fn apply(layer: Layer, changes: &[Change]) -> Result<usize, Failure> {
    let (done, refused) = layer.apply(changes)?;
    for one in &refused {
        eprintln!("dune: not applied: {} {}", shown(&layer.path_of(&one.change)), one.why);
    }
    let folders: Vec<_> = layer.folders().map(shown).collect();
    let folders = folders.join(" and ");
    if refused.is_empty() {
        eprintln!("dune: applied to {folders}: {}", count(done));
        layer.remove()?;
    } else {
        eprintln!(
            "dune: applied to {folders}: {}; {} stay in the layer {}",
            count(done),
            refused.len(),
            name(layer.directory())
        );
    }
    Ok(refused.len())
}

pub(crate) fn count(changes: usize) -> String {
    format!("{changes} {}", if changes == 1 { "change" } else { "changes" })
}

/// What names a layer on a command line.
pub(crate) fn name(directory: &Path) -> String {
    layer::name(directory).to_string_lossy().into_owned()
}

/// The layers that are kept.
fn list(as_json: bool) -> Result<(), Failure> {
    let kept = Layer::kept()?;
    if as_json {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let all = kept.iter().map(|layer| {
            json!({
                "layer": text(&layer.directory),
                "folders": layer.folders.iter().map(|path| text(path)).collect::<Vec<_>>(),
                "command": layer.command,
                "made": layer.made,
                "ended": layer.ended,
                "in_use": layer.in_use,
            })
        });
        let value = json!({ "schema": "dune-changes/1", "layers": all.collect::<Vec<_>>() });
        return output::line(&serde_json::to_string_pretty(&value)?);
    }
    for layer in kept {
        let state = match (layer.in_use, layer.ended) {
            (true, _) => "in use".to_owned(),
            (false, ended) => {
                let changes = Layer::open(&layer.directory).and_then(|layer| layer.changes());
                let changes = changes.map_or_else(|error| error.to_string(), |changes| count(changes.len()));
                if ended { changes } else { format!("{changes}; its run was killed") }
            }
        };
        let folders: Vec<_> = layer.folders.iter().map(|path| shown(path)).collect();
        let command = shown(Path::new(&layer.command.join(" ")));
        output::line(&format!("{}  {}  {state}  ({command})", name(&layer.directory), folders.join(" ")))?;
    }
    Ok(())
}
