//! execve(2) itself, for a launcher that can not become the program.

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::null;

use super::state;

/// Has Linux open the file at `path` as it opens what it executes: not if it is open for writing (ETXTBSY), for all file systems and
/// security modules to judge, and with fanotify's events (FAN_OPEN_EXEC). The file is closed again.
///
/// Since Linux 6.8 execve(2) opens the file before anything else (`alloc_bprm`, fs/exec.c), and only then notices a bad address of the
/// arguments. Older kernels notice that first, and nothing is learnt.
pub(crate) fn open(path: &Path) -> io::Result<()> {
    /// No program has memory here.
    const NOWHERE: usize = !0xfff;
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a C string; that the arguments can not be read keeps anything from being executed.
    unsafe { libc::execve(path.as_ptr(), std::ptr::without_provenance(NOWHERE), null()) };
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EFAULT) => Ok(()),
        error => Err(error),
    }
}

/// A program that Linux is to execute, in host mode, where this crate fails or what its caller does before the jump: a limit that
/// suffices for the program may not suffice for both.
///
/// ```no_run
/// let execution = dune_loader::Execution::new(c"/bin/ls".into(), vec![c"ls".into()], dune_loader::environment());
/// panic!("{}", execution.start());
/// ```
#[derive(Debug)]
pub struct Execution {
    program: CString,
    words: Strings,
    environment: Strings,
}

/// C strings and the array that execve(2) wants of them.
#[derive(Debug)]
struct Strings {
    _owned: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl Strings {
    fn new(owned: Vec<CString>) -> Strings {
        let pointers = owned.iter().map(|string| string.as_ptr()).chain([null()]).collect();
        Strings { _owned: owned, pointers }
    }
}

impl Execution {
    /// Of the file `program`, a path, with `words` as its arguments, the first one included. All memory is taken now.
    pub fn new(program: CString, words: Vec<CString>, environment: Vec<CString>) -> Execution {
        Execution { program, words: Strings::new(words), environment: Strings::new(environment) }
    }

    /// Has Linux execute the program, with signals and standard streams as they were when this process started. Returns only if
    /// Linux refuses: its reason.
    pub fn start(&self) -> io::Error {
        state::reset_signals();
        state::close_opened_streams();
        let (program, words, environment) =
            (CStr::as_ptr(&self.program), self.words.pointers.as_ptr(), self.environment.pointers.as_ptr());
        // SAFETY: a C string, and two arrays of such that end with null; their owners live.
        unsafe { libc::execve(program, words, environment) };
        io::Error::last_os_error()
    }
}
