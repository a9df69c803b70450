//! The files that a policy lets a program have: roots in the tree of files, and finding what a path leads to below them.
//!
//! A path is walked by us, part by part, with its links (`files/walk.rs`).
//!
//! A root is known by its canonical path and by what it was at the start (device and inode): no descriptor stays open that the program
//! could name. Of some roots the program has another directory in their place (`layers.rs`): paths are walked by the names that it knows,
//! and what Linux says of where something is is translated ([`Files::told`]).

mod sockets;
mod walk;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::Serialize;

use sockets::SocketRule;
pub use sockets::SocketUse;
pub(crate) use sockets::{address_of_path, is_made_socket, path_of_address};
pub(crate) use walk::{Found, Look, OUTSIDE, Opener, Start};

/// What a program may do with the files of a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Access {
    /// Nothing: they are not there for it.
    Hidden,
    /// Read files, list directories.
    Read,
    /// The same, of what the policy puts in their place ([`Policy::serve`](crate::policy::Policy::serve)): nothing of what is there by the name is.
    Served,
    /// The same, and write and make files.
    Write,
    /// The same, in a private copy of the directory: nothing is changed in the directory itself.
    Layer,
    /// The same, in a directory in memory, which is empty at the start and vanishes at the end.
    Memory,
}

impl Access {
    /// Whether the program has another directory in the place of the one that is named.
    pub(crate) fn is_elsewhere(self) -> bool {
        matches!(self, Access::Served | Access::Layer | Access::Memory)
    }
}

/// A file, or a directory with all that is below it.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    /// The canonical path, by which the program knows it.
    pub(crate) path: PathBuf,
    /// What is at this path, but for the program.
    identity: (u64, u64),
    pub(crate) access: Access,
    /// Whether what is there, or below, may be executed.
    pub(crate) executes: bool,
    /// The directory in its place, once there is one.
    elsewhere: OnceLock<Place>,
}

/// Where a root is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// A canonical path.
    pub(crate) path: PathBuf,
    pub(crate) identity: (u64, u64),
}

impl Place {
    /// What is at a canonical path now.
    pub(crate) fn of(path: PathBuf) -> io::Result<Place> {
        let about = path.symlink_metadata()?;
        Ok(Place { identity: (about.dev(), about.ino()), path })
    }
}

impl Root {
    fn new(path: PathBuf, identity: (u64, u64), access: Access, executes: bool) -> Root {
        Root { path, identity, access, executes, elsewhere: OnceLock::new() }
    }

    /// Where it is, and what was there at the start; nothing if it has no place yet.
    pub(crate) fn place(&self) -> Option<(&Path, (u64, u64))> {
        match self.access.is_elsewhere() {
            true => self.elsewhere.get().map(|place| (&*place.path, place.identity)),
            false => Some((&self.path, self.identity)),
        }
    }

    fn is(&self, identity: (u64, u64)) -> bool {
        self.identity == identity || self.place().is_some_and(|(_, place)| place == identity)
    }
}

/// The files that a program may have. Where one root is below another, the lower one counts.
#[derive(Clone, Debug, Default)]
pub struct Files {
    roots: Vec<Root>,
    /// Names of roots that lead to them by links, with the canonical ones.
    names: Vec<(PathBuf, PathBuf)>,
    /// The directories that lead to roots.
    above: Vec<(u64, u64)>,
    /// Their names.
    noted: Vec<PathBuf>,
    /// How much private layers may copy, if that is not the usual.
    layer_bytes: Option<u64>,
    /// What may be done with unix sockets.
    sockets: Vec<SocketRule>,
    /// What is below these paths is not there, if it is below no root.
    absent: Vec<PathBuf>,
}

/// Something that stays by its name whatever a program may write, or what is below could be had by another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Not there for the program.
    Hidden,
    /// A root, or what leads to one.
    There,
}

impl Files {
    /// None.
    pub fn new() -> Files {
        Files::default()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// Lets [layers](Access::Layer) copy so many bytes, all together, and the policy [serve](Access::Served) so many, where a file counts as 4096 at least; 1 GiB
    /// otherwise.
    pub fn set_layer_bytes(&mut self, bytes: u64) {
        self.layer_bytes = Some(bytes);
    }

    pub(crate) fn layer_bytes(&self) -> u64 {
        self.layer_bytes.unwrap_or(1 << 30)
    }

    /// Adds the file or directory that `path` leads to now.
    ///
    /// # Errors
    ///
    /// Linux's, if there is none. ENOTUNIQ if it has been added with another access, EINVAL for a path that is not absolute, ENOTDIR for a layer or
    /// memory that would be of another thing than a directory.
    pub fn add(&mut self, path: &Path, access: Access) -> io::Result<()> {
        let (canonical, identity) = self.named(path)?;
        if matches!(access, Access::Layer | Access::Memory) && !canonical.is_dir() {
            return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
        }
        match self.roots.iter().find(|root| root.identity == identity) {
            Some(root) if root.access != access => return Err(io::Error::from_raw_os_error(libc::ENOTUNIQ)),
            Some(root) if root.path == canonical => return Ok(()),
            _ => (),
        }
        self.roots.push(Root::new(canonical, identity, access, false));
        Ok(())
    }

    /// Lets the file or directory that `path` leads to now be executed, with all that is below it and not hidden. It can be read, too; whether it
    /// can be written to says what has been added before.
    ///
    /// # Errors
    ///
    /// As for [`add`](Self::add); ENOTUNIQ for what is hidden, and for what is below a directory that is empty at the start, or served.
    pub fn add_executable(&mut self, path: &Path) -> io::Result<()> {
        let (canonical, identity) = self.named(path)?;
        let access = self.root_of(&canonical).map_or(Access::Read, |(root, _)| root.access);
        let is_other = matches!(access, Access::Served | Access::Memory);
        let is_gone = is_other && !self.roots.iter().any(|root| root.path == canonical);
        if access == Access::Hidden || is_gone {
            return Err(io::Error::from_raw_os_error(libc::ENOTUNIQ));
        }
        match self.roots.iter_mut().find(|root| root.identity == identity) {
            Some(root) => root.executes = true,
            None => self.roots.push(Root::new(canonical, identity, access, true)),
        }
        Ok(())
    }

    /// Has what is at `path` and below, and below nothing that has been added, not be there for the program (ENOENT), instead of being denied.
    /// Whether something is there now does not matter.
    ///
    /// # Errors
    ///
    /// EINVAL for a path that is not absolute.
    pub fn set_absent(&mut self, path: &Path) -> io::Result<()> {
        if !path.is_absolute() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let canonical = path.canonicalize().ok().filter(|canonical| canonical != path);
        self.absent.extend([path.components().collect()].into_iter().chain(canonical));
        Ok(())
    }

    pub(crate) fn absent(&self) -> &[PathBuf] {
        &self.absent
    }

    /// What the path of a root leads to: its canonical path, and which file it is.
    fn named(&mut self, path: &Path) -> io::Result<(PathBuf, (u64, u64))> {
        if !path.is_absolute() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let canonical = path.canonicalize()?;
        let about = canonical.symlink_metadata()?;
        self.note_above(&canonical)?;
        if canonical != path {
            self.note_above(path)?;
            self.names.push((path.components().collect(), canonical.clone()));
        }
        Ok((canonical, (about.dev(), about.ino())))
    }

    /// Notes the directories that lead to `path`.
    fn note_above(&mut self, path: &Path) -> io::Result<()> {
        // Most paths have the same ones. What leads to one has been looked at with it.
        let is_noted =
            |directory: &Path| self.noted.iter().any(|noted| noted.as_os_str() == directory.as_os_str());
        let new: Vec<&Path> = path.ancestors().skip(1).take_while(|directory| !is_noted(directory)).collect();
        for directory in new.into_iter().rev() {
            let about = directory.metadata()?;
            self.above.push((about.dev(), about.ino()));
            self.noted.push(directory.to_owned());
        }
        self.above.sort_unstable();
        self.above.dedup();
        Ok(())
    }

    /// Whether what is at a canonical path stays there.
    pub(crate) fn keeps(&self, path: &Path) -> Option<Kept> {
        match self.roots.iter().find(|root| root.path == path) {
            Some(root) if root.access == Access::Hidden => Some(Kept::Hidden),
            _ => self.leads_to_root(path).then_some(Kept::There),
        }
    }

    /// The same by which file it is: a hard link, a mount.
    pub(crate) fn keeps_file(&self, identity: (u64, u64)) -> Option<Kept> {
        if self.is_hidden(identity) {
            return Some(Kept::Hidden);
        }
        let is_root = self.roots.iter().any(|root| root.is(identity));
        (is_root || self.above.contains(&identity)).then_some(Kept::There)
    }

    /// Whether something may be written to.
    pub(crate) fn has_writable(&self) -> bool {
        self.roots.iter().any(|root| root.access >= Access::Write)
    }

    /// Whether something may be executed.
    pub(crate) fn has_executables(&self) -> bool {
        self.roots.iter().any(|root| root.executes)
    }

    pub(crate) fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// Whether there are private layers.
    pub fn has_layers(&self) -> bool {
        self.roots.iter().any(|root| root.access == Access::Layer)
    }

    /// Whether the program has other directories in the place of some that are named, layers or memory: a launcher beside it makes them
    /// ([`Sandbox::run_observed`](crate::Sandbox::run_observed)).
    pub fn are_elsewhere(&self) -> bool {
        self.roots.iter().any(|root| root.access.is_elsewhere())
    }

    /// Puts `place` in the place of the root with this path.
    pub(crate) fn put(&self, path: &Path, place: Place) {
        if let Some(root) = self.roots.iter().find(|root| root.path == path) {
            // A second one would be of another run: the first one counts.
            let _ = root.elsewhere.set(place);
        }
    }

    /// The path that the program has for what Linux calls `path`.
    pub(crate) fn told(&self, path: PathBuf) -> PathBuf {
        let elsewhere = self.roots.iter().filter(|root| root.access.is_elsewhere());
        let all = elsewhere.filter_map(|root| {
            let (place, _) = root.place()?;
            Some((place.as_os_str().len(), root, below(&path, place)?))
        });
        match all.max_by_key(|(length, ..)| *length) {
            Some((_, root, below)) if below.as_os_str().is_empty() => root.path.clone(),
            Some((_, root, below)) => root.path.join(below),
            None => path,
        }
    }

    /// What Linux calls a canonical path, if that is below a root that has a place.
    pub(crate) fn real(&self, path: &Path) -> Option<PathBuf> {
        let (root, below) = self.root_of(path)?;
        let (place, _) = root.place()?;
        Some(if below.as_os_str().is_empty() { place.to_owned() } else { place.join(below) })
    }

    /// The root that counts for a canonical path, with the name below it.
    pub(crate) fn root_of<'p>(&self, path: &'p Path) -> Option<(&Root, &'p Path)> {
        let all = self.roots.iter().filter_map(|root| Some((root, below(path, &root.path)?)));
        all.max_by_key(|(root, _)| root.path.as_os_str().len())
    }

    /// Whether a root, or a name of one, is below `path`.
    fn leads_to_root(&self, path: &Path) -> bool {
        let names = self.names.iter().map(|(name, _)| name);
        self.roots.iter().map(|root| &root.path).chain(names).any(|root| below(root, path).is_some())
    }

    /// Whether what nothing names is not there at a path.
    fn is_absent(&self, path: &Path) -> bool {
        self.absent.iter().any(|absent| below(path, absent).is_some())
    }

    /// Whether it is hidden by another name: a hard link, a mount.
    fn is_hidden(&self, identity: (u64, u64)) -> bool {
        self.roots.iter().any(|root| root.access == Access::Hidden && root.is(identity))
    }
}

/// The rest of `path`, if it is `above` or below it. Both are canonical, so that bytes are compared: part by part, as `Path` does it, a look at all rules
/// took most of the time of a call.
fn below<'p>(path: &'p Path, above: &Path) -> Option<&'p Path> {
    let above = above.as_os_str().as_bytes();
    let rest = path.as_os_str().as_bytes().strip_prefix(above)?;
    let rest = match rest {
        [b'/', rest @ ..] => rest,
        rest if rest.is_empty() || above == b"/" => rest,
        _ => return None,
    };
    Some(Path::new(OsStr::from_bytes(rest)))
}

#[cfg(test)]
mod tests;
