//! What the fuzz targets of `crates/dune-fuzz` call; there is none of it but with `--cfg fuzzing`, and in tests, which
//! try some inputs of each. Each function panics where
//! something does not hold that holds for any bytes.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::arch::page::PagePermissions;
use crate::linux::maps::{self, Line, MappingKind};
use crate::memory::{mirror_model, model};

/// A line of /proc/PID/maps: what is understood is understood alike when it is written anew.
pub fn maps_line(bytes: &[u8]) {
    let Ok(mapping) = maps::parse(bytes) else { return };
    assert!(mapping.start < mapping.end);
    assert!(mapping.contains(mapping.start) && !mapping.contains(mapping.end));
    let line = written(&mapping);
    assert_eq!(maps::parse(&line), Ok(mapping), "{}", String::from_utf8_lossy(&line));
}

/// The line that Linux would write for `mapping`.
fn written(mapping: &Line<'_>) -> Vec<u8> {
    let letter = |right, letter| if mapping.permissions.contains(right) { letter } else { '-' };
    let mut line = format!(
        "{:08x}-{:08x} {}{}{}{} {:08x} 00:00 0 ",
        mapping.start,
        mapping.end,
        letter(PagePermissions::READ, 'r'),
        letter(PagePermissions::WRITE, 'w'),
        letter(PagePermissions::EXECUTE, 'x'),
        if mapping.shared { 's' } else { 'p' },
        mapping.offset,
    )
    .into_bytes();
    line.extend_from_slice(match mapping.kind {
        MappingKind::Anonymous => b"",
        MappingKind::Heap => b"[heap]",
        MappingKind::Stack => b"[stack]",
        MappingKind::Vdso => b"[vdso]",
        MappingKind::Vsyscall => b"[vsyscall]",
        MappingKind::Vvar => b"[vvar]",
        MappingKind::Other(name) | MappingKind::File(name) => name,
    });
    line
}

/// Edits of page tables through the API, against the model of the unit tests.
pub fn page_tables(bytes: &[u8]) {
    model::agree(from_bytes(&model::edit(), bytes));
}

/// Edits of the mirror and of the program in turns, against the model of the unit tests.
pub fn mirror(bytes: &[u8]) {
    mirror_model::agree(&from_bytes(&mirror_model::edit(), bytes));
}

/// The values that `strategy` makes with each four of `bytes` as the seed: what is moved, left out or put in among the bytes
/// is so among the values.
fn from_bytes<T: std::fmt::Debug>(strategy: &impl Strategy<Value = T>, bytes: &[u8]) -> Vec<T> {
    const MOST: usize = 24;
    let value = |part: &[u8]| {
        let mut seed = [0; 32];
        seed[..part.len()].copy_from_slice(part);
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let mut runner = TestRunner::new_with_rng(Config::default(), random);
        strategy.new_tree(&mut runner).expect("no strategy of ours rejects values").current()
    };
    bytes.chunks(4).take(MOST).map(value).collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    const LINES: [&str; 3] = [
        "7ffd1c9f4000-7ffd1ca15000 rw-p 00000000 00:00 0                          [stack]",
        "561f0000-56210000 r-xs 0000a000 fd:00 1048602                    /usr/lib/a file (deleted)",
        "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn lines_are_refused_or_understood(
            line in 0..LINES.len(), changes in vec((0..80_usize, any::<u8>()), 0..4), length in 0..120_usize
        ) {
            let mut bytes = LINES[line].as_bytes().to_vec();
            changes.into_iter().for_each(|(place, byte)| if let Some(at) = bytes.get_mut(place) { *at = byte });
            bytes.truncate(length);
            super::maps_line(&bytes);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]

        #[test]
        fn any_bytes_are_edits(bytes in vec(any::<u8>(), 0..64)) {
            super::page_tables(&bytes);
            super::mirror(&bytes);
        }
    }
}
