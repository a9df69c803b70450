//! Runs programs that are not trusted in ring 3 of Dune mode, under a policy.
//!
//! The program becomes the calling process, as by execve(2), but in ring 3 of Dune mode: it computes at the CPU's own speed, and each of
//! its system calls and faults comes to the supervisor, which is this library, at ring 0 of the same process. No call of the
//! program's reaches Linux by itself.
//!
//! ```no_run
//! use dune_sandbox::{Sandbox, policy};
//!
//! let never = Sandbox::new(Box::new(policy::Compute)).run("/bin/busybox".as_ref(), &["busybox".into(), "true".into()])?;
//! # Ok::<(), dune_sandbox::SandboxError>(())
//! ```
//!
//! | part | where |
//! |---|---|
//! | the two parts of the address space | `part.rs` |
//! | what the program has mapped; mmap(2) and its like | `areas.rs`, `space.rs` |
//! | what the processes of a run have together: limits | `quota.rs` |
//! | questions of policies to the launcher | `questions.rs` |
//! | calls checked and copied in by the types of their arguments | `checked.rs`, `checked/` |
//! | programs that are trusted ([`Sandbox::trusting`]) | `supervisor/trusted.rs`, `raw/trust.rs` |
//! | filters of the program's own (seccomp(2)) | `bpf.rs`, `supervisor/filters.rs` |
//! | the loop around ring 3, and the calls that it does itself | `supervisor/` |
//! | what a program may do | [`policy`] |
//! | files by paths: what is below a policy's roots | `files.rs`, `last_part.rs`, `supervisor/places.rs`, `supervisor/changes.rs` |
//! | who may connect to sockets that listen | `peers.rs`, `supervisor/accepting.rs` |
//! | hosts by names, and what the program's own resolver finds | `policy/hosts.rs` |
//! | unix sockets by paths | `files/sockets.rs`, `supervisor/sockets.rs` |
//! | private layers, directories in memory, and what policies serve, in the place of roots | `layers.rs`, `served.rs`, crate `dune-layer` |
//! | putting a program in its place | `load.rs` |
//! | what Linux confines the process to | `wall/` |
//! | traces, figures, reports, learnt policies | `observe/` |
//! | what a policy comes to, as data and in words | `effective/` |
//! | runs beside a host program, as by `std::process::Command` | `command/` |
//! | a build without some defences, for the test suite | `weakness.rs` |
//! | all unsafe code | `raw/` |
//!
//! Host programs that run others, many at a time from any thread, have [`Sandbox::command`], which is shaped like
//! [`std::process::Command`].
//!
//! What is there, and what is not there yet, says docs/sandbox.md.

#![deny(unsafe_code)]

mod areas;
mod bpf;
mod checked;
mod command;
mod effective;
mod error;
mod files;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod identities;
mod last_part;
mod layers;
mod load;
mod observe;
mod part;
mod peers;
pub mod policy;
mod questions;
mod quota;
mod raw;
mod served;
mod space;
mod supervisor;
mod wall;
mod weakness;

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use dune::{Config, FaultAround};
use dune_loader::Opening;

pub use checked::{PathArgument, Request};
pub use command::{
    Child, Command, Finished, Hook, MakePolicy, Output, Reason, Recipe, RunError, SpawnError, WaitError, hook,
};
pub use dune_layer as layer;
pub use effective::{ClassRule, Effective, FileRule};
pub use error::SandboxError;
pub use files::{Access, Files, SocketUse};
use observe::Watch;
pub use observe::{
    CallFigures, Denial, Enforced, FatalCall, Figures, Filter, LayerChange, LayerReport, NotStarted,
    Observation, Outcome, Report, UnknownFilter,
};
pub use peers::Peers;
use policy::{Limits, Policy};
use questions::Line;
pub use questions::Question;
use quota::{Quota, Shared};
use raw::process;
use raw::trust::Trust;
pub use served::Tree;
use supervisor::{Process, Thread};
pub use wall::{Ports, Wall};
use weakness::{Defence, lacks};

/// How to run a program.
#[derive(Debug)]
pub struct Sandbox {
    policy: Box<dyn Policy>,
    best_effort: bool,
    watch: Option<Watch>,
    line: Option<Line>,
    shared: Option<&'static Shared>,
    limits: Limits,
    layer: Option<PathBuf>,
    /// In place of the process's own.
    environment: Option<Vec<(OsString, OsString)>>,
    trust: Option<Trust>,
}

impl Sandbox {
    /// A sandbox with this policy.
    pub fn new(policy: Box<dyn Policy>) -> Sandbox {
        let limits = policy.limits();
        Sandbox {
            policy,
            best_effort: false,
            watch: None,
            line: None,
            shared: None,
            limits,
            layer: None,
            environment: None,
            trust: None,
        }
    }

    /// The program is trusted, and only runs here, as it would run anywhere: nothing is refused that Linux would do, descriptors stay
    /// open, there may be core dumps, and what can not be run here (set-user-ID programs, other formats) Linux executes. The
    /// program's own loads and stores still do not get at the runtime's memory.
    ///
    /// # Safety
    ///
    /// Neither the program nor what it executes here has Linux write to the runtime's memory or unmap it, by a call whose arguments nobody knows,
    /// by a file of `/proc`, or by another process.
    #[must_use]
    #[expect(unsafe_code, reason = "who is trusted could reach the runtime by Linux")]
    pub unsafe fn trusting(mut self) -> Sandbox {
        // SAFETY: the caller's.
        self.trust = Some(unsafe { Trust::promised() });
        self
    }

    /// Whether the program is run where Linux can not confine the process as the policy does ([`Wall`]): what is missing is said on standard
    /// error. Else that is an error.
    #[must_use]
    pub fn best_effort(mut self, best_effort: bool) -> Sandbox {
        self.best_effort = best_effort;
        self
    }

    /// Limits besides those of the policy: of each the lower one counts.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Sandbox {
        self.limits = self.limits.and(limits);
        self
    }

    /// Where the private layer is made, and kept if the program changes something in it: a directory that is not there, or empty. By default it is a
    /// new one in the user's store ([`Report::layer`] says which).
    #[must_use]
    pub fn layer(mut self, directory: impl Into<PathBuf>) -> Sandbox {
        self.layer = Some(directory.into());
        self
    }

    /// The environment that the policy chooses from, and its `PATH`.
    fn environment(&self) -> (Vec<CString>, Option<OsString>) {
        let Some(all) = &self.environment else {
            return (dune_loader::environment(), std::env::var_os("PATH"));
        };
        let path = all.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
        let bytes = |(name, value): &(OsString, OsString)| {
            [name.clone().into_vec(), value.clone().into_vec()].join(&b'=')
        };
        // What has a NUL in it can be no variable.
        (all.iter().filter_map(|variable| CString::new(bytes(variable)).ok()).collect(), path)
    }

    /// Makes the process the program's: finds `program` as execvp(3) does, and runs it with `words` as its arguments, its name among
    /// them, to its end, which is the end of the process. Returns only if that fails.
    ///
    /// Descriptors other than the standard streams are closed, whoever owns them; signal handlers are reset; there will be no core dump. So
    /// the caller is a launcher, with one thread, that does nothing afterwards but tell why it failed.
    ///
    /// There is nobody who could end all processes of the run: [`Limits::wall_seconds`] is for [`run_observed`](Self::run_observed), and so are policies
    /// with private layers, directories in memory or hosts.
    ///
    /// # Errors
    ///
    /// [`SandboxError`].
    pub fn run(mut self, program: &OsStr, words: &[OsString]) -> Result<Infallible, SandboxError> {
        let prepare = |what| move |why| SandboxError::Prepare { what, why };
        let is_without_place = |root: &files::Root| root.place().is_none();
        if self.policy.files().is_some_and(|files| files.roots().iter().any(is_without_place)) {
            return Err(SandboxError::NoLauncher { policy: self.policy.name().to_owned() });
        }
        if lacks(Defence::Limits) {
            self.limits = Limits::default();
        }
        let shared = match self.shared {
            None if self.limits.is_any() => Some(Shared::new().map_err(prepare(Shared::WHAT))?),
            shared => shared,
        };
        if self.trust.is_none() && !lacks(Defence::Inherited) {
            process::close_inherited()
                .map_err(prepare("close the descriptors that the process has inherited"))?;
        }
        let (all, path) = self.environment();
        let environment = self.policy.environment(all);
        let opened =
            dune_loader::parts::open(program, words.to_vec(), path.as_deref(), Opening::ForExecution)?;
        check_place()?;
        // Where it makes /proc/self/auxv unreadable, that has been read.
        dune_loader::parts::keep_auxiliary_vector().map_err(prepare("read /proc/self/auxv"))?;
        process::set_name(&opened.name);
        dune_loader::parts::reset_signals();
        // What can be done in host mode is done now: there calls of Linux's and first touches of memory are cheaper.
        let wall = wall::prepare(&*self.policy);
        // Its threads use it to their end, and the process does not outlast them.
        let quota = Quota::new(self.limits, shared);
        let process: &Process =
            Box::leak(Box::new(Process::new(self.policy, self.trust, self.watch, self.line, quota, &opened)));
        // The program's pages are ring 3's, which streams of the supervisor's first touches are not for.
        let dune = Config::new()
            .fault_around(FaultAround::Off)
            .untrusted_code(true)
            .filters_of_its_own(true)
            .enter()?;
        // Now what Dune needs of /proc is open, which belongs to root where a process is not to be dumped.
        if self.trust.is_none() {
            process::forbid_core_dumps().map_err(prepare("forbid core dumps"))?;
        }
        check_place()?;
        let context = load::load(dune, process.space(), &opened, &environment)?;
        drop(opened);
        process::limit(self.limits).map_err(prepare("set the limits of the policy"))?;
        #[cfg(feature = "_weakened")]
        if lacks(Defence::Rights) {
            raw::memory::expose_stack(dune);
        }
        if let Some(wall) = wall {
            wall.put_up(self.best_effort, |part, why| {
                if let Some(Line { journal, .. }) = self.line {
                    journal.tell_of_wall(part, why);
                }
            })?;
        }
        Thread::new(dune, process, context).run()?;
        unreachable!("the first thread ends with the process, or by itself")
    }
}

/// Whether nothing is where the program's part is.
fn check_place() -> Result<(), SandboxError> {
    let prepare = |why| SandboxError::Prepare { what: "read /proc/self/maps", why };
    // The lowest mapping is in the first line, and more than is asked for Linux does not put into words.
    let mut line = [0; 32];
    let length =
        fs::File::open("/proc/self/maps").and_then(|mut maps| maps.read(&mut line)).map_err(prepare)?;
    let start = std::str::from_utf8(&line[..length]).ok().and_then(|line| line.split('-').next());
    let start = start.and_then(|start| u64::from_str_radix(start, 16).ok());
    let start = start.ok_or_else(|| prepare(io::ErrorKind::InvalidData.into()))?;
    let end = part::RUNTIME;
    if start < end { Err(SandboxError::Occupied { start, end }) } else { Ok(()) }
}
