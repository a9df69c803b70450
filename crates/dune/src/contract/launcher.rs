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
    /// Entries of the environment that would act on the launcher's own C library and dynamic linker (`LD_PRELOAD`…: ld.so(8)) are
    /// passed without their first bytes. If there are any, `--hidden LOST` stands before `--`, and PROGRAM is to get the
    /// environment that [`Launcher::restore`] makes of that.
    ///
    /// Where it can not do that, the launcher should have Linux execute PROGRAM: who executed it is gone, and would not have
    /// failed on Linux.
    ///
    /// `program` is the path of the program that runs now, for those who execute `/proc/self/exe`, which may name the
    /// launcher.
    pub fn new(path: CString, leading: Vec<CString>, program: CString) -> Launcher {
        let mut words = vec![path];
        words.extend(leading);
        Launcher { words, program }
    }

    /// What LOST has for an entry of the environment that is passed as it is.
    pub(crate) const NOTHING_LOST: u8 = b'.';

    /// Puts back the bytes that entries of the environment have `lost`: one of `lost` for each, in their order.
    ///
    /// ```
    /// let mut environment = [c"A=1".to_owned(), c"D_PRELOAD=x.so".to_owned()];
    /// dune::Launcher::restore(&mut environment, b".L");
    /// assert_eq!(environment, [c"A=1".to_owned(), c"LD_PRELOAD=x.so".to_owned()]);
    /// ```
    pub fn restore(environment: &mut [CString], lost: &[u8]) {
        for (entry, &byte) in environment.iter_mut().zip(lost) {
            // No argument of a process has a NUL byte.
            if byte != Self::NOTHING_LOST
                && let Ok(whole) = CString::new([&[byte], entry.as_bytes()].concat())
            {
                *entry = whole;
            }
        }
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
