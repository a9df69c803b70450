//! Sandboxes for host programs: shaped like [`std::process::Command`].
//!
//! ```text
//!  the host ──fork, exec of itself──▶ launcher ──fork──▶ the program's first process ──▶ others
//!      │                                 │
//!      └── a socket: the order there ────┘ … and the report back
//! ```
//!
//! The program's process has the supervisor in it, so it has to be one that has executed something with the supervisor in it, and has one
//! thread: a host with many can not just fork. So the host executes itself (`/proc/self/exe`), and the [hook](Hook) at the start of its
//! `main` sees that this is a *launcher*, which never returns. Another program than the host could do that for the policies that are shipped,
//! but it would have to be found, be of the same version, and could not have a policy of the host's own in it.
//!
//! The launcher gets the orphans of the run, and ends all of its processes when the first one ends, at a limit, when the host says so, and
//! when the host is not there any more.

mod child;
mod hook;
mod order;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;

use thiserror::Error;

pub use child::{Child, Finished, Output, Reason, WaitError};
pub use hook::{Hook, MakePolicy, hook};
use order::Order;
pub use order::Recipe;

use crate::Sandbox;
use crate::policy::Limits;
use crate::raw::spawning;

/// By this name the host program knows that it is a launcher.
const LAUNCHER: &str = "dune-sandbox-launcher";

/// Why there is no [`Child`].
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// This program would not know that it is a launcher.
    #[error(
        "this program has not called the hook, so it can not be executed as a launcher; call `dune_sandbox::hook()` first thing in `main`"
    )]
    NoHook,
    /// The policy can not be made in another process.
    #[error(
        "the policy {0} can not be handed to another process; give it a `Policy::recipe`, and make it in the hook (`Hook::policy`)"
    )]
    NoRecipe(String),
    /// The hook does not make the policy.
    #[error("the hook makes no policy with the name {0:?}; name it there (`Hook::policy`)")]
    UnknownPolicy(String),
    /// Linux does not start the launcher.
    #[error(
        "cannot start a launcher for the program: {0}; see what `ulimit -u` and `ulimit -n` allow, and whether /proc is mounted"
    )]
    Start(#[source] io::Error),
    /// The launcher did not take the order.
    #[error("cannot tell the launcher what to run: {0}; see whether the hook is the first thing in `main`")]
    Order(#[source] io::Error),
}

/// A program that is to be run in a sandbox: as [`std::process::Command`], with which it shares what is not said here.
///
/// The [hook](hook()) has to be the first thing in the host's `main`.
///
/// ```no_run
/// use std::process::Stdio;
///
/// use dune_sandbox::policy::{Compute, Limits};
/// use dune_sandbox::{Reason, Sandbox};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     dune_sandbox::hook();
///     let mut limits = Limits::default();
///     (limits.wall_seconds, limits.memory_bytes) = (Some(10), Some(64 << 20));
///     let child = Sandbox::new(Box::new(Compute))
///         .limits(limits)
///         .command("/usr/bin/busybox")
///         .args(["sha256sum"])
///         .stdin(Stdio::null())
///         .stdout(Stdio::piped())
///         .spawn()?;
///     let output = child.wait_with_output()?;
///     match output.finished.reason {
///         Reason::Exited(0) => println!("{}", String::from_utf8_lossy(&output.stdout)),
///         reason => println!("not this time: {reason}"),
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Command {
    sandbox: Sandbox,
    launcher: std::process::Command,
    program: OsString,
    words: Vec<OsString>,
    clears: bool,
    variables: BTreeMap<OsString, Option<OsString>>,
    counts: bool,
}

impl Sandbox {
    /// A program to be run in this sandbox beside the caller. It is found as execvp(3) does, by the `PATH` that it is given.
    pub fn command(self, program: impl AsRef<OsStr>) -> Command {
        let program = program.as_ref().to_owned();
        Command {
            sandbox: self,
            launcher: std::process::Command::new("/proc/self/exe"),
            words: vec![program.clone()],
            program,
            clears: false,
            variables: BTreeMap::new(),
            counts: false,
        }
    }
}

impl Command {
    /// One more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Command {
        self.words.push(argument.as_ref().to_owned());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        self.words.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// The program's own name for itself (argument 0).
    #[must_use]
    pub fn arg0(mut self, name: impl AsRef<OsStr>) -> Command {
        self.words[0] = name.as_ref().to_owned();
        self
    }

    /// A variable of the environment. The policy still says whether the program gets it
    /// ([`Policy::environment`](crate::policy::Policy::environment)).
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Command {
        self.variables.insert(name.as_ref().to_owned(), Some(value.as_ref().to_owned()));
        self
    }

    /// More variables.
    #[must_use]
    pub fn envs(
        self,
        variables: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>,
    ) -> Command {
        variables.into_iter().fold(self, |command, (name, value)| command.env(name, value))
    }

    /// The program does not get this variable.
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Command {
        self.variables.insert(name.as_ref().to_owned(), None);
        self
    }

    /// The program gets none of the host's variables, and of those that were set none, either.
    #[must_use]
    pub fn env_clear(mut self) -> Command {
        self.variables.clear();
        self.clears = true;
        self
    }

    /// Where the program starts.
    #[must_use]
    pub fn current_dir(mut self, folder: impl AsRef<Path>) -> Command {
        self.launcher.current_dir(folder);
        self
    }

    /// The program's standard input. Default: the host's.
    #[must_use]
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Command {
        self.launcher.stdin(stdin);
        self
    }

    /// The program's standard output. Default: the host's.
    #[must_use]
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Command {
        self.launcher.stdout(stdout);
        self
    }

    /// The program's standard error, to which Dune's own lines go, too. Default: the host's.
    #[must_use]
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Command {
        self.launcher.stderr(stderr);
        self
    }

    /// Limits besides those of the policy: of each the lower one counts.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Command {
        self.sandbox = self.sandbox.limits(limits);
        self
    }

    /// Whether calls are counted and timed, and denials noted, for the report: each call then costs more. Default: no.
    #[must_use]
    pub fn figures(mut self, counts: bool) -> Command {
        self.counts = counts;
        self
    }

    /// Starts the program. Whether there is such a program, and whether it can be run, [`Child::wait`] tells.
    ///
    /// # Errors
    ///
    /// [`SpawnError`].
    pub fn spawn(mut self) -> Result<Child, SpawnError> {
        let installed = hook::installed().ok_or(SpawnError::NoHook)?;
        let policy = &self.sandbox.policy;
        let recipe = policy.recipe().ok_or_else(|| SpawnError::NoRecipe(policy.name().to_owned()))?;
        if let Some(name) = recipe.own_name().filter(|name| !installed.makes(name)) {
            return Err(SpawnError::UnknownPolicy(name.to_owned()));
        }
        let order = Order {
            environment: self.environment(),
            program: self.program,
            words: self.words,
            recipe,
            limits: self.sandbox.limits,
            best_effort: self.sandbox.best_effort,
            layer: self.sandbox.layer.map(Into::into),
            counts: self.counts,
        };
        let (mut ours, theirs) = UnixStream::pair().map_err(SpawnError::Start)?;
        self.launcher.arg0(LAUNCHER).arg(spawning::number(&theirs).to_string());
        spawning::hand_down(&mut self.launcher, theirs);
        let process = self.launcher.spawn().map_err(SpawnError::Start)?;
        // With the launcher's end.
        drop(self.launcher);
        let mut child = Child::new(process);
        match order.send(&mut ours).and_then(|()| ours.flush()) {
            Ok(()) => {
                child.begin(ours);
                Ok(child)
            }
            Err(why) => {
                drop(ours);
                Err(SpawnError::Order(why))
            }
        }
    }

    /// Runs the program with what it writes to standard output and standard error collected, and without standard input, unless these have been
    /// set.
    ///
    /// # Errors
    ///
    /// [`RunError`].
    pub fn output(self) -> Result<Output, RunError> {
        Ok(self
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?
            .wait_with_output()?)
    }

    /// Runs the program to its end.
    ///
    /// # Errors
    ///
    /// [`RunError`].
    pub fn status(self) -> Result<Finished, RunError> {
        Ok(self.spawn()?.wait()?)
    }

    fn environment(&self) -> Vec<(OsString, OsString)> {
        let mut all: BTreeMap<OsString, OsString> =
            if self.clears { BTreeMap::new() } else { std::env::vars_os().collect() };
        for (name, value) in &self.variables {
            match value {
                Some(value) => drop(all.insert(name.clone(), value.clone())),
                None => drop(all.remove(name)),
            }
        }
        all.into_iter().collect()
    }
}

/// Why a run was not begun, or its end is not known.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// It was not begun.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// Its end is not known.
    #[error(transparent)]
    Wait(#[from] WaitError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Request;
    use crate::policy::{AllowAll, Compute, Decision, Policy};

    #[derive(Debug)]
    struct OfOnesOwn;

    impl Policy for OfOnesOwn {
        fn name(&self) -> &str {
            "of one's own"
        }

        fn decide(&self, _: &Request) -> Decision {
            Decision::Allow
        }
    }

    #[test]
    fn without_a_hook_there_is_no_launcher() {
        let error = Sandbox::new(Box::new(Compute)).command("true").spawn().expect_err("no hook here");
        assert!(matches!(error, SpawnError::NoHook) && error.to_string().contains("dune_sandbox::hook()"));
    }

    #[test]
    fn policies_have_recipes() {
        assert!(AllowAll.recipe().is_some() && Compute.recipe().is_some() && OfOnesOwn.recipe().is_none());
    }

    #[test]
    fn the_environment_is_what_was_said() {
        let command = Sandbox::new(Box::new(Compute)).command("true");
        let command = command.env("A", "1").env_clear().env("B", "2").env("C", "3").env_remove("B");
        assert_eq!(command.environment(), [("C".into(), "3".into())]);
        let host: Vec<_> = std::env::vars_os().collect();
        let command = Sandbox::new(Box::new(Compute)).command("true").env_remove("PATH");
        assert_eq!(command.environment().len(), host.iter().filter(|(name, _)| name != "PATH").count());
    }
}
