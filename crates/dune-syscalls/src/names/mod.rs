//! The names of flags and of numbers that stand for something, as strace(1) shows them.
//!
//! Their values are those of the crate `linux-raw-sys`, which is made from Linux's headers; where it lacks one, the header is named.

mod errors;
mod files;
mod kernel;
mod memory;
mod network;
mod process;

pub use errors::errno_name;
pub use files::*;
pub use kernel::*;
pub use memory::*;
pub use network::*;
pub use process::*;

/// The names of the bits of a number, or of its values, or both: `O_RDONLY|O_CLOEXEC`.
#[derive(Debug)]
#[non_exhaustive]
pub struct Names {
    /// The bits in which one of [`choices`](Self::choices) stands.
    pub mask: u64,
    /// Names of values of these bits.
    pub choices: &'static [(u64, &'static str)],
    /// Names of the other bits; what has several comes first.
    pub flags: &'static [(u64, &'static str)],
    /// Whether the choice is shown after the flags.
    pub choice_last: bool,
    /// What the names begin with.
    pub prefix: &'static str,
}

impl Names {
    /// The value of a name.
    ///
    /// ```
    /// assert_eq!(dune_syscalls::names::OPEN.value("O_CREAT"), Some(0o100));
    /// ```
    pub fn value(&self, name: &str) -> Option<u64> {
        self.choices.iter().chain(self.flags).find(|(_, other)| *other == name).map(|&(value, _)| value)
    }

    /// The name of a choice.
    pub fn choice(&self, value: u64) -> Option<&'static str> {
        self.choices.iter().find(|(other, _)| *other == value & self.mask).map(|&(_, name)| name)
    }
}

/// `NAME "prefix" choice in MASK [A, B = 1] flags [C, D];`
macro_rules! names {
    ($($(#[$about:meta])* $name:ident $prefix:literal $(choice in $mask:literal [$($choice:ident $(= $number:literal)?),* $(,)?])?
        $(flags [$($flag:ident $(= $bits:literal)?),* $(,)?])? $(, $last:ident)?;)*) => {$(
        $(#[$about])*
        pub static $name: $crate::names::Names = $crate::names::Names {
            mask: 0 $(| $mask)?,
            choices: &[$($(($crate::names::value!($choice $($number)?), stringify!($choice))),*)?],
            flags: &[$($(($crate::names::value!($flag $($bits)?), stringify!($flag))),*)?],
            choice_last: $crate::names::value!(@last $($last)?),
            prefix: $prefix,
        };
    )*};
}

/// The number given, or the one of Linux's header.
macro_rules! value {
    (@last) => {
        false
    };
    (@last last) => {
        true
    };
    ($name:ident) => {
        linux::$name as u64
    };
    ($name:ident $number:literal) => {
        $number
    };
}

use names;
pub(crate) use value;
