//! exec(3) where programs are to stay in Dune mode: a launcher is executed in place of the program.
//!
//! Linux starts every program in host mode. With [`Config::follow_exec`](crate::Config::follow_exec) the call names the
//! launcher, and has the program among its arguments. That is done only for what a launcher can start: what Linux would
//! refuse, or treat in a way of its own, is left to Linux, so that errors are its errors; and what the process may not
//! run in Dune mode, since it is another user's by now.

use linux_raw_sys::errno::{EFAULT, ENOSYS};
use linux_raw_sys::general::{
    __NR_close as CLOSE, __NR_execve as EXECVE, __NR_execveat as EXECVEAT, __NR_faccessat as FACCESSAT,
    __NR_fgetxattr as FGETXATTR, __NR_fstat as FSTAT, __NR_mmap as MMAP, __NR_munmap as MUNMAP,
    __NR_openat as OPENAT, __NR_openat2 as OPENAT2, __NR_readlink as READLINK, AT_FDCWD, MAP_ANONYMOUS,
    MAP_PRIVATE, O_CLOEXEC, O_NONBLOCK, O_RDONLY, O_RDWR, PROT_READ, PROT_WRITE, RESOLVE_NO_MAGICLINKS,
    S_IFMT, S_IFREG, S_ISGID, S_ISUID, X_OK, open_how, stat,
};

mod environment;
mod interpreter;

use self::environment::Environment;
use self::interpreter::Asks;
use super::copy::{self, BadAddress};
use crate::contract::launcher::Launcher;
use crate::contract::process::process;
use crate::contract::request::RESTART;
use crate::engine::{Engine, Machine};
use crate::guest::hypercall::{forward, forward_unless_signalled};
use crate::linux::{proc, sys};

/// The calls that [`handle`] takes.
pub(crate) const NUMBERS: [u32; 2] = [EXECVE, EXECVEAT];

/// Makes the call if it is one of this module's; returns if it has failed, or, where the calling code `may_restart` it, with
/// [`RESTART`] if a signal came first: that is the program's, not the next one's, which would not know its handler.
pub(super) fn handle(
    launcher: Option<&Launcher>,
    number: u32,
    arguments: &[u64; 6],
    may_restart: bool,
) -> Option<u64> {
    let [first, second, third, fourth, fifth, _] = *arguments;
    let (path, argv, envp, plain) = match number {
        EXECVE => (first, second, third, true),
        // A program that is named by a directory or a descriptor may be out of the launcher's reach.
        EXECVEAT => (second, third, fourth, first as i32 == AT_FDCWD && fifth == 0),
        _ => return None,
    };
    let execute: Execute = if may_restart { forward_unless_signalled } else { forward };
    process().wait_for_births();
    if plain
        && let Some(launcher) = launcher
        && let Ok(result) = follow(launcher, execute, path, argv, envp)
    {
        return Some(result);
    }
    // The launcher could not be executed: Linux may still take the program itself.
    Some(execute(number, arguments))
}

/// How the call is made.
type Execute = fn(u32, &[u64; 6]) -> u64;

/// Room for a path (PATH_MAX).
const PATH_BYTES: usize = 4096;
/// So many arguments fit on the stack; more go to memory of their own.
const ON_STACK: usize = 1024;

/// So many scripts may name one another (Linux's `exec_binprm`).
const NESTING: usize = 5;

/// Why the program is not followed.
struct NotFollowed;

impl From<BadAddress> for NotFollowed {
    fn from(_: BadAddress) -> NotFollowed {
        NotFollowed
    }
}

/// Has the launcher execute the program; returns with [`RESTART`] if a signal came first, or with Linux's error if it refuses to open
/// the file.
// Not inlined, for its stack frame.
#[inline(never)]
fn follow(launcher: &Launcher, call: Execute, path: u64, argv: u64, envp: u64) -> Result<u64, NotFollowed> {
    // A debugger wants to see its program start, not the launcher.
    if proc::has_new_tracer().unwrap_or(true) || !may_open_device() {
        return Err(NotFollowed);
    }
    if let Err(refusal) = opens_for_execution(path) {
        // Asked once more, those who watch executions (fanotify(7)) would be, too.
        return Ok(refusal);
    }
    let mut buffer = [0u8; PATH_BYTES + 2];
    let path = absolute(launcher, path, &mut buffer)?;
    check(path)?;
    let count = count(argv)?;
    let environment = Environment::of(envp)?;
    // The launcher's words, "--hidden" and what is, "--", the path, and the null pointer; the first argument stands before "--".
    let words = launcher.words().len() + count.max(1) + 5 + environment.room();
    let mut on_stack = [0u64; ON_STACK];
    if words <= ON_STACK {
        return execute(launcher, call, path, (argv, count), &environment, &mut on_stack[..words]);
    }
    let bytes = (words * 8) as u64;
    let (protection, flags) = (PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
    // SAFETY: a new mapping, unmapped after its last use. The call comes to ring 0 once more, which maps it here, too.
    unsafe {
        let address = sys::call(MMAP, [0, bytes, protection.into(), flags.into(), u64::MAX, 0])
            .map_err(|_| NotFollowed)?;
        let words = core::slice::from_raw_parts_mut(address as *mut u64, words);
        let result = execute(launcher, call, path, (argv, count), &environment, words);
        let _ = sys::raw(MUNMAP, [address, bytes, 0, 0, 0, 0]);
        result
    }
}

/// Whether this process can still make a machine: it may have changed its user since it entered, or given up rights that
/// access(2) knows nothing of (Landlock, AppArmor, a mount with nodev).
fn may_open_device() -> bool {
    let (device, flags) = (Engine::DEVICE.as_ptr() as u64, O_RDWR | O_CLOEXEC);
    match sys::result(forward(OPENAT, &[AT_FDCWD as u64, device, flags.into(), 0, 0, 0])) {
        Ok(opened) => {
            forward(CLOSE, &[opened, 0, 0, 0, 0, 0]);
            true
        }
        Err(_) => false,
    }
}

/// Executes the launcher with `words`, all zeros, as its arguments and environment; returns if that fails.
fn execute(
    launcher: &Launcher,
    call: Execute,
    path: u64,
    (argv, count): (u64, usize),
    environment: &Environment,
    words: &mut [u64],
) -> Result<u64, NotFollowed> {
    let own = launcher.words();
    let (words, room) = words.split_at_mut(words.len() - environment.room());
    let (envp, hidden) = environment.hide(room)?;
    let (leading, others) = words.split_at_mut(own.len());
    for (to, word) in leading.iter_mut().zip(own) {
        *to = word.as_ptr() as u64;
    }
    let (name, rest) = others.split_at_mut(1);
    // Linux gives a program without arguments an empty one.
    name[0] = if count == 0 { c"".as_ptr() as u64 } else { word(argv, 0)? };
    let mut rest = rest.iter_mut();
    let mut push = |word| *rest.next().expect("the words have been counted") = word;
    if let Some(hidden) = hidden {
        push(c"--hidden".as_ptr() as u64);
        push(hidden);
    }
    push(c"--".as_ptr() as u64);
    push(path);
    for index in 1..count {
        push(word(argv, index)?);
    }
    // The null pointer at the end is there already.
    match call(EXECVE, &[launcher.path().as_ptr() as u64, words.as_ptr() as u64, envp, 0, 0, 0]) {
        RESTART => Ok(RESTART),
        _ => Err(NotFollowed),
    }
}

/// Entry `index` of the program's array of pointers.
fn word(array: u64, index: usize) -> Result<u64, BadAddress> {
    // SAFETY: any bytes make a word.
    unsafe { copy::from_program(array.wrapping_add(8 * index as u64)) }
}

/// The entries of the program's array of pointers, before the null pointer.
fn count(array: u64) -> Result<usize, NotFollowed> {
    /// Linux's own limit is in bytes (execve(2), *Limits on size of arguments and environment*) and lower.
    const MOST: usize = 1 << 20;
    if array == 0 {
        return Ok(0);
    }
    for index in 0..MOST {
        if word(array, index)? == 0 {
            return Ok(index);
        }
    }
    Err(NotFollowed)
}

/// The path at `address` as the launcher can use it: not searched for, and not its own name in /proc. Where it is.
fn absolute(
    launcher: &Launcher,
    address: u64,
    buffer: &mut [u8; PATH_BYTES + 2],
) -> Result<u64, NotFollowed> {
    let (prefix, text) = buffer.split_at_mut(2);
    let length = copy::string_from_program(text, address)?;
    if length == 0 || length == text.len() {
        return Err(NotFollowed);
    }
    if &text[..length] == b"/proc/self/exe" || &text[..length] == b"/proc/thread-self/exe" {
        let (from, to) = (text.as_ptr() as u64, &mut [0u8; PATH_BYTES]);
        let read = forward(READLINK, &[from, to.as_mut_ptr() as u64, PATH_BYTES as u64 - 1, 0, 0, 0]);
        let length = sys::result(read).map_err(|_| NotFollowed)? as usize;
        if launcher.path().to_bytes() == &to[..length] {
            return Ok(launcher.program().as_ptr() as u64);
        }
        text[..=length].copy_from_slice(&to[..=length]);
    } else if !text[..length].contains(&b'/') {
        prefix.copy_from_slice(b"./");
        return Ok(prefix.as_ptr() as u64);
    }
    Ok(text.as_ptr() as u64)
}

/// Whether the file at `path`, which opens for execution, is one that the launcher can start, and all the interpreters behind it, with
/// the rights of this process.
fn check(path: u64) -> Result<(), NotFollowed> {
    let mut name = [0; PATH_BYTES];
    let mut next = path;
    for _ in 0..=NESTING {
        let asks = check_one(next, &mut name)?;
        if !matches!(asks, Asks::Nobody) {
            opens_for_execution(name.as_ptr() as u64).map_err(|_| NotFollowed)?;
        }
        match asks {
            Asks::Nobody => return Ok(()),
            Asks::Script => next = name.as_ptr() as u64,
            // Whose own interpreter Linux does not ask for.
            Asks::Linker => {
                return match check_one(name.as_ptr() as u64, &mut [0; PATH_BYTES])? {
                    Asks::Script => Err(NotFollowed),
                    Asks::Nobody | Asks::Linker => Ok(()),
                };
            }
        }
    }
    Err(NotFollowed)
}

/// Checks the file at `path`. If it asks for an interpreter, that is in `name` then.
fn check_one(path: u64, name: &mut [u8; PATH_BYTES]) -> Result<Asks, NotFollowed> {
    let file = open(path)?;
    let asks = check_file(file, path).and_then(|()| interpreter::of(file, name));
    forward(CLOSE, &[file, 0, 0, 0, 0, 0]);
    asks
}

/// Opens the file at `path`, unless a link of /proc's leads there that is no path (`/proc/self/fd/3`, `/dev/fd/3`, `/proc/1/exe`):
/// such a name may mean something else to the launcher, whose descriptors are those that execve(2) leaves open.
fn open(path: u64) -> Result<u64, NotFollowed> {
    let flags = u64::from(O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    let how = open_how { flags, mode: 0, resolve: RESOLVE_NO_MAGICLINKS.into() };
    let (directory, size) = (AT_FDCWD as u64, size_of::<open_how>() as u64);
    let mut opened = forward(OPENAT2, &[directory, path, (&raw const how) as u64, size, 0, 0]);
    if opened == super::syscall::error(ENOSYS) {
        // A filter that the process was started under may not know the call.
        opened = forward(OPENAT, &[directory, path, flags, 0, 0, 0]);
    }
    sys::result(opened).map_err(|_| NotFollowed)
}

fn check_file(file: u64, path: u64) -> Result<(), NotFollowed> {
    let mut status = core::mem::MaybeUninit::<stat>::zeroed();
    if forward(FSTAT, &[file, status.as_mut_ptr() as u64, 0, 0, 0, 0]) != 0 {
        return Err(NotFollowed);
    }
    // SAFETY: all zeros are a valid structure, and the call has filled it in.
    let mode = unsafe { status.assume_init() }.st_mode;
    let mut capability = 0u8;
    let name = c"security.capability".as_ptr() as u64;
    let has_capability =
        sys::result(forward(FGETXATTR, &[file, name, (&raw mut capability) as u64, 0, 0, 0])).is_ok();
    // With another user or capabilities the program runs as Linux wants it: in host mode.
    if mode & S_IFMT != S_IFREG || mode & (S_ISUID | S_ISGID) != 0 || has_capability {
        return Err(NotFollowed);
    }
    if forward(FACCESSAT, &[AT_FDCWD as u64, path, X_OK.into(), 0, 0, 0]) != 0 {
        return Err(NotFollowed);
    }
    Ok(())
}

/// Has Linux open the file at `path` as it opens what it executes: not if it is open for writing (ETXTBSY), for all file systems and
/// security modules to judge, and with fanotify's events (FAN_OPEN_EXEC). The error of execve(2) if it refuses.
///
/// Since Linux 6.8 execve(2) opens the file before anything else (`alloc_bprm`, fs/exec.c). So it has been opened, and closed again,
/// when a bad address of the arguments is noticed. Older kernels notice that first, and nothing is learnt.
fn opens_for_execution(path: u64) -> Result<(), u64> {
    /// No program has memory here.
    const NOWHERE: u64 = !0xfff;
    match forward(EXECVE, &[path, NOWHERE, 0, 0, 0, 0]) {
        result if result == super::syscall::error(EFAULT) => Ok(()),
        refusal => Err(refusal),
    }
}
