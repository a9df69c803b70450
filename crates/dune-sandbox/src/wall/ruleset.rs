//! Landlock (landlock(7)): which files can be opened and changed, by whatever way.

use std::os::fd::{AsFd, AsRawFd};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, NetPort,
    PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};

use super::{Ports, Wall};
use crate::files::{Access, Root};
use crate::raw::call;

/// A ruleset that allows what the wall does.
pub(super) fn create(wall: &Wall) -> Result<RulesetCreated, String> {
    let mut ruleset = empty(wall).map_err(|why| why.to_string())?;
    for root in wall.roots.iter().filter(|root| root.access != Access::Hidden) {
        ruleset = add(ruleset, root)?;
    }
    if wall.proc { add_proc(ruleset) } else { Ok(ruleset) }
}

/// Puts the calling thread under it. Returns whether it keeps signals in (Linux 6.12).
pub(super) fn restrict(ruleset: RulesetCreated) -> Result<bool, String> {
    let status = ruleset.restrict_self().map_err(|why| why.to_string())?;
    Ok(matches!(status.landlock, LandlockStatus::Available { effective_abi, .. } if effective_abi >= ABI::V6))
}

/// A ruleset that knows what the wall is about, and allows no files.
fn empty(wall: &Wall) -> Result<RulesetCreated, RulesetError> {
    // What a kernel does not know of the newer rights, the filter refuses.
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))?
        .scope(Scope::from_all(ABI::V6));
    let ports = ports(wall);
    let handled = ports
        .iter()
        .filter(|(_, ports)| **ports != Ports::All)
        .fold(ruleset, |ruleset, (access, _)| ruleset.and_then(|ruleset| ruleset.handle_access(*access)));
    let mut ruleset = handled?.create()?;
    for (access, ports) in ports {
        if let Ports::These(ports) = ports {
            for port in ports {
                ruleset = ruleset.add_rule(NetPort::new(*port, access))?;
            }
        }
    }
    Ok(ruleset)
}

fn ports(wall: &Wall) -> [(AccessNet, &Ports); 2] {
    [(AccessNet::ConnectTcp, &wall.connect), (AccessNet::BindTcp, &wall.bind)]
}

fn add(ruleset: RulesetCreated, root: &Root) -> Result<RulesetCreated, String> {
    // A directory in the place of the one that is named is allowed in its place, and that is not.
    let (path, identity) = root
        .place()
        .ok_or_else(|| format!("{} has no private directory in its place", root.path.display()))?;
    let file = PathFd::new(path).map_err(|why| why.to_string())?;
    if call::about(file.as_fd().as_raw_fd()).is_none_or(|about| about.identity != identity) {
        return Err(format!("{} is another file than it was", root.path.display()));
    }
    let read = reading();
    let access = match root.access {
        // All that changes files, but for devices.
        Access::Write | Access::Layer | Access::Memory => {
            let devices = AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
            AccessFs::from_all(ABI::V5) & !devices & !AccessFs::Execute
        }
        _ => read,
    };
    ruleset.add_rule(PathBeneath::new(file, access)).map_err(|why| why.to_string())
}

fn reading() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::ReadDir
}

/// Children have numbers that are not known yet, so it is all of procfs.
fn add_proc(ruleset: RulesetCreated) -> Result<RulesetCreated, String> {
    let proc = PathFd::new("/proc").map_err(|why| why.to_string())?;
    if !call::is_on_procfs(proc.as_fd().as_raw_fd()) {
        return Err("/proc is not procfs, which children need".to_owned());
    }
    ruleset.add_rule(PathBeneath::new(proc, reading())).map_err(|why| why.to_string())
}
