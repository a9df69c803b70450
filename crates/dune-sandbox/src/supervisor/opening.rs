//! Opening files under a policy that names files: what a walk has found is opened.
//!
//! The program gets the lowest number that is free, as from Linux, so what the walk has open stands elsewhere by then. And what reads or
//! writes is not opened to be closed again: with any of a process's descriptors of a file its record locks would go (fcntl(2)).

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;

use super::open::{self, Probe, TMPFILE, is_harmless, open_found};
use super::places::denied;
use super::walk::{Found, Opened, STRICT, find_and_count};
use super::{Thread, error};
use crate::files::{Access, Files};
use crate::raw::call::{self, About, OpenHow};
use crate::raw::result;

/// What the path leads to, if it may be opened so, and the lowest number that the walk had.
pub(super) fn find<'f>(
    thread: &Thread,
    files: &'f Files,
    directory: i32,
    path: &CStr,
    how: &OpenHow,
) -> Result<(Found<'f>, Option<i32>), i64> {
    // What openat2(2) is asked to heed by the program would count for other steps than those that are made here.
    if how.resolve != 0 {
        return Err(error(libc::EINVAL));
    }
    let follows = !(how.has(libc::O_NOFOLLOW) || how.has(libc::O_CREAT) && how.has(libc::O_EXCL));
    let (found, lowest) = find_and_count(thread, files, directory, path, follows)?;
    let writes = how.flags & libc::O_ACCMODE as u64 != 0
        || how.has(libc::O_CREAT)
        || how.has(libc::O_TRUNC)
        || how.has(libc::O_TMPFILE);
    if writes && !how.has(libc::O_PATH) && found.root.access < Access::Write {
        return Err(denied(thread, path));
    }
    Ok((found, lowest))
}

/// Finds and opens the file, while nobody changes descriptors; `None` if something has come in between.
pub(super) fn try_open(
    thread: &Thread,
    files: &Files,
    directory: i32,
    path: &CStr,
    how: OpenHow,
) -> Result<Option<i64>, i64> {
    let (mut found, lowest) = find(thread, files, directory, path, &how)?;
    // A file with the others would lend the user's rights.
    let how = OpenHow { mode: how.mode & 0o1777, ..how };
    if found.there.is_none() {
        return create(found, how, lowest);
    }
    let (there, about) = found.probe()?;
    let lowest = lowest.map_or(there.0, |lowest| lowest.min(there.0));
    if how.has(libc::O_CREAT) {
        if how.has(libc::O_EXCL) {
            return Err(error(libc::EEXIST));
        }
        if about.mode & libc::S_IFMT == libc::S_IFDIR {
            return Err(error(libc::EISDIR));
        }
    }
    if how.has(libc::O_PATH) {
        // What is found so can not be read, and what is opened by its help comes by here; it tells what there is.
        is_harmless(thread, there.0)?;
    }
    let name = last_part(&found);
    match found.directory.take() {
        Some(directory) if goes_by_name(thread, &about, &how) => {
            drop(there);
            open_by_name(directory, &name, &about, how, lowest)
        }
        directory => {
            drop(directory);
            match how.has(libc::O_PATH) {
                true => there.settle(lowest, how.flags).map(Some),
                false => open_found(thread, there, &about, how, lowest).map(Some),
            }
        }
    }
}

fn last_part(found: &Found) -> CString {
    let name = found.path.file_name().unwrap_or_default();
    CString::new(name.as_bytes()).unwrap_or_default()
}

/// Whether the file may be opened by its name and looked at afterwards, which is cheaper: nothing comes of opening the wrong one, and nobody is
/// there who could use it meanwhile.
fn goes_by_name(thread: &Thread, about: &About, how: &OpenHow) -> bool {
    let kind = about.mode & libc::S_IFMT;
    let is_special = about.may_be_on_procfs() || how.has(libc::O_TRUNC) || how.has(TMPFILE);
    how.has(libc::O_PATH)
        || kind == libc::S_IFLNK
        || thread.process.threads.is_one()
            && !is_special
            && matches!(kind, libc::S_IFREG | libc::S_IFDIR | libc::S_IFIFO)
}

fn open_by_name(
    directory: Opened,
    name: &CStr,
    about: &About,
    how: OpenHow,
    lowest: i32,
) -> Result<Option<i64>, i64> {
    let directory = directory.clear_of(lowest)?;
    let flags = how.flags & !(libc::O_CREAT as u64);
    let mut how = OpenHow { flags, mode: 0, resolve: STRICT };
    let opened = match result(call::open(directory.number(), name, &mut how)) {
        Err(why) if why == error(libc::ENOENT) => return Ok(None),
        Err(why) if why == error(libc::ELOOP) && about.mode & libc::S_IFMT != libc::S_IFLNK => {
            return Ok(None);
        }
        opened => Probe(opened? as i32),
    };
    let is_same = call::about(opened.0).is_some_and(|now| now.identity == about.identity);
    Ok(is_same.then(|| opened.keep()))
}

/// Makes the file that has not been found.
fn create(found: Found, how: OpenHow, lowest: Option<i32>) -> Result<Option<i64>, i64> {
    let name = last_part(&found);
    let directory = found.directory.filter(|_| how.has(libc::O_CREAT)).ok_or(error(libc::ENOENT))?;
    if found.is_directory {
        return Err(error(libc::EISDIR));
    }
    let directory = match lowest {
        Some(lowest) => directory.clear_of(lowest)?,
        None => directory,
    };
    open::create(directory.number(), &name, OpenHow { resolve: STRICT, ..how })
}
