//! Address spaces for ring 3: what code in one may touch, code in another may not.
//!
//! [`UserSpaces`] has one entry of the root for itself, 512 GiB of addresses. [`SpaceMemory`] lies there, and each [`UserSpace`] maps of it
//! what it was granted, with rights of its own, at the same addresses. All else of the process each space shares: ring 0 runs on as
//! everywhere, and what [`UserMemory`](super::UserMemory) and [`grant_user`](crate::memory::PageTables::grant_user) give ring 3 all
//! spaces have.
//!
//! ```no_run
//! use dune::memory::PagePermissions;
//! use dune::user::{UserContext, UserExit, UserSpaces};
//!
//! let dune = dune::enter()?;
//! let spaces = UserSpaces::new(dune)?;
//! let code = spaces.memory(dune, 4096)?;
//! code.write(0, &[0xb8, 39, 0, 0, 0, 0x0f, 0x05])?; // mov eax, 39; syscall
//! let space = spaces.space(dune)?;
//! space.grant(dune, &code, PagePermissions::READ | PagePermissions::EXECUTE)?;
//! let mut context = UserContext::new(code.start(), code.start());
//! // SAFETY: nobody protects or unmaps this program's stack and heap.
//! if let UserExit::SystemCall(call) = unsafe { space.run(dune, &mut context)? } {
//!     println!("ring 3 makes system call {}", call.number);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod memory;
mod space;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use linux_raw_sys::general::{
    __NR_madvise, __NR_mmap, __NR_munmap, MADV_DONTDUMP, MAP_ANONYMOUS, MAP_FIXED, MAP_NORESERVE,
    MAP_PRIVATE, PROT_NONE, PROT_READ, PROT_WRITE,
};
use thiserror::Error;
use x86_64::VirtAddr;

use crate::arch::page::{Level, PAGE_BYTES, PageRange};
use crate::arch::token::Dune;
use crate::linux::sys::{self, Errno};
use crate::memory::{AddressSpace, EditError, Memory, SpaceError};
pub use memory::SpaceMemory;
pub use space::UserSpace;

/// Why a space, or memory for one, was not to be had, or not to be used so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UserSpaceError {
    /// Linux gave no memory.
    #[error(
        "Linux gives no {bytes:#x} bytes for spaces of ring 3: {errno}; ask for less, or raise RLIMIT_AS"
    )]
    Refused {
        /// How many bytes were asked for.
        bytes: u64,
        /// What Linux said.
        errno: Errno,
    },
    /// All addresses for such memory are in use.
    #[error("no {bytes:#x} bytes are left of the 512 GiB for spaces of ring 3: drop memory, or ask for less")]
    Full {
        /// How many bytes were asked for.
        bytes: u64,
    },
    /// Part of the range belongs to something else.
    #[error(
        "{bytes:#x} bytes from byte {offset:#x} on are not all in this memory of {length:#x} bytes: ask for less"
    )]
    Outside {
        /// The first byte asked for.
        offset: u64,
        /// How many bytes.
        bytes: u64,
        /// How many bytes there are.
        length: u64,
    },
    /// The memory was made by another [`UserSpaces`].
    #[error(
        "the memory at {start:#x} was made for other spaces: make it with the UserSpaces that made the space"
    )]
    Foreign {
        /// The memory's first address.
        start: VirtAddr,
    },
    /// The page tables could not be edited.
    #[error(transparent)]
    Tables(#[from] EditError),
    /// There is no address space.
    #[error(transparent)]
    Space(#[from] SpaceError),
}

/// The bytes that one entry of the root decides about, and their alignment.
const BYTES: u64 = Level::ROOT.span();

/// Memory comes from Linux in multiples of this.
const CHUNK: u64 = 4 << 20;

/// Makes spaces, and the memory that can be granted to them. A clone makes the same.
///
/// It reserves 512 GiB of addresses, but no memory. As long as there are spaces, page tables that become empty are kept, and there is no
/// [`SnapshotMemory`](crate::snapshot::SnapshotMemory). Its functions take locks that handlers of signals and traps must not wait for: do
/// not call them there.
#[derive(Clone, Debug)]
pub struct UserSpaces(Arc<Reserve>);

/// What all spaces have in common.
#[derive(Debug)]
struct Reserve {
    memory: &'static Memory,
    range: PageRange,
    blocks: Mutex<Blocks>,
    /// Spaces that nobody uses, and that map nothing, with the number of tables that they may have for that.
    spare: Mutex<Vec<(AddressSpace<'static>, u64)>>,
}

/// Which of the addresses are in use.
#[derive(Debug)]
struct Blocks {
    /// The first address that has never been used.
    next: u64,
    /// Up to where Linux has given memory.
    given: u64,
    /// Blocks that were given back, by their length: all zeros.
    free: BTreeMap<u64, Vec<u64>>,
}

impl UserSpaces {
    /// Reserves the addresses.
    ///
    /// # Errors
    ///
    /// [`UserSpaceError::Refused`].
    pub fn new(dune: Dune) -> Result<UserSpaces, UserSpaceError> {
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        // Twice as much, so that a whole entry of the root is in it. Nobody can access it, so it costs nothing.
        let start = map(0, 2 * BYTES, PROT_NONE, flags)?;
        let first = start.next_multiple_of(BYTES);
        for (from, to) in [(start, first), (first + BYTES, start + 2 * BYTES)] {
            if to > from {
                unmap(from, to - from);
            }
        }
        let blocks = Mutex::new(Blocks { next: first, given: first, free: BTreeMap::new() });
        let range = PageRange::known(first, first + BYTES);
        Ok(UserSpaces(Arc::new(Reserve { memory: dune.memory(), range, blocks, spare: Mutex::default() })))
    }

    /// Memory of `bytes` bytes, rounded up to whole pages, all zeros. No ring 3 has it yet.
    ///
    /// # Errors
    ///
    /// [`UserSpaceError::Refused`], [`UserSpaceError::Full`].
    pub fn memory(&self, _: Dune, bytes: u64) -> Result<Arc<SpaceMemory>, UserSpaceError> {
        let length = bytes.max(1).checked_next_multiple_of(PAGE_BYTES).unwrap_or(!(PAGE_BYTES - 1));
        let start = self.0.take(length)?;
        Ok(Arc::new(SpaceMemory::new(Arc::clone(&self.0), PageRange::known(start, start + length))))
    }

    /// A space that has been granted nothing.
    ///
    /// # Errors
    ///
    /// [`UserSpaceError::Space`].
    pub fn space(&self, _: Dune) -> Result<UserSpace, UserSpaceError> {
        let spare = lock(&self.0.spare).pop();
        let entry = Level::ROOT.index(self.0.range.first());
        let new = || self.0.memory.new_space_beside(entry).map(|space| (space, 0));
        let (space, spread) = spare.map_or_else(new, Ok)?;
        Ok(UserSpace::new(Arc::clone(&self.0), space, spread))
    }
}

impl Reserve {
    /// The address of `length` bytes that nobody uses.
    fn take(&self, length: u64) -> Result<u64, UserSpaceError> {
        let mut blocks = lock(&self.blocks);
        if let Some(start) = blocks.free.get_mut(&length).and_then(Vec::pop) {
            return Ok(start);
        }
        let start = blocks.next;
        let end = start.checked_add(length).filter(|end| *end <= self.range.end());
        let end = end.ok_or(UserSpaceError::Full { bytes: length })?;
        if end > blocks.given {
            let more = (end - blocks.given).next_multiple_of(CHUNK).min(self.range.end() - blocks.given);
            let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
            map(blocks.given, more, PROT_READ | PROT_WRITE, flags)?;
            // Other people's secrets: not for core files. Where Linux refuses that, they are in there.
            // SAFETY: the pages are this reserve's own; the advice changes nothing but what a core file has.
            let _ = unsafe { sys::call(__NR_madvise, [blocks.given, more, MADV_DONTDUMP.into(), 0, 0, 0]) };
            blocks.given += more;
        }
        // Between two there is a page that nobody is granted: who runs over an end takes a fault.
        blocks.next = (end + PAGE_BYTES).min(self.range.end());
        Ok(start)
    }

    /// Takes back a block of zeros.
    fn give_back(&self, range: PageRange) {
        lock(&self.blocks).free.entry(range.bytes()).or_default().push(range.first());
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        lock(&self.spare).clear();
        unmap(self.range.first(), self.range.bytes());
    }
}

/// A panic under one of these locks leaves what it protects as it is between two statements, which is whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Private anonymous memory, at `address` with MAP_FIXED, which must be this module's then.
fn map(address: u64, bytes: u64, protection: u32, flags: u32) -> Result<u64, UserSpaceError> {
    // SAFETY: a new mapping where nothing was, or where only the reserve's own addresses are, to which there are no references.
    unsafe { sys::call(__NR_mmap, [address, bytes, protection.into(), flags.into(), u64::MAX, 0]) }
        .map_err(|errno| UserSpaceError::Refused { bytes, errno })
}

/// Gives addresses of this module's back.
fn unmap(start: u64, bytes: u64) {
    // SAFETY: the mapping is this module's own, no reference leads there, and no space maps it.
    let _ = unsafe { sys::raw(__NR_munmap, [start, bytes, 0, 0, 0, 0]) };
}
