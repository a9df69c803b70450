//! Trees of files, walked by descriptors: no step follows a link, whoever exchanges names meanwhile.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::{Errno, Result};
use serde::{Deserialize, Serialize};

/// How deep directories are followed: each level holds a descriptor.
pub(crate) const DEPTH: usize = 200;

/// What a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// A directory.
    Directory,
    /// An ordinary file.
    File,
    /// A symbolic link.
    Link,
    /// A FIFO, a socket, a device.
    Special,
}

/// What tells that a file has not been changed: Linux sets the last one whatever is changed, and no program can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub(crate) identity: (u64, u64),
    pub(crate) size: u64,
    modified: (i64, i64),
    pub(crate) changed: (i64, i64),
}

impl Stamp {
    /// Whether only the name is another one.
    pub(crate) fn is_but_renamed(&self, before: &Stamp) -> bool {
        let changed = before.changed;
        Stamp { changed, ..*self } == *before
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct About {
    pub(crate) kind: Kind,
    /// Without S_ISUID and S_ISGID, which would lend the user's rights.
    pub(crate) mode: u32,
    pub(crate) links: u64,
    pub(crate) stamp: Stamp,
    times: [fs::Timespec; 2],
}

impl From<Stat> for About {
    fn from(stat: Stat) -> About {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Directory,
            FileType::RegularFile => Kind::File,
            FileType::Symlink => Kind::Link,
            _ => Kind::Special,
        };
        let time = |seconds, nanoseconds| fs::Timespec { tv_sec: seconds, tv_nsec: nanoseconds as i64 };
        About {
            kind,
            mode: stat.st_mode & 0o1777,
            links: stat.st_nlink,
            stamp: Stamp {
                identity: (stat.st_dev, stat.st_ino),
                size: if kind == Kind::Directory { 0 } else { stat.st_size as u64 },
                modified: (stat.st_mtime, stat.st_mtime_nsec as i64),
                changed: (stat.st_ctime, stat.st_ctime_nsec as i64),
            },
            times: [time(stat.st_atime, stat.st_atime_nsec), time(stat.st_mtime, stat.st_mtime_nsec)],
        }
    }
}

impl About {
    pub(crate) fn times(&self) -> fs::Timestamps {
        let [last_access, last_modification] = self.times;
        fs::Timestamps { last_access, last_modification }
    }
}

pub(crate) fn about(directory: &OwnedFd, name: &OsStr) -> Result<About> {
    fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map(About::from)
}

pub(crate) fn about_open(file: impl AsFd) -> Result<About> {
    fs::fstat(file).map(About::from)
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The directory that a canonical path names.
pub(crate) fn root(path: &Path) -> Result<OwnedFd> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    fs::openat2(fs::CWD, path, DIRECTORY, Mode::empty(), resolve)
}

pub(crate) fn directory(at: &OwnedFd, name: &OsStr) -> Result<OwnedFd> {
    fs::openat(at, name, DIRECTORY, Mode::empty())
}

/// The directory `below` another one, by no link.
pub(crate) fn directory_below(root: &OwnedFd, below: &Path) -> Result<OwnedFd> {
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    fs::openat2(root, below, DIRECTORY, Mode::empty(), resolve)
}

/// The directory that has `below` in it, and the last part.
pub(crate) fn parent<'p>(root: &OwnedFd, below: &'p Path) -> Result<(OwnedFd, &'p OsStr)> {
    let name = below.file_name().ok_or(Errno::INVAL)?;
    directory_below(root, below.parent().unwrap_or(Path::new(""))).map(|directory| (directory, name))
}

/// A directory of the user's own, and those that lead to it, whose modes are changed while this is there, so that they can be entered.
struct Entered {
    directory: OwnedFd,
    changed: Vec<(OwnedFd, u32)>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        for (directory, mode) in self.changed.drain(..).rev() {
            // It has been changed a moment ago.
            let _ = set_mode(directory, mode);
        }
    }
}

/// As [`parent`], whatever modes the directories have.
fn enter_parent<'p>(root: &OwnedFd, below: &'p Path) -> Result<(Entered, &'p OsStr)> {
    let name = below.file_name().ok_or(Errno::INVAL)?;
    let mut entered = Entered { directory: directory_below(root, Path::new(""))?, changed: Vec::new() };
    for part in below.parent().unwrap_or(Path::new("")) {
        let mode = about(&entered.directory, part)?.mode;
        let inner = despite_mode(&entered.directory, part, mode, directory)?;
        if mode & 0o700 != 0o700 {
            set_mode(&inner, mode | 0o700)?;
            entered.changed.push((inner.try_clone().map_err(|_| Errno::MFILE)?, mode));
        }
        entered.directory = inner;
    }
    Ok((entered, name))
}

/// An ordinary file of the user's own, to be read whatever its mode is.
pub(crate) fn own_file(root: &OwnedFd, below: &Path) -> Result<File> {
    let (entered, name) = enter_parent(root, below)?;
    let mode = about(&entered.directory, name)?.mode;
    let found = despite_mode(&entered.directory, name, mode, file)?;
    if about_open(&found)?.mode != mode {
        set_mode(&found, mode)?;
    }
    Ok(found)
}

/// An ordinary file to be read.
pub(crate) fn file_below(root: &OwnedFd, below: &Path) -> Result<File> {
    let (directory, name) = parent(root, below)?;
    file(&directory, name)
}

/// An ordinary file to be read; ENXIO if it has become another thing.
pub(crate) fn file(at: &OwnedFd, name: &OsStr) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(fs::openat(at, name, flags, Mode::empty())?);
    if about_open(&file)?.kind == Kind::File { Ok(file) } else { Err(Errno::NXIO) }
}

/// Opens what the user owns, also if its mode does not let them: that is changed for the moment.
pub(crate) fn despite_mode<T>(
    at: &OwnedFd,
    name: &OsStr,
    mode: u32,
    open: impl Fn(&OwnedFd, &OsStr) -> Result<T>,
) -> Result<T> {
    match open(at, name) {
        Err(Errno::ACCESS) => {
            fs::chmodat(at, name, Mode::from_raw_mode(mode | 0o700), AtFlags::empty())?;
            open(at, name)
        }
        done => done,
    }
}

pub(crate) fn set_mode(file: impl AsFd, mode: u32) -> Result<()> {
    fs::fchmod(file, Mode::from_raw_mode(mode))
}

pub(crate) fn target(at: &OwnedFd, name: &OsStr) -> Result<PathBuf> {
    let target = fs::readlinkat(at, name, Vec::new())?;
    Ok(OsString::from_vec(target.into_bytes()).into())
}

/// The names in a directory, sorted.
pub(crate) fn names(directory: &OwnedFd) -> Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether two files have the same bytes.
pub(crate) fn are_same(mut one: impl Read, mut other: impl Read) -> io::Result<bool> {
    let (mut first, mut second) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let length = fill(&mut one, &mut first)?;
        if length != fill(&mut other, &mut second)? || first[..length] != second[..length] {
            return Ok(false);
        }
        if length == 0 {
            return Ok(true);
        }
    }
}

fn fill(from: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < into.len() {
        match from.read(&mut into[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => (),
            Err(why) => return Err(why),
        }
    }
    Ok(length)
}

/// Removes all that is in a directory, however deep a program has nested it.
pub(crate) fn clear(top: &OwnedFd) -> Result<()> {
    let mut moved = 0;
    while !names(top)?.is_empty() {
        clear_below(top, top, 0, &mut moved)?;
    }
    Ok(())
}

fn clear_below(directory: &OwnedFd, top: &OwnedFd, depth: usize, moved: &mut u64) -> Result<()> {
    for name in names(directory)? {
        let about = about(directory, &name)?;
        if about.kind != Kind::Directory {
            fs::unlinkat(directory, &name, AtFlags::empty())?;
            continue;
        }
        if depth >= DEPTH {
            *moved += 1;
            let new = format!(".dune-{}-{moved}", std::process::id());
            fs::renameat_with(directory, &name, top, new, fs::RenameFlags::NOREPLACE)?;
            continue;
        }
        let inner = despite_mode(directory, &name, about.mode, self::directory)?;
        if about.mode & 0o700 != 0o700 {
            set_mode(&inner, 0o700)?;
        }
        clear_below(&inner, top, depth + 1, moved)?;
        fs::unlinkat(directory, &name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// A name as text that does nothing to a terminal.
pub fn shown(path: &Path) -> String {
    let mut out = String::new();
    for part in path.as_os_str().as_bytes().utf8_chunks() {
        for character in part.valid().chars() {
            if character.is_control() || character == '\\' {
                out.extend(character.escape_default());
            } else {
                out.push(character);
            }
        }
        part.invalid().iter().for_each(|byte| out.push_str(&format!("\\x{byte:02x}")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_trees_are_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let top = root(&folder.path().canonicalize().expect("there")).expect("open");
        let mut at = top.try_clone().expect("a descriptor");
        for level in 0..6_000 {
            fs::mkdirat(&at, "d", Mode::RWXU).expect("made");
            fs::symlinkat("/", &at, "link").expect("made");
            at = directory(&at, "d".as_ref()).expect("open");
            if level == 10 {
                fs::mkdirat(&at, "closed", Mode::empty()).expect("made");
            }
        }
        clear(&top).expect("removed");
        assert!(names(&top).expect("listed").is_empty() && Path::new("/").exists());
    }

    #[test]
    fn names_do_nothing_to_a_terminal() {
        let name = OsStr::from_bytes(b"a\x1b[2J\xff\n\\b \xc3\xa4");
        assert_eq!(shown(Path::new(name)), "a\\u{1b}[2J\\xff\\n\\\\b ä");
    }
}
