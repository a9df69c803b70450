//! The defences that a build for the test suite can do without: see `weakness.rs` of libdune. The attacks are in dune-tests,
//! `cases/compartments/attempts.rs`.

/// Something that stops attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defence {
    /// A function finds no registers of another compartment's.
    Registers,
    /// A gate is one that the call has.
    GateNumbers,
    /// What a gate takes is in memory that the compartment was granted.
    GateGrants,
    /// What a gate writes to the compartment may write to.
    GateRights,
    /// Of what is loaded compartments see code and constants.
    Constants,
}

/// Whether this build does without it.
#[cfg(not(feature = "_weakened"))]
pub(crate) const fn lacks(_: Defence) -> bool {
    false
}

#[cfg(feature = "_weakened")]
pub(crate) fn lacks(defence: Defence) -> bool {
    dune::weakness::is_named(&format!("{defence:?}"))
}
