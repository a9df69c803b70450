//! The way that a path leads below the policy's roots (`files/walk.rs`), with descriptors that say what a file is and no more (O_PATH).

use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::open::{Probe, own_link};
use super::places::denied;
use super::{Thread, error, mapped_files};
use crate::files::{self, Files, Look, OUTSIDE, Opener, Root, Start};
use crate::raw::call::{self, About, OpenHow};
use crate::raw::result;

const AT_FDCWD: i32 = libc::AT_FDCWD;
const PATH: u64 = (libc::O_PATH | libc::O_CLOEXEC) as u64;
/// RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_MAGICLINKS (openat2(2)).
pub(super) const STRICT: u64 = 0x08 | 0x04 | 0x02;

/// What a walk has come to.
pub(super) enum Opened {
    Own(Probe, About),
    /// Where the path starts: a descriptor of the program's, or AT_FDCWD.
    Lent(i32),
}

impl Opened {
    pub(super) fn number(&self) -> i32 {
        match self {
            Opened::Own(probe, _) => probe.0,
            Opened::Lent(number) => *number,
        }
    }

    /// By another number than `number`, which is to be free.
    pub(super) fn clear_of(self, number: i32) -> Result<Opened, i64> {
        match self {
            Opened::Own(probe, about) => Ok(Opened::Own(probe.clear_of(number)?, about)),
            Opened::Lent(_) => Ok(self),
        }
    }

    /// As a descriptor of the supervisor's.
    fn own(self) -> Result<(Probe, About), i64> {
        match self {
            Opened::Own(probe, about) => Ok((probe, about)),
            Opened::Lent(directory) => open_part(directory, c"."),
        }
    }
}

pub(super) type Found<'f> = files::Found<'f, Opened>;

impl Found<'_> {
    /// What is there: ENOENT for what is not, ENOTDIR for what is no directory and is to be one.
    pub(super) fn probe(&mut self) -> Result<(Probe, About), i64> {
        let (probe, about) = self.there.take().ok_or(error(libc::ENOENT))?.own()?;
        if self.is_directory && about.mode & libc::S_IFMT != libc::S_IFDIR {
            return Err(error(libc::ENOTDIR));
        }
        Ok((probe, about))
    }
}

/// Finds what a path of the program's leads to, while nobody changes descriptors.
pub(super) fn find<'f>(
    thread: &Thread,
    files: &'f Files,
    directory: i32,
    path: &CStr,
    follows: bool,
) -> Result<Found<'f>, i64> {
    Ok(find_and_count(thread, files, directory, path, follows)?.0)
}

/// The same, and the lowest number that the walk has had a descriptor by, if it had one: it was the lowest free one.
pub(super) fn find_and_count<'f>(
    thread: &Thread,
    files: &'f Files,
    directory: i32,
    path: &CStr,
    follows: bool,
) -> Result<(Found<'f>, Option<i32>), i64> {
    let mut walker = Walker { files, lowest: None };
    let start = match path.to_bytes().first() {
        Some(b'/') => None,
        _ => Some(walker.start(thread, directory)?),
    };
    let found = files.find(start, path.to_bytes(), follows, &mut walker);
    let found = found.map_err(|errno| if errno == OUTSIDE { denied(thread, path) } else { error(errno) })?;
    Ok((found, walker.lowest))
}

/// Where a directory is that is open, by the name that the program has for it.
pub(super) fn place(files: &Files, directory: i32) -> Result<PathBuf, i64> {
    std::fs::read_link(OsStr::from_bytes(own_link(directory).to_bytes()))
        .map_err(|_| error(libc::EBADF))
        .and_then(|path| if path.is_absolute() { Ok(files.told(path)) } else { Err(error(libc::ENOTDIR)) })
}

/// The text of a link. What Linux makes for a link of procfs is by the names that the program has.
pub(super) fn target_of(files: &Files, link: i32) -> Result<Vec<u8>, i64> {
    let target = call::link_of(link)?;
    if !files.are_elsewhere() || !call::is_on_procfs(link) {
        return Ok(target);
    }
    Ok(files.told(PathBuf::from(OsString::from_vec(target))).into_os_string().into_vec())
}

/// Opens a name of one part; a link as such.
pub(super) fn open_part(directory: i32, name: &CStr) -> Result<(Probe, About), i64> {
    let mut how = OpenHow { flags: PATH | libc::O_NOFOLLOW as u64, mode: 0, resolve: STRICT };
    let opened = Probe(result(call::open(directory, name, &mut how))? as i32);
    let about = call::about(opened.0).ok_or(error(libc::EACCES))?;
    Ok((opened, about))
}

struct Walker<'f> {
    files: &'f Files,
    lowest: Option<i32>,
}

impl Walker<'_> {
    /// The directory in which a path starts, by the name that the program has for it. That chooses a root, so it is to be the name of just
    /// this directory: another thread could change the working one in between.
    fn start(&mut self, thread: &Thread, directory: i32) -> Result<Start<Opened>, i64> {
        if directory != AT_FDCWD {
            return Ok(Start { path: place(self.files, directory)?, directory: Opened::Lent(directory) });
        }
        if thread.process.threads.is_one() {
            let path = PathBuf::from(OsString::from_vec(call::working_directory()?));
            // "(unreachable)", Linux says of some.
            let is_known = path.is_absolute().then(|| self.files.told(path));
            let path = is_known.ok_or(error(libc::ENOENT))?;
            return Ok(Start { path, directory: Opened::Lent(AT_FDCWD) });
        }
        let directory = self.own(open_part(AT_FDCWD, c".")?);
        Ok(Start { path: place(self.files, directory.number())?, directory })
    }

    fn own(&mut self, (probe, about): (Probe, About)) -> Opened {
        self.lowest = Some(self.lowest.map_or(probe.0, |lowest| lowest.min(probe.0)));
        Opened::Own(probe, about)
    }
}

impl Opener for Walker<'_> {
    type Opened = Opened;

    /// The root, if it is what it was.
    fn open_root(&mut self, root: &Root) -> Result<Opened, i32> {
        let (path, identity) = root.place().ok_or(libc::EACCES)?;
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| libc::EINVAL)?;
        // RESOLVE_NO_SYMLINKS, RESOLVE_NO_MAGICLINKS: the path is canonical.
        let mut how = OpenHow { flags: PATH | libc::O_NOFOLLOW as u64, mode: 0, resolve: STRICT & !0x08 };
        let opened = Probe(result(call::open(AT_FDCWD, &path, &mut how)).map_err(errno)? as i32);
        match call::about(opened.0) {
            Some(about) if about.identity == identity => Ok(self.own((opened, about))),
            _ => Err(libc::EACCES),
        }
    }

    fn open_in(&mut self, directory: &Opened, path: &Path) -> Result<Opened, i32> {
        let directory = directory.number();
        if mapped_files::may_be(path) && call::is_on_procfs(directory) {
            return Err(libc::EACCES);
        }
        let name = path.file_name().unwrap_or_default();
        let name = CString::new(name.as_bytes()).map_err(|_| libc::EINVAL)?;
        open_part(directory, &name).map(|opened| self.own(opened)).map_err(errno)
    }

    fn look(&mut self, opened: &Opened) -> Result<Look, i32> {
        let Opened::Own(probe, about) = opened else {
            unreachable!("the start of a path is not looked at");
        };
        Ok(match about.mode & libc::S_IFMT {
            libc::S_IFLNK => Look::Link(target_of(self.files, probe.0).map_err(errno)?),
            libc::S_IFDIR => Look::Directory { identity: about.identity },
            _ => Look::Other { identity: about.identity },
        })
    }
}

fn errno(error: i64) -> i32 {
    -error as i32
}
