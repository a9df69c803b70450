//! Memory that ring 3 may use, and nothing else of the program's does.

use linux_raw_sys::general::{
    __NR_mmap, __NR_munmap, __NR_process_vm_readv, __NR_process_vm_writev, MAP_ANONYMOUS, MAP_NORESERVE,
    MAP_PRIVATE, PROT_READ, PROT_WRITE, iovec,
};
use thiserror::Error;
use x86_64::VirtAddr;

use crate::arch::page::{PAGE_BYTES, PagePermissions, PageRange, PageSize};
use crate::arch::token::Dune;
use crate::guest::copy;
use crate::linux::sys::{self, Errno};
use crate::memory::{EditError, Flush, Memory};

/// Why memory for ring 3 was not to be had, or not to be used so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UserMemoryError {
    /// Linux gave no memory.
    #[error("Linux gives no {bytes:#x} bytes for ring 3: {errno}; ask for less, or raise RLIMIT_AS")]
    Refused {
        /// How many bytes were asked for.
        bytes: u64,
        /// What Linux said.
        errno: Errno,
    },
    /// The page tables could not be edited.
    #[error(transparent)]
    Tables(#[from] EditError),
    /// Part of the range belongs to something else.
    #[error("{bytes:#x} bytes at {address:#x} are not all in {range:?}: use addresses of this memory")]
    Outside {
        /// The first address asked for.
        address: VirtAddr,
        /// How many bytes.
        bytes: u64,
        /// This memory.
        range: PageRange,
    },
    /// Linux did not copy.
    #[error("Linux can not access {address:#x}: {errno}; somebody has unmapped memory that was ring 3's")]
    Lost {
        /// The first address asked for.
        address: VirtAddr,
        /// What Linux said.
        errno: Errno,
    },
}

/// Memory for ring 3: zeroed pages that belong to this value, with the rights for ring 3 that one chooses.
///
/// Ring 0 has no references into it. It copies with [`read`](Self::read) and [`write`](Self::write), whatever the rights of ring 3
/// are. To Linux it is private anonymous memory at the same addresses, so that a system call may be given them.
///
/// Ring 3 is let in in the process's own address space and in the one that is in use. Dropping the value keeps ring 3 out
/// again, on all threads, and gives the memory back. If the page tables are being edited by the code that this handler has
/// interrupted, it stays.
///
/// # Example
///
/// ```no_run
/// use dune::memory::PagePermissions;
/// use dune::user::{UserContext, UserExit, UserMemory};
///
/// let dune = dune::enter()?;
/// let code = UserMemory::new(dune, 4096, PagePermissions::READ | PagePermissions::EXECUTE)?;
/// code.write(code.start(), &[0xb8, 39, 0, 0, 0, 0x0f, 0x05])?; // mov eax, 39; syscall
/// let stack = UserMemory::new(dune, 4096, PagePermissions::READ_WRITE)?;
/// let mut context = UserContext::new(code.start(), stack.end());
/// // SAFETY: nobody protects or unmaps this program's stack and heap.
/// if let UserExit::SystemCall(call) = unsafe { dune.run_user(&mut context)? } {
///     println!("ring 3 makes system call {}", call.number);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct UserMemory {
    memory: &'static Memory,
    range: PageRange,
}

impl UserMemory {
    /// Memory of `bytes` bytes, rounded up to whole pages, with these `permissions` (`READ`, `WRITE`, `EXECUTE`) for ring 3.
    ///
    /// # Errors
    ///
    /// [`UserMemoryError::Refused`], [`UserMemoryError::Tables`].
    pub fn new(dune: Dune, bytes: u64, permissions: PagePermissions) -> Result<UserMemory, UserMemoryError> {
        let length = bytes.checked_next_multiple_of(PAGE_BYTES).unwrap_or(!(PAGE_BYTES - 1));
        let protection = u64::from(PROT_READ | PROT_WRITE);
        let flags = u64::from(MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
        // SAFETY: a new mapping where nothing was.
        let start = unsafe { sys::call(__NR_mmap, [0, length, protection, flags, u64::MAX, 0]) }
            .map_err(|errno| UserMemoryError::Refused { bytes, errno })?;
        let memory = UserMemory { memory: dune.memory(), range: PageRange::known(start, start + length) };
        memory.set(dune, memory.range, permissions)?;
        Ok(memory)
    }

    /// Its pages.
    pub fn range(&self) -> PageRange {
        self.range
    }

    /// Its first address.
    pub fn start(&self) -> VirtAddr {
        self.range.start()
    }

    /// The address after its last one: where a stack starts.
    pub fn end(&self) -> VirtAddr {
        // Linux never maps the last page of the lower half.
        VirtAddr::new_truncate(self.range.end())
    }

    /// Gives ring 3 exactly these `permissions` for the pages of `range`; none keeps it out. Other threads know when this returns.
    ///
    /// # Errors
    ///
    /// [`UserMemoryError::Outside`]; [`UserMemoryError::Tables`] if the tables are busy, or if somebody has unmapped the pages there.
    pub fn protect(
        &self,
        dune: Dune,
        range: PageRange,
        permissions: PagePermissions,
    ) -> Result<(), UserMemoryError> {
        self.check(range.start(), range.bytes())?;
        self.set(dune, range, permissions)
    }

    /// Copies what is at `address` to `to`.
    ///
    /// # Errors
    ///
    /// [`UserMemoryError::Outside`] unless all of it is in this memory.
    pub fn read(&self, address: VirtAddr, to: &mut [u8]) -> Result<(), UserMemoryError> {
        self.check(address, to.len() as u64)?;
        if Dune::of_caller().is_some_and(|dune| dune.copy_from_user(address.as_u64(), to).is_ok()) {
            return Ok(());
        }
        self.ask_linux(__NR_process_vm_readv, address, to.as_mut_ptr().cast(), to.len())
    }

    /// Copies `from` to `address`. The rights of ring 3 do not matter.
    ///
    /// # Errors
    ///
    /// [`UserMemoryError::Outside`] unless all of it is in this memory.
    pub fn write(&self, address: VirtAddr, from: &[u8]) -> Result<(), UserMemoryError> {
        self.check(address, from.len() as u64)?;
        if Dune::of_caller().is_some_and(|dune| dune.copy_to_user(address.as_u64(), from).is_ok()) {
            return Ok(());
        }
        self.ask_linux(__NR_process_vm_writev, address, from.as_ptr().cast_mut().cast(), from.len())
    }

    /// Has the CPU mark each page of 4 KiB that is written to, for [`restore`](Self::restore): larger pages are split. Nothing counts as
    /// written yet.
    ///
    /// # Errors
    ///
    /// [`UserMemoryError::Tables`].
    pub fn begin_marking(&self, dune: Dune) -> Result<(), UserMemoryError> {
        let mut tables = self.memory.active_tables()?;
        let mut flush = Flush::none();
        for page in (self.range.first()..self.range.end()).step_by(PAGE_BYTES as usize) {
            if let Some(leaf) = tables.lookup(VirtAddr::new_truncate(page))
                && leaf.size != PageSize::Size4KiB
            {
                flush = flush + tables.split(leaf.start.max(self.range.start()), PageSize::Size4KiB)?;
            }
        }
        flush = flush + tables.harvest_dirty(self.range, |_, _| ());
        drop(tables);
        flush.now(dune);
        Ok(())
    }

    /// Makes every page that has been written to since it was last restored what `image` holds for it; how many there were. `image` is
    /// as long as this memory. There is no system call, and no other CPU is interrupted.
    ///
    /// It knows pages by the CPU's marks, since [`begin_marking`](Self::begin_marking), in the address space in use. What
    /// Linux writes is marked as long as there is a [`LinuxWrites`](crate::LinuxWrites). Pages that other threads have written to may be
    /// missed: run ring 3 in this memory on the calling thread only.
    ///
    /// # Errors
    ///
    /// [`UserMemoryError::Outside`] for an image of another length; [`UserMemoryError::Tables`] if the tables are busy. Pages are as they
    /// were then, and still count as written.
    pub fn restore(&self, dune: Dune, image: &[u8]) -> Result<u64, UserMemoryError> {
        let (start, bytes) = (self.range.start(), image.len() as u64);
        if bytes != self.range.bytes() {
            return Err(UserMemoryError::Outside { address: start, bytes, range: self.range });
        }
        let mut tables = self.memory.active_tables()?;
        let (mut pages, mut refused) = (0, None);
        let restore = |page: VirtAddr, size: PageSize| {
            // A large page may be another's in part.
            let from = page.as_u64().max(start.as_u64());
            let end = (page.as_u64() + size.bytes()).min(self.range.end());
            let offset = (from - start.as_u64()) as usize;
            pages += end.div_ceil(PAGE_BYTES) - from / PAGE_BYTES;
            // SAFETY: 1. the bytes are this value's own, without references, and the image is as long; 2. the tables are locked.
            let copied = unsafe { copy::ending(from, image[offset..].as_ptr() as u64, end - from) };
            if !copied {
                refused.get_or_insert((VirtAddr::new_truncate(from), offset));
            }
        };
        let flush = copy::ending_at_faults(dune, || tables.restore_dirty(self.range, restore));
        drop(tables);
        flush.here(dune);
        // Where ring 0 may not write: ring 3's rights have been taken away since.
        match refused {
            Some((from, offset)) => self.write(from, &image[offset..]).map(|()| pages),
            None => Ok(pages),
        }
    }

    fn check(&self, address: VirtAddr, bytes: u64) -> Result<(), UserMemoryError> {
        let offset = address.as_u64().checked_sub(self.range.first());
        let room = offset.and_then(|offset| self.range.bytes().checked_sub(offset));
        if room.is_some_and(|room| bytes <= room) {
            return Ok(());
        }
        Err(UserMemoryError::Outside { address, bytes, range: self.range })
    }

    fn set(&self, dune: Dune, range: PageRange, permissions: PagePermissions) -> Result<(), UserMemoryError> {
        let permissions = permissions & PagePermissions::ALL;
        let user = if permissions.is_empty() { permissions } else { permissions | PagePermissions::USER };
        dune.reaching(|| {
            // SAFETY: 1. and 2. the mapping is this value's own, and there are no references into it; 3. it is given back when
            // the value is dropped, which keeps ring 3 out before.
            unsafe { self.memory.protect_for_user(range, user) }
        })?
        .now(dune);
        Ok(())
    }

    /// Copies by process_vm_readv(2) or process_vm_writev(2): with the rights that the mapping has in Linux.
    #[cold]
    fn ask_linux(
        &self,
        number: u32,
        address: VirtAddr,
        buffer: *mut core::ffi::c_void,
        length: usize,
    ) -> Result<(), UserMemoryError> {
        let mut done = 0;
        while done < length {
            let left = (length - done) as u64;
            let local = iovec { iov_base: buffer.wrapping_byte_add(done), iov_len: left };
            let remote = iovec { iov_base: (address.as_u64() + done as u64) as *mut _, iov_len: left };
            let (local, remote) = ((&raw const local) as u64, (&raw const remote) as u64);
            // SAFETY: 1. `buffer` is `length` bytes long, and to be written to if Linux writes to it; 2. the other side is in this
            // value's own memory; an address without memory is an error.
            let copied = unsafe { sys::call(number, [sys::thread_id().into(), local, 1, remote, 1, 0]) }
                .map_err(|errno| UserMemoryError::Lost { address, errno })?;
            done += copied as usize;
        }
        Ok(())
    }
}

impl Drop for UserMemory {
    fn drop(&mut self) {
        // Else it stays, ring 3's for ever.
        let Ok(flush) = self.memory.take_from_user(self.range) else { return };
        match Dune::of_caller() {
            Some(dune) => flush.now(dune),
            // Of host mode: munmap has the engine flush all vCPUs (see `memory/shootdown.rs`), before it returns.
            None => flush.waive(),
        }
        let arguments = [self.range.first(), self.range.bytes(), 0, 0, 0, 0];
        // SAFETY: the mapping is this value's own, no reference leads there, and ring 3 does not get there any more.
        let _ = unsafe { sys::raw(__NR_munmap, arguments) };
    }
}
