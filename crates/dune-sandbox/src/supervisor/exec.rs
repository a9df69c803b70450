//! execve(2): another program in the place of this one, in the same sandbox.
//!
//! Linux does not see it: the process stays what it is, and the supervisor puts the program into its part. So nothing gets out by an exec,
//! and what Linux does at one (set-user-ID, file capabilities) is not done.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::{fs, io};

use dune_loader::parts::{self, Opened, Role};
use dune_loader::{LoadError, Opening};

use super::filters::Chain;
use super::{Answer, Thread, error, places, succession, trusted};
use crate::checked::{ProgramMemory, Request};
use crate::error::say;
use crate::load;
use crate::raw::{call, process};
use crate::weakness::{Defence, lacks};

const AT_FDCWD: i32 = libc::AT_FDCWD;
/// The longest single string (MAX_ARG_STRLEN, execve(2)).
const LONGEST: usize = 128 << 10;

pub(super) fn execve(thread: &mut Thread, request: &mut Request) -> Answer {
    let [_, words, environment, ..] = *request.arguments();
    match request.path(0) {
        Some(_) if lacks(Defence::Execs) => {
            thread.check_and_forward(&mut Request::of_registers(request.call(), request.arguments()))
        }
        Some(path) => {
            let path = path_of(thread, AT_FDCWD, path.to_bytes(), 0);
            path.and_then(|path| exec(thread, path, words, environment)).map_or_else(error, |()| 0)
        }
        None => error(libc::EFAULT),
    }
}

pub(super) fn execveat(thread: &mut Thread, request: &mut Request) -> Answer {
    let [directory, _, words, environment, flags, _] = *request.arguments();
    let Some(path) = request.path(1) else { return error(libc::EFAULT) };
    let path = path_of(thread, directory as i32, path.to_bytes(), flags);
    path.and_then(|path| exec(thread, path, words, environment)).map_or_else(error, |()| 0)
}

/// A path of what the call means, which leads there from the working directory.
fn path_of(thread: &Thread, directory: i32, path: &[u8], flags: u64) -> Result<OsString, i32> {
    const KNOWN: i32 = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
    let has = |flag: i32| flags as i32 & flag != 0;
    if flags as i32 & !KNOWN != 0 {
        return Err(libc::EINVAL);
    }
    let is_absolute = path.first() == Some(&b'/');
    let whole = match path {
        b"" if !has(libc::AT_EMPTY_PATH) => return Err(libc::ENOENT),
        // The file that Linux knows is the launcher.
        b"/proc/self/exe" => thread.process.executable().into_bytes(),
        path if is_absolute => path.to_vec(),
        name if directory == AT_FDCWD => [b"./", name].concat(),
        name => {
            let base = places::path_of(thread, directory).map_err(|error| -error as i32)?;
            if name.is_empty() { base } else { [&*base, b"/", name].concat() }
        }
    };
    let whole = OsString::from_vec(whole);
    if has(libc::AT_SYMLINK_NOFOLLOW) && !path.is_empty() && is_link(thread, &whole) {
        return Err(libc::ELOOP);
    }
    Ok(whole)
}

/// Whether the last part of `path` is a link, as far as the program may know.
fn is_link(thread: &Thread, path: &OsStr) -> bool {
    match thread.process.policy.files() {
        None => fs::symlink_metadata(path).is_ok_and(|about| about.is_symlink()),
        Some(files) => CString::new(path.as_bytes()).is_ok_and(|path| places::is_link(thread, files, &path)),
    }
}

fn exec(thread: &mut Thread, path: OsString, words: u64, environment: u64) -> Result<(), i32> {
    let memory = thread.memory();
    let mut left = parts::arguments_limit() as usize;
    let mut words: Vec<OsString> = strings(memory, words, &mut left)?
        .into_iter()
        .map(|word| OsString::from_vec(word.into_bytes()))
        .collect();
    let environment = strings(memory, environment, &mut left)?;
    if words.is_empty() {
        // As Linux since 5.18.
        words.push(OsString::new());
    }
    let mask = thread.signals.mask();
    let opened = find(thread, &path, words.clone());
    if let Some(errno) = trusted::execute(thread, &opened, &path, &words, &environment) {
        return Err(errno);
    }
    let opened = opened.map_err(|error| errno(&error))?;
    if thread.process.threads.is_one() {
        go_on(thread, opened, &environment, mask);
        return Ok(());
    }
    // Other threads can put something else in the place of a descriptor: it is a look.
    drop(opened);
    let filters = thread.filters();
    succession::open(thread, Next { path, words, environment, mask, filters })
}

/// What a process goes on with: it is opened when the other threads have ended.
#[derive(Debug)]
pub(super) struct Next {
    path: OsString,
    words: Vec<OsString>,
    environment: Vec<CString>,
    /// The mask of the thread that has called, and its filters.
    mask: u64,
    filters: Chain,
}

/// The only thread that is left goes on with `next`.
pub(super) fn succeed(thread: &mut Thread, next: Next) {
    let Next { path, words, environment, mask, filters } = next;
    thread.take_filters(filters);
    let opened = find(thread, &path, words).unwrap_or_else(|error| end(&error));
    go_on(thread, opened, &environment, mask);
}

/// The only thread there is goes on with another program. There is none to return to.
fn go_on(thread: &mut Thread, opened: Opened, environment: &[CString], mask: u64) {
    if let Some(watch) = &thread.process.watch {
        watch.executes(&opened);
    }
    thread.process.robust.release(thread.memory());
    thread.process.space.clear();
    let context = load::load(thread.dune, &thread.process.space, &opened, environment)
        .unwrap_or_else(|error| end(&error));
    process::set_name(&opened.name);
    thread.process.set_executable(&opened);
    drop(opened);
    close_on_exec();
    if let Some((borrowed, _)) = thread.borrowed.take() {
        borrowed.release();
    }
    thread.start_anew(context);
    thread.signals.begin(mask);
}

/// As Linux ends who can not go on with either program.
fn end(error: &dyn std::fmt::Display) -> ! {
    say(format_args!("dune: {error}"));
    process::die(libc::SIGKILL)
}

/// Finds and opens what is to be executed, by the policy's roots if it has some.
fn find(thread: &Thread, path: &OsStr, words: Vec<OsString>) -> Result<Opened, LoadError> {
    let Some(files) = thread.process.policy.files() else {
        return parts::open(path, words, None, Opening::Plain);
    };
    parts::open_by(Path::new(path), words, &mut |path, role| {
        let opened = places::open_program(thread, files, path, role == Role::Executed);
        opened.map_err(|error| {
            let why = io::Error::from_raw_os_error(-error as i32);
            LoadError::Denied { path: path.to_owned(), why }
        })
    })
}

/// Strings up to a null pointer; `left` is how many bytes all may have.
fn strings(memory: ProgramMemory, mut address: u64, left: &mut usize) -> Result<Vec<CString>, i32> {
    let mut all = Vec::new();
    if address == 0 {
        return Ok(all);
    }
    loop {
        let text = memory.word(address).map_err(|_| libc::EFAULT)?;
        if text == 0 {
            return Ok(all);
        }
        let text = memory.text(text, LONGEST).map_err(|_| libc::EFAULT)?.ok_or(libc::E2BIG)?;
        *left = left.checked_sub(text.len() + 9).ok_or(libc::E2BIG)?;
        all.push(CString::new(text).map_err(|_| libc::EINVAL)?);
        address = address.checked_add(8).ok_or(libc::EFAULT)?;
    }
}

/// What Linux answers.
fn errno(error: &LoadError) -> i32 {
    match error {
        // What is missing, or what is no directory.
        LoadError::NotFound { program, .. } => {
            fs::metadata(program).err().and_then(|why| why.raw_os_error()).unwrap_or(libc::ENOENT)
        }
        LoadError::Denied { why, .. } | LoadError::Read { why, .. } | LoadError::Map { why, .. } => {
            why.raw_os_error().unwrap_or(libc::EACCES)
        }
        LoadError::NotAFile { .. } => libc::EACCES,
        LoadError::TooManyInterpreters { .. } => libc::ELOOP,
        LoadError::Interpreter { why, .. } => errno(why),
        LoadError::NulByte { .. } => libc::EINVAL,
        _ => libc::ENOEXEC,
    }
}

/// Closes the descriptors that are to be closed on exec. Dune's own are not listed.
fn close_on_exec() {
    // `/proc/self/fd` is the first thread's, which may have ended.
    let Ok(list) = fs::read_dir("/proc/thread-self/fd") else {
        say(format_args!("dune: cannot list /proc/thread-self/fd, to close what an exec closes"));
        process::die(libc::SIGKILL);
    };
    let names: Vec<_> = list.flatten().map(|entry| entry.file_name()).collect();
    for number in names.iter().filter_map(|name| name.to_str()?.parse::<u64>().ok()) {
        let flags = call::plain(libc::SYS_fcntl, [number, libc::F_GETFD as u64, 0, 0, 0, 0]);
        if flags >= 0 && flags & i64::from(libc::FD_CLOEXEC) != 0 {
            call::plain(libc::SYS_close, [number, 0, 0, 0, 0, 0]);
        }
    }
}
