//! The variables that a policy in a file lets the program have.

use std::ffi::{CString, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::files::Files;

/// What is kept of the environment, and what is set.
#[derive(Debug)]
pub(super) struct Variables {
    /// Names, or how they begin, with a star.
    pub(super) keep: Vec<String>,
    /// `NAME=VALUE`.
    pub(super) set: Vec<CString>,
}

impl Variables {
    /// What the program gets of `all`; the list of directories in `PATH` without those that are outside of `files`.
    pub(super) fn of(&self, all: Vec<CString>, files: &Files) -> Vec<CString> {
        let is_set = |variable: &CString| self.set.iter().any(|other| name(other) == name(variable));
        let is_kept = |variable: &CString| {
            self.keep.iter().any(|kept| match kept.strip_suffix('*') {
                Some(start) => name(variable).starts_with(start.as_bytes()),
                None => kept.as_bytes() == name(variable),
            })
        };
        let kept = all.into_iter().filter(|variable| is_kept(variable) && !is_set(variable));
        let kept = kept.filter_map(|variable| match variable.to_bytes().strip_prefix(b"PATH=") {
            Some(list) if files.has_executables() => searched(list, files),
            _ => Some(variable),
        });
        kept.chain(self.set.iter().cloned()).collect()
    }
}

fn name(variable: &CString) -> &[u8] {
    variable.to_bytes().split(|byte| *byte == b'=').next().unwrap_or_default()
}

/// `PATH` with the directories of `list` that the program can look into. Where all is denied nothing can be found, and a search that comes
/// there ends with EACCES instead of ENOENT: a command that is not there would be one that may not be executed. Nothing if none is left,
/// since an empty list means the working directory.
fn searched(list: &[u8], files: &Files) -> Option<CString> {
    let is_inside = |directory: &[u8]| {
        let path = Path::new(OsStr::from_bytes(directory));
        let real = fs::canonicalize(path);
        // One that is relative leads from where the program is by then.
        !path.is_absolute() || files.root_of(real.as_deref().unwrap_or(path)).is_some()
    };
    let all: Vec<&[u8]> = list.split(|byte| *byte == b':').filter(|directory| is_inside(directory)).collect();
    if all.is_empty() {
        return None;
    }
    CString::new([b"PATH=".as_slice(), &all.join(&b':')].concat()).ok()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn path_among(files: &Files, list: &str) -> Option<String> {
        let variables = Variables { keep: vec!["PATH".to_owned()], set: Vec::new() };
        let all = vec![CString::new(format!("PATH={list}")).expect("no NUL")];
        let given = variables.of(all, files);
        given.first().map(|variable| variable.to_str().expect("text")["PATH=".len()..].to_owned())
    }

    #[test]
    fn directories_that_are_outside_are_not_searched() {
        let inside = fs::canonicalize("/usr/bin").expect("a directory");
        let mut files = Files::new();
        let all = "/usr/bin:/var:/usr/bin/none:/none:relative::/usr/bin/../bin:/usr";
        assert_eq!(path_among(&files, all).as_deref(), Some(all), "nothing can be executed anyway");
        files.add_executable(&inside).expect("it is there");
        let kept = "/usr/bin:/usr/bin/none:relative::/usr/bin/../bin";
        assert_eq!(path_among(&files, all).as_deref(), Some(kept));
        assert_eq!(path_among(&files, "/var:/none"), None, "an empty one is the working directory");
        assert_eq!(path_among(&files, "").as_deref(), Some(""), "as it was asked for");
    }

    #[test]
    fn what_a_link_leads_to_counts() {
        let folder = std::env::temp_dir().join(format!("dune-path-{}", std::process::id()));
        fs::create_dir_all(folder.join("real")).expect("made");
        let link =
            |text: PathBuf, name: &str| std::os::unix::fs::symlink(text, folder.join(name)).expect("linked");
        link("/var".into(), "out");
        link(folder.join("real"), "in");
        let mut files = Files::new();
        files.add_executable(&folder.join("real")).expect("it is there");
        let place = |name: &str| folder.join(name).display().to_string();
        let said = path_among(&files, &[place("out"), place("in"), place("real")].join(":"));
        fs::remove_dir_all(&folder).expect("removed");
        assert_eq!(said, Some([place("in"), place("real")].join(":")));
    }
}
