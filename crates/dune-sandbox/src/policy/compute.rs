//! `compute`: no files, no network, no other processes.

use dune_syscalls::Class;

use super::{Decision, Policy};
use crate::checked::Request;

/// A program that only computes: it reads and writes its standard streams, and has memory, clocks and threads of its own.
///
/// Files can not be opened, so only static programs start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compute;

/// Calls of the classes that are refused which do not reach anything new.
const HARMLESS: [&str; 4] = ["uname", "sysinfo", "getrandom", "umask"];

impl Policy for Compute {
    fn name(&self) -> &str {
        "compute"
    }

    fn decide(&self, request: &Request) -> Decision {
        let (call, arguments) = (request.call(), request.arguments());
        let allowed = match call.class {
            Class::Poll | Class::Memory | Class::Time => true,
            Class::Descriptor => !matches!(call.name(), "memfd_create" | "fchown" | "fchmod" | "fchdir"),
            // The program's own name.
            Class::File if call.name().starts_with("readlink") => {
                request.paths().iter().all(|path| path.path.as_c_str() == c"/proc/self/exe")
            }
            // fstat(2), as libraries make it today.
            Class::File => {
                matches!(call.name(), "newfstatat" | "statx")
                    && request.path(1).is_some_and(|path| path.is_empty())
                    && arguments[if call.name() == "statx" { 2 } else { 3 }] & libc::AT_EMPTY_PATH as u64 != 0
                    && arguments[0] as i32 >= 0
            }
            Class::Process => {
                let is_own = [0, u64::from(std::process::id())].contains(&arguments[0]);
                match call.name() {
                    "clone" => arguments[0] & libc::CLONE_THREAD as u64 != 0,
                    "fork" | "vfork" | "clone3" | "execve" | "execveat" | "setpgid" | "setsid"
                    | "pidfd_open" => false,
                    "getpgid" | "getsid" | "prlimit64" => is_own,
                    _ => true,
                }
            }
            Class::Schedule => arguments[0] == 0 || call.name() == "sched_yield",
            Class::Signal => match call.name() {
                "kill" | "tgkill" => arguments[0] == u64::from(std::process::id()),
                "tkill" | "pidfd_send_signal" | "rt_sigqueueinfo" | "rt_tgsigqueueinfo" => false,
                _ => true,
            },
            Class::Ipc => {
                matches!(call.name(), "futex" | "futex_wait" | "futex_wake" | "futex_requeue" | "futex_waitv")
            }
            Class::Credential => call.name().starts_with("get"),
            _ => HARMLESS.contains(&call.name()),
        };
        if allowed || HARMLESS.contains(&call.name()) {
            Decision::Allow
        } else {
            Decision::Deny(libc::EACCES)
        }
    }
}
