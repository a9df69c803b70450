//! Bytes with offsets: those of the program, and those of a snapshot.

use std::cell::RefCell;
use std::io::{self, Error};

use dune::snapshot::{Snapshot, SnapshotMemory};

/// Bytes that can be read.
pub trait Image {
    /// Copies what is at `offset` to `to`.
    fn read(&self, offset: u64, to: &mut [u8]) -> io::Result<()>;

    /// The number at `offset`.
    fn word(&self, offset: u64) -> io::Result<u64> {
        let mut word = [0; 8];
        self.read(offset, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }
}

/// Bytes that can be written, too. All are 0 at first.
pub trait Memory: Image {
    /// Copies `from` to what is at `offset`.
    fn write(&self, offset: u64, from: &[u8]) -> io::Result<()>;

    /// Puts a number at `offset`.
    fn set_word(&self, offset: u64, word: u64) -> io::Result<()> {
        self.write(offset, &word.to_le_bytes())
    }
}

impl Image for SnapshotMemory {
    fn read(&self, offset: u64, to: &mut [u8]) -> io::Result<()> {
        SnapshotMemory::read(self, offset, to).map_err(Error::other)
    }
}

impl Memory for SnapshotMemory {
    fn write(&self, offset: u64, from: &[u8]) -> io::Result<()> {
        SnapshotMemory::write(self, offset, from).map_err(Error::other)
    }
}

impl Image for Snapshot {
    fn read(&self, offset: u64, to: &mut [u8]) -> io::Result<()> {
        Snapshot::read(self, offset, to).map_err(Error::other)
    }
}

/// Ordinary memory.
pub struct HostMemory(RefCell<Vec<u8>>);

impl HostMemory {
    pub fn new(bytes: u64) -> HostMemory {
        HostMemory(RefCell::new(vec![0; bytes as usize]))
    }
}

fn outside(offset: u64, bytes: usize) -> Error {
    Error::other(format!("{bytes} bytes at {offset:#x} are not all in the memory"))
}

impl Image for HostMemory {
    fn read(&self, offset: u64, to: &mut [u8]) -> io::Result<()> {
        let all = self.0.borrow();
        let from = all.get(offset as usize..).and_then(|all| all.get(..to.len()));
        to.copy_from_slice(from.ok_or_else(|| outside(offset, to.len()))?);
        Ok(())
    }
}

impl Memory for HostMemory {
    fn write(&self, offset: u64, from: &[u8]) -> io::Result<()> {
        let mut all = self.0.borrow_mut();
        let to = all.get_mut(offset as usize..).and_then(|all| all.get_mut(..from.len()));
        to.ok_or_else(|| outside(offset, from.len()))?.copy_from_slice(from);
        Ok(())
    }
}
