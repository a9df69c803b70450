//! The second wall: Linux confines the process as the policy does the program.
//!
//! The supervisor and what it stands on may have defects. So before the program is entered the process gives up the right to gain any
//! (no_new_privs), and puts itself under a Landlock ruleset and a filter of system calls, which come from the same policy: code that has got
//! out to ring 0 is an ordinary process then, under both. Threads and children inherit them.
//!
//! Both are made in Dune mode, when the program lies in its place: what was needed to come so far, as opening `/dev/kvm`, need not be
//! allowed. What the runtime asks of Linux later is in `filter.rs`.

mod filter;
mod ruleset;

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{SandboxError, say};
use crate::files::{Files, Root};
use crate::identities;
use crate::policy::Policy;
use crate::raw::process;
use crate::weakness::{Defence, lacks};

/// Ports of TCP, which Landlock knows since Linux 6.7.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ports {
    /// None.
    #[default]
    None,
    /// These.
    These(Vec<u16>),
    /// All: Landlock leaves them alone.
    All,
}

/// What Linux is to confine the process to, for a policy: no files but the descriptors that it has and those that are named, no TCP, nobody's
/// signals but its own, and of system calls those that the policy [may allow](Policy::may_allow) and the runtime needs.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Wall {
    roots: Vec<Root>,
    connect: Ports,
    bind: Ports,
    proc: bool,
}

impl Wall {
    /// A wall with nothing outside of it allowed.
    pub fn new() -> Wall {
        Wall::default()
    }

    /// Lets `files` be read, and written to. What is hidden below another root Landlock can not take away again.
    #[must_use]
    pub fn files(mut self, files: &Files) -> Wall {
        self.roots = files.roots().to_vec();
        self
    }

    /// Which ports of TCP, of whatever address, may be connected to, and bound.
    #[must_use]
    pub fn tcp(mut self, connect: Ports, bind: Ports) -> Wall {
        (self.connect, self.bind) = (connect, bind);
        self
    }

    /// Whether files of `/proc` can be read: the supervisor of a child asks there what it has mapped, and that of a program that executes
    /// others which descriptors are open. Landlock refuses what is about the memory of processes outside.
    #[must_use]
    pub fn proc(mut self, proc: bool) -> Wall {
        self.proc = proc;
        self
    }
}

/// Whether Linux lets signals go to processes of this wall only.
static SCOPES_SIGNALS: AtomicBool = AtomicBool::new(false);

/// Whether Linux lets signals of this process go to processes behind its wall only.
pub(crate) fn scopes_signals() -> bool {
    SCOPES_SIGNALS.load(Ordering::Relaxed)
}

/// A part of the wall.
type Part = (&'static str, fn(&dyn Policy, &Wall) -> Result<(), String>);

/// The filter is last: the others' calls it does not allow.
const PARTS: [Part; 3] = [
    ("no_new_privs", |_, _| process::forbid_new_privileges().map_err(|why| why.to_string())),
    ("a Landlock ruleset", |_, wall| {
        ruleset::install(wall).map(|scopes| SCOPES_SIGNALS.store(scopes, Ordering::Relaxed))
    }),
    ("a filter of system calls (seccomp)", |policy, _| filter::install(policy)),
];

/// Puts the process, which has one thread, behind the wall of `policy`, if that has one. With `best_effort` what Linux can not do is told on
/// standard error, and left out. `tell` is told of each part, and why it is missing.
pub(crate) fn install(
    policy: &dyn Policy,
    best_effort: bool,
    tell: impl Fn(&str, Option<&str>),
) -> Result<(), SandboxError> {
    // The filter names them, and then setfsuid(2) can not ask for them any more.
    identities::note();
    let Some(wall) = policy.wall().filter(|_| !lacks(Defence::Wall)) else { return Ok(()) };
    for (what, install) in PARTS {
        match install(policy, &wall) {
            Ok(()) => tell(what, None),
            Err(why) if best_effort => {
                say(format_args!("dune: not enforced by Linux: {what}: {why}"));
                tell(what, Some(&why));
            }
            Err(why) => return Err(SandboxError::Wall { what, why }),
        }
    }
    Ok(())
}
