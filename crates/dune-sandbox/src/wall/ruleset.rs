//! Landlock (landlock(7)): which files can be opened and changed, by whatever way.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetError, Scope,
};

use super::Wall;

/// Puts the calling thread under a ruleset that allows nothing.
pub(super) fn install(_: &Wall) -> Result<(), String> {
    restrict().map_err(|why| why.to_string())
}

fn restrict() -> Result<(), RulesetError> {
    // What a kernel does not know of the newer rights, the filter refuses.
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))?
        .handle_access(AccessNet::from_all(ABI::V4))?
        .scope(Scope::from_all(ABI::V6))?
        .create()?
        .restrict_self()
        .map(drop)
}
