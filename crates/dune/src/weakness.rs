//! The defences that a build for the test suite can do without.
//!
//! That an attack fails says something only if it would get out without what stops it. So the suite has a build of its own, with the
//! feature `_weakened`, in which the environment variable `DUNE_WEAKENED` names the defences that are left out, with commas between
//! them, and runs each attack once more there. In all other builds [`lacks`] is a constant, and what depends on it is not there. The
//! crates that stand on this one name defences of their own.
//!
//! Such a build protects from nothing. So the feature is not enough: whoever compiles it has to set `DUNE_BUILD_WEAKENED`, too.

/// Something in this crate that stops attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defence {
    /// What ring 3 has written to is zeros before its memory is used again.
    Clearing,
    /// A thread that runs in a space loses what is revoked there.
    Flush,
}

/// Whether this build does without it.
#[cfg(not(feature = "_weakened"))]
pub(crate) const fn lacks(_: Defence) -> bool {
    false
}

#[cfg(feature = "_weakened")]
pub(crate) fn lacks(defence: Defence) -> bool {
    is_named(&format!("{defence:?}"))
}

#[cfg(feature = "_weakened")]
const _: () = assert!(
    option_env!("DUNE_BUILD_WEAKENED").is_some(),
    "with the feature `_weakened` nothing is confined: leave the feature out (the test suite's build sets DUNE_BUILD_WEAKENED)"
);

/// What `DUNE_WEAKENED` names.
#[cfg(feature = "_weakened")]
pub fn named() -> &'static [String] {
    static NAMES: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
    NAMES.get_or_init(|| {
        let names = std::env::var("DUNE_WEAKENED").unwrap_or_default();
        names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
    })
}

/// Whether `DUNE_WEAKENED` names this defence.
#[cfg(feature = "_weakened")]
pub fn is_named(defence: &str) -> bool {
    named().iter().any(|name| name == defence)
}
