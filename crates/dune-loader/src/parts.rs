//! The steps of execve(2) one by one, for whoever puts a program into memory itself: a supervisor that has a place of its own for
//! programs.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub use crate::elf::{Image, Protection, Segment};
pub use crate::map::Pieces;
use crate::stack::{self, AT_BASE, AT_ENTRY, AT_FLAGS, AT_PHDR, AT_PHENT, AT_PHNUM};
pub use crate::stack::{Contents, Stack, compose};
use crate::{Opening, c_string, error::LoadError, find, raw::state, script};

/// An ELF file, open, with what its headers say.
#[derive(Debug)]
pub struct Object {
    /// By which name it was opened.
    pub path: PathBuf,
    /// The file.
    pub file: File,
    /// Its headers.
    pub image: Image,
}

/// A program that has been found, with the interpreter (dynamic linker) that it asks for.
#[derive(Debug)]
pub struct Opened {
    /// The ELF program: for a script its interpreter.
    pub program: Object,
    /// What maps the libraries of the program, if it has any.
    pub interpreter: Option<Object>,
    /// The file that execve(2) was given, also where that is a script.
    pub name: CString,
    /// The program's arguments, with those that `#!` lines add.
    pub arguments: Vec<CString>,
}

/// Finds `program` as execvp(3) does in the directories of `path`, follows `#!` lines, and opens what has to be mapped. Nothing is
/// mapped.
///
/// `words` are the program's arguments, its name among them.
///
/// # Errors
///
/// [`LoadError`].
///
/// ```
/// use dune_loader::Opening;
///
/// let opened = dune_loader::parts::open("/bin/sh".as_ref(), vec!["sh".into()], None, Opening::Plain)?;
/// assert!(!opened.program.image.segments.is_empty());
/// # Ok::<(), dune_loader::LoadError>(())
/// ```
pub fn open(
    program: &OsStr,
    words: Vec<OsString>,
    path: Option<&OsStr>,
    opening: Opening,
) -> Result<Opened, LoadError> {
    let found = find::find(program, path, opening)?;
    open_found(found, words, &mut |path, _| find::open(path, opening))
}

/// What a file is for the program that is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is executed: the program, or what a `#!` line names.
    Executed,
    /// The interpreter (dynamic linker) that an ELF program asks for.
    Interpreter,
}

/// As [`open()`] with a path, for whoever opens files in a way of its own: `open` opens each that is needed, by the name that the caller, a
/// `#!` line or an ELF file has for it, and says no to those that may not be executed.
///
/// # Errors
///
/// [`LoadError`], and what `open` returns.
pub fn open_by(
    path: &Path,
    words: Vec<OsString>,
    open: &mut dyn FnMut(&Path, Role) -> Result<File, LoadError>,
) -> Result<Opened, LoadError> {
    let file = open(path, Role::Executed)?;
    open_found(find::Found { path: path.to_owned(), file }, words, open)
}

fn open_found(
    found: find::Found,
    words: Vec<OsString>,
    open: &mut dyn FnMut(&Path, Role) -> Result<File, LoadError>,
) -> Result<Opened, LoadError> {
    let resolved = script::resolve(found, words, &mut |path| open(path, Role::Executed))?;
    let image = Image::read(&resolved.file, &resolved.path)?;
    let interpreter = match &image.interpreter {
        Some(path) => Some(read_interpreter(path, &resolved.path, open)?),
        None => None,
    };
    Ok(Opened {
        interpreter,
        name: c_string(resolved.first.into_os_string())?,
        arguments: resolved.words.into_iter().map(c_string).collect::<Result<_, _>>()?,
        program: Object { path: resolved.path, file: resolved.file, image },
    })
}

/// The interpreter that `program` asks for.
fn read_interpreter(
    path: &Path,
    program: &Path,
    open: &mut dyn FnMut(&Path, Role) -> Result<File, LoadError>,
) -> Result<Object, LoadError> {
    let file = open(path, Role::Interpreter).map_err(|why| LoadError::Interpreter {
        program: program.to_owned(),
        interpreter: path.to_owned(),
        why: Box::new(why),
    })?;
    let image = Image::read(&file, path)?;
    Ok(Object { path: path.to_owned(), file, image })
}

/// The calling process's auxiliary vector, as Linux gave it.
static OWN_VECTOR: OnceLock<Vec<u8>> = OnceLock::new();

/// Reads the calling process's auxiliary vector once for all, for [`auxiliary_vector`]: a process that is not to be dumped
/// (PR_SET_DUMPABLE of prctl(2)) may not be allowed to later.
///
/// # Errors
///
/// Those of reading `/proc/self/auxv`.
pub fn keep_auxiliary_vector() -> io::Result<()> {
    let bytes = fs::read("/proc/self/auxv")?;
    OWN_VECTOR.get_or_init(|| bytes);
    Ok(())
}

/// The auxiliary vector (getauxval(3)) of a program that lies `bias` bytes behind the addresses in its file, and whose interpreter
/// lies `base` bytes behind its own: the calling process's, changed where it is about the program.
///
/// # Errors
///
/// Those of reading `/proc/self/auxv`.
pub fn auxiliary_vector(image: &Image, bias: u64, base: u64) -> io::Result<Vec<(u64, u64)>> {
    let read;
    let bytes = match OWN_VECTOR.get() {
        Some(bytes) => bytes,
        None => {
            read = fs::read("/proc/self/auxv")?;
            &read
        }
    };
    let mut vector: Vec<(u64, u64)> = bytes
        .as_chunks::<16>()
        .0
        .iter()
        .map(|entry| {
            let value = u128::from_le_bytes(*entry);
            (value as u64, (value >> 64) as u64)
        })
        .collect();
    let headers = if image.headers == 0 { 0 } else { bias.wrapping_add(image.headers) };
    for (kind, value) in [
        (AT_PHDR, headers),
        (AT_PHENT, 56),
        (AT_PHNUM, image.header_count.into()),
        (AT_BASE, base),
        (AT_FLAGS, 0),
        (AT_ENTRY, bias.wrapping_add(image.entry)),
    ] {
        stack::set(&mut vector, kind, value);
    }
    Ok(vector)
}

/// Random bytes (getrandom(2)).
///
/// # Errors
///
/// Linux's.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    stack::random()
}

/// The most bytes that execve(2) takes for arguments and environment: a quarter of RLIMIT_STACK, at least 128 KiB, at most 6 MiB.
pub fn arguments_limit() -> u64 {
    state::arguments_limit()
}

/// Gives the process what execve(2) would leave of its signals: those that it catches get their default action, and those that were
/// ignored when the process started are ignored. What Rust's standard library has changed before `main` is undone.
pub fn reset_signals() {
    state::reset_signals();
}
