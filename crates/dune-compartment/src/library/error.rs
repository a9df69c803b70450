//! Why there is no library.

use std::io;
use std::path::PathBuf;

use dune::user::UserSpaceError;
use thiserror::Error;

use crate::{CallError, CompartmentError};

/// Why a library was not loaded, or does not have what was asked for.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LibraryError {
    /// The file can not be read.
    #[error("cannot read the library {path}: {error}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is not a shared library for this CPU, or broken.
    #[error("{path} is no shared library for x86-64: {why}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The library uses what compartments do not have.
    #[error("the library {path} has {what}, which compartments have not: take one that was built without", path = path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it uses.
        what: &'static str,
    },
    /// A library that another one needs is not there.
    #[error("the library {name}, which {needed_by} needs, is in none of the usual directories: install it", needed_by = needed_by.display())]
    NotFound {
        /// Its name.
        name: String,
        /// The file that names it.
        needed_by: PathBuf,
    },
    /// All together they are larger than [`Library::MOST_BYTES`](crate::Library::MOST_BYTES).
    #[error("the libraries take {bytes} bytes, more than {most}: load a smaller one", most = crate::Library::MOST_BYTES)]
    TooLarge {
        /// Their bytes.
        bytes: u64,
    },
    /// The libraries do not have the symbol.
    #[error("the library has no function or variable {name}: see `nm --dynamic --defined-only`")]
    Symbol {
        /// Its name.
        name: String,
    },
    /// There was no memory for it.
    #[error(transparent)]
    Memory(#[from] CompartmentError),
    /// Its memory could not be shown or taken away.
    #[error(transparent)]
    Space(#[from] UserSpaceError),
    /// One of its constructors did not return.
    #[error("a constructor of the library {path} did not return: {why}", path = path.display())]
    Constructor {
        /// The file.
        path: PathBuf,
        /// What it did instead.
        why: CallError,
    },
}
