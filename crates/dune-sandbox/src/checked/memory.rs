//! The program's memory.

use dune::Dune;
use dune_syscalls::{Fault, Memory};

use crate::part;

/// The program's memory, by checked copies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProgramMemory(pub(crate) Dune);

impl ProgramMemory {
    /// Copies to the program.
    pub(crate) fn write(self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        let fault = Fault { address };
        if !part::contains(address, bytes.len() as u64) {
            return Err(fault);
        }
        self.0.copy_to_user(address, bytes).map_err(|_| fault)
    }

    /// Puts `new` in the place of the number at `address` if that is `old`; what it was.
    pub(crate) fn compare_exchange(self, address: u64, old: u32, new: u32) -> Result<u32, Fault> {
        let fault = Fault { address };
        if !part::contains(address, 4) {
            return Err(fault);
        }
        self.0.compare_exchange_user(address, old, new).map_err(|_| fault)
    }

    /// A string that ends with NUL, without that; `None` if there is no NUL in the first `most` bytes.
    pub(crate) fn text(self, address: u64, most: usize) -> Result<Option<Vec<u8>>, Fault> {
        let mut text = Vec::new();
        // Most are short.
        let mut piece = [0; 256];
        while text.len() < most {
            let from = address.checked_add(text.len() as u64).ok_or(Fault { address })?;
            let piece = &mut piece[..(most - text.len()).min(256)];
            let end = self.read_text(from, piece)?;
            text.extend_from_slice(&piece[..end.unwrap_or(piece.len())]);
            if end.is_some() {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    /// Copies numbers to the program.
    pub(crate) fn write_words(self, address: u64, words: &[u64]) -> Result<(), Fault> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.write(address, &bytes)
    }

    /// Numbers of the program's, in one copy.
    pub(crate) fn words<const N: usize>(self, address: u64) -> Result<[u64; N], Fault> {
        let mut words = [[0; 8]; N];
        self.read(address, words.as_flattened_mut())?;
        Ok(words.map(u64::from_le_bytes))
    }

    /// A number of the program's.
    pub(crate) fn word(self, address: u64) -> Result<u64, Fault> {
        self.words(address).map(|[word]| word)
    }
}

impl Memory for ProgramMemory {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Fault> {
        let fault = Fault { address };
        if !part::contains(address, into.len() as u64) {
            return Err(fault);
        }
        self.0.copy_from_user(address, into).map_err(|_| fault)
    }
}
