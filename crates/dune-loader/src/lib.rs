//! execve(2) in user space: puts another program into the calling process, which stays the process that it is.
//!
//! Linux's execve starts a program in host mode, always. For a program that is to run in Dune mode without having been
//! written for it, this crate does what execve does, up to the jump, so that the caller can enter Dune mode in between:
//!
//! ```no_run
//! use std::convert::Infallible;
//!
//! let program = dune_loader::load("ls".as_ref(), &["-l".into()])?;
//! let never = program.start(|| Ok::<(), Infallible>(()));
//! # Ok::<(), dune_loader::LoadError>(())
//! ```
//!
//! | step of execve(2) | where |
//! |---|---|
//! | find the file, as execvp(3) does | `find.rs` |
//! | follow `#!` lines | `script.rs` |
//! | read and check the ELF headers | `elf.rs` |
//! | map the program and its interpreter (the dynamic linker) | `map.rs` |
//! | build the initial stack | `stack.rs` |
//! | give the process the state of one that has just been started, jump | `raw/` |
//!
//! # What differs from execve(2)
//!
//! * The launcher stays mapped, below and beside the program.
//! * `/proc/self/exe` names the program only where the process has CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN in its user namespace, as
//!   root has; else it goes on naming the launcher. (Linux wants the old file unmapped for that: `raw/executable.rs`.)
//! * Set-user-ID, set-group-ID and file capabilities are not honoured, as for a program that is being traced.
//! * A program must be readable, not only executable.
//! * A limit (RLIMIT_AS…) that suffices for the program alone may not for both: [`Execution`] is for that.
//! * Where Linux lacks `PR_SET_MM_MAP` (CONFIG_CHECKPOINT_RESTORE), `/proc/self/cmdline`, `environ` and `auxv` show the
//!   launcher's, and the program's heap follows the launcher's.

#![deny(unsafe_code)]

mod elf;
mod error;
mod find;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod map;
pub mod parts;
mod raw;
mod script;
mod stack;
mod start;

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

pub use error::{FormatError, LoadError, StartError};
pub use raw::execution::Execution;

use elf::Image;
use map::{Mapped, Place};
use parts::Object;

/// A program in the memory of this process, ready to be started. Dropping it takes it out again.
#[derive(Debug)]
pub struct Program {
    /// What execve(2) was given: the file, also where that is a script.
    file: CString,
    /// The ELF program.
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    image: Image,
    /// The ELF program's file, for `/proc/self/exe`.
    executable: Option<File>,
    program: Mapped,
    /// The interpreter and where it starts.
    interpreter: Option<(Mapped, u64)>,
}

/// Finds `program` as execvp(3) does, and maps it. It will get `program` and `arguments` as its arguments, and the environment
/// that this process was given.
///
/// # Errors
///
/// [`LoadError`]; nothing of the program is left in memory then.
pub fn load(program: &OsStr, arguments: &[OsString]) -> Result<Program, LoadError> {
    let mut words = vec![program.to_owned()];
    words.extend_from_slice(arguments);
    load_as(program, words, environment(), Opening::ForExecution)
}

/// The environment as this process got it: in its order, entries without an equals sign included.
pub fn environment() -> Vec<CString> {
    raw::state::environment()
}

/// How the files of a program are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// As execve(2) opens them, before they are read: not if they are open for writing (ETXTBSY), with what security modules say to it,
    /// and with fanotify's events (since Linux 6.8; older kernels do that for execve itself only).
    ForExecution,
    /// To be read: somebody has had them opened for execution already.
    Plain,
}

/// As [`load`], with all of the program's arguments, the first one included, which need not be its name, and its environment.
///
/// # Errors
///
/// As of [`load`].
pub fn load_as(
    program: &OsStr,
    words: Vec<OsString>,
    environment: Vec<CString>,
    opening: Opening,
) -> Result<Program, LoadError> {
    let opened = parts::open(program, words, std::env::var_os("PATH").as_deref(), opening)?;
    let Object { path, file, image } = opened.program;
    let mapped = map::map(&image, &file, &path, Place::Program)?;
    let interpreter = opened.interpreter.map(|object| load_interpreter(&object)).transpose()?;
    Ok(Program {
        path: c_string(path.into_os_string())?,
        file: opened.name,
        arguments: opened.arguments,
        environment,
        image,
        executable: Some(file),
        program: mapped,
        interpreter,
    })
}

impl Program {
    /// The file that is executed: for a script its interpreter.
    pub fn executable(&self) -> &CStr {
        &self.path
    }
}

/// Maps an interpreter; where it is, and where it starts.
fn load_interpreter(object: &Object) -> Result<(Mapped, u64), LoadError> {
    let mapped = map::map(&object.image, &object.file, &object.path, Place::Anywhere)?;
    let entry = mapped.bias.wrapping_add(object.image.entry);
    Ok((mapped, entry))
}

fn c_string(word: OsString) -> Result<CString, LoadError> {
    CString::new(word.into_vec()).map_err(|error| LoadError::NulByte {
        word: PathBuf::from(OsStr::from_bytes(&error.into_vec()).to_owned()),
    })
}
