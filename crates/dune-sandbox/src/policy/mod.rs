//! What a program may do: the trait, and the policies that are shipped.

mod allow_all;
mod compute;
mod contents;
mod environment;
mod file;
mod hosts;
mod limits;
mod network;
mod rule;
mod shipped;
mod signal;

use std::ffi::CString;
use std::fmt::Debug;
use std::io;
use std::path::Path;

pub use allow_all::AllowAll;
pub use compute::Compute;
pub use contents::{Additions, PolicyError};
pub use file::FromFile;
pub use hosts::Host;
pub use limits::Limits;
pub(crate) use network::{KIND, PAIRS, internet_address};
pub(crate) use rule::Rule;
pub use shipped::{NAMES, by_name};

use crate::checked::Request;
use crate::command::Recipe;
use crate::files::Files;
use crate::peers::Peers;
use crate::questions::Question;
use crate::served::Tree;
use crate::wall::Wall;
use dune_syscalls::{Call, Form};

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// It is made.
    Allow,
    /// The program gets this error (errno(3)).
    Deny(i32),
    /// The call is not made, and the program gets this result in its place; from -4095 to -1 it is an error, as from Linux. Nothing is written to the
    /// program's memory. For [`Policy::decide`] only: as an answer to a question, and as a [denial](Policy::denial) of paths, it is EACCES.
    Answer(i64),
    /// The program is ended by SIGSYS.
    Kill,
    /// The launcher is asked ([`Policy::asked`]), while the thread waits: a minute at most, and what is not answered is denied with EACCES, as where there
    /// is no launcher ([`Sandbox::run`](crate::Sandbox::run)). For [`Policy::decide`] only.
    Ask,
}

/// What a program may do.
///
/// The supervisor asks about each call that it would make, or do itself, for the program. What it refuses by itself, whatever the
/// policy says, it does not ask about: a policy can not let a program out. Calls that only concern the program's own memory, registers and
/// signals, and its end, are not asked about either.
///
/// A policy decides in each process of the program, children among them, which have it as it was in the parent when they were made: what it
/// remembers is of one process, and a lock of its own that another thread holds then is never given back in the child. So it has none, or none that is
/// held while another thread decides.
pub trait Policy: Debug + Send + Sync {
    /// The name, for messages.
    fn name(&self) -> &str;

    /// What becomes of the call: asked before each, by the thread that makes it. Paths have been copied in, and Linux gets the copies.
    fn decide(&self, request: &Request) -> Decision;

    /// What becomes of a call for which [`decide`](Self::decide) says [`Decision::Ask`].
    ///
    /// Asked in the launcher, which is beside the program and not confined: it may open files, remember what it has said for all processes of the run, and
    /// ask a person, but it ends no run at a limit of time meanwhile.
    fn asked(&self, question: &Question) -> Decision {
        let _ = question;
        self.denial()
    }

    /// Whether the policy may allow this form of the call, with some arguments. What it does not, neither [`decide`](Self::decide) allows nor,
    /// behind a [wall](Self::wall), Linux.
    fn may_allow(&self, call: &Call, form: &Form) -> bool {
        let _ = (call, form);
        true
    }

    /// What Linux is to confine the process to, so that a defect of the supervisor does not let the program out. Asked once, before the program
    /// starts. `None`, the default, is for policies that allow what the user may do.
    fn wall(&self) -> Option<Wall> {
        None
    }

    /// The files that the program may open and ask about by their paths, if the policy is about that. What they lead to the supervisor finds
    /// below the roots, and [`decide`](Self::decide) has to allow the calls: opening, `stat` and its like, `access`, `readlink`, `chdir`, and
    /// below [`Access::Write`](crate::Access::Write) those that make, remove, rename and change.
    fn files(&self) -> Option<&Files> {
        None
    }

    /// Puts in `tree` what the program is to find at `path`, which is the canonical path of one of the [`files`](Self::files) with
    /// [`Access::Served`](crate::Access::Served).
    ///
    /// Asked once for each such root, in the launcher, which is not confined, before the program starts; [`Sandbox::run`](crate::Sandbox::run) has none, and
    /// fails. What is served is in memory, and its files can not be executed where Linux executes nothing there (a `/dev/shm` with `noexec`).
    ///
    /// # Errors
    ///
    /// They are those of the run, which then is none. The default is one: it serves nothing.
    fn serve(&self, path: &Path, tree: &mut Tree<'_>) -> io::Result<()> {
        let _ = (path, tree);
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the policy does not say what is there (`Policy::serve`)",
        ))
    }

    /// What becomes of a call with a path that leads to none of the [`files`](Self::files). [`Decision::Ask`] says that somebody is asked about other
    /// calls: such a one gets EACCES.
    fn denial(&self) -> Decision {
        Decision::Deny(libc::EACCES)
    }

    /// What [`decide`](Self::decide) allows of addresses of the network, for people to read: rules by which it decides. Default: none are told.
    fn network_rules(&self) -> Vec<String> {
        Vec::new()
    }

    /// The hosts that the policy names, with their addresses in this run, for people to read. Default: none.
    fn hosts(&self) -> &[Host] {
        &[]
    }

    /// Who may connect to sockets that listen. Default: everybody.
    fn peers(&self) -> Option<&Peers> {
        None
    }

    /// Limits of the run.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// Which of these variables the program gets, and which others. Default: these.
    fn environment(&self, all: Vec<CString>) -> Vec<CString> {
        all
    }

    /// How another process of the same program makes this policy, which programs beside a host need ([`Sandbox::command`](crate::Sandbox::command)).
    /// Default: not at all.
    fn recipe(&self) -> Option<Recipe> {
        None
    }

    /// Whether memory may be writable and executable at once: for compilers that run what they have just compiled.
    fn allows_writable_code(&self) -> bool {
        false
    }
}
