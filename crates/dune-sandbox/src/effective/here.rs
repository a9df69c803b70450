//! What of a wall there is on this computer.

use crate::raw::process;

/// The parts of the second wall, and whether this kernel has them.
pub(super) fn walls() -> Vec<(String, bool)> {
    let landlock = process::landlock_version();
    vec![
        ("no_new_privs: no program gets other rights by being executed".to_owned(), true),
        match landlock {
            Some(version) => (format!("Landlock (version {version} of its ABI): {}", rights(version)), true),
            None => ("Landlock: which files can be opened and changed, by whatever way".to_owned(), false),
        },
        (
            "seccomp: only calls that are allowed, or that the runtime needs".to_owned(),
            process::has_filters(),
        ),
    ]
}

/// What Landlock knows by its version (landlock(7), *VERSIONS*).
fn rights(version: i64) -> &'static str {
    match version {
        ..4 => "which files can be opened and changed",
        4..6 => "which files can be opened and changed, and TCP",
        _ => "which files can be opened and changed, TCP, signals to others, abstract sockets",
    }
}
