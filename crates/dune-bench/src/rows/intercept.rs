//! `intercept_getpid` and `intercept_sud`: a system call of unprivileged code, intercepted and answered without
//! making it. Dune's side is one; Linux's is the paper's (PTRACE_SYSEMU) and the fastest there is today.

use super::{Row, Session};
use crate::error::BenchError;
use crate::linux::{self, Tracing};
use crate::ring0::Ring0;
use crate::stats::Summary;

const CALLS: u32 = 200;

/// Linux: a child under PTRACE_SYSEMU stops instead of each call; the tracer writes the answer.
pub(super) fn linux_sysemu(session: &Session) -> Result<Option<Summary>, BenchError> {
    const ROW: Row = Row::InterceptGetpid;
    let calls = session.operations(CALLS);
    session.repeat(|| {
        let (outcome, child) =
            linux::traced_payload(Tracing::Emulate, calls).map_err(|refused| ROW.refused(refused))?;
        ROW.per_call(session, outcome, calls, child)
    })
}

/// Linux: each call raises SIGSYS in the process itself, whose handler writes the answer.
pub(super) fn linux_dispatch(session: &Session) -> Result<Option<Summary>, BenchError> {
    const ROW: Row = Row::InterceptSud;
    let calls = session.operations(CALLS);
    let pid = linux::getpid();
    session.repeat(|| {
        let outcome = linux::dispatched_payload(calls).map_err(|refused| ROW.refused(refused))?;
        ROW.per_call(session, outcome, calls, pid)
    })
}

/// Dune: the same payload in ring 3; ring 0 answers, and nothing leaves Dune mode.
pub(super) fn dune(session: &Session, ring0: Ring0, row: Row) -> Result<Option<Summary>, BenchError> {
    let calls = session.operations(CALLS);
    let ring3 = ring0.ring3().map_err(|failure| row.failed(failure))?;
    let pid = linux::getpid();
    session.repeat(|| {
        let before = ring0.forwarded_calls();
        let outcome = ring3.run_payload(calls, || pid).map_err(|failure| row.failed(failure))?;
        row.expect("calls forwarded", ring0.forwarded_calls() - before, 0)?;
        row.per_call(session, outcome, calls, pid)
    })
}
