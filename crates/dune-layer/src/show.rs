//! A layer's changes as text: a line for each name, and differences of texts as diff(1) shows them.

use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use similar::TextDiff;

use crate::compare::{Change, What};
use crate::tree::{self, Kind, shown};

/// Longer files are not compared by lines.
const LONGEST: u64 = 1 << 20;
/// How long one file may be compared; what follows is coarser.
const PATIENCE: Duration = Duration::from_secs(2);

/// A line for a change: `M  path`, with `!` and the reason if it is not applied.
pub(crate) fn line(change: &Change) -> String {
    let letter = match change.what {
        What::Added => 'A',
        What::Modified => 'M',
        What::Deleted => 'D',
        What::Mode => 'm',
    };
    let mut line =
        format!("{letter}{} {}", if change.conflict.is_some() { '!' } else { ' ' }, shown(&change.path));
    // A String takes everything.
    let _ = match (&change.target, change.kind) {
        (Some(target), _) => write!(line, " -> {}", shown(target)),
        (None, Kind::Directory) => write!(line, "/"),
        _ => Ok(()),
    };
    if change.what == What::Mode {
        let _ = write!(line, " (mode {:o})", change.mode);
    } else if change.what == What::Added && change.kind == Kind::File && change.mode & 0o111 != 0 {
        let _ = write!(line, " (executable)");
    }
    if let Some(why) = change.conflict {
        let _ = write!(line, ": {why}");
    }
    line
}

/// What is different, as `diff -u` and `patch -p1` have it; the line where there is nothing to compare.
pub(crate) fn difference(change: &Change, copy: &OwnedFd, original: &OwnedFd, plain: bool) -> String {
    let path = shown(&change.path);
    let mut out = format!("{}\n", line(change));
    if change.kind != Kind::File || change.what == What::Mode {
        return out;
    }
    let old = (change.what != What::Added).then(|| text(tree::file_below(original, &change.path)));
    let new = (change.what != What::Deleted).then(|| text(tree::own_file(copy, &change.path)));
    let is_text = |side: &Option<Option<String>>| side.as_ref().is_none_or(Option::is_some);
    if !is_text(&old) || !is_text(&new) {
        out.push_str("Binary or long files differ\n");
        return out;
    }
    let name = |side: &Option<Option<String>>, letter| match side {
        Some(_) => format!("{letter}/{path}"),
        None => "/dev/null".to_owned(),
    };
    let (before, after) = (name(&old, 'a'), name(&new, 'b'));
    let (old, new) = (old.flatten().unwrap_or_default(), new.flatten().unwrap_or_default());
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(&*old, &*new);
    let diff = diff.unified_diff().context_radius(3).header(&before, &after).to_string();
    if plain {
        out.push_str(&diff);
    } else {
        // What would do something to a terminal is shown as text.
        for line in diff.split_inclusive('\n') {
            let (text, end) = line.strip_suffix('\n').map_or((line, ""), |text| (text, "\n"));
            text.chars().for_each(|character| match character {
                '\t' => out.push('\t'),
                character if character.is_control() => out.extend(character.escape_default()),
                character => out.push(character),
            });
            out.push_str(end);
        }
    }
    out
}

/// What a file says, if it is text.
fn text(file: rustix::io::Result<File>) -> Option<String> {
    let file = file.ok()?;
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).ok()?;
    if bytes.len() as u64 > LONGEST || bytes.contains(&0) {
        return None;
    }
    String::from_utf8(bytes).ok()
}

/// A name that can be one of a directory: the last part of a path.
pub(crate) fn last_part(path: &Path) -> String {
    let bytes = path.file_name().map_or(&b"root"[..], OsStrExt::as_bytes);
    let plain = |byte: &u8| {
        let character = char::from(*byte);
        if character.is_ascii_alphanumeric() || "._-".contains(character) { character } else { '_' }
    };
    let name: String = bytes.iter().take(60).map(plain).collect();
    name.trim_start_matches('.').to_owned()
}
