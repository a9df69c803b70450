//! Finding what a path leads to below the roots, part by part, each opened from the one before.
//!
//! A part is opened as what it is, a link as the link, and looked at before the walk goes on, from that descriptor and not from a name. So
//! whatever others rename, or mount, or put in the place of what was looked at: nothing is come to but through directories that were looked
//! at, and none of these is hidden.
//!
//! Two descriptors are open at a time, however long the path is. `..` goes back in the canonical name, and that is opened from its root.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Access, Files, Root, below};

/// Below no root: what openat2(2) says of RESOLVE_BENEATH, and no other call that looks.
pub(crate) const OUTSIDE: i32 = libc::EXDEV;

/// What has been opened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Link(Vec<u8>),
    Directory { identity: (u64, u64) },
    Other { identity: (u64, u64) },
}

/// Opens what a walk comes to, and looks at it.
pub(crate) trait Opener {
    type Opened;

    /// What is at the place of `root`.
    fn open_root(&mut self, root: &Root) -> Result<Self::Opened, i32>;

    /// What the name `path` ends with is in `directory`; a link as such.
    fn open_in(&mut self, directory: &Self::Opened, path: &Path) -> Result<Self::Opened, i32>;

    fn look(&mut self, opened: &Self::Opened) -> Result<Look, i32>;
}

/// Where a path starts that does not start with a slash.
pub(crate) struct Start<O> {
    /// The canonical path.
    pub(crate) path: PathBuf,
    /// The directory itself.
    pub(crate) directory: O,
}

/// What a path leads to, or would if it were there.
#[derive(Debug)]
pub(crate) struct Found<'f, O> {
    pub(crate) root: &'f Root,
    /// The canonical path.
    pub(crate) path: PathBuf,
    /// The directory that has it by the last part of its path, if that is how the walk came to it: it did not come to a root so.
    pub(crate) directory: Option<O>,
    pub(crate) there: Option<O>,
    /// Whether the path is one of a directory by its form.
    pub(crate) is_directory: bool,
    /// Whether it may be executed.
    pub(crate) executes: bool,
}

impl Files {
    /// Finds what `path` leads to from `start`, or from `/`; not through the link that it ends with unless it `follows`. [`OUTSIDE`] for what is below no
    /// root, ENOENT for what is hidden, or said to be absent.
    pub(crate) fn find<O: Opener>(
        &self,
        start: Option<Start<O::Opened>>,
        path: &[u8],
        follows: bool,
        opener: &mut O,
    ) -> Result<Found<'_, O::Opened>, i32> {
        const LINKS: u32 = 40;
        if path.is_empty() {
            return Err(libc::ENOENT);
        }
        // `here` is what is at `at`, if that has been opened; `before` the directory that has it by its name.
        let (mut at, mut here) = match start.filter(|_| path[0] != b'/') {
            Some(start) => (start.path, Some(start.directory)),
            None => (PathBuf::from("/"), None),
        };
        let mut before = None;
        let mut is_missing = false;
        let mut left: Vec<Vec<u8>> = Vec::new();
        push(&mut left, path);
        let mut links = 0;
        let is_directory = matches!(path.rsplit(|byte| *byte == b'/').next(), Some(b"" | b"." | b".."));
        while let Some(part) = left.pop() {
            if part == b"." {
                continue;
            }
            let directory = here.take();
            before = None;
            if part == b".." {
                at.pop();
                continue;
            }
            at.push(OsStr::from_bytes(&part));
            let other_name = self.names.iter().find(|(name, _)| name.as_os_str() == at.as_os_str());
            if let Some((_, canonical)) = other_name {
                at.clone_from(canonical);
            }
            let Some((root, rest)) = self.root_of(&at) else {
                if self.leads_to_root(&at) {
                    continue;
                }
                return Err(if self.is_absent(&at) { libc::ENOENT } else { OUTSIDE });
            };
            if root.access == Access::Hidden {
                return Err(libc::ENOENT);
            }
            let opened = if rest.as_os_str().is_empty() || other_name.is_some() {
                self.reach(&at, opener)
            } else {
                let directory = match directory {
                    Some(directory) => directory,
                    None => self.reach(at.parent().unwrap_or(&root.path), opener)?,
                };
                let opened = opener.open_in(&directory, &at);
                before = Some(directory);
                opened
            };
            let is_last = left.is_empty();
            let opened = match opened {
                Ok(opened) => opened,
                Err(libc::ENOENT) if is_last => {
                    is_missing = true;
                    continue;
                }
                Err(errno) => return Err(errno),
            };
            match opener.look(&opened)? {
                Look::Link(target) if !is_last || follows || is_directory => {
                    links += 1;
                    if links > LINKS {
                        return Err(libc::ELOOP);
                    }
                    at.pop();
                    here = before.take();
                    if target.first() == Some(&b'/') {
                        (at, here) = (PathBuf::from("/"), None);
                    }
                    push(&mut left, &target);
                    continue;
                }
                Look::Directory { identity } | Look::Other { identity } if self.is_hidden(identity) => {
                    return Err(libc::ENOENT);
                }
                Look::Other { .. } if !is_last => return Err(libc::ENOTDIR),
                _ => here = Some(opened),
            }
        }
        let (root, _) = self.root_of(&at).ok_or(OUTSIDE)?;
        if root.access == Access::Hidden {
            return Err(libc::ENOENT);
        }
        let there = match here {
            None if !is_missing => Some(self.reach(&at, opener)?),
            there => there,
        };
        let executes = self.roots.iter().any(|root| root.executes && below(&at, &root.path).is_some());
        Ok(Found { root, path: at, directory: before, there, is_directory, executes })
    }

    /// Opens what is at a canonical path below a root. A link that has come there meanwhile is not followed.
    fn reach<O: Opener>(&self, path: &Path, opener: &mut O) -> Result<O::Opened, i32> {
        let (root, rest) = self.root_of(path).ok_or(OUTSIDE)?;
        let mut at = root.path.clone();
        let mut here = opener.open_root(root)?;
        for part in rest {
            at.push(part);
            here = opener.open_in(&here, &at)?;
            match opener.look(&here)? {
                Look::Directory { identity } | Look::Other { identity } if !self.is_hidden(identity) => (),
                _ => return Err(libc::ENOENT),
            }
        }
        Ok(here)
    }
}

/// Puts the parts of a path before what is left.
fn push(left: &mut Vec<Vec<u8>>, path: &[u8]) {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
    left.extend(parts.rev().map(<[u8]>::to_vec));
}

#[cfg(test)]
mod tests;
