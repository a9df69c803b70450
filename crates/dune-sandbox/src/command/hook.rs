//! The hook at the start of a host's `main`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;

use super::LAUNCHER;
use super::order::{Order, Reply};
use crate::Sandbox;
use crate::observe::Observation;
use crate::policy::Policy;
use crate::raw::{process, spawning};

/// Makes a policy of one's own of the bytes of its [recipe](super::Recipe::own), or says why not.
pub type MakePolicy = fn(&[u8]) -> Result<Box<dyn Policy>, String>;

static INSTALLED: OnceLock<Hook> = OnceLock::new();

/// The hook that has been called.
pub(super) fn installed() -> Option<&'static Hook> {
    INSTALLED.get()
}

/// To be called first thing in the `main` of a program that [spawns](super::Command::spawn): where the program has been executed as a launcher this
/// does not return. Where it has policies of its own, it is [`Hook`].
///
/// ```no_run
/// // First thing in `main`:
/// dune_sandbox::hook();
/// println!("not in launchers");
/// ```
pub fn hook() {
    Hook::new().install();
}

/// The [hook](hook()), with policies of the program's own.
///
/// These decide in the process of the program that is run, in the supervisor, behind the second wall: what they want to open they open when they are made.
///
/// ```no_run
/// use dune_sandbox::policy::{Decision, Policy};
/// use dune_sandbox::{Hook, Recipe, Request, Sandbox};
///
/// #[derive(Debug)]
/// struct NoSockets;
///
/// impl Policy for NoSockets {
///     fn name(&self) -> &str {
///         "no-sockets"
///     }
///
///     fn decide(&self, request: &Request) -> Decision {
///         if request.call().name() == "socket" { Decision::Deny(libc::EACCES) } else { Decision::Allow }
///     }
///
///     fn recipe(&self) -> Option<Recipe> {
///         Some(Recipe::own("no-sockets", []))
///     }
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     Hook::new().policy("no-sockets", |_| Ok(Box::new(NoSockets))).install();
///     let finished = Sandbox::new(Box::new(NoSockets)).command("wget").arg("http://192.0.2.1/").status()?;
///     println!("{}", finished.reason);
///     Ok(())
/// }
/// ```
#[derive(Debug, Default)]
pub struct Hook {
    policies: BTreeMap<String, MakePolicy>,
}

impl Hook {
    /// One that makes the policies that are shipped, and those of files.
    pub fn new() -> Hook {
        Hook::default()
    }

    /// Makes policies of one's own, too, by this name: [`Recipe::own`](super::Recipe::own).
    #[must_use]
    pub fn policy(mut self, name: impl Into<String>, make: MakePolicy) -> Hook {
        self.policies.insert(name.into(), make);
        self
    }

    /// To be called first thing in `main`: does not return in a launcher. Called again, it does nothing.
    pub fn install(self) {
        let mut words = std::env::args_os();
        if words.next().is_some_and(|word| word == LAUNCHER) {
            launch(&self, words.next());
        }
        let _ = INSTALLED.set(self);
    }

    pub(super) fn makes(&self, name: &str) -> bool {
        self.policies.contains_key(name)
    }

    pub(super) fn make(&self, name: &str, argument: &[u8]) -> Result<Box<dyn Policy>, String> {
        let make = self.policies.get(name).ok_or_else(|| format!("the hook makes no policy {name:?}"))?;
        make(argument)
    }
}

/// This process is a launcher.
fn launch(hook: &Hook, number: Option<OsString>) -> ! {
    let line = number.and_then(|number| number.to_str()?.parse().ok()).and_then(spawning::handed_down);
    let Some(mut line) = line else { process::exit(2) };
    let reply = Order::receive(&mut line)
        .map_err(|why| (126, format!("the launcher cannot read its order: {why}")))
        .and_then(|order| run(hook, order, &line));
    let reply = reply.unwrap_or_else(|(status, why)| Reply::Failed(status, why));
    // The host may read these to their ends before it reads the reply.
    spawning::leave(&[libc::STDERR_FILENO]);
    // It may have gone.
    let done = line.set_nonblocking(false).and_then(|()| reply.send(&mut line));
    process::exit(done.is_err().into())
}

fn run(hook: &Hook, order: Order, line: &UnixStream) -> Result<Reply, (i32, String)> {
    let threads = fs::read_dir("/proc/self/task").map_or(0, |tasks| tasks.count());
    if threads != 1 {
        let why = format!(
            "the host program has {threads} threads before it calls `dune_sandbox::hook`; call it first thing in `main`"
        );
        return Err((126, why));
    }
    let failed = |why: String| (2, why);
    let policy = order.recipe.make(hook).map_err(failed)?;
    let mut sandbox = Sandbox::new(policy).limits(order.limits).best_effort(order.best_effort);
    sandbox.environment = Some(order.environment);
    sandbox.layer = order.layer.map(Into::into);
    line.set_nonblocking(true)
        .map_err(|why| (126, format!("the launcher cannot listen to its host: {why}")))?;
    let observation = if order.counts { Observation::new() } else { Observation::outcome() };
    let is_to_end = || spawning::has_word(line);
    spawning::interrupt_by(line);
    let report = sandbox.run_beside(&order.program, &order.words, observation, Some(&is_to_end));
    report
        .map(|report| Reply::Report(Box::new(report)))
        .map_err(|error| (error.exit_status().into(), error.to_string()))
}
