//! What the programs of this package share: how they tell their results to `cargo xtask programs`.
//!
//! The programs are ordinary ones. They do not use Dune; `dune enter -- PROGRAM` runs them in Dune mode.
#![deny(unsafe_code)]

use std::fmt::Debug;
use std::process::ExitCode;

/// The checks of one program, each told in a line of its own as soon as it is done.
#[derive(Debug, Default)]
pub struct Checks {
    failed: u32,
}

impl Checks {
    /// Tells whether `got` is what was `expected`; on the contrary, both are shown.
    pub fn equal<T: PartialEq + Debug>(&mut self, name: &str, got: T, expected: T) {
        if got == expected {
            println!("@pass {name}");
        } else {
            println!("{name}: got {got:?}, expected {expected:?}\n@fail {name}");
            self.failed += 1;
        }
    }

    /// The exit status: 1 if a check failed.
    #[must_use]
    pub fn status(&self) -> ExitCode {
        ExitCode::from(u8::from(self.failed > 0))
    }
}
