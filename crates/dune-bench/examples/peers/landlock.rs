//! A launcher by Landlock and a filter of system calls: no files but those below [`READABLE`](crate::READABLE), no network.

use std::collections::BTreeMap;
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, Scope,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use crate::{Failure, READABLE};

/// Confines the calling thread, and what it executes.
pub fn confine() -> Result<(), Failure> {
    let ruleset =
        Ruleset::default().handle_access(AccessFs::from_all(ABI::V5))?.scope(Scope::from_all(ABI::V6))?;
    let mut ruleset = ruleset.create()?;
    for path in READABLE.into_iter().filter(|path| Path::new(path).exists()) {
        ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(path)?, AccessFs::from_read(ABI::V5)))?;
    }
    ruleset.restrict_self()?;
    let refused = [
        libc::SYS_socket,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_mount,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_bpf,
        libc::SYS_io_uring_setup,
        libc::SYS_userfaultfd,
        libc::SYS_perf_event_open,
    ];
    let rules: BTreeMap<_, _> = refused.into_iter().map(|number| (number, Vec::new())).collect();
    let denial = SeccompAction::Errno(libc::EPERM as u32);
    let filter: BpfProgram =
        SeccompFilter::new(rules, SeccompAction::Allow, denial, TargetArch::x86_64)?.try_into()?;
    Ok(seccompiler::apply_filter(&filter)?)
}
