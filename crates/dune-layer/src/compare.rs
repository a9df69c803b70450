//! What a program has changed in a layer, and what of that meets changes of others in the folder.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::Serialize;

use crate::error::LayerError;
use crate::manifest::{Entry, Folder, Name};
use crate::tree::{self, About, DEPTH, Kind};

/// How a name has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum What {
    /// It is gone.
    Deleted,
    /// It is new.
    Added,
    /// A file has other bytes (and perhaps another mode), a link leads elsewhere.
    Modified,
    /// Only the mode is another one.
    Mode,
}

/// A change in a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Change {
    /// The folder that it is in, among the layer's.
    pub folder: usize,
    /// The path below the folder.
    #[serde(serialize_with = "as_text")]
    pub path: PathBuf,
    /// How it has changed.
    pub what: What,
    /// What is there now, or was if it is gone.
    pub kind: Kind,
    /// The mode now.
    pub mode: u32,
    /// Where a link leads now.
    #[serde(serialize_with = "as_optional_text")]
    pub target: Option<PathBuf>,
    /// Why it is not applied: the folder has changed there, too.
    pub conflict: Option<&'static str>,
}

fn as_text<S: serde::Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&path.to_string_lossy())
}

fn as_optional_text<S: serde::Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => as_text(path, to),
        None => to.serialize_none(),
    }
}

const CHANGED: &str = "has changed in the folder since the run began";
const GONE: &str = "is gone from the folder since the run began";
const THERE: &str = "is in the folder now, too, and another one";
const COVERED: &str = "is in the place of what is not in the layer";

struct Comparison<'c> {
    index: usize,
    folder: &'c Folder,
    original: &'c OwnedFd,
    seen: BTreeSet<Name>,
    changes: Vec<Change>,
}

/// The changes in `copy`, the copy of a folder, which is at `original` now.
pub(crate) fn compare(
    index: usize,
    folder: &Folder,
    copy: &OwnedFd,
    original: &OwnedFd,
) -> Result<Vec<Change>, LayerError> {
    let mut comparison = Comparison { index, folder, original, seen: BTreeSet::new(), changes: Vec::new() };
    comparison.directory(copy, Path::new(""), 0)?;
    let Comparison { seen, mut changes, .. } = comparison;
    for (name, entry) in &folder.entries {
        if seen.contains(name) {
            continue;
        }
        match original_of(original, &name.0) {
            // So somebody has made the same change, or it has been applied.
            Err(Errno::NOENT | Errno::NOTDIR) => (),
            there => {
                let is_same = |there: &About| {
                    there.kind == entry.kind
                        && (entry.kind == Kind::Directory || there.stamp == entry.original)
                };
                let conflict = if there.is_ok_and(|there| is_same(&there)) { None } else { Some(CHANGED) };
                changes.push(change(index, &name.0, What::Deleted, entry.kind, entry.mode, None, conflict));
            }
        }
    }
    changes.sort_by(|one, other| one.path.cmp(&other.path).then(one.what.cmp(&other.what)));
    Ok(changes)
}

fn change(
    folder: usize,
    path: &Path,
    what: What,
    kind: Kind,
    mode: u32,
    target: Option<PathBuf>,
    conflict: Option<&'static str>,
) -> Change {
    Change { folder, path: path.to_owned(), what, kind, mode, target, conflict }
}

/// What is at a path of the folder now.
pub(crate) fn original_of(original: &OwnedFd, path: &Path) -> Result<About, Errno> {
    let (directory, name) = tree::parent(original, path)?;
    tree::about(&directory, name)
}

impl Comparison<'_> {
    fn directory(&mut self, copy: &OwnedFd, below: &Path, depth: usize) -> Result<(), LayerError> {
        let full = || self.folder.path.0.join(below);
        if depth > DEPTH {
            return Err(LayerError::TooDeep { path: full(), limit: DEPTH });
        }
        for name in tree::names(copy).map_err(LayerError::step("list the layer's", full()))? {
            let path = below.join(&name);
            let about = tree::about(copy, &name)
                .map_err(LayerError::step("look at the layer's", self.folder.path.0.join(&path)))?;
            let is_left_out = self.left_out(&path, &about);
            if !is_left_out {
                self.entry(copy, &name, &path, about)
                    .map_err(LayerError::io("compare", self.folder.path.0.join(&path)))?;
            }
            if about.kind == Kind::Directory && !is_left_out {
                let inner = tree::despite_mode(copy, &name, about.mode, tree::directory)
                    .map_err(LayerError::step("open the layer's", self.folder.path.0.join(&path)))?;
                self.directory(&inner, &path, depth + 1)?;
                let mode = tree::about_open(&inner).map_or(about.mode, |now| now.mode);
                if mode != about.mode {
                    tree::set_mode(&inner, about.mode).map_err(LayerError::step(
                        "set the mode of the layer's",
                        self.folder.path.0.join(&path),
                    ))?;
                }
            }
        }
        Ok(())
    }

    /// Whether it is, or is in the place of, something that has not been copied.
    fn left_out(&mut self, path: &Path, about: &About) -> bool {
        use crate::manifest::Reason;
        let Some(reason) = self.folder.left_out.get(path) else { return false };
        // What stands there for listings.
        if !matches!(reason, Reason::Apart | Reason::Mounted) {
            self.push(path, What::Added, about, None, Some(COVERED));
        }
        true
    }

    fn entry(&mut self, copy: &OwnedFd, name: &OsStr, path: &Path, about: About) -> io::Result<()> {
        let target = match about.kind {
            Kind::Link => Some(tree::target(copy, name)?),
            _ => None,
        };
        let Some(entry) = self.folder.entries.get(path) else {
            return self.added(copy, name, path, about, target);
        };
        if entry.kind != about.kind {
            self.seen.insert(Name(path.to_owned()));
            if self.is_there(copy, name, path, &about)? {
                return Ok(());
            }
            // Below a directory that has gone all is gone: its names are not seen.
            self.deleted(path, entry);
            self.push(path, What::Added, &about, target, None);
            return Ok(());
        }
        self.seen.insert(Name(path.to_owned()));
        let now = original_of(self.original, path);
        let is_old = now.is_ok_and(|now| now.stamp == entry.original);
        let conflict = match now {
            _ if is_old => None,
            Ok(_) => Some(CHANGED),
            Err(_) => Some(GONE),
        };
        match about.kind {
            Kind::Directory => {
                // Names in it change its times.
                let conflict = match now {
                    Ok(now) if now.kind == about.kind && now.mode == about.mode => return Ok(()),
                    Ok(now) if now.kind == about.kind && now.mode == entry.mode => None,
                    Ok(_) => Some(CHANGED),
                    Err(_) => Some(GONE),
                };
                if about.mode != entry.mode {
                    self.push(path, What::Mode, &about, None, conflict);
                }
            }
            Kind::Link => {
                let before = entry.target.as_ref().map(|name| &name.0);
                if target.as_ref() != before && !self.is_there(copy, name, path, &about)? {
                    self.push(path, What::Modified, &about, target, conflict);
                }
            }
            Kind::File if entry.copied == Some(about.stamp) => (),
            Kind::File => {
                let has_mode = |now: &About| now.mode == about.mode;
                if self.is_there(copy, name, path, &about)? {
                    let is_mode_new = about.mode != entry.mode;
                    if is_mode_new && !now.as_ref().is_ok_and(has_mode) {
                        self.push(path, What::Mode, &about, None, conflict);
                    }
                } else {
                    self.push(path, What::Modified, &about, None, conflict);
                }
            }
            Kind::Special => (),
        }
        Ok(())
    }

    fn added(
        &mut self,
        copy: &OwnedFd,
        name: &OsStr,
        path: &Path,
        about: About,
        target: Option<PathBuf>,
    ) -> io::Result<()> {
        let conflict = match original_of(self.original, path) {
            _ if about.kind == Kind::Special => Some("is no file, directory or link"),
            Err(Errno::NOENT | Errno::NOTDIR) => None,
            Ok(now) if now.kind == about.kind && now.mode == about.mode => {
                if self.is_there(copy, name, path, &about)? {
                    return Ok(());
                }
                Some(THERE)
            }
            _ => Some(THERE),
        };
        self.push(path, What::Added, &about, target, conflict);
        Ok(())
    }

    /// Whether the folder has the same bytes there, or a link to the same.
    fn is_there(&self, copy: &OwnedFd, name: &OsStr, path: &Path, about: &About) -> io::Result<bool> {
        let Ok((directory, last)) = tree::parent(self.original, path) else { return Ok(false) };
        let Ok(there) = tree::about(&directory, last) else { return Ok(false) };
        if there.kind != about.kind || there.stamp.size != about.stamp.size {
            return Ok(false);
        }
        match about.kind {
            Kind::Directory => Ok(true),
            Kind::Special => Ok(false),
            Kind::Link => Ok(tree::target(copy, name)? == tree::target(&directory, last)?),
            Kind::File => {
                let Ok(original) = tree::file(&directory, last) else { return Ok(false) };
                let layered = tree::despite_mode(copy, name, about.mode, tree::file)?;
                if tree::about_open(&layered)?.mode != about.mode {
                    tree::set_mode(&layered, about.mode)?;
                }
                tree::are_same(original, layered)
            }
        }
    }

    fn deleted(&mut self, path: &Path, entry: &Entry) {
        let now = original_of(self.original, path);
        let is_same = now.is_ok_and(|now| {
            now.kind == entry.kind && (entry.kind == Kind::Directory || now.stamp == entry.original)
        });
        let conflict = if is_same { None } else { Some(CHANGED) };
        self.changes.push(change(self.index, path, What::Deleted, entry.kind, entry.mode, None, conflict));
    }

    fn push(
        &mut self,
        path: &Path,
        what: What,
        about: &About,
        target: Option<PathBuf>,
        conflict: Option<&'static str>,
    ) {
        self.changes.push(change(self.index, path, what, about.kind, about.mode, target, conflict));
    }
}
