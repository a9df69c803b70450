//! The program's memory.

use dune::Dune;
use dune::user::{CopyAccess, CopyError};
use dune_syscalls::{Fault, Memory};

use crate::areas::Rights;
use crate::part;
use crate::space::Space;

/// How often a copy is tried again that got no further: other threads may take pages away and give them back meanwhile.
const MOST_SETTLED: u32 = 16;

/// The program's memory, by checked copies.
#[derive(Clone, Copy)]
pub(crate) struct ProgramMemory {
    dune: Dune,
    space: &'static Space,
}

impl ProgramMemory {
    pub(crate) fn new(dune: Dune, space: &'static Space) -> ProgramMemory {
        ProgramMemory { dune, space }
    }

    /// The token of the thread whose program it is.
    pub(crate) fn dune(self) -> Dune {
        self.dune
    }

    /// Copies to the program.
    pub(crate) fn write(self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        let fault = Fault { address };
        if !part::contains(address, bytes.len() as u64) {
            return Err(fault);
        }
        self.settling(fault, || self.dune.copy_to_user(address, bytes))
    }

    /// Puts `new` in the place of the number at `address` if that is `old`; what it was.
    pub(crate) fn compare_exchange(self, address: u64, old: u32, new: u32) -> Result<u32, Fault> {
        let fault = Fault { address };
        if !part::contains(address, 4) {
            return Err(fault);
        }
        self.settling(fault, || self.dune.compare_exchange_user(address, old, new))
    }

    /// Has `copy` copy. What the page tables do not show ring 3 yet, though the program has mapped it, they show then, as if it had
    /// touched it first.
    fn settling<T>(self, fault: Fault, mut copy: impl FnMut() -> Result<T, CopyError>) -> Result<T, Fault> {
        let mut last = (0, 0);
        loop {
            let (at, access) = match copy() {
                Ok(done) => return Ok(done),
                Err(CopyError::Refused { address, access }) => (address, access),
                Err(_) => return Err(fault),
            };
            last = (at, if last.0 == at { last.1 + 1 } else { 1 });
            let wanted = match access {
                CopyAccess::Read => libc::PROT_READ,
                CopyAccess::Write => libc::PROT_WRITE,
            };
            if last.1 > MOST_SETTLED || !self.space.settle(self.dune, at, wanted as Rights) {
                return Err(fault);
            }
        }
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
        self.settling(fault, || self.dune.copy_from_user(address, into))
    }
}
