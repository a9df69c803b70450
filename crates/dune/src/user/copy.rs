//! Checked copies from and to memory that ring 3 may use.
//!
//! A supervisor is given addresses by code that it does not trust. These copies do with them what ring 3 itself could do, and
//! nothing else: a page must be ring 3's on all levels of the page tables, to be written to it must be writable, and an address
//! that leads nowhere is an error with that address.
//!
//! The tables are locked while a piece is copied, so that no edit in Dune mode comes between the look and the access. If Linux
//! has taken the memory away behind them, the access faults, and the fault is the same error.

use core::mem::MaybeUninit;

use thiserror::Error;
use x86_64::VirtAddr;

use crate::arch::page::{PAGE_BYTES, PagePermissions};
use crate::arch::token::Dune;
use crate::guest::copy;
use crate::memory::EditError;

/// Why a copy from or to ring 3 ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CopyError {
    /// Ring 3 may not do so itself.
    #[error("ring 3 may not {access} at {address:#x}: answer its call with EFAULT, or grant the page")]
    Refused {
        /// The first byte that ring 3 may not access.
        address: u64,
        /// What the copy was to do there.
        access: CopyAccess,
    },
    /// The page tables are being edited, by the code that this handler has interrupted, or by a thread for seconds.
    #[error("the page tables are being edited: copy outside of handlers, or try again")]
    Busy,
}

/// How a copy accesses memory of ring 3's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CopyAccess {
    /// It reads.
    Read,
    /// It writes.
    Write,
}

impl core::fmt::Display for CopyAccess {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            CopyAccess::Read => "read",
            CopyAccess::Write => "write",
        })
    }
}

/// The most that is copied under the lock at a time.
const PIECE: usize = 1024;

/// A buffer of ring 0's that has been touched: no page fault is to be settled while the tables are locked.
struct Piece(MaybeUninit<[u8; PIECE]>);

impl Piece {
    fn new() -> Piece {
        let mut piece = Piece(MaybeUninit::uninit());
        let start = piece.0.as_mut_ptr().cast::<u8>();
        for offset in [0, PIECE - 1] {
            // SAFETY: within the buffer, which is smaller than a page.
            unsafe { start.add(offset).write_volatile(0) };
        }
        piece
    }

    fn address(&mut self) -> u64 {
        self.0.as_mut_ptr().expose_provenance() as u64
    }
}

const _: () = assert!(PIECE as u64 <= PAGE_BYTES);

impl Dune {
    /// Copies memory that ring 3 may read, from `address` on, to `to`.
    ///
    /// # Errors
    ///
    /// [`CopyError::Refused`] with the first address that ring 3 may not read; what `to` holds then is unspecified.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use dune::user::{UserContext, UserExit};
    ///
    /// # fn serve(dune: dune::Dune, context: &mut UserContext) -> Result<(), Box<dyn std::error::Error>> {
    /// // SAFETY: nobody protects or unmaps this program's stack and heap.
    /// if let UserExit::SystemCall(call) = unsafe { dune.run_user(context)? } {
    ///     let mut text = [0; 16];
    ///     match dune.copy_from_user(call.arguments[0], &mut text) {
    ///         Ok(()) => context.set_return_value(0),
    ///         Err(_) => context.set_return_value(-14), // EFAULT
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn copy_from_user(self, address: u64, to: &mut [u8]) -> Result<(), CopyError> {
        let mut piece = Piece::new();
        let mut at = address;
        let mut rest = to;
        while !rest.is_empty() {
            let buffer = piece.address();
            // SAFETY: 1. the buffer is as long as a piece; 2. ring 3 may read there, say the tables, which are locked.
            let copied = self.piece(at, rest.len(), CopyAccess::Read, |bytes| unsafe {
                copy::between_rings(self, buffer, at, bytes)
            })?;
            let (now, later) = rest.split_at_mut(copied);
            // SAFETY: so many bytes of the buffer have been written.
            now.copy_from_slice(unsafe { core::slice::from_raw_parts(piece.0.as_ptr().cast(), copied) });
            (at, rest) = (at.wrapping_add(copied as u64), later);
        }
        Ok(())
    }

    /// Copies `from` to memory that ring 3 may write to, from `address` on.
    ///
    /// # Errors
    ///
    /// [`CopyError::Refused`] with the first address that ring 3 may not write to; what is before it may have been written.
    pub fn copy_to_user(self, address: u64, from: &[u8]) -> Result<(), CopyError> {
        let mut piece = Piece::new();
        let mut at = address;
        let mut rest = from;
        while !rest.is_empty() {
            let length = rest.len().min(PIECE);
            // SAFETY: the buffer is that long, and nobody else's.
            unsafe { piece.0.as_mut_ptr().cast::<u8>().copy_from(rest.as_ptr(), length) };
            let buffer = piece.address();
            // SAFETY: 1. ring 3 may write there, say the tables, which are locked: whoever granted that has promised that
            // nothing depends on what the memory holds; 2. the buffer is as long as a piece.
            let copied = self.piece(at, length, CopyAccess::Write, |bytes| unsafe {
                copy::between_rings(self, at, buffer, bytes)
            })?;
            (at, rest) = (at.wrapping_add(copied as u64), &rest[copied..]);
        }
        Ok(())
    }

    /// Puts `new` in the place of the word at `address`, a multiple of 4, if that is `old`, in one step for all threads of ring 3; what it was.
    ///
    /// # Errors
    ///
    /// [`CopyError::Refused`] if ring 3 may not write there, or `address` is no multiple of 4.
    ///
    /// # Example
    ///
    /// ```no_run
    /// # fn take(dune: dune::Dune, lock: u64) -> Result<bool, dune::user::CopyError> {
    /// let found = dune.compare_exchange_user(lock, 0, 1)?;
    /// Ok(found == 0)
    /// # }
    /// ```
    pub fn compare_exchange_user(self, address: u64, old: u32, new: u32) -> Result<u32, CopyError> {
        let mut found = 0;
        if !address.is_multiple_of(4) {
            return Err(CopyError::Refused { address, access: CopyAccess::Write });
        }
        // SAFETY: 1. ring 3 may write there, say the tables, which are locked: whoever granted that has promised that nothing depends on
        // what the memory holds; 2. the word is aligned, so all of it is on one page.
        self.piece(address, 4, CopyAccess::Write, |_| unsafe {
            copy::compare_exchange(self, address, old, new).map(|word| found = word)
        })?;
        Ok(found)
    }

    /// Has `copy` copy a piece of at most `length` bytes at `at`, if ring 3 has that `access`; how many bytes.
    fn piece(
        self,
        at: u64,
        length: usize,
        access: CopyAccess,
        copy: impl FnOnce(usize) -> Result<(), copy::BadAddress>,
    ) -> Result<usize, CopyError> {
        let refused = CopyError::Refused { address: at, access };
        if VirtAddr::try_new(at).is_err() {
            return Err(refused);
        }
        let needed = match access {
            CopyAccess::Read => PagePermissions::READ,
            CopyAccess::Write => PagePermissions::WRITE,
        };
        let tables = self.memory().active_tables().map_err(|error| match error {
            EditError::Busy(_) => CopyError::Busy,
            _ => refused,
        })?;
        let (permissions, end) = tables.reach_of_user(at);
        if !permissions.contains(needed) {
            return Err(refused);
        }
        // Linux may have one page and not the next: an error is to name the first byte.
        let end = end.min((at | (PAGE_BYTES - 1)).saturating_add(1));
        let bytes = (end - at).min(length.min(PIECE) as u64) as usize;
        copy(bytes).map_err(|_| refused)?;
        drop(tables);
        Ok(bytes)
    }
}
