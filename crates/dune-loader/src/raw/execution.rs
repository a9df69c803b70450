//! execve(2) itself, for a launcher that can not become the program.

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::ptr::null;

use super::state;

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
