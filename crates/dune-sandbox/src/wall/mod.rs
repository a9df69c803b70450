//! The second wall: Linux confines the process as the policy does the program.
//!
//! The supervisor and what it stands on may have defects. So before the program is entered the process gives up the right to gain any
//! (no_new_privs), and puts itself under a Landlock ruleset and a filter of system calls, which come from the same policy: code that has got
//! out to ring 0 is an ordinary process then, under both. Threads and children inherit them.
//!
//! Both are made before the process enters Dune mode ([`prepare`]), and put up when the program lies in its place ([`Prepared::put_up`]): what
//! was needed to come so far, as opening `/dev/kvm`, need not be allowed. What the runtime asks of Linux later is in `filter.rs`.

mod filter;
mod ruleset;

use std::sync::atomic::{AtomicBool, Ordering};

use landlock::RulesetCreated;
use seccompiler::BpfProgram;

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

/// The wall of a policy, made but not put up: what takes most of the work is done in host mode, where calls of Linux's and first touches of
/// memory are cheaper.
#[derive(Debug)]
pub(crate) struct Prepared {
    ruleset: Result<RulesetCreated, String>,
    filter: Result<BpfProgram, String>,
}

/// Makes the wall of `policy`, if that has one. Nothing is confined yet, and nothing said of what Linux can not do.
pub(crate) fn prepare(policy: &dyn Policy) -> Option<Prepared> {
    // The filter names them, and then setfsuid(2) can not ask for them any more.
    identities::note();
    let wall = policy.wall().filter(|_| !lacks(Defence::Wall))?;
    let filter = filter::program(policy).map_err(|why| why.to_string());
    Some(Prepared { ruleset: ruleset::create(&wall), filter })
}

impl Prepared {
    /// Puts the process, which has one thread, behind the wall. With `best_effort` what Linux can not do is told on standard error, and left
    /// out. `tell` is told of each part, and why it is missing.
    pub(crate) fn put_up(
        self,
        best_effort: bool,
        tell: impl Fn(&str, Option<&str>),
    ) -> Result<(), SandboxError> {
        let account = |what, done: Result<(), String>| {
            match done {
                Ok(()) => tell(what, None),
                Err(why) if best_effort => {
                    say(format_args!("dune: not enforced by Linux: {what}: {why}"));
                    tell(what, Some(&why));
                }
                Err(why) => return Err(SandboxError::Wall { what, why }),
            }
            Ok(())
        };
        account("no_new_privs", process::forbid_new_privileges().map_err(|why| why.to_string()))?;
        let restrict = |ruleset| {
            ruleset::restrict(ruleset).map(|scopes| SCOPES_SIGNALS.store(scopes, Ordering::Relaxed))
        };
        account("a Landlock ruleset", self.ruleset.and_then(restrict))?;
        // The filter is last: the others' calls it does not allow.
        let apply = |filter: BpfProgram| seccompiler::apply_filter(&filter).map_err(|why| why.to_string());
        account("a filter of system calls (seccomp)", self.filter.and_then(apply))
    }
}
