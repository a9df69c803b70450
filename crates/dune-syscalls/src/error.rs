//! What is wrong with the arguments of a call.

use crate::memory::Fault;
use thiserror::Error;

/// Why it can not be told which memory a call reads or writes.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccessError {
    /// A number of elements is negative.
    #[error("`{name}` has {count} elements: refuse the call with EINVAL")]
    Negative {
        /// The argument or field that points to them.
        name: &'static str,
        /// How many there are to be.
        count: i64,
    },
    /// More elements than Linux takes.
    #[error("`{name}` has {count} elements, and Linux takes {most}: refuse the call with {}", error_name(*error))]
    TooMany {
        /// The argument or field that points to them.
        name: &'static str,
        /// How many there are to be.
        count: u64,
        /// How many there may be.
        most: u64,
        /// What Linux answers.
        error: u16,
    },
    /// The range does not end below 2^64.
    #[error(
        "`{name}` is {count} elements of {size} bytes at {address:#x}, past the end of all addresses: refuse the call with EFAULT"
    )]
    Overflow {
        /// The argument or field that points there.
        name: &'static str,
        /// Where it starts.
        address: u64,
        /// How many elements it has.
        count: u64,
        /// How long each is.
        size: u32,
    },
}

/// Why the structures that a call names could not be followed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum WalkError {
    /// A structure is not there.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// A structure says something impossible.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A header of ancillary data is shorter than itself, or longer than what is left.
    #[error("ancillary data at {address:#x} says that it has {length} bytes: refuse the call with EINVAL")]
    Control {
        /// Where the header is.
        address: u64,
        /// What it says.
        length: u64,
    },
    /// A structure is smaller or larger than Linux takes.
    #[error("`{name}` says that it has {size} bytes: refuse the call with {}", error_name(*error))]
    Size {
        /// The argument that points to it.
        name: &'static str,
        /// Its size.
        size: u64,
        /// What Linux answers.
        error: u16,
    },
}

fn error_name(number: u16) -> &'static str {
    crate::names::errno_name(number).unwrap_or("an error")
}

impl AccessError {
    /// The errno that Linux has for it.
    pub const fn errno(&self) -> u16 {
        match self {
            Self::Negative { .. } => linux_raw_sys::errno::EINVAL as u16,
            Self::TooMany { error, .. } => *error,
            Self::Overflow { .. } => linux_raw_sys::errno::EFAULT as u16,
        }
    }
}

impl WalkError {
    /// The errno that Linux has for it.
    pub const fn errno(&self) -> u16 {
        match self {
            Self::Fault(_) => linux_raw_sys::errno::EFAULT as u16,
            Self::Access(error) => error.errno(),
            Self::Control { .. } => linux_raw_sys::errno::EINVAL as u16,
            Self::Size { error, .. } => *error,
        }
    }
}
