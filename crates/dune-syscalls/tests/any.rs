//! Whatever a program asks for: no panic, no overflow, and an end.

use dune_syscalls::{Call, Extent, Fault, Found, Memory, WalkError, What};
use proptest::prelude::*;
use std::cell::Cell;
use std::fmt::Write;

/// Memory in which everything can be read: bytes that depend on a seed and on the address, small numbers among them.
struct Random {
    seed: u64,
    reads: Cell<u64>,
}

impl Memory for Random {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Fault> {
        address.checked_add(into.len() as u64).ok_or(Fault { address })?;
        self.reads.set(self.reads.get() + 1);
        for (index, byte) in into.iter_mut().enumerate() {
            let at = address + index as u64;
            let word = ((at / 8) ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            // Every other word is small: a number of elements, a length, a family.
            let word = if word >> 62 & 1 == 0 { word >> 56 & 0x3f } else { word };
            *byte = word.to_le_bytes()[(at % 8) as usize];
        }
        Ok(())
    }
}

/// Enough of a walk.
#[derive(Debug)]
struct Enough;

impl From<WalkError> for Enough {
    fn from(error: WalkError) -> Self {
        assert!((1..=133).contains(&error.errno()), "{error}");
        assert!(!error.to_string().is_empty());
        Self
    }
}

/// Asks everything that can be asked about a call.
fn ask(call: &Call, arguments: &[u64; 6], result: i64, seed: u64) {
    let form = call.form(arguments);
    for access in form.accesses(arguments).chain(form.written(arguments, result)) {
        let Ok(access) = access else { continue };
        assert_ne!(access.address, 0);
        if let Extent::Bytes(length) = access.extent {
            assert_ne!(length, 0);
            assert!(access.address.checked_add(length).is_some(), "{access:?}");
        }
    }
    assert!(form.descriptors(arguments).count() + form.paths(arguments).count() <= 6);
    let memory = Random { seed, reads: Cell::new(0) };
    let mut left = 3000;
    let mut visit = |found: Found<'_>| {
        assert!(found.depth < 8 && found.argument < 6);
        if let What::Range { address, length, .. } = found.what {
            assert!(length != 0 && address.checked_add(length).is_some(), "{found:?}");
        }
        left -= 1;
        if left == 0 { Err(Enough) } else { Ok(()) }
    };
    let _ = form.walk(arguments, &memory, &mut visit);
    let mut shown = String::new();
    write!(shown, "{}", call.show(arguments, &memory, None)).unwrap();
    write!(shown, "{}", call.show(arguments, &memory, Some(result))).unwrap();
    assert!(shown.starts_with(call.name()) && shown.len() < 2_000_000, "{}", shown.len());
    assert!(memory.reads.get() < 300_000, "{}: {}", call.name(), memory.reads.get());
}

/// Numbers of all sizes, with the edges.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0u32..64).prop_map(|bits| 1 << bits),
        (0u32..64, 0u64..32).prop_map(|(bits, below)| (1u64 << bits).wrapping_sub(below)),
        0u64..4096,
        (0u64..4096).prop_map(|below| u64::MAX - below),
        (0u64..0x7fff_ffff).prop_map(|at| at << 12),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_call_with_any_arguments(arguments in prop::array::uniform6(number()), result in any::<i64>(), seed in any::<u64>()) {
        for call in dune_syscalls::all() {
            ask(call, &arguments, result, seed);
        }
    }

    #[test]
    fn any_form_with_any_other_arguments(
        arguments in prop::array::uniform6(number()), result in -200i64..5000, seed in any::<u64>(), from in 0usize..400
    ) {
        for call in dune_syscalls::all() {
            for table in call.variants {
                for variant in table.list.iter().skip(from % table.list.len()).take(8) {
                    let mut arguments = arguments;
                    arguments[usize::from(table.argument)] = u64::from(variant.value << table.shift);
                    if let Some((other, value)) = table.only {
                        arguments[usize::from(other)] = value.into();
                    }
                    ask(call, &arguments, result, seed);
                }
            }
        }
    }

    #[test]
    fn any_number(number in number()) {
        if let Some(call) = dune_syscalls::by_number(number) {
            prop_assert_eq!(u64::from(call.number), number);
        }
    }
}
