//! RLIMIT_NOFILE: how many descriptors the program may have, which Dune's own do not count against.

use linux_raw_sys::general::{RLIMIT_NOFILE, rlimit64};

use super::sys;

/// Numbers above the program's limit that there should be: for four descriptors of the process, and one for each further thread.
const ROOM: u64 = 1 << 12;

/// While it lives, the process may have as many descriptors as its hard limit allows; and where that is the soft one, and the process
/// may raise it (CAP_SYS_RESOURCE), some more. Other threads see that, and children inherit it, so it lives for a system call or two.
#[derive(Debug)]
pub(crate) struct RaisedLimit {
    /// The program's limit.
    program: rlimit64,
    /// The limit for the moment; `None` for the program's.
    raised: Option<rlimit64>,
}

impl RaisedLimit {
    pub(crate) fn new() -> RaisedLimit {
        let program = limits();
        let hard = program.rlim_max;
        let wanted = if hard > program.rlim_cur { hard } else { hard.saturating_add(ROOM) };
        let wanted = rlimit64 { rlim_cur: wanted, rlim_max: wanted };
        let raised = sys::set_limits(RLIMIT_NOFILE, &wanted).ok().map(|_| wanted);
        RaisedLimit { program, raised }
    }

    /// The limits as the program knows them.
    pub(crate) fn program(&self) -> rlimit64 {
        self.program
    }

    /// Whether there was room to raise them.
    pub(crate) fn is_raised(&self) -> bool {
        self.raised.is_some()
    }
}

impl Drop for RaisedLimit {
    fn drop(&mut self) {
        // The program may have set another one meanwhile.
        if let Some(raised) = self.raised
            && limits().rlim_cur == raised.rlim_cur
        {
            let _ = sys::set_limits(RLIMIT_NOFILE, &self.program);
        }
    }
}

/// RLIMIT_NOFILE.
pub(crate) fn limits() -> rlimit64 {
    sys::limits(RLIMIT_NOFILE).unwrap_or(rlimit64 { rlim_cur: 1024, rlim_max: 1024 })
}
