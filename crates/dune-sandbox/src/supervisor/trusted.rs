//! What a trusted program has Linux do that nobody looks into ([`Sandbox::trusting`](crate::Sandbox::trusting)).

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;

use dune_loader::LoadError;
use dune_loader::parts::Opened;

use super::{Answer, Thread, error};
use crate::checked::Request;
use crate::part;
use crate::raw::trust::Trust;
use crate::raw::{call, process};

/// Calls that are not passed on: what they change of the thread the program would not have, and the runtime would.
const WITHOUT: [(i64, i32); 6] = [
    (libc::SYS_clone3, libc::ENOSYS),
    (libc::SYS_rseq, libc::ENOSYS),
    (libc::SYS_modify_ldt, libc::ENOSYS),
    (libc::SYS_iopl, libc::EPERM),
    (libc::SYS_ioperm, libc::EPERM),
    (libc::SYS_arch_prctl, libc::EINVAL),
];

/// Has Linux make a call that others are refused, or whose arguments nobody knows; but not with an address of the runtime's.
pub(super) fn pass(thread: &mut Thread, trust: Trust, request: &mut Request) -> Answer {
    let number = i64::from(request.call().number);
    if let Some((_, errno)) = WITHOUT.iter().find(|(other, _)| *other == number) {
        return error(*errno);
    }
    if request.arguments().iter().any(|word| part::is_runtimes(*word)) {
        return error(libc::EFAULT);
    }
    let answer = call::pass(trust, request);
    if request.form().name == "PTRACE_TRACEME" && answer == 0 {
        thread.process.is_traced.store(true, Ordering::Relaxed);
    }
    thread.interrupted(answer, request.call())
}

/// Executes a program that can not be run here in host mode: for a tracer, with the rights of another user, or in a format that only Linux knows.
/// Linux's reason, if it does not.
pub(super) fn execute(
    thread: &mut Thread,
    opened: &Result<Opened, LoadError>,
    path: &OsStr,
    words: &[OsString],
    environment: &[CString],
) -> Option<i32> {
    let trust = thread.process.trust?;
    let is_foreign = match opened {
        Ok(opened) => thread.process.is_traced.load(Ordering::Relaxed) || has_rights_of_its_own(opened),
        Err(
            LoadError::NotFound { .. }
            | LoadError::Denied { .. }
            | LoadError::NotAFile { .. }
            | LoadError::TooManyInterpreters { .. },
        ) => false,
        Err(_) => true,
    };
    if !is_foreign {
        return None;
    }
    let c_string = |text: &OsStr| CString::new(text.as_bytes()).unwrap_or_default();
    let words: Vec<CString> = words.iter().map(|word| c_string(word)).collect();
    if let Some((borrowed, _)) = thread.borrowed.take() {
        borrowed.release();
    }
    Some(process::execute(trust, &c_string(path), &words, environment))
}

/// Whether execve(2) would give the program another user or group.
fn has_rights_of_its_own(opened: &Opened) -> bool {
    const BITS: u32 = libc::S_ISUID | libc::S_ISGID;
    opened.program.file.metadata().is_ok_and(|about| about.mode() & BITS != 0)
}
