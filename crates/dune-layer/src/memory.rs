//! Directories in memory: on a tmpfs of the computer's, private, and gone at the end.

use std::fs;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::FsWord;
use rustix::process::geteuid;

use crate::error::LayerError;
use crate::store::{lock, make_directory, remove};

/// Directories in memory, which are removed when this is dropped.
#[derive(Debug)]
pub struct Memory {
    directory: PathBuf,
    _lock: File,
}

impl Memory {
    /// A place for them. What is left of runs that were killed is removed.
    ///
    /// # Errors
    ///
    /// [`LayerError::NoMemory`] where there is no tmpfs that the user may write to.
    pub fn make() -> Result<Memory, LayerError> {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let places = [Some(PathBuf::from("/dev/shm")), runtime.filter(|path| path.is_absolute())];
        let is_in_memory = |path: &PathBuf| {
            rustix::fs::statfs(path).is_ok_and(|about| [TMPFS, RAMFS].contains(&about.f_type))
        };
        let mut last = LayerError::NoMemory;
        for place in places.into_iter().flatten().filter(is_in_memory) {
            match Memory::make_in(&place) {
                Err(error) => last = error,
                made => return made,
            }
        }
        Err(last)
    }

    fn make_in(place: &Path) -> Result<Memory, LayerError> {
        let start = format!("dune-memory-{}-", geteuid().as_raw());
        remove_left(place, &start);
        for number in 0.. {
            let directory = place.join(format!("{start}{}-{number}", std::process::id()));
            if directory.exists() {
                continue;
            }
            make_directory(&directory)?;
            let directory = directory.canonicalize().map_err(LayerError::io("find", &directory))?;
            let lock = lock(&directory, true)?;
            return Ok(Memory { directory, _lock: lock });
        }
        Err(LayerError::NoMemory)
    }

    /// An empty directory there, with this name.
    ///
    /// # Errors
    ///
    /// [`LayerError`].
    pub fn directory(&self, name: &str) -> Result<PathBuf, LayerError> {
        let path = self.directory.join(name);
        make_directory(&path)?;
        Ok(path)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // What can not be removed now is by the next run.
        let _ = remove(&self.directory);
    }
}

/// TMPFS_MAGIC and RAMFS_MAGIC (statfs(2)).
const TMPFS: FsWord = 0x0102_1994;
const RAMFS: FsWord = 0x8584_58f6;

/// Removes what is nobody's any more: of this user's, for others may have made what looks like it.
fn remove_left(place: &Path, start: &str) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let is_own = entry.metadata().is_ok_and(|about| about.is_dir() && about.uid() == geteuid().as_raw());
        if is_own && entry.file_name().to_str().is_some_and(|name| name.starts_with(start)) {
            let directory = entry.path();
            if let Ok(_lock) = lock(&directory, false) {
                let _ = remove(&directory);
            }
        }
    }
}
