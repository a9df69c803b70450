//! The program that starts others in Dune mode.

use std::ffi::{CStr, CString};

/// What is executed in place of the programs that a process in Dune mode execs: see
/// [`Config::follow_exec`](crate::Config::follow_exec).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launcher {
    /// Never empty: the path is the first.
    words: Vec<CString>,
    program: CString,
}

impl Launcher {
    /// `path LEADING… ARGV0 -- PROGRAM ARGUMENTS…` is to start PROGRAM in Dune mode with ARGV0 as its first argument.
    ///
    /// `program` is the path of the program that runs now, for those who execute `/proc/self/exe`, which may name the
    /// launcher.
    pub fn new(path: CString, leading: Vec<CString>, program: CString) -> Launcher {
        let mut words = vec![path];
        words.extend(leading);
        Launcher { words, program }
    }

    /// The launcher's path.
    pub(crate) fn path(&self) -> &CStr {
        &self.words[0]
    }

    /// Its words before those of the program, the path included.
    pub(crate) fn words(&self) -> &[CString] {
        &self.words
    }

    /// The running program's path.
    pub(crate) fn program(&self) -> &CStr {
        &self.program
    }
}
