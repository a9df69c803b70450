//! `ptrace_getpid`: a system call of unprivileged code, intercepted and then made, as the code sees it.

use super::{Row, Session};
use crate::error::BenchError;
use crate::linux::{self, Tracing};
use crate::ring0::Ring0;
use crate::stats::Summary;

const ROW: Row = Row::PtraceGetpid;
const CALLS: u32 = 200;

/// Linux: a child under PTRACE_SYSCALL stops before and after each call; the tracer does nothing but go on.
pub(super) fn linux(session: &Session) -> Result<Option<Summary>, BenchError> {
    let calls = session.operations(CALLS);
    session.repeat(|| {
        let (outcome, child) =
            linux::traced_payload(Tracing::Syscall, calls).map_err(|refused| ROW.refused(refused))?;
        ROW.per_call(session, outcome, calls, child)
    })
}

/// Dune: the same payload in ring 3; each of its calls comes to ring 0, which makes it through Linux.
pub(super) fn dune(session: &Session, ring0: Ring0) -> Result<Option<Summary>, BenchError> {
    let calls = session.operations(CALLS);
    let ring3 = ring0.ring3().map_err(|failure| ROW.failed(failure))?;
    let pid = linux::getpid();
    session.repeat(|| {
        let before = ring0.forwarded_calls();
        let outcome = ring3.run_payload(calls, linux::getpid).map_err(|failure| ROW.failed(failure))?;
        ROW.expect("calls forwarded", ring0.forwarded_calls() - before, calls.into())?;
        ROW.per_call(session, outcome, calls, pid)
    })
}
