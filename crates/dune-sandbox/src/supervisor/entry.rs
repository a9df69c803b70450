//! Names that are made, removed and renamed under a policy that names files.

use std::ffi::{CStr, CString};
use std::path::PathBuf;

use super::open::Probe;
use super::places::denied;
use super::walk::{find, open_part};
use super::{Thread, error};
use crate::checked::Request;
use crate::files::{Access, Files, Kept};
use crate::last_part::Place;

/// A directory below a root that may be written to, and a name in it, with a slash behind it if the path has one: what that means is
/// Linux's to say.
pub(super) struct Entry {
    pub(super) directory: Probe,
    pub(super) name: CString,
    /// The canonical path.
    pub(super) path: PathBuf,
}

/// What is to become of a name: the errors differ.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Make,
    /// With the errors for `.`, `..` and `/`.
    Take([i32; 3]),
}

impl Entry {
    /// The name that the argument `index`, a path from `directory`, is.
    pub(super) fn of(
        thread: &Thread,
        files: &Files,
        request: &Request,
        (directory, index): (u64, u8),
        way: Way,
    ) -> Result<Entry, i64> {
        let path = request.path(index).ok_or(error(libc::EFAULT))?;
        Entry::of_path(thread, files, directory as i32, path, way)
    }

    /// The name that `path` is, from `directory`.
    pub(super) fn of_path(
        thread: &Thread,
        files: &Files,
        directory: i32,
        path: &CStr,
        way: Way,
    ) -> Result<Entry, i64> {
        let special = match way {
            Way::Make => [libc::EEXIST; 3],
            Way::Take(errors) => errors,
        };
        let place = Place::of(path.to_bytes()).map_err(|special_name| match special_name {
            None => error(libc::ENOENT),
            Some(which) => error(special[which]),
        })?;
        let mut found = find(thread, files, directory, &place.directory, true)?;
        let canonical = found.path.join(&place.name);
        match files.keeps(&canonical) {
            Some(Kept::Hidden) => {
                return Err(error(if way == Way::Make { libc::EACCES } else { libc::ENOENT }));
            }
            Some(Kept::There) => {
                return Err(error(if way == Way::Make { libc::EEXIST } else { libc::EBUSY }));
            }
            None if found.root.access < Access::Write => return Err(denied(thread, path)),
            None => (),
        }
        let (directory, about) = found.probe()?;
        if about.mode & libc::S_IFMT != libc::S_IFDIR {
            return Err(error(libc::ENOTDIR));
        }
        Ok(Entry { directory, name: place.last(), path: canonical })
    }

    /// An error if a root is there by this name, too, or what leads to one; `gone` for what is hidden.
    pub(super) fn is_free(&self, files: &Files, gone: i32) -> Result<(), i64> {
        let name = self.name.to_bytes();
        let name = CString::new(name.strip_suffix(b"/").unwrap_or(name)).unwrap_or_default();
        let about = match open_part(self.directory.0, &name) {
            Ok((_, about)) => about,
            Err(why) if why == error(libc::ENOENT) => return Ok(()),
            // A mount point: it stays, says Linux.
            Err(why) => return Err(why),
        };
        match files.keeps_file(about.identity) {
            Some(Kept::Hidden) => Err(error(gone)),
            Some(Kept::There) => Err(error(libc::EBUSY)),
            None => Ok(()),
        }
    }
}
