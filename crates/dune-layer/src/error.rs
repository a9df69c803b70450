//! Why there is no layer, or nothing can be done with it.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why there is no layer, or nothing can be done with it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LayerError {
    /// A folder has more in it than may be copied.
    #[error(
        "the folder {} has more than {limit} bytes in it (a file counts as 4096 at least), which is what a private layer may copy; \
         raise `layer_bytes`, or name folders in it that the program need not change under `read` or `hidden`",
        path.display()
    )]
    TooBig {
        /// The folder.
        path: PathBuf,
        /// What may be copied, in bytes.
        limit: u64,
    },
    /// Directories are nested deeper than is followed.
    #[error("{} is more than {limit} directories deep; move it up, or remove it", path.display())]
    TooDeep {
        /// The directory.
        path: PathBuf,
        /// How deep is followed.
        limit: usize,
    },
    /// A step failed.
    #[error("cannot {what} {}: {why}", path.display())]
    Step {
        /// What was to be done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// Linux's reason.
        #[source]
        why: io::Error,
    },
    /// A layer is to be made where something is.
    #[error("{} is not empty, and a new layer is to be there; name another directory", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// It is no layer.
    #[error("{} is no layer: {why}; `dune changes` lists those that are kept", path.display())]
    NoLayer {
        /// The directory.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// The run to which it belongs is not over.
    #[error("the layer {} is in use; wait for the end of its run", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// There is no file system in memory for directories that are to be there.
    #[error(
        "neither /dev/shm nor XDG_RUNTIME_DIR is a tmpfs that this user can write to, which `memory` needs; mount one at /dev/shm, or \
         name the directories under `layer` or `write`"
    )]
    NoMemory,
    /// Nothing says where layers are kept.
    #[error(
        "neither XDG_STATE_HOME nor HOME names a directory for private layers; set one of them, or name a directory (`--layer`)"
    )]
    NoStore,
}

impl LayerError {
    pub(crate) fn step(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(rustix::io::Errno) -> LayerError {
        let path = path.into();
        move |why| LayerError::Step { what, path, why: why.into() }
    }

    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> LayerError {
        let path = path.into();
        move |why| LayerError::Step { what, path, why }
    }
}
