//! Copying a folder, so that it can be told later what a program has changed in the copy, and what others in the folder.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use crate::error::LayerError;
use crate::manifest::{Entry, Folder, Name, Reason};
use crate::tree::{self, About, DEPTH, Kind, Stamp};

/// A folder, and what of it is not to be copied.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its canonical path.
    pub path: PathBuf,
    /// What a program finds elsewhere, by paths below the folder: an empty directory or file stands there, to be listed.
    pub apart: Vec<PathBuf>,
    /// What is not there for a program, by paths below the folder.
    pub hidden: Vec<PathBuf>,
    /// The same by device and inode, whatever the name.
    pub hidden_files: Vec<(u64, u64)>,
}

/// What may still be copied.
#[derive(Debug)]
pub(crate) struct Budget {
    pub(crate) limit: u64,
    pub(crate) used: u64,
}

/// What a name counts as at least.
const NAME: u64 = 4096;

struct Copying<'c> {
    source: &'c Source,
    device: u64,
    to: &'c OwnedFd,
    budget: &'c mut Budget,
    entries: BTreeMap<Name, Entry>,
    left_out: BTreeMap<Name, Reason>,
    /// Files with several names, by what they are: the first name.
    linked: HashMap<(u64, u64), PathBuf>,
}

/// Copies the folder into the directory `to`, which is empty.
pub(crate) fn copy(source: &Source, to: &OwnedFd, budget: &mut Budget) -> Result<Folder, LayerError> {
    let from = tree::root(&source.path).map_err(LayerError::step("open the folder", &source.path))?;
    let about = tree::about_open(&from).map_err(LayerError::step("look at", &source.path))?;
    let mut copying = Copying {
        source,
        device: about.stamp.identity.0,
        to,
        budget,
        entries: BTreeMap::new(),
        left_out: BTreeMap::new(),
        linked: HashMap::new(),
    };
    copying.directory(&from, to, Path::new(""), 0)?;
    finish_directory(to, &about).map_err(LayerError::step("make the copy of", &source.path))?;
    let Copying { mut entries, left_out, linked, .. } = copying;
    for (name, entry) in &mut entries {
        if linked.contains_key(&entry.original.identity) {
            // Each further name has changed what the first one was.
            let (directory, last) =
                tree::parent(to, &name.0).map_err(LayerError::step("copy", &source.path))?;
            entry.copied = tree::about(&directory, last).ok().map(|about| about.stamp);
        }
    }
    let last = entries.values().filter_map(|entry| entry.copied).map(|stamp| stamp.changed).max();
    if !last.is_none_or(has_passed) {
        entries.values_mut().for_each(|entry| entry.copied = None);
    }
    Ok(Folder { path: Name(source.path.clone()), identity: about.stamp.identity, entries, left_out })
}

impl Copying<'_> {
    fn directory(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        below: &Path,
        depth: usize,
    ) -> Result<(), LayerError> {
        let full = self.source.path.join(below);
        if depth > DEPTH {
            return Err(LayerError::TooDeep { path: full, limit: DEPTH });
        }
        for name in tree::names(from).map_err(LayerError::step("list", &full))? {
            let path = below.join(&name);
            match self.entry(from, to, &name, &path, depth) {
                Err(Fault::Step(Errno::NOENT)) => (),
                Err(Fault::Step(why)) => {
                    return Err(LayerError::step("copy", self.source.path.join(path))(why));
                }
                Err(Fault::Whole(error)) => return Err(error),
                Ok(()) => (),
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &OsStr,
        path: &Path,
        depth: usize,
    ) -> Result<(), Fault> {
        let about = tree::about(from, name)?;
        let Source { apart, hidden, hidden_files, .. } = self.source;
        if hidden.iter().any(|one| one == path) || hidden_files.contains(&about.stamp.identity) {
            return self.leave_out(path, Reason::Hidden);
        }
        if apart.iter().any(|one| one == path) {
            stand_in(to, name, about.kind)?;
            return self.leave_out(path, Reason::Apart);
        }
        self.count(about.stamp.size)?;
        match about.kind {
            Kind::Special => self.leave_out(path, Reason::Special),
            Kind::Directory if about.stamp.identity.0 != self.device => {
                stand_in(to, name, about.kind)?;
                self.leave_out(path, Reason::Mounted)
            }
            Kind::Directory => {
                let inner = match tree::directory(from, name) {
                    Err(Errno::ACCESS) => return self.leave_out(path, Reason::Unreadable),
                    inner => inner?,
                };
                fs::mkdirat(to, name, Mode::RWXU)?;
                let copy = tree::directory(to, name)?;
                let about = tree::about_open(&inner)?;
                self.directory(&inner, &copy, path, depth + 1)?;
                finish_directory(&copy, &about)?;
                self.note(path, about, None, None);
                Ok(())
            }
            Kind::Link => {
                let target = tree::target(from, name)?;
                fs::symlinkat(&target, to, name)?;
                fs::utimensat(to, name, &about.times(), AtFlags::SYMLINK_NOFOLLOW)?;
                self.note(path, about, None, Some(target));
                Ok(())
            }
            Kind::File => self.file(from, to, name, path),
        }
    }

    fn file(&mut self, from: &OwnedFd, to: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), Fault> {
        let mut original = match tree::file(from, name) {
            Err(Errno::ACCESS) => return self.leave_out(path, Reason::Unreadable),
            // It has become another thing since.
            Err(Errno::NXIO | Errno::LOOP) => return self.leave_out(path, Reason::Special),
            original => original?,
        };
        let about = settled(&original)?;
        if let Some(first) = self.linked.get(&about.stamp.identity) {
            let (directory, first) = tree::parent(self.to, first)?;
            fs::linkat(&directory, first, to, name, AtFlags::empty())?;
            self.note(path, about, None, None);
            return Ok(());
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut copy = File::from(fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?);
        // By copy_file_range(2): blocks are shared where the file system can.
        io::copy(&mut original, &mut copy).map_err(|why| Errno::from_io_error(&why).unwrap_or(Errno::IO))?;
        tree::set_mode(&copy, about.mode)?;
        fs::futimens(&copy, &about.times())?;
        let copied = tree::about_open(&copy)?.stamp;
        if about.links > 1 {
            self.linked.insert(about.stamp.identity, path.to_owned());
        }
        self.note(path, about, Some(copied), None);
        Ok(())
    }

    fn count(&mut self, size: u64) -> Result<(), Fault> {
        let Budget { limit, used } = self.budget;
        *used = used.saturating_add(size.max(NAME));
        if *used > *limit {
            return Err(LayerError::TooBig { path: self.source.path.clone(), limit: *limit }.into());
        }
        Ok(())
    }

    fn leave_out(&mut self, path: &Path, reason: Reason) -> Result<(), Fault> {
        self.left_out.insert(Name(path.to_owned()), reason);
        Ok(())
    }

    fn note(&mut self, path: &Path, about: About, copied: Option<Stamp>, target: Option<PathBuf>) {
        let About { kind, mode, stamp, .. } = about;
        let entry = Entry { kind, mode, original: stamp, copied, target: target.map(Name) };
        self.entries.insert(Name(path.to_owned()), entry);
    }
}

enum Fault {
    Step(Errno),
    Whole(LayerError),
}

impl From<Errno> for Fault {
    fn from(why: Errno) -> Fault {
        Fault::Step(why)
    }
}

impl From<LayerError> for Fault {
    fn from(error: LayerError) -> Fault {
        Fault::Whole(error)
    }
}

/// Something by this name, for listings.
fn stand_in(to: &OwnedFd, name: &OsStr, kind: Kind) -> Result<(), Errno> {
    if kind == Kind::Directory {
        return fs::mkdirat(to, name, Mode::RWXU);
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR).map(drop)
}

fn finish_directory(copy: &OwnedFd, about: &About) -> Result<(), Errno> {
    tree::set_mode(copy, about.mode)?;
    fs::futimens(copy, &about.times())
}

/// Linux's clock for times of changes: what is changed from now on has this time or a later one.
fn now() -> (i64, i64) {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    (now.tv_sec, now.tv_nsec)
}

/// Whether a change from now on has a later time than this one: the clock may have to tick first. Where another computer's clock is ahead, that is
/// not waited for.
fn has_passed(time: (i64, i64)) -> bool {
    const PAUSE: Duration = Duration::from_millis(2);
    let mut is_over = time < now();
    for _ in 0..20 {
        if is_over {
            break;
        }
        thread::sleep(PAUSE);
        is_over = time < now();
    }
    is_over
}

/// What a file is, once a change after that would show.
fn settled(file: &File) -> Result<About, Errno> {
    has_passed(tree::about_open(file)?.stamp.changed);
    tree::about_open(file)
}
