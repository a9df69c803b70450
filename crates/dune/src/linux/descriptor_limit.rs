//! RLIMIT_NOFILE: how many descriptors the program may have, which Dune's own do not count against.

use linux_raw_sys::general::{RLIMIT_NOFILE, rlimit64};

use super::sys;

/// While it lives, the process may have as many descriptors as its hard limit allows. Other threads see that, and children
/// inherit it, so it lives for a system call or two.
#[derive(Debug)]
pub(crate) struct RaisedLimit {
    /// The program's limit.
    program: rlimit64,
    raised: bool,
}

impl RaisedLimit {
    pub(crate) fn new() -> RaisedLimit {
        let program = limits();
        let wanted = rlimit64 { rlim_cur: program.rlim_max, ..program };
        let raised = wanted.rlim_cur > program.rlim_cur && sys::set_limits(RLIMIT_NOFILE, &wanted).is_ok();
        RaisedLimit { program, raised }
    }

    /// The limits as the program knows them.
    pub(crate) fn program(&self) -> rlimit64 {
        self.program
    }

    /// Whether there was room to raise them.
    pub(crate) fn is_raised(&self) -> bool {
        self.raised
    }
}

impl Drop for RaisedLimit {
    fn drop(&mut self) {
        // The program may have set another one meanwhile.
        if self.raised && limits().rlim_cur == self.program.rlim_max {
            let _ = sys::set_limits(RLIMIT_NOFILE, &self.program);
        }
    }
}

/// RLIMIT_NOFILE.
pub(crate) fn limits() -> rlimit64 {
    sys::limits(RLIMIT_NOFILE).unwrap_or(rlimit64 { rlim_cur: 1024, rlim_max: 1024 })
}
