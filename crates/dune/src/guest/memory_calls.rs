//! System calls that change mappings: made by Linux as any other, then reflected in the page tables.
//!
//! The tables are edited *after* the call. Before it, another thread's fault could bring a page back that the call
//! is about to unmap, and a call that fails would have to be undone. In between an entry may still stand for a page
//! that is gone: an access through it finds nothing on the second level, exactly as if it had come after the edit,
//! and never memory of anybody else (`memory/mirror.rs`, *Wrong entries*).
//!
//! Linux may have the caller wait for another thread, which may make such calls, too; so edits take turns, and calls do not
//! (`memory/turns.rs`). A call that has met another on the same addresses asks Linux what is there by now: else one
//! thread's edit could come so late that it clears what another has mapped in the same place since. Only munmap, which every
//! thread that ends makes, edits before.
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
use crate::arch::page::{PAGE_BYTES, PagePermissions, PageRange, TASK_SIZE};
use crate::arch::token::Dune;
use crate::engine::{Engine, Machine};
use crate::guest::hypercall::forward;
use crate::linux::{maps, sys};
use crate::memory::mirror::Ownership::{self, Respect, TakeBack};
use crate::memory::turns::{Span, Turn};
use crate::memory::{Flush, Memory};

/// The calls that [`handle`] takes.
pub(crate) const NUMBERS: [u32; 8] = [MMAP, MPROTECT, MUNMAP, BRK, MREMAP, SHMAT, SHMDT, PKEY_MPROTECT];

/// A new mapping gets so many windows at most: those on both sides of a boundary, and of a huge one, which may be reserved rather than
/// used, the first ones.
const WINDOWS: usize = 3;

/// Makes the call if it is one of this module's; the kernel's raw return value.
///
/// Runs on the thread's system-call stack with interrupts off.
pub(super) fn handle(dune: Dune, number: u32, arguments: &[u64; 6]) -> Option<u64> {
    if !NUMBERS.contains(&number) {
        return None;
    }
    let mirror = Mirror { dune, memory: dune.memory() };
    let arguments = &with_read(number, *arguments);
    Some(match number {
        MMAP => mirror.mmap(arguments),
        MPROTECT | PKEY_MPROTECT => mirror.mprotect(number, arguments),
        MUNMAP => mirror.munmap(arguments),
        BRK => mirror.brk(arguments[0]),
        MREMAP => mirror.mremap(arguments),
        SHMAT => mirror.shmat(arguments),
        // The last of them.
        _ => mirror.shmdt(arguments),
    })
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

/// The tables to edit.
#[derive(Clone, Copy)]
struct Mirror {
    dune: Dune,
    memory: &'static Memory,
}

impl Mirror {
    fn mmap(self, arguments: &[u64; 6]) -> u64 {
        let [address, length, protection, flags, ..] = *arguments;
        let is_fixed = flags as u32 & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0;
        let permissions = permissions(protection);
        let span = if is_fixed { Span::new(address, length) } else { Span::NONE };
        let mut turn = self.memory.begin_call(span, !is_fixed);
        let mut is_reached = true;
        let result = turn.outside(|| {
            let result = forward(MMAP, arguments);
            if sys::result(result).is_ok() && !permissions.is_empty() {
                is_reached = self.reach(result, length);
            }
            result
        });
        if sys::result(result).is_err() {
            if flags as u32 & MAP_FIXED != 0 {
                // Linux may have unmapped what was there.
                self.synchronise(address, length, Respect);
            }
            self.finish(turn);
            return result;
        }
        if !is_reached {
            drop(turn);
            return self.mmap_elsewhere(arguments, result);
        }
        if flags as u32 & (MAP_HUGETLB | MAP_GROWSDOWN) != 0 {
            // Linux rounds the length up to a size that is not known here, or adds a guard.
            self.ask_linux(&mut turn, result);
        } else {
            turn.get(Span::new(result, length));
            self.reflect_or_ask(&turn, result, length, permissions);
            if self.memory.wants_streams() {
                around::prepare(self.memory, (result, length), protection as u32, flags as u32);
            }
        }
        self.finish(turn);
        result
    }

    /// Gives `length` bytes from `address` on windows where they have none, as far as they are in [`WINDOWS`]; a fault will tell of the
    /// rest. Whether the first byte has one now: there are so many guest-physical addresses, and windows.
    fn reach(self, address: u64, length: u64) -> bool {
        let end = address.saturating_add(length.max(1));
        let mut at = address;
        for _ in 0..WINDOWS {
            let is_there = |address| window::give(self.dune, address);
            if !VirtAddr::try_new(at).is_ok_and(is_there) {
                break;
            }
            let window = self.memory.windows().find(VirtAddr::new_truncate(at));
            at = window.map_or(end, |window| window.range.end());
            if at >= end {
                break;
            }
        }
        at > address
    }

    /// mmap(2) again, of what Dune mode can not reach at `unreachable`: near other mappings, where the program has named an address
    /// that need not be. Programs that name random ones (JavaScript engines) take whatever they get.
    #[cold]
    fn mmap_elsewhere(self, arguments: &[u64; 6], unreachable: u64) -> u64 {
        let [address, length, protection, flags, file, offset] = *arguments;
        self.munmap(&[unreachable, length, 0, 0, 0, 0]);
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
        let mut turn = self.memory.begin_call(Span::new(start, length), false);
        self.clear(start, length, TakeBack);
        let result = turn.outside(|| forward(MUNMAP, arguments));
        if sys::result(result).is_err() {
            // Linux may have unmapped a part.
            self.synchronise(start, length, if turn.is_alone() { TakeBack } else { Respect });
        } else if !turn.is_alone() {
            self.synchronise(start, length, Respect);
        }
        self.finish(turn);
        result
    }

    fn mprotect(self, number: u32, arguments: &[u64; 6]) -> u64 {
        let [address, length, protection, ..] = *arguments;
        if protection as u32 & (PROT_GROWSDOWN | PROT_GROWSUP) != 0 {
            return self.mprotect_and_below(number, arguments);
        }
        let permissions = permissions(protection);
        let mut turn = self.memory.begin_call(Span::new(address, length), false);
        let result = turn.outside(|| {
            let result = forward(number, arguments);
            if sys::result(result).is_ok() && !permissions.is_empty() {
                // Where this fails a fault will tell.
                let _ = self.reach(address, length);
            }
            result
        });
        if sys::result(result).is_ok() {
            self.reflect_or_ask(&turn, address, length, permissions);
        } else {
            // Linux has changed the mappings before the one that it could not change.
            self.synchronise(address, length, Respect);
        }
        self.finish(turn);
        result
    }

    /// mprotect(2) with PROT_GROWSDOWN, which begins where the mapping at the address does (`do_mprotect_pkey` in
    /// mm/mprotect.c). PROT_GROWSUP means nothing on x86.
    #[cold]
    fn mprotect_and_below(self, number: u32, arguments: &[u64; 6]) -> u64 {
        let [address, length, ..] = *arguments;
        let mapping = maps::find(address, |mapping| mapping.start).ok().flatten();
        let start = mapping.map_or(address, |start| start.min(address));
        let length = length.saturating_add(address - start);
        let mut turn = self.memory.begin_call(Span::new(start, length), false);
        let result = turn.outside(|| forward(number, arguments));
        self.synchronise(start, length, if sys::result(result).is_ok() { TakeBack } else { Respect });
        self.finish(turn);
        result
    }

    fn brk(self, wanted: u64) -> u64 {
        let page = |address: u64| address.next_multiple_of(PAGE_BYTES);
        let before = self.memory.program_break();
        // Linux refuses what is far below the heap or above it, and changes nothing.
        let span =
            if wanted == 0 { Span::NONE } else { Span::new(before.min(wanted), before.abs_diff(wanted)) };
        let mut turn = self.memory.begin_call(span, false);
        let result = turn.outside(|| {
            let result = forward(BRK, &[wanted, 0, 0, 0, 0, 0]);
            if result > before {
                let _ = self.reach(page(before), result - before);
            }
            result
        });
        if turn.is_alone() {
            let (old, new) = (page(self.memory.exchange_break(result)), page(result));
            if old < new {
                self.reflect(old, new - old, PagePermissions::READ_WRITE, TakeBack);
            } else if new < old {
                self.clear(new, old - new, TakeBack);
            }
        } else {
            // Another thread's brk(2), most likely. Which was the last is not known.
            let now = forward(BRK, &[0; 6]);
            let old = self.memory.exchange_break(now);
            let (low, high) = (page(old.min(now).min(result)), page(old.max(now).max(result)));
            self.synchronise(low, high - low, Respect);
        }
        self.finish(turn);
        result
    }

    fn mremap(self, arguments: &[u64; 6]) -> u64 {
        let [old, old_length, new_length, flags, target, ..] = *arguments;
        let is_fixed = flags as u32 & MREMAP_FIXED != 0;
        let page = |length: u64| length.saturating_add(PAGE_BYTES - 1) & !(PAGE_BYTES - 1);
        let target_span = if is_fixed { Span::new(target, new_length) } else { Span::NONE };
        let spans = [Span::new(old, old_length), target_span];
        let mut turn = self.memory.begin_call_of_two(spans, !is_fixed);
        // Afterwards the old addresses may be another thread's.
        let permissions = self.known_permissions(old);
        let result = turn.outside(|| {
            let result = forward(MREMAP, arguments);
            if sys::result(result).is_ok() && permissions.is_none_or(|permissions| !permissions.is_empty()) {
                let _ = self.reach(result, new_length);
            }
            result
        });
        if sys::result(result).is_err() {
            if is_fixed {
                // Linux may have unmapped what was there, and shrunk the old mapping.
                self.synchronise(target, new_length, Respect);
                self.synchronise(old, old_length, Respect);
            }
            self.finish(turn);
            return result;
        }
        turn.get(Span::new(result, new_length));
        let (old_length, new_length) = (page(old_length), page(new_length));
        let is_moved = result != old;
        // What is not at the old addresses any more.
        let released = match flags as u32 & MREMAP_DONTUNMAP {
            0 if is_moved => (old, old_length),
            0 => (old.saturating_add(new_length), old_length.saturating_sub(new_length)),
            _ => (old, 0),
        };
        if !turn.is_alone() {
            self.synchronise(released.0, released.1, Respect);
            self.synchronise(result, new_length, TakeBack);
            self.finish(turn);
            return result;
        }
        self.clear(released.0, released.1, TakeBack);
        if is_moved {
            // Since 6.17 Linux moves several mappings at once where it is told to and the length stays (mremap(2)).
            let may_be_several = is_fixed && old_length == new_length && old_length > PAGE_BYTES;
            self.install_known(result, new_length, permissions.filter(|_| !may_be_several));
        } else if new_length > old_length {
            self.install_known(old + old_length, new_length - old_length, permissions);
        }
        self.finish(turn);
        result
    }

    fn shmat(self, arguments: &[u64; 6]) -> u64 {
        let mut turn = self.memory.begin_call(Span::NONE, true);
        let result = turn.outside(|| {
            let result = forward(SHMAT, arguments);
            if sys::result(result).is_ok() {
                let _ = self.reach(result, 1);
            }
            result
        });
        if sys::result(result).is_ok() {
            self.ask_linux(&mut turn, result);
        }
        self.finish(turn);
        result
    }

    fn shmdt(self, arguments: &[u64; 6]) -> u64 {
        let start = arguments[0];
        let end = maps::find(start, |mapping| mapping.end).ok().flatten().unwrap_or(start);
        let mut turn = self.memory.begin_call(Span::new(start, end - start), false);
        let result = turn.outside(|| forward(SHMDT, arguments));
        if result == 0 {
            self.synchronise(start, end - start, if turn.is_alone() { TakeBack } else { Respect });
        }
        self.finish(turn);
        result
    }

    /// Makes up for what has been missed, and ends the turn.
    #[inline]
    fn finish(self, turn: Turn<'_>) {
        if !turn.is_nested() {
            self.memory.catch_up(|flush| flush.now(self.dune));
        }
        drop(turn);
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
            Some(permissions) => self.reflect(start, length, permissions, TakeBack),
            None => self.synchronise(start, length, TakeBack),
        }
    }

    /// Reflects the mapping that the call of `turn` has made, if nobody has changed it since.
    fn reflect_or_ask(self, turn: &Turn<'_>, start: u64, length: u64, permissions: PagePermissions) {
        if turn.is_alone() {
            self.reflect(start, length, permissions, TakeBack);
        } else if !turn.is_nested() {
            self.synchronise(start, length, TakeBack);
        } else if let Some(range) = pages(start, length) {
            // The interrupted call makes up for it.
            self.memory.miss(range);
        }
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

    /// Asks Linux about the mapping at `address`, which the call of `turn` has made, and reflects it.
    fn ask_linux(self, turn: &mut Turn<'_>, address: u64) {
        if let Ok(Some(length)) = maps::find(address, |mapping| mapping.end - address) {
            turn.get(Span::new(address, length));
            self.synchronise(address, length, TakeBack);
        }
    }

    /// Asks Linux about a range and reflects what it says.
    fn synchronise(self, start: u64, length: u64, ownership: Ownership) {
        let Some(range) = pages(start, length) else { return };
        self.memory.cut_streams(range);
        self.memory.synchronise_or_miss(range, ownership, |flush| self.discharge(flush));
    }

    fn discharge(self, flush: Flush<'_>) {
        if flush.is_empty() { flush.waive() } else { flush.now(self.dune) }
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
