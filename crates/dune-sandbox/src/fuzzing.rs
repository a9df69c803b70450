//! What the fuzz target of `crates/dune-fuzz` calls; there is none of it but with `--cfg fuzzing`, and in tests, which try some inputs.
//! It panics where something does not hold that holds for any bytes.

use std::path::Path;

use crate::effective::Effective;
use crate::policy::{FromFile, PolicyError};

/// A policy in a file: it is one that can be told of, or refused with the line that is wrong. Nothing is looked up.
pub fn policy(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if FromFile::looks_up(text) {
        return;
    }
    match FromFile::of_text(Path::new("fuzz"), text) {
        Ok(policy) => assert!(!Effective::of(&policy).words().is_empty()),
        Err(PolicyError::Wrong { line, what, text: shown, .. }) => {
            let lines = text.lines().count().max(1);
            assert!((1..=lines + 1).contains(&line), "{line} of {lines}");
            assert!(!what.is_empty() && !what.contains('\n') && !shown.contains('\n'), "{what:?}");
        }
        Err(error) => panic!("{error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: &str = "denial = \"kill\"\nchildren = true\n[environment]\nkeep = [\"PATH\"]\nset = { HOME = \"/x\" }\n\
        [network]\nfamilies = [\"inet\"]\nconnect = [\"192.0.2.0/24:80-89\", \"*:443\", \"[2001:db8::]/32:1\"]\n\
        [limits]\ncpu_seconds = 10\nfile_bytes = 1_000_000\n";

    #[test]
    fn changed_policies_are_refused_or_can_be_told_of() {
        policy(SEED.as_bytes());
        assert!(FromFile::of_text(Path::new("seed"), SEED).is_ok());
        for place in 0..SEED.len() {
            for byte in [b'"', b'\n', b'[', b'=', b'9', 0, 0xff] {
                let mut bytes = SEED.as_bytes().to_vec();
                bytes[place] = byte;
                policy(&bytes);
                policy(&bytes[..place]);
            }
        }
    }

    #[test]
    fn policies_that_look_something_up_are_left_alone() {
        assert!(FromFile::looks_up("[files]\nread = [\"/usr\"]"));
        assert!(FromFile::looks_up("[network]\nsend = [\"example.org:443\"]"));
        assert!(!FromFile::looks_up(SEED) && !FromFile::looks_up("[files"));
    }
}
