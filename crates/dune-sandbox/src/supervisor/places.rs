//! Calls with paths under a policy that names files: what a path leads to is found below the policy's roots and opened on the way (`walk.rs`), and the
//! call is made on what has been opened.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::open::{Probe, is_harmless, own_link};
use super::walk::{self, find};
use super::{Answer, Thread, error};
use crate::checked::Request;
use crate::files::Files;
use crate::observe::{self, Verdict};
use crate::policy::Decision;
use crate::raw::call;
use crate::raw::result;

const AT_FDCWD: i32 = libc::AT_FDCWD;

/// Makes the call if it is one that only asks about what a path leads to, or goes there. Opening is done by `open.rs`.
pub(super) fn answer(thread: &Thread, files: &Files, request: &Request) -> Option<Answer> {
    if i64::from(request.call().number) == libc::SYS_getcwd && files.are_elsewhere() {
        return Some(working_directory(thread, files, request).unwrap_or_else(|error| error));
    }
    let path = request.paths().first()?;
    let [_, second, third, fourth, fifth, _] = *request.arguments();
    let name = request.call().name();
    let has = |flags: u64, flag: i32| flags & flag as u64 != 0;
    // About what is open.
    let is_open = path.path.is_empty()
        && path.directory.is_some_and(|directory| directory >= 0)
        && matches!(name, "newfstatat" | "statx" | "faccessat2" | "readlinkat");
    if is_open || path.path.as_c_str() == c"/proc/self/exe" && name.starts_with("readlink") {
        return None;
    }
    let follows = match name {
        "stat" | "statfs" | "access" | "faccessat" | "chdir" => true,
        "lstat" | "readlink" | "readlinkat" => false,
        "newfstatat" | "faccessat2" => !has(fourth, libc::AT_SYMLINK_NOFOLLOW),
        "statx" => !has(third, libc::AT_SYMLINK_NOFOLLOW),
        _ => return None,
    };
    let _held = thread.process.keep_descriptors();
    let made = open(thread, files, path.directory, &path.path, follows).and_then(|found| {
        let memory = thread.memory();
        let copied = |address: u64, bytes: &[u8]| {
            memory.write(address, bytes).map(|()| 0).map_err(|_| error(libc::EFAULT))
        };
        match name {
            "stat" | "lstat" => copied(second, &call::stat_of(found.0)?),
            "statfs" => copied(second, &call::statfs_of(found.0)?),
            "newfstatat" => copied(third, &call::stat_of(found.0)?),
            "statx" => copied(fifth, &call::statx_of(found.0, third, fourth)?),
            "access" => call::may_access(found.0, second, 0),
            "faccessat" => call::may_access(found.0, third, 0),
            "faccessat2" => call::may_access(found.0, third, fourth & libc::AT_EACCESS as u64),
            "chdir" => result(call::plain(libc::SYS_fchdir, [found.0 as u64, 0, 0, 0, 0, 0])),
            _ => {
                let (buffer, size) = if name == "readlink" { (second, third) } else { (third, fourth) };
                let target = walk::target_of(files, found.0)?;
                let size = usize::try_from(size as i32).unwrap_or(0);
                if size == 0 {
                    return Err(error(libc::EINVAL));
                }
                let bytes = &target[..target.len().min(size)];
                copied(buffer, bytes).map(|_| bytes.len() as i64)
            }
        }
    });
    Some(made.unwrap_or_else(|error| error))
}

/// getcwd(2), by the name that the program has for it.
fn working_directory(thread: &Thread, files: &Files, request: &Request) -> Result<i64, i64> {
    let [buffer, size, ..] = *request.arguments();
    let path = PathBuf::from(OsString::from_vec(call::working_directory()?));
    let mut bytes = files.told(path).into_os_string().into_vec();
    bytes.push(0);
    if bytes.len() as u64 > size {
        return Err(error(libc::ERANGE));
    }
    thread.memory().write(buffer, &bytes).map_err(|_| error(libc::EFAULT))?;
    Ok(bytes.len() as i64)
}

/// Opens what a path leads to, as a descriptor that says what it is and no more.
fn open(
    thread: &Thread,
    files: &Files,
    directory: Option<i32>,
    path: &CStr,
    follows: bool,
) -> Result<Probe, i64> {
    Ok(find(thread, files, directory.unwrap_or(AT_FDCWD), path, follows)?.probe()?.0)
}

/// Opens a program to read it, or the interpreter that it asks for, which only has to be readable: it is to be an ordinary file that the
/// user may execute.
pub(super) fn open_program(
    thread: &Thread,
    files: &Files,
    path: &Path,
    is_executed: bool,
) -> Result<File, i64> {
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| error(libc::EINVAL))?;
    let _held = thread.process.keep_descriptors();
    let mut found = find(thread, files, AT_FDCWD, &name, true)?;
    if is_executed && !found.executes {
        return Err(denied(thread, &name));
    }
    let (probe, about) = found.probe()?;
    if about.mode & libc::S_IFMT != libc::S_IFREG {
        return Err(error(libc::EACCES));
    }
    call::may_access(probe.0, libc::X_OK as u64, libc::AT_EACCESS as u64)?;
    is_harmless(thread, probe.0)?;
    File::open(OsStr::from_bytes(own_link(probe.0).to_bytes()))
        .map_err(|why| error(why.raw_os_error().unwrap_or(libc::EACCES)))
}

/// What a program gets for what is below no root, unless that is its end.
pub(super) fn denied(thread: &Thread, path: &CStr) -> i64 {
    let policy = &thread.process.policy;
    thread
        .process
        .log(&format!("with the path {path:?}"), &format!("is denied by the policy {}", policy.name()));
    let errno = match policy.denial() {
        Decision::Deny(errno) => errno,
        // What is below no root could not be opened.
        Decision::Ask | Decision::Answer(_) => libc::EACCES,
        _ => thread.end_by_policy(&format!("{path:?}")),
    };
    observe::mark(Verdict::Denied);
    error(errno)
}

/// Whether what `path` leads to is a link, as far as the policy lets the program know.
pub(super) fn is_link(thread: &Thread, files: &Files, path: &CStr) -> bool {
    let _held = thread.process.keep_descriptors();
    let found = open(thread, files, None, path, false);
    found.is_ok_and(|found| {
        call::about(found.0).is_some_and(|about| about.mode & libc::S_IFMT == libc::S_IFLNK)
    })
}

/// A path that leads to what `descriptor` is. With roots it is found below them, else by the descriptor itself.
pub(super) fn path_of(thread: &Thread, descriptor: i32) -> Result<Vec<u8>, i64> {
    if descriptor < 0 || call::about(descriptor).is_none() {
        return Err(error(libc::EBADF));
    }
    match thread.process.policy.files() {
        None => Ok(own_link(descriptor).into_bytes()),
        Some(files) => walk::place(files, descriptor).map(|path| path.into_os_string().into_vec()),
    }
}
