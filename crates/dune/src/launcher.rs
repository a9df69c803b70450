//! The program that starts others in Dune mode.

use std::ffi::{CStr, CString};

/// What is executed in place of the programs that a process in Dune mode execs: see
/// [`Config::follow_exec`](crate::Config::follow_exec).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launcher {
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

    /// With the addresses of its words, to be kept where it is.
    pub(crate) fn prepare(self) -> Prepared {
        let addresses = self.words.iter().map(|word| word.as_ptr() as u64).collect();
        Prepared { addresses, launcher: self }
    }
}

/// A [`Launcher`] for ring 0, which can not allocate. Moving it does not move the words.
#[derive(Debug)]
pub(crate) struct Prepared {
    launcher: Launcher,
    addresses: Vec<u64>,
}

impl Prepared {
    /// Addresses of the path and the leading words.
    pub(crate) fn words(&self) -> &[u64] {
        &self.addresses
    }

    /// Address of the running program's path.
    pub(crate) fn program(&self) -> u64 {
        self.launcher.program.as_ptr() as u64
    }

    /// Whether `path` is the launcher's.
    pub(crate) fn is(&self, path: &[u8]) -> bool {
        self.launcher.words.first().map(CString::as_c_str).map(CStr::to_bytes) == Some(path)
    }
}
