//! Calls with paths under a policy that names files: what a path leads to is found below the policy's roots (`files.rs`), opened from there,
//! and the call is made on what has been opened.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::open::{Probe, is_harmless, own_link};
use super::{Answer, Thread, error, mapped_files};
use crate::checked::Request;
use crate::files::{Access, Files, Found, Look, OUTSIDE, Root};
use crate::observe::{self, Verdict};
use crate::policy::Decision;
use crate::raw::call::{self, OpenHow};
use crate::raw::result;

const AT_FDCWD: i32 = libc::AT_FDCWD;
const PATH: u64 = (libc::O_PATH | libc::O_CLOEXEC) as u64;
/// RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_MAGICLINKS (openat2(2)).
pub(super) const STRICT: u64 = 0x08 | 0x04 | 0x02;

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
                let target = target_of(files, &found)?;
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

/// The text of a link. What Linux makes for a link of procfs is by the names that the program has.
fn target_of(files: &Files, link: &Probe) -> Result<Vec<u8>, i64> {
    let target = call::link_of(link.0)?;
    if !files.are_elsewhere() || !call::is_on_procfs(link.0) {
        return Ok(target);
    }
    Ok(files.told(PathBuf::from(OsString::from_vec(target))).into_os_string().into_vec())
}

/// Opens what a path leads to, as a descriptor that says what it is and no more.
fn open(
    thread: &Thread,
    files: &Files,
    directory: Option<i32>,
    path: &CStr,
    follows: bool,
) -> Result<Probe, i64> {
    let found = find(thread, files, directory.unwrap_or(AT_FDCWD), path, follows)?;
    let root = open_root(found.root)?;
    let kind = if found.is_directory { libc::O_DIRECTORY } else { 0 };
    open_below(&root, &found.name(), kind)
}

/// For a call that opens files, while nobody changes descriptors: the root's descriptor, the name below it, and what openat2(2) is to heed.
pub(super) fn to_open(
    thread: &Thread,
    files: &Files,
    directory: i32,
    path: &CStr,
    how: OpenHow,
) -> Result<(Probe, CString, OpenHow), i64> {
    let has = |flag: i32| how.flags & flag as u64 == flag as u64;
    // What openat2(2) is asked to heed by the program would count for other steps than those that are made here.
    if how.resolve != 0 {
        return Err(error(libc::EINVAL));
    }
    let follows = !(has(libc::O_NOFOLLOW) || has(libc::O_CREAT) && has(libc::O_EXCL));
    let found = find(thread, files, directory, path, follows)?;
    let writes = how.flags & libc::O_ACCMODE as u64 != 0
        || has(libc::O_CREAT)
        || has(libc::O_TRUNC)
        || has(libc::O_TMPFILE);
    if writes && !has(libc::O_PATH) && found.root.access < Access::Write {
        return Err(denied(thread, path));
    }
    let kind = if found.is_directory { libc::O_DIRECTORY as u64 } else { 0 };
    // A file with the others would lend the user's rights.
    let how = OpenHow { mode: how.mode & 0o1777, ..how };
    let root = open_root(found.root)?;
    let name = found.name();
    if is_file(&root, &name) {
        let how = OpenHow { flags: how.flags & !(libc::O_NOFOLLOW as u64) | kind, resolve: 0, ..how };
        let link = own_link(root.0);
        return Ok((root, link, how));
    }
    let stays = if follows { 0 } else { libc::O_NOFOLLOW as u64 };
    let how = OpenHow { flags: how.flags | kind | stays, resolve: STRICT, ..how };
    Ok((root, name, how))
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
    let found = find(thread, files, AT_FDCWD, &name, true)?;
    if is_executed && !found.executes {
        return Err(denied(thread, &name));
    }
    let kind = if found.is_directory { libc::O_DIRECTORY } else { 0 };
    let probe = open_below(&open_root(found.root)?, &found.name(), kind)?;
    let about = call::about(probe.0).ok_or(error(libc::EACCES))?;
    if about.mode & libc::S_IFMT != libc::S_IFREG {
        return Err(error(libc::EACCES));
    }
    call::may_access(probe.0, libc::X_OK as u64, libc::AT_EACCESS as u64)?;
    is_harmless(thread, probe.0)?;
    File::open(OsStr::from_bytes(own_link(probe.0).to_bytes()))
        .map_err(|why| error(why.raw_os_error().unwrap_or(libc::EACCES)))
}

pub(super) fn find<'f>(
    thread: &Thread,
    files: &'f Files,
    directory: i32,
    path: &CStr,
    follows: bool,
) -> Result<Found<'f>, i64> {
    let base =
        if path.to_bytes().first() == Some(&b'/') { PathBuf::from("/") } else { place(files, directory)? };
    let found = files.find(&base, path.to_bytes(), follows, &mut |root, below| look(files, root, below));
    found.map_err(|errno| if errno == OUTSIDE { denied(thread, path) } else { error(errno) })
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
        Decision::Ask => libc::EACCES,
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
        Some(files) => place(files, descriptor).map(|path| path.into_os_string().into_vec()),
    }
}

/// Where a directory is that is open, by the name that the program has for it. Nothing hangs on its being true: it chooses a root, and what is opened is below that.
fn place(files: &Files, directory: i32) -> Result<PathBuf, i64> {
    let link = if directory == AT_FDCWD { c"/proc/thread-self/cwd".to_owned() } else { own_link(directory) };
    std::fs::read_link(OsStr::from_bytes(link.to_bytes()))
        .map_err(|_| error(libc::EBADF))
        .and_then(|path| if path.is_absolute() { Ok(files.told(path)) } else { Err(error(libc::ENOTDIR)) })
}

/// The root, if it is what it was.
pub(super) fn open_root(root: &Root) -> Result<Probe, i64> {
    let (path, identity) = root.place().ok_or(error(libc::EACCES))?;
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| error(libc::EINVAL))?;
    // RESOLVE_NO_SYMLINKS, RESOLVE_NO_MAGICLINKS: the path is canonical.
    let mut how = OpenHow { flags: PATH | libc::O_NOFOLLOW as u64, mode: 0, resolve: STRICT & !0x08 };
    let opened = Probe(result(call::open(AT_FDCWD, &path, &mut how))? as i32);
    match call::about(opened.0) {
        Some(about) if about.identity == identity => Ok(opened),
        _ => Err(error(libc::EACCES)),
    }
}

pub(super) fn open_below(root: &Probe, name: &CStr, flags: i32) -> Result<Probe, i64> {
    if is_file(root, name) {
        let arguments = [root.0 as u64, libc::F_DUPFD_CLOEXEC as u64, 0, 0, 0, 0];
        return result(call::plain(libc::SYS_fcntl, arguments)).map(|number| Probe(number as i32));
    }
    let flags = PATH | (libc::O_NOFOLLOW | flags) as u64;
    // With O_PATH and O_NOFOLLOW a link at the end is what is opened.
    let mut how = OpenHow { flags, mode: 0, resolve: STRICT };
    Ok(Probe(result(call::open(root.0, name, &mut how))? as i32))
}

/// Whether a root is itself what is meant, and no directory.
fn is_file(root: &Probe, name: &CStr) -> bool {
    name == c"." && call::about(root.0).is_some_and(|about| about.mode & libc::S_IFMT != libc::S_IFDIR)
}

/// What is at a name below a root.
fn look(files: &Files, root: &Root, below: &Path) -> Result<Look, i32> {
    let errno = |error: i64| -error as i32;
    let path = root.path.join(below);
    let root = open_root(root).map_err(errno)?;
    if mapped_files::may_be(&path) && call::is_on_procfs(root.0) {
        return Err(libc::EACCES);
    }
    let found = open_below(&root, &crate::files::name(below), 0).map_err(errno)?;
    let about = call::about(found.0).ok_or(libc::EACCES)?;
    Ok(match about.mode & libc::S_IFMT {
        libc::S_IFLNK => Look::Link(target_of(files, &found).map_err(errno)?),
        libc::S_IFDIR => Look::Directory { identity: about.identity },
        _ => Look::Other { identity: about.identity },
    })
}
