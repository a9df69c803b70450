//! The defences that a build for the test suite can do without: see `weakness.rs` of libdune. The attacks are in dune-tests,
//! `cases/sandbox/attempts.rs`.

/// Something that stops attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defence {
    /// Addresses that a call accesses have to be in the program's part.
    Pointers,
    /// Linux gets the copy of what has been looked at.
    Copies,
    /// Only what Linux has changed in a copy goes back.
    Changes,
    /// What is mapped and changed has to be in the program's part.
    Area,
    /// What the runtime maps is not where the program's memory was.
    #[cfg(feature = "_weakened")]
    Parts,
    /// The runtime's pages are ring 0's.
    #[cfg(feature = "_weakened")]
    Rights,
    /// Error codes of faults do not say where the runtime is.
    Codes,
    /// Memory is not writable and executable at once, unless a policy says so.
    Code,
    /// Files of procfs that are a process's memory, or tell of it, are not opened.
    Names,
    /// Devices whose drivers may follow addresses are not opened.
    Devices,
    /// The runtime's descriptors are not the program's.
    Descriptors,
    /// What the process has inherited is closed.
    Inherited,
    /// What has been found below a root is what is opened.
    Roots,
    /// Calls that would let a program out are refused.
    Refusals,
    /// A signal is not said to be Linux's.
    Siginfo,
    /// The policy is asked.
    Policy,
    /// Its limits are set.
    Limits,
    /// What is executed stays inside.
    Execs,
    /// Linux confines the process.
    Wall,
}

/// Whether this build does without it.
#[cfg(not(feature = "_weakened"))]
pub(crate) const fn lacks(_: Defence) -> bool {
    false
}

#[cfg(feature = "_weakened")]
pub(crate) use chosen::lacks;

/// Lets other threads come between a check and what relies on it, where nothing is to stop them.
pub(crate) fn give_way() {
    std::thread::sleep(std::time::Duration::from_micros(50));
}

#[cfg(feature = "_weakened")]
mod chosen {
    use std::sync::OnceLock;

    use super::Defence;

    const ALL: [Defence; 19] = [
        Defence::Pointers,
        Defence::Copies,
        Defence::Changes,
        Defence::Area,
        Defence::Parts,
        Defence::Rights,
        Defence::Codes,
        Defence::Code,
        Defence::Names,
        Defence::Devices,
        Defence::Descriptors,
        Defence::Inherited,
        Defence::Roots,
        Defence::Refusals,
        Defence::Siginfo,
        Defence::Policy,
        Defence::Limits,
        Defence::Execs,
        Defence::Wall,
    ];

    static LACKING: OnceLock<Vec<Defence>> = OnceLock::new();

    pub(crate) fn lacks(defence: Defence) -> bool {
        LACKING.get_or_init(named).contains(&defence)
    }

    /// The defences that the environment names.
    fn named() -> Vec<Defence> {
        let known = |name: &String| ALL.into_iter().find(|defence| format!("{defence:?}") == *name);
        let named =
            |name| known(name).unwrap_or_else(|| panic!("DUNE_WEAKENED: no defence is called {name:?}"));
        dune::weakness::named().iter().map(named).collect()
    }
}
