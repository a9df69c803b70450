//! Calls that change directories, and what files are, under a policy that names files: below what it lets write, and there only.
//!
//! What a path names is found as for opening (`places.rs`): the directory, which is opened from its root, and the last part, which none of
//! these calls follows. What is about a file itself is done to the file, opened: so the second wall need not let through calls that change
//! modes and times by paths, which Landlock does not look at.
//!
//! The roots of the policy, and the directories that lead to them, stay where they are: else what is below them could be had by another path.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::entry::{Entry, Way};
use super::open::{Probe, is_harmless, own_link};
use super::places::denied;
use super::walk::find;
use super::{Answer, Thread, error, written};
use crate::checked::Request;
use crate::files::{Access, Files};
use crate::raw::call::{self, OpenHow};
use crate::raw::result;

const HERE: u64 = libc::AT_FDCWD as u64;

/// Makes the call if it is one of these.
pub(super) fn answer(thread: &Thread, files: &Files, request: &Request) -> Option<Answer> {
    let number = i64::from(request.call().number);
    if !NUMBERS.contains(&number) {
        return None;
    }
    let _held = thread.process.keep_descriptors();
    let [first, second, third, fourth, fifth, _] = *request.arguments();
    let done = match number {
        libc::SYS_mkdir => make(thread, files, request, HERE, 0, libc::SYS_mkdirat, [second, 0]),
        libc::SYS_mkdirat => make(thread, files, request, first, 1, libc::SYS_mkdirat, [third, 0]),
        libc::SYS_mknod => make_node(thread, files, request, HERE, 0, second),
        libc::SYS_mknodat => make_node(thread, files, request, first, 1, third),
        libc::SYS_symlink => link_text(thread, files, request, first, HERE, 1),
        libc::SYS_symlinkat => link_text(thread, files, request, first, second, 2),
        libc::SYS_rmdir => remove(thread, files, request, HERE, 0, libc::AT_REMOVEDIR as u64),
        libc::SYS_unlink => remove(thread, files, request, HERE, 0, 0),
        libc::SYS_unlinkat => remove(thread, files, request, first, 1, third),
        libc::SYS_rename => rename(thread, files, request, [(HERE, 0), (HERE, 1)], 0),
        libc::SYS_renameat => rename(thread, files, request, [(first, 1), (third, 3)], 0),
        libc::SYS_renameat2 => rename(thread, files, request, [(first, 1), (third, 3)], fifth),
        libc::SYS_link => link(thread, files, request, [(HERE, 0), (HERE, 1)], 0),
        libc::SYS_linkat => link(thread, files, request, [(first, 1), (third, 3)], fifth),
        libc::SYS_truncate => truncate(thread, files, request, second),
        libc::SYS_chmod => change_mode(thread, files, request, (HERE, 0), second, 0),
        libc::SYS_fchmodat => change_mode(thread, files, request, (first, 1), third, 0),
        libc::SYS_fchmodat2 => change_mode(thread, files, request, (first, 1), third, fourth),
        libc::SYS_fchmod => change_mode_of_open(thread, files, first, second),
        libc::SYS_utime => set_times(thread, files, request, (HERE, 0), second, Unit::Seconds, 0),
        libc::SYS_utimes => set_times(thread, files, request, (HERE, 0), second, Unit::Micro, 0),
        libc::SYS_futimesat => set_times(thread, files, request, (first, 1), third, Unit::Micro, 0),
        libc::SYS_utimensat => set_times(thread, files, request, (first, 1), third, Unit::Nano, fourth),
        _ => unreachable!("the numbers are those below"),
    };
    Some(done.unwrap_or_else(|error| error))
}

/// The calls that are answered here.
pub(crate) const NUMBERS: [i64; 23] = [
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_mknod,
    libc::SYS_mknodat,
    libc::SYS_symlink,
    libc::SYS_symlinkat,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_link,
    libc::SYS_linkat,
    libc::SYS_truncate,
    libc::SYS_chmod,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
    libc::SYS_utimensat,
];

fn make(
    thread: &Thread,
    files: &Files,
    request: &Request,
    directory: u64,
    index: u8,
    number: i64,
    more: [u64; 2],
) -> Result<i64, i64> {
    let entry = Entry::of(thread, files, request, (directory, index), Way::Make)?;
    call::make_name(number, entry.directory.0, &entry.name, more)
}

/// mknod(2): FIFOs, sockets and files; no devices.
fn make_node(
    thread: &Thread,
    files: &Files,
    request: &Request,
    directory: u64,
    index: u8,
    mode: u64,
) -> Result<i64, i64> {
    let kind = mode as u32 & libc::S_IFMT;
    if !matches!(kind, 0 | libc::S_IFREG | libc::S_IFIFO | libc::S_IFSOCK) {
        return Err(error(libc::EPERM));
    }
    let mode = mode & !SET_ID;
    make(thread, files, request, directory, index, libc::SYS_mknodat, [mode, 0])
}

/// symlink(2). Where the link leads is looked at when it is followed.
fn link_text(
    thread: &Thread,
    files: &Files,
    request: &Request,
    target: u64,
    directory: u64,
    index: u8,
) -> Result<i64, i64> {
    let target = thread.memory().text(target, dune_syscalls::PATH_MAX as usize);
    let target = target.map_err(|_| error(libc::EFAULT))?.ok_or(error(libc::ENAMETOOLONG))?;
    let target = CString::new(target).map_err(|_| error(libc::EINVAL))?;
    let entry = Entry::of(thread, files, request, (directory, index), Way::Make)?;
    call::make_link(&target, entry.directory.0, &entry.name)
}

fn remove(
    thread: &Thread,
    files: &Files,
    request: &Request,
    directory: u64,
    index: u8,
    flags: u64,
) -> Result<i64, i64> {
    let special = match flags {
        0 => [libc::EISDIR; 3],
        _ => [libc::EINVAL, libc::ENOTEMPTY, libc::EBUSY],
    };
    let entry = Entry::of(thread, files, request, (directory, index), Way::Take(special))?;
    entry.is_free(files, libc::ENOENT)?;
    call::make_name(libc::SYS_unlinkat, entry.directory.0, &entry.name, [flags, 0])
}

/// renameat2(2), but for RENAME_WHITEOUT, which makes a device.
fn rename(
    thread: &Thread,
    files: &Files,
    request: &Request,
    [old, new]: [(u64, u8); 2],
    flags: u64,
) -> Result<i64, i64> {
    const KNOWN: u64 = (libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE) as u64;
    if flags & !KNOWN != 0 {
        return Err(error(libc::EINVAL));
    }
    let way = Way::Take([libc::EBUSY; 3]);
    let old = Entry::of(thread, files, request, old, way)?;
    let new = Entry::of(thread, files, request, new, way)?;
    old.is_free(files, libc::ENOENT)?;
    new.is_free(files, libc::EACCES)?;
    call::take_name(libc::SYS_renameat2, (old.directory.0, &old.name), (new.directory.0, &new.name), flags)
}

/// linkat(2): both names are below what may be written to, or what may only be read could be written by another name.
fn link(
    thread: &Thread,
    files: &Files,
    request: &Request,
    [old, new]: [(u64, u8); 2],
    flags: u64,
) -> Result<i64, i64> {
    const FOLLOW: u64 = libc::AT_SYMLINK_FOLLOW as u64;
    if flags & !FOLLOW != 0 {
        return Err(error(libc::EINVAL));
    }
    let file = writable(thread, files, request, old, flags & FOLLOW != 0)?;
    is_harmless(thread, file.0)?;
    let entry = Entry::of(thread, files, request, new, Way::Make)?;
    let from = (libc::AT_FDCWD, &*own_link(file.0));
    call::take_name(libc::SYS_linkat, from, (entry.directory.0, &entry.name), FOLLOW)
}

/// What a path leads to below what may be written to, as a descriptor that says what it is.
fn writable(
    thread: &Thread,
    files: &Files,
    request: &Request,
    (directory, index): (u64, u8),
    follows: bool,
) -> Result<Probe, i64> {
    let path = request.path(index).ok_or(error(libc::EFAULT))?;
    let mut found = find(thread, files, directory as i32, path, follows)?;
    if found.root.access < Access::Write {
        return Err(denied(thread, path));
    }
    Ok(found.probe()?.0)
}

/// Opens what has been found, to be changed: no device, no socket.
fn to_change(thread: &Thread, found: &Probe, ways: &[i32]) -> Result<Probe, i64> {
    let about = call::about(found.0).ok_or(error(libc::EACCES))?;
    if !matches!(about.mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR | libc::S_IFIFO) {
        return Err(error(libc::EOPNOTSUPP));
    }
    is_harmless(thread, found.0)?;
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let path = own_link(found.0);
    let open = |way: &i32| {
        let mut how = OpenHow { flags: (flags | way) as u64, mode: 0, resolve: 0 };
        result(call::open(libc::AT_FDCWD, &path, &mut how)).map(|number| Probe(number as i32))
    };
    let mut last = Err(error(libc::EACCES));
    for way in ways {
        last = open(way);
        if last.is_ok() {
            break;
        }
    }
    last
}

fn truncate(thread: &Thread, files: &Files, request: &Request, length: u64) -> Result<i64, i64> {
    let found = writable(thread, files, request, (HERE, 0), true)?;
    match call::about(found.0).map(|about| about.mode & libc::S_IFMT) {
        Some(libc::S_IFREG) => (),
        Some(libc::S_IFDIR) => return Err(error(libc::EISDIR)),
        _ => return Err(error(libc::EINVAL)),
    }
    let file = to_change(thread, &found, &[libc::O_WRONLY])?;
    written::grow(thread, file.0, length, || {
        call::plain(libc::SYS_ftruncate, [file.0 as u64, length, 0, 0, 0, 0])
    })
}

/// S_ISUID, S_ISGID: a file with them would lend the user's rights to others.
const SET_ID: u64 = (libc::S_ISUID | libc::S_ISGID) as u64;

fn change_mode(
    thread: &Thread,
    files: &Files,
    request: &Request,
    place: (u64, u8),
    mode: u64,
    flags: u64,
) -> Result<i64, i64> {
    const STAY: u64 = libc::AT_SYMLINK_NOFOLLOW as u64;
    if flags & !STAY != 0 {
        return Err(error(libc::EINVAL));
    }
    let found = writable(thread, files, request, place, flags & STAY == 0)?;
    let file = to_change(thread, &found, &[libc::O_RDONLY, libc::O_WRONLY])?;
    set_mode(file.0, mode)
}

fn set_mode(descriptor: i32, mode: u64) -> Result<i64, i64> {
    let about = call::about(descriptor).ok_or(error(libc::EBADF))?;
    if about.mode & libc::S_IFMT != libc::S_IFDIR && mode & SET_ID != 0 {
        return Err(error(libc::EPERM));
    }
    result(call::plain(libc::SYS_fchmod, [descriptor as u64, mode, 0, 0, 0, 0]))
}

/// Whether a file that is open is below what may be written to, by the name that Linux has for it.
fn may_change(thread: &Thread, files: &Files, descriptor: i32) -> Result<(), i64> {
    if thread.dune.keeps_descriptor(descriptor) {
        return Err(error(libc::EBADF));
    }
    let about = call::about(descriptor).ok_or(error(libc::EBADF))?;
    let link = std::fs::read_link(OsStr::from_bytes(own_link(descriptor).to_bytes()));
    let name = files.told(link.map_err(|_| error(libc::EBADF))?).into_os_string().into_vec();
    let name = CString::new(name).map_err(|_| error(libc::EACCES))?;
    if name.to_bytes().first() != Some(&b'/') {
        return Err(error(libc::EACCES));
    }
    let mut found = find(thread, files, libc::AT_FDCWD, &name, false)?;
    let is_same = found.probe().is_ok_and(|(_, there)| there.identity == about.identity);
    if is_same && found.root.access >= Access::Write { Ok(()) } else { Err(denied(thread, &name)) }
}

fn change_mode_of_open(thread: &Thread, files: &Files, descriptor: u64, mode: u64) -> Result<i64, i64> {
    may_change(thread, files, descriptor as i32)?;
    set_mode(descriptor as i32, mode)
}

/// How times are given.
#[derive(Clone, Copy)]
enum Unit {
    /// `struct utimbuf`.
    Seconds,
    /// Two of `struct timeval`.
    Micro,
    /// Two of `struct timespec`.
    Nano,
}

fn set_times(
    thread: &Thread,
    files: &Files,
    request: &Request,
    (directory, index): (u64, u8),
    address: u64,
    unit: Unit,
    flags: u64,
) -> Result<i64, i64> {
    const STAY: u64 = libc::AT_SYMLINK_NOFOLLOW as u64;
    if flags & !STAY != 0 {
        return Err(error(libc::EINVAL));
    }
    let times = if address == 0 { None } else { Some(times(thread, address, unit)?) };
    if request.path(index).is_none() {
        // futimens(3). A path that can not be read is an error before.
        may_change(thread, files, directory as i32)?;
        return call::set_times(directory as i32, times.as_ref());
    }
    let found = writable(thread, files, request, (directory, index), flags & STAY == 0)?;
    let file = to_change(thread, &found, &[libc::O_RDONLY, libc::O_WRONLY])?;
    call::set_times(file.0, times.as_ref())
}

/// Two of `struct timespec`.
fn times(thread: &Thread, address: u64, unit: Unit) -> Result<[u64; 4], i64> {
    let memory = thread.memory();
    let fault = |_| error(libc::EFAULT);
    match unit {
        Unit::Seconds => memory.words(address).map(|[access, change]| [access, 0, change, 0]).map_err(fault),
        Unit::Nano => memory.words(address).map_err(fault),
        Unit::Micro => {
            let [access, first, change, second]: [u64; 4] = memory.words(address).map_err(fault)?;
            if first >= 1_000_000 || second >= 1_000_000 {
                return Err(error(libc::EINVAL));
            }
            Ok([access, first * 1000, change, second * 1000])
        }
    }
}
