//! Opening files: what gives a process's memory by the name of a file is refused, or shown without what is the runtime's.
//!
//! The file is found first, as a descriptor that can not be read (O_PATH), and asked what it is: names, links and mounts may say
//! what they like. Then that file is opened. A thread that is alone opens it at once, and asks what it has opened before the program goes on:
//! three calls of Linux's less, and nobody is there who could use the descriptor meanwhile.

use std::ffi::{CStr, CString, OsStr};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

use dune_syscalls::Memory;

use super::shown::Shown;
use super::{Answer, Thread, error, opening};
use crate::checked::Request;
use crate::files::Files;
use crate::raw::call::{self, About, OpenHow};
use crate::raw::result;
use crate::weakness::{Defence, give_way, lacks};

/// Files of procfs that are a process's memory, or tell where the runtime is. Some can be [shown](Shown).
const OF_PROCESSES: [&str; 13] = [
    "mem",
    "maps",
    "smaps",
    "smaps_rollup",
    "numa_maps",
    "pagemap",
    "auxv",
    "environ",
    "stat",
    "syscall",
    "stack",
    "wchan",
    "map_files",
];
/// Files of procfs with the kernel's memory.
const OF_THE_KERNEL: [&str; 3] = ["kcore", "kpageflags", "kpagecount"];
/// Between the look and the creation of a file another process may come; so often.
const TRIES: u32 = 8;

const AT_FDCWD: i32 = libc::AT_FDCWD;
/// What O_TMPFILE has besides O_DIRECTORY.
pub(super) const TMPFILE: i32 = libc::O_TMPFILE & !libc::O_DIRECTORY;

pub(super) fn open(thread: &mut Thread, request: &mut Request) -> Answer {
    let [_, flags, mode, ..] = *request.arguments();
    at(thread, request, AT_FDCWD, 0, OpenHow { flags, mode, resolve: 0 })
}

pub(super) fn creat(thread: &mut Thread, request: &mut Request) -> Answer {
    let flags = (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) as u64;
    let mode = request.arguments()[1];
    at(thread, request, AT_FDCWD, 0, OpenHow { flags, mode, resolve: 0 })
}

pub(super) fn openat(thread: &mut Thread, request: &mut Request) -> Answer {
    let [directory, _, flags, mode, ..] = *request.arguments();
    at(thread, request, directory as i32, 1, OpenHow { flags, mode, resolve: 0 })
}

pub(super) fn openat2(thread: &mut Thread, request: &mut Request) -> Answer {
    let [directory, _, address, size, ..] = *request.arguments();
    // Linux takes a page at most, and what it does not know has to be zero (copy_struct_from_user).
    const KNOWN: usize = size_of::<OpenHow>();
    let size = match usize::try_from(size) {
        Ok(size) if size < KNOWN => return error(libc::EINVAL),
        Ok(size) if size <= 4096 => size,
        _ => return error(libc::E2BIG),
    };
    let mut bytes = vec![0; size];
    if thread.memory().read(address, &mut bytes).is_err() {
        return error(libc::EFAULT);
    }
    if bytes[KNOWN..].iter().any(|byte| *byte != 0) {
        return error(libc::E2BIG);
    }
    let (words, _) = bytes.as_chunks();
    let word = |index: usize| u64::from_le_bytes(words[index]);
    let how = OpenHow { flags: word(0), mode: word(1), resolve: word(2) };
    let Some(path) = request.path(1) else { return error(libc::EFAULT) };
    let answer =
        find_and_open(thread, request, (directory as i32, 1), path, how).unwrap_or_else(|error| error);
    thread.interrupted(answer, request.call())
}

/// Linux refuses with openat2(2) what the others ignore (man page, *NOTES*): flags that it does not know, a mode without a file to create.
fn as_by_openat(mut how: OpenHow) -> OpenHow {
    const KNOWN: i32 = libc::O_ACCMODE
        | libc::O_CREAT
        | libc::O_EXCL
        | libc::O_NOCTTY
        | libc::O_TRUNC
        | libc::O_APPEND
        | libc::O_NONBLOCK
        | libc::O_SYNC
        | libc::O_ASYNC
        | libc::O_DIRECT
        | libc::O_DIRECTORY
        | libc::O_NOFOLLOW
        | libc::O_NOATIME
        | libc::O_CLOEXEC
        | libc::O_PATH
        | libc::O_TMPFILE
        // O_LARGEFILE
        | 0o100000;
    how.flags &= KNOWN as u64;
    let creates = (libc::O_CREAT | TMPFILE) as u64;
    how.mode = if how.flags & creates != 0 { how.mode & 0o7777 } else { 0 };
    if how.flags & libc::O_PATH as u64 != 0 {
        how.flags &= (libc::O_PATH | libc::O_CLOEXEC | libc::O_DIRECTORY | libc::O_NOFOLLOW) as u64;
        how.mode = 0;
    }
    how
}

fn at(thread: &mut Thread, request: &Request, directory: i32, argument: u8, how: OpenHow) -> Answer {
    let Some(path) = request.path(argument) else { return error(libc::EFAULT) };
    let how = as_by_openat(how);
    let answer =
        find_and_open(thread, request, (directory, argument), path, how).unwrap_or_else(|error| error);
    thread.interrupted(answer, request.call())
}

fn find_and_open(
    thread: &Thread,
    request: &Request,
    (directory, argument): (i32, u8),
    path: &CStr,
    how: OpenHow,
) -> Result<i64, i64> {
    for _ in 0..TRIES {
        let _held = (!lacks(Defence::Roots)).then(|| thread.process.keep_descriptors());
        let done = match thread.process.policy.files() {
            None => try_open(thread, directory, path, how)?,
            Some(files) => {
                if let Some(descriptor) = open_own(thread, files, path, how.flags) {
                    return Ok(descriptor);
                }
                if lacks(Defence::Roots) || lacks(Defence::Copies) {
                    opening::find(thread, files, directory, path, &how)?;
                    let now = named_now(thread, request.arguments()[usize::from(argument)]);
                    let path = if lacks(Defence::Roots) { path } else { &now };
                    try_open(thread, directory, path, how)?
                } else {
                    opening::try_open(thread, files, directory, path, how)?
                }
            }
        };
        if let Some(descriptor) = done {
            return Ok(descriptor);
        }
    }
    // Something is there that leads nowhere.
    Err(error(libc::ENOENT))
}

/// Opens what is about the process itself, and shown without what is the runtime's. Where Linux refuses that the policy has the word.
fn open_own(thread: &Thread, files: &Files, path: &CStr, flags: u64) -> Option<i64> {
    if !Shown::is_own(path, flags) {
        return None;
    }
    let mut how = OpenHow { flags: (libc::O_PATH | libc::O_CLOEXEC) as u64, mode: 0, resolve: 0 };
    let found = Probe(result(call::open(AT_FDCWD, path, &mut how)).ok()? as i32);
    let file = shown(thread, found.0).ok()??.open(&found, flags, Some(files)).ok()?;
    found.replace_by(file, flags).ok()
}

/// The path at `address`, read after others could change it: what must not be opened.
fn named_now(thread: &Thread, address: u64) -> CString {
    give_way();
    let path = thread.memory().text(address, dune_syscalls::PATH_MAX as usize);
    CString::new(path.ok().flatten().unwrap_or_default()).unwrap_or_default()
}

/// Finds and opens the file, while nobody changes descriptors; `None` if something has come in between.
fn try_open(thread: &Thread, directory: i32, path: &CStr, how: OpenHow) -> Result<Option<i64>, i64> {
    if how.has(libc::O_PATH) {
        // What is found so can not be read, and what is opened by its help comes by here; it tells what there is.
        let found = Probe(result(call::open(directory, path, &mut how.clone()))? as i32);
        is_harmless(thread, found.0)?;
        return Ok(Some(found.keep()));
    }
    // What is said to be a device may do something when it is opened.
    if thread.process.threads.is_one() && !path.to_bytes().starts_with(b"/dev/") {
        return open_and_look(thread, directory, path, how).map(Some);
    }
    let kept = (libc::O_DIRECTORY | libc::O_NOFOLLOW) as u64;
    let flags = (libc::O_PATH | libc::O_CLOEXEC) as u64 | how.flags & kept;
    let mut probe = OpenHow { flags, mode: 0, resolve: how.resolve };
    let found = match result(call::open(directory, path, &mut probe)) {
        Ok(found) => Probe(found as i32),
        Err(why) if why == error(libc::ENOENT) && how.has(libc::O_CREAT) => {
            return create(directory, path, how);
        }
        Err(why) => return Err(why),
    };
    if how.has(libc::O_CREAT) && how.has(libc::O_EXCL) {
        return Err(error(libc::EEXIST));
    }
    let about = call::about(found.0).ok_or(error(libc::EACCES))?;
    let number = found.0;
    open_found(thread, found, &about, how, number).map(Some)
}

/// Makes the file. With O_EXCL it is a new one, whatever comes between: `None` if something is there by now.
pub(super) fn create(directory: i32, path: &CStr, how: OpenHow) -> Result<Option<i64>, i64> {
    let mut create = OpenHow { flags: how.flags | libc::O_EXCL as u64, ..how };
    match result(call::open(directory, path, &mut create)) {
        Err(why) if why == error(libc::EEXIST) && !how.has(libc::O_EXCL) => Ok(None),
        done => done.map(Some),
    }
}

/// Opens the file, and looks at it then, for a thread that is alone.
fn open_and_look(thread: &Thread, directory: i32, path: &CStr, mut how: OpenHow) -> Result<i64, i64> {
    let flags = how.flags;
    let opened = Probe(result(call::open(directory, path, &mut how))? as i32);
    let Some(about) = call::about(opened.0) else { return Err(error(libc::EACCES)) };
    match refuse_or_show(thread, &opened, &about, flags)? {
        Some(shown) => opened.replace_by(shown, flags),
        None => Ok(opened.keep()),
    }
}

/// An error for a file that is not to be opened, or what is to be shown in its place.
fn refuse_or_show(thread: &Thread, found: &Probe, about: &About, flags: u64) -> Result<Option<Probe>, i64> {
    if about.mode & libc::S_IFMT == libc::S_IFCHR && !is_harmless_device(thread, about.device) {
        let (major, minor) = (libc::major(about.device), libc::minor(about.device));
        thread.process.log(&format!("open of the device {major}:{minor}"), "is refused");
        return Err(error(libc::EACCES));
    }
    if about.may_be_on_procfs()
        && let Some(shown) = shown(thread, found.0)?
    {
        return shown.open(found, flags, thread.process.policy.files()).map(Some);
    }
    Ok(None)
}

/// Opens what has been found, by the number `lowest`, which is free but for `found`.
pub(super) fn open_found(
    thread: &Thread,
    found: Probe,
    about: &About,
    how: OpenHow,
    lowest: i32,
) -> Result<i64, i64> {
    if about.mode & libc::S_IFMT == libc::S_IFLNK {
        return Err(error(libc::ELOOP));
    }
    if let Some(shown) = refuse_or_show(thread, &found, about, how.flags)? {
        drop(found);
        return shown.settle(lowest, how.flags);
    }
    if about.mode & libc::S_IFMT == libc::S_IFIFO
        && !thread.process.threads.is_one()
        && how.flags & libc::O_NONBLOCK as u64 == 0
    {
        // Opening it may wait for another thread, which may need what is held here.
        thread.process.log(
            "open of a FIFO by one of several threads",
            "is not implemented yet, and answered with EAGAIN",
        );
        return Err(error(libc::EAGAIN));
    }
    let found = found.clear_of(lowest)?;
    let path = own_link(found.0);
    let done = (libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW) as u64;
    let creates = how.has(TMPFILE);
    let mode = if creates { how.mode } else { 0 };
    let mut again = OpenHow { flags: how.flags & !done, mode, resolve: 0 };
    let opened = Probe(result(call::open(AT_FDCWD, &path, &mut again))? as i32);
    // Whatever the name has led to: it is what was looked at, or a new file in that directory.
    if creates {
        is_harmless(thread, opened.0)?;
    } else if call::about(opened.0).is_none_or(|other| other.identity != about.identity) {
        return Err(error(libc::EACCES));
    }
    Ok(opened.keep())
}

/// The name of one of the calling thread's own descriptors. (`/proc/self/fd` is the first thread's.)
pub(super) fn own_link(descriptor: i32) -> CString {
    CString::new(format!("/proc/thread-self/fd/{descriptor}")).expect("no NUL")
}

/// Character devices that take bytes and give some: memory's (null, zero, full, random, urandom), and terminals
/// (Documentation/admin-guide/devices.txt). Others may follow addresses that are written to them, as /dev/sg does.
fn is_harmless_device(thread: &Thread, device: u64) -> bool {
    if thread.process.trust.is_some() || lacks(Defence::Devices) {
        return true;
    }
    match (libc::major(device), libc::minor(device)) {
        (1, minor) => matches!(minor, 3 | 5 | 7 | 8 | 9),
        (major, _) => matches!(major, 2..=5 | 136..=143 | 204 | 229),
    }
}

fn refuse_memory(thread: &Thread) -> i64 {
    thread.process.log("open of a process's memory", "or of what tells where the runtime is, is refused");
    error(libc::EACCES)
}

/// An error for a file that is not to be had as it is.
pub(super) fn is_harmless(thread: &Thread, descriptor: i32) -> Result<(), i64> {
    if shown(thread, descriptor)?.is_some() { Err(refuse_memory(thread)) } else { Ok(()) }
}

/// How the file is to be shown, if it is not harmless; an error if it is not to be opened at all.
fn shown(thread: &Thread, descriptor: i32) -> Result<Option<Shown>, i64> {
    if !call::is_on_procfs(descriptor) {
        return Ok(None);
    }
    match memory_name(descriptor) {
        None => Ok(None),
        Some(name) if thread.process.trust.is_some() => Ok(Shown::by_name(&name)),
        Some(name) => Shown::by_name(&name).map(Some).ok_or_else(|| refuse_memory(thread)),
    }
}

/// The name of the file, of procfs, if it is one of those above. procfs may be mounted anywhere, so the last parts of its name count.
fn memory_name(descriptor: i32) -> Option<String> {
    if lacks(Defence::Names) {
        return None;
    }
    // A name that can not be told is no harmless one.
    let Ok(path) = std::fs::read_link(OsStr::from_bytes(own_link(descriptor).to_bytes())) else {
        return Some(String::new());
    };
    let Some(path) = path.to_str() else { return Some(String::new()) };
    // What is a task's stays so when the task has ended.
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    let mut parts = path.rsplit('/');
    let (name, parent) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let is_of_process = !parent.is_empty() && parent.bytes().all(|byte| byte.is_ascii_digit());
    let is_memory = parent == "map_files"
        || OF_THE_KERNEL.contains(&name)
        || OF_PROCESSES.contains(&name)
            && (is_of_process || name != "stat" || begins_with_a_number(descriptor));
    is_memory.then(|| if parent == "map_files" { String::new() } else { name.to_owned() })
}

/// Whether a file `stat`, of procfs, is a process's and not the system's. Its parent does not tell where a single process is mounted.
fn begins_with_a_number(descriptor: i32) -> bool {
    let mut first = [0];
    let path = OsStr::from_bytes(own_link(descriptor).to_bytes()).to_owned();
    let read = std::fs::File::open(path).and_then(|mut file| file.read(&mut first));
    !matches!(read, Ok(1)) || first[0].is_ascii_digit()
}

/// A descriptor that is closed unless the program gets it.
pub(super) struct Probe(pub(super) i32);

impl Probe {
    /// For the program, by the number `lowest`, which is free or this one's. No record lock hangs on the file: closing would take it away.
    pub(super) fn settle(self, lowest: i32, flags: u64) -> Result<i64, i64> {
        let on_exec = flags & libc::O_CLOEXEC as u64;
        if self.0 == lowest {
            let flags = if on_exec == 0 { 0 } else { libc::FD_CLOEXEC as u64 };
            result(call::plain(libc::SYS_fcntl, [lowest as u64, libc::F_SETFD as u64, flags, 0, 0, 0]))?;
            return Ok(self.keep());
        }
        result(call::plain(libc::SYS_dup3, [self.0 as u64, lowest as u64, on_exec, 0, 0, 0]))
    }

    /// Gives the program `other` by this one's number; see [`settle`](Self::settle).
    fn replace_by(self, other: Probe, flags: u64) -> Result<i64, i64> {
        let number = self.0;
        drop(self);
        other.settle(number, flags)
    }

    /// By another number than `number`, which is to be free.
    pub(super) fn clear_of(self, number: i32) -> Result<Probe, i64> {
        if self.0 != number {
            return Ok(self);
        }
        let arguments = [number as u64, libc::F_DUPFD_CLOEXEC as u64, (number + 1) as u64, 0, 0, 0];
        result(call::plain(libc::SYS_fcntl, arguments)).map(|other| Probe(other as i32))
    }

    pub(super) fn keep(self) -> i64 {
        let number = self.0;
        std::mem::forget(self);
        number.into()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        call::plain(libc::SYS_close, [self.0 as u64, 0, 0, 0, 0, 0]);
    }
}
