//! System calls that change mappings: made by Linux as any other, then reflected in the page tables.
//!
//! The tables are edited *after* the call. Before it, another thread's fault could bring a page back that the call
//! is about to unmap, and a call that fails would have to be undone. In between an entry may still stand for a page
//! that is gone: an access through it finds nothing on the second level, exactly as if it had come after the edit,
//! and never memory of anybody else (`memory/mirror.rs`, *Wrong entries*).
//!
//! Threads take turns, for the call and the edit together, as Linux has them take turns in its part (`mmap_lock`): else one
//! thread's edit could come so late that it clears what another has mapped in the same place since.
//!
//! No call fails because an edit does: what could not be edited is noted and made up for later
//! ([`Memory::catch_up`]), or found by a fault.

use linux_raw_sys::errno::ENOMEM;
use linux_raw_sys::general::{
    __NR_brk as BRK, __NR_mmap as MMAP, __NR_mprotect as MPROTECT, __NR_mremap as MREMAP,
    __NR_munmap as MUNMAP, __NR_pkey_mprotect as PKEY_MPROTECT, __NR_shmat as SHMAT, __NR_shmdt as SHMDT,
    MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_GROWSDOWN, MAP_HUGETLB, MREMAP_DONTUNMAP, MREMAP_FIXED, PROT_EXEC,
    PROT_GROWSDOWN, PROT_GROWSUP, PROT_READ, PROT_WRITE,
};
use x86_64::VirtAddr;

use super::syscall::error;
use super::{around, window};
use crate::arch::page::{PAGE_BYTES, PagePermissions, PageRange};
use crate::arch::token::Dune;
use crate::engine::{Engine, Machine};
use crate::guest::hypercall::forward;
use crate::linux::{maps, sys};
use crate::memory::mirror::Ownership;
use crate::memory::plan::TASK_SIZE;
use crate::memory::{Flush, Memory};

/// The calls that [`handle`] takes.
pub(crate) const NUMBERS: [u32; 8] = [MMAP, MPROTECT, MUNMAP, BRK, MREMAP, SHMAT, SHMDT, PKEY_MPROTECT];

/// Makes the call if it is one of this module's; the kernel's raw return value.
///
/// Runs on the thread's system-call stack with interrupts off.
pub(super) fn handle(dune: Dune, number: u32, arguments: &[u64; 6]) -> Option<u64> {
    if !NUMBERS.contains(&number) {
        return None;
    }
    let mirror = Mirror { dune, memory: dune.memory() };
    // Without a turn after seconds, as while Linux populates much memory for another thread, entries may be missing for a while.
    let _turn = mirror.memory.take_turn();
    let arguments = &with_read(number, *arguments);
    let [first, second, third, ..] = *arguments;
    let result = match number {
        MMAP => mirror.mmap(arguments),
        MPROTECT | PKEY_MPROTECT => mirror.mprotect(number, arguments),
        MUNMAP => mirror.munmap(arguments),
        BRK => mirror.brk(arguments),
        MREMAP => mirror.mremap(arguments, (second, third)),
        SHMAT => {
            let result = forward(number, arguments);
            if sys::result(result).is_ok() {
                mirror.ask_linux(result);
            }
            result
        }
        // SHMDT, the last of them.
        _ => {
            let end = maps::find(first, |mapping| mapping.end).ok().flatten();
            let result = forward(number, arguments);
            if result == 0
                && let Some(end) = end
            {
                mirror.synchronise(first, end - first, Ownership::TakeBack);
            }
            result
        }
    };
    mirror.memory.catch_up(|flush| flush.now(dune));
    Some(result)
}

/// The arguments with PROT_READ where there is PROT_WRITE or PROT_EXEC. x86 CPUs read what can be written or executed
/// (mmap(2), Notes); but Linux may not let the engine have it without PROT_READ.
fn with_read(number: u32, mut arguments: [u64; 6]) -> [u64; 6] {
    if !Engine::READS_WHAT_IT_BACKS {
        return arguments;
    }
    let implies_reading = u64::from(PROT_WRITE | PROT_EXEC);
    if [MMAP, MPROTECT, PKEY_MPROTECT].contains(&number) && arguments[2] & implies_reading != 0 {
        arguments[2] |= u64::from(PROT_READ);
    }
    arguments
}

/// The tables to edit, and the right to.
#[derive(Clone, Copy)]
struct Mirror {
    dune: Dune,
    memory: &'static Memory,
}

impl Mirror {
    fn mmap(self, arguments: &[u64; 6]) -> u64 {
        let [address, length, protection, flags, ..] = *arguments;
        let result = forward(MMAP, arguments);
        if sys::result(result).is_err() {
            if flags as u32 & MAP_FIXED != 0 {
                // Linux may have unmapped what was there.
                self.synchronise(address, length, Ownership::Respect);
            }
            return result;
        }
        let permissions = permissions(protection);
        if !permissions.is_empty() && !self.reach(result) {
            return self.mmap_elsewhere(arguments, result);
        }
        if flags as u32 & (MAP_HUGETLB | MAP_GROWSDOWN) != 0 {
            // Linux rounds the length up to a size that is not known here, or adds a guard.
            self.ask_linux(result);
        } else {
            self.reflect(result, length, permissions, Ownership::TakeBack);
            if self.memory.wants_streams() {
                around::prepare(self.memory, (result, length), protection as u32, flags as u32);
            }
        }
        result
    }

    /// Gives `address` a window unless it has one. Whether it has one now: there are so many guest-physical addresses, and windows.
    fn reach(self, address: u64) -> bool {
        VirtAddr::try_new(address).is_ok_and(|address| window::give(self.dune, address))
    }

    /// mmap(2) again, of what Dune mode can not reach at `unreachable`: near other mappings, where the program has named an address
    /// that need not be. Programs that name random ones (JavaScript engines) take whatever they get.
    #[cold]
    fn mmap_elsewhere(self, arguments: &[u64; 6], unreachable: u64) -> u64 {
        let [address, length, protection, flags, file, offset] = *arguments;
        forward(MUNMAP, &[unreachable, length, 0, 0, 0, 0]);
        self.synchronise(unreachable, length, Ownership::TakeBack);
        if address == 0 || flags as u32 & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0 {
            return error(ENOMEM);
        }
        self.mmap(&[0, length, protection, flags, file, offset])
    }

    /// The tables are edited first: once Linux has made the call, the addresses may be another thread's, who may have edited
    /// them already.
    fn munmap(self, arguments: &[u64; 6]) -> u64 {
        let [start, length, ..] = *arguments;
        if !start.is_multiple_of(PAGE_BYTES) || length == 0 {
            // Linux refuses that.
            return forward(MUNMAP, arguments);
        }
        self.clear(start, length, Ownership::TakeBack);
        let result = forward(MUNMAP, arguments);
        if sys::result(result).is_err() {
            // Linux may have unmapped a part.
            self.synchronise(start, length, Ownership::TakeBack);
        }
        result
    }

    fn mprotect(self, number: u32, arguments: &[u64; 6]) -> u64 {
        let [address, length, protection, ..] = *arguments;
        if protection as u32 & (PROT_GROWSDOWN | PROT_GROWSUP) != 0 {
            return self.mprotect_and_below(number, arguments);
        }
        let result = forward(number, arguments);
        if sys::result(result).is_ok() {
            self.install(address, length, permissions(protection));
        } else {
            // Linux has changed the mappings before the one that it could not change.
            self.synchronise(address, length, Ownership::Respect);
        }
        result
    }

    /// mprotect(2) with PROT_GROWSDOWN, which begins where the mapping at the address does (`do_mprotect_pkey` in
    /// mm/mprotect.c). PROT_GROWSUP means nothing on x86.
    #[cold]
    fn mprotect_and_below(self, number: u32, arguments: &[u64; 6]) -> u64 {
        let [address, length, ..] = *arguments;
        let mapping = maps::find(address, |mapping| mapping.start).ok().flatten();
        let start = mapping.map_or(address, |start| start.min(address));
        let result = forward(number, arguments);
        let ownership = if sys::result(result).is_ok() { Ownership::TakeBack } else { Ownership::Respect };
        self.synchronise(start, length.saturating_add(address - start), ownership);
        result
    }

    fn brk(self, arguments: &[u64; 6]) -> u64 {
        let result = forward(BRK, arguments);
        let page = |address: u64| address.next_multiple_of(PAGE_BYTES);
        let (old, new) = (page(self.memory.exchange_break(result)), page(result));
        if old < new {
            self.install(old, new - old, PagePermissions::READ_WRITE);
        } else if new < old {
            self.clear(new, old - new, Ownership::TakeBack);
        }
        result
    }

    fn mremap(self, arguments: &[u64; 6], (old_length, new_length): (u64, u64)) -> u64 {
        let [old, _, _, flags, target, ..] = *arguments;
        // Afterwards the old addresses may be another thread's.
        let permissions = self.known_permissions(old);
        let result = forward(MREMAP, arguments);
        if sys::result(result).is_err() {
            if flags as u32 & MREMAP_FIXED != 0 {
                // Linux may have unmapped what was there, and shrunk the old mapping.
                self.synchronise(target, new_length, Ownership::Respect);
                self.synchronise(old, old_length, Ownership::Respect);
            }
            return result;
        }
        let page = |length: u64| length.saturating_add(PAGE_BYTES - 1) & !(PAGE_BYTES - 1);
        let (old_length, new_length) = (page(old_length), page(new_length));
        // What has been released may be another thread's by now. It stays the owner, unless the pages were the program's
        // before, too.
        let released = if permissions.is_some() { Ownership::Respect } else { Ownership::TakeBack };
        if result != old {
            // Since 6.17 Linux moves several mappings at once where it is told to and the length stays (mremap(2)).
            let may_be_several =
                flags as u32 & MREMAP_FIXED != 0 && old_length == new_length && old_length > PAGE_BYTES;
            if old_length != 0 && flags as u32 & MREMAP_DONTUNMAP == 0 {
                self.clear(old, old_length, released);
            }
            self.install_known(result, new_length, permissions.filter(|_| !may_be_several));
        } else if new_length < old_length {
            self.clear(old + new_length, old_length - new_length, released);
        } else if new_length > old_length {
            self.install_known(old + old_length, new_length - old_length, permissions);
        }
        result
    }

    /// What the mirror knows of the mapping at `address`; `None` where it has nothing, or the page is the program's.
    fn known_permissions(self, address: u64) -> Option<PagePermissions> {
        let address = VirtAddr::try_new(address).ok()?;
        let tables = self.memory.active_tables().ok()?;
        let leaf = tables.lookup(address)?;
        (!tables.is_owned(address)).then_some(leaf.permissions)
    }

    fn install_known(self, start: u64, length: u64, permissions: Option<PagePermissions>) {
        match permissions {
            Some(permissions) => self.install(start, length, permissions),
            None => self.synchronise(start, length, Ownership::TakeBack),
        }
    }

    /// Reflects a mapping; it gets a window if it has none and can be accessed.
    fn install(self, start: u64, length: u64, permissions: PagePermissions) {
        if !permissions.is_empty() {
            // Where this fails, or the mapping is larger than the window, a fault will tell.
            let _ = self.reach(start);
        }
        self.reflect(start, length, permissions, Ownership::TakeBack);
    }

    fn reflect(self, start: u64, length: u64, permissions: PagePermissions, ownership: Ownership) {
        if let Some(range) = pages(start, length) {
            self.memory.cut_streams(range);
            self.discharge(self.memory.reflect(range, permissions, ownership));
        }
    }

    /// Reflects that there is nothing.
    fn clear(self, start: u64, length: u64, ownership: Ownership) {
        self.reflect(start, length, PagePermissions::empty(), ownership);
    }

    /// Asks Linux about the mapping at `address` and reflects it.
    fn ask_linux(self, address: u64) {
        if let Ok(Some(length)) = maps::find(address, |mapping| mapping.end - address) {
            let _ = self.reach(address);
            self.synchronise(address, length, Ownership::TakeBack);
        }
    }

    /// Asks Linux about a range and reflects what it says.
    fn synchronise(self, start: u64, length: u64, ownership: Ownership) {
        let Some(range) = pages(start, length) else { return };
        self.memory.cut_streams(range);
        self.memory.synchronise_or_miss(range, ownership, |flush| self.discharge(flush));
    }

    fn discharge(self, flush: Flush<'_>) {
        if flush.is_empty() { flush.ignore() } else { flush.now(self.dune) }
    }
}

/// The pages of a range that a system call has named, as far as a program can have them.
fn pages(start: u64, length: u64) -> Option<PageRange> {
    let end = start.saturating_add(length).min(TASK_SIZE);
    PageRange::covering(VirtAddr::try_new(start).ok()?, end.checked_sub(start)?).ok()
}

/// The rights that `protection` (mprotect(2)) gives.
fn permissions(protection: u64) -> PagePermissions {
    let protection = protection as u32;
    let mut permissions = PagePermissions::empty();
    permissions.set(PagePermissions::READ, protection & PROT_READ != 0);
    permissions.set(PagePermissions::WRITE, protection & PROT_WRITE != 0);
    permissions.set(PagePermissions::EXECUTE, protection & PROT_EXEC != 0);
    permissions
}
