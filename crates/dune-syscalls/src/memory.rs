//! The program's memory, as the walker and the formatter see it.

use thiserror::Error;

/// Memory that can be read by address.
///
/// ```
/// use dune_syscalls::{Fault, Memory};
///
/// /// Some bytes at address 0x1000.
/// struct Bytes(&'static [u8]);
///
/// impl Memory for Bytes {
///     fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Fault> {
///         let start = address.checked_sub(0x1000).ok_or(Fault { address })? as usize;
///         let from = self.0.get(start..).and_then(|bytes| bytes.get(..into.len()));
///         into.copy_from_slice(from.ok_or(Fault { address })?);
///         Ok(())
///     }
/// }
///
/// let memory = Bytes(b"/etc/passwd\0");
/// let mut buffer = [0; 12];
/// assert_eq!(memory.read_text(0x1000, &mut buffer), Ok(Some(11)));
/// ```
pub trait Memory {
    /// Fills `into` from `address` on.
    ///
    /// # Errors
    ///
    /// Where the program itself could not read there.
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Fault>;

    /// Copies a string that ends with NUL to the start of `into`, and returns its length without the NUL; `None`: there is
    /// no NUL in as many bytes as `into` has. Each byte is read once, and no page after the one with the NUL.
    ///
    /// # Errors
    ///
    /// Where the program itself could not read there.
    fn read_text(&self, address: u64, into: &mut [u8]) -> Result<Option<usize>, Fault> {
        const PAGE: u64 = 4096;
        let mut done = 0;
        while done < into.len() {
            let from = address.checked_add(done as u64).ok_or(Fault { address })?;
            let piece = (into.len() - done).min((PAGE - from % PAGE) as usize);
            let piece = &mut into[done..done + piece];
            self.read(from, piece)?;
            if let Some(end) = piece.iter().position(|&byte| byte == 0) {
                return Ok(Some(done + end));
            }
            done += piece.len();
        }
        Ok(None)
    }
}

impl<M: Memory + ?Sized> Memory for &M {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Fault> {
        (**self).read(address, into)
    }
}

/// An address that can not be read.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("no memory that can be read at {address:#x}: refuse the call with EFAULT")]
pub struct Fault {
    /// Where.
    pub address: u64,
}

/// No memory at all: structures and strings are shown as addresses.
#[derive(Clone, Copy, Debug)]
pub struct NoMemory;

impl Memory for NoMemory {
    fn read(&self, address: u64, _: &mut [u8]) -> Result<(), Fault> {
        Err(Fault { address })
    }
}
