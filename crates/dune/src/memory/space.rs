//! Address spaces: further roots, and the switch between them.
//!
//! Each space has a PCID where the CPU has PCIDs: the CPU keeps the translations of several spaces apart, and
//! a switch need not forget any (Intel SDM Vol. 3A §4.10.1). A space that was edited since it was last used
//! is flushed by the switch to it, for a flush obligation concerns only the space in use when it is
//! discharged.
//!
//! What is known about the caches is known for one CPU. Until vCPUs of several threads use spaces at once
//! there is nothing more to know.

use core::cell::Cell;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use thiserror::Error;
use x86_64::PhysAddr;

use super::Memory;
use super::error::EditError;
use super::table::PageTables;
use super::tlb::{self, Cached, Invpcid, Pcid, TlbError};
use super::tree::SpaceKind;
use crate::arch::thread_words;
use crate::arch::token::Dune;

/// Why an address space could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SpaceError {
    /// The tables could not be copied.
    #[error(transparent)]
    Tables(#[from] EditError),
    /// There is no PCID for it.
    #[error(transparent)]
    Tlb(#[from] TlbError),
}

/// Hands out process-context identifiers. Lock-free.
#[derive(Debug)]
pub(super) struct Pcids {
    /// A bit for each identifier in use.
    used: [AtomicU64; 64],
}

impl Pcids {
    /// All are free but the first, which is the process's own.
    pub const fn new() -> Pcids {
        let mut used = [const { AtomicU64::new(0) }; 64];
        used[0] = AtomicU64::new(1);
        Pcids { used }
    }

    fn allocate(&self) -> Result<Pcid, TlbError> {
        for (word, used) in (0u16..).zip(&self.used) {
            let free = |used: u64| (used != u64::MAX).then(|| used | (used + 1));
            if let Ok(before) = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free) {
                return Pcid::new(word * 64 + before.trailing_ones() as u16);
            }
        }
        Err(TlbError::PcidsExhausted { count: Pcid::MAX + 1 })
    }

    fn free(&self, pcid: Pcid) {
        let bit = 1 << (pcid.get() % 64);
        self.used[usize::from(pcid.get() / 64)].fetch_and(!bit, Ordering::Relaxed);
    }
}

/// What the caches of a CPU may hold about a root. Each thread in Dune mode has a CPU of its own: this is about that of the thread which
/// loaded the root last.
#[derive(Debug)]
pub(super) struct CacheState {
    /// Which thread that was: its block's address.
    thread: AtomicU64,
    /// The root was edited while it may not have been the current one.
    stale: AtomicBool,
    /// The version of the process's tables when this root was last flushed.
    version: AtomicU64,
}

impl CacheState {
    pub const fn new() -> CacheState {
        CacheState { thread: AtomicU64::new(0), stale: AtomicBool::new(true), version: AtomicU64::new(0) }
    }

    /// Notes an edit.
    pub fn soil(&self) {
        self.stale.store(true, Ordering::Relaxed);
    }

    /// Whether the translations that the CPU of `thread` has cached under the root's tag are still right; after the load they are.
    /// With tables that are `being_edited` by this thread it has noted no edit since it took them.
    fn load(&self, version: u64, thread: u64, being_edited: bool) -> Cached {
        let stale = self.stale.swap(being_edited, Ordering::Relaxed) || being_edited;
        let old = self.version.swap(version, Ordering::Relaxed);
        let last = self.thread.swap(thread, Ordering::Relaxed);
        if stale || old != version || last != thread { Cached::Flush } else { Cached::Keep }
    }
}

/// An address space besides the process's own: a root with tables, and a PCID.
///
/// It starts as the process's address space is when it is made, so all code, stacks and tables are in it.
/// Windows added to the process later have to be mapped in it too ([`PageTables::remap`]).
///
/// Dropping it frees its tables. It cannot be dropped while an [`ActiveSpace`] uses it.
#[derive(Debug)]
pub struct AddressSpace<'m> {
    memory: &'m Memory,
    root: PhysAddr,
    pcid: Option<Pcid>,
    kind: SpaceKind,
    cache: CacheState,
    /// How many guards use it.
    active: AtomicU32,
}

impl<'m> AddressSpace<'m> {
    pub(super) fn new(memory: &'m Memory, kind: SpaceKind) -> Result<AddressSpace<'m>, SpaceError> {
        let pcid = if memory.features.pcid { Some(memory.pcids.allocate()?) } else { None };
        let made = memory.page_tables().and_then(|mut tables| {
            // What is written by way of another root would be noticed by nobody.
            tables.snapshots.refuse(Memory::everything())?;
            let root = tables.clone_root(kind)?;
            tables.edits.spaces += 1;
            Ok(root)
        });
        let root = made.inspect_err(|_| {
            pcid.inspect(|&pcid| memory.pcids.free(pcid));
        })?;
        Ok(AddressSpace { memory, root, pcid, kind, cache: CacheState::new(), active: AtomicU32::new(0) })
    }

    /// The guest-physical address of the root.
    pub fn root(&self) -> PhysAddr {
        self.root
    }

    /// The tag of this space's translations; [`TlbError::Unsupported`] where the CPU has no PCIDs.
    pub fn pcid(&self) -> Result<Pcid, TlbError> {
        self.pcid.ok_or(Invpcid::no_pcid())
    }

    /// How its tables came about.
    pub fn kind(&self) -> SpaceKind {
        self.kind
    }

    /// The space's page tables, to edit. The obligations of edits made while it is not the current space may
    /// be [ignored](super::Flush::ignore): the next switch to it flushes.
    pub fn page_tables(&self) -> Result<PageTables<'m>, EditError> {
        let tables = self.memory.tables(self.root)?;
        self.cache.soil();
        Ok(tables)
    }

    /// Switches to this space until the guard is dropped, which switches back to the process's own.
    ///
    /// # Safety
    ///
    /// 1. All code, stacks, tables and handlers that run meanwhile are mapped in this space, where they
    ///    are now.
    /// 2. Rust's references to memory that the space maps differently are not used meanwhile, and such pages are `GLOBAL` in
    ///    neither space.
    /// 3. What ring 3 may do in this space is right still, and stays so: keeping it out of pages in the process's own tables, or on
    ///    another thread, as by dropping a [`UserMemory`](crate::user::UserMemory) there, has not kept it out of them here.
    /// 4. The current space is the process's own, and guards are dropped on the thread that made them.
    /// 5. No other thread uses a space that is not the process's own meanwhile.
    pub unsafe fn enter(&self, dune: Dune) -> ActiveSpace<'_, 'm> {
        self.memory.sharers.fetch_add(1, Ordering::Relaxed);
        self.load(dune);
        ActiveSpace { space: Cell::new(self), dune, _not_send: PhantomData }
    }

    /// Loads CR3.
    fn load(&self, dune: Dune) {
        self.active.fetch_add(1, Ordering::Relaxed);
        let version = match self.kind {
            SpaceKind::Copied => 0,
            SpaceKind::Shared => self.memory.version.load(Ordering::Relaxed),
        };
        let (thread, being_edited) = self.memory.loading(dune);
        let tag = self.pcid.map(|pcid| (pcid, self.cache.load(version, thread, being_edited)));
        // SAFETY: 1. the caller of `enter` or `switch_to` vouches for what is mapped; 2. a PCID exists only
        // where the features, and with them CR4.PCIDE, have it; 3. `cache` knows of edits since the last
        // load.
        unsafe { tlb::load_root(dune, self.root, tag) };
    }
}

impl Drop for AddressSpace<'_> {
    fn drop(&mut self) {
        if *self.active.get_mut() > 0 {
            // A guard was leaked: CR3 may hold this root. Its tables stay, and its PCID.
            return;
        }
        // If the lock is held, by the code that this handler interrupted, the tables are lost rather than
        // broken.
        if let Ok(mut tables) = self.memory.tables(self.root) {
            tables.free_root();
            tables.edits.spaces -= 1;
            if self.kind == SpaceKind::Shared {
                tables.edits.shared -= 1;
            }
            if let Some(pcid) = self.pcid {
                self.memory.pcids.free(pcid);
            }
        }
    }
}

/// An address space in use on this thread. Dropping it switches back to the process's own.
#[derive(Debug)]
#[must_use = "dropping it switches back at once"]
pub struct ActiveSpace<'s, 'm> {
    space: Cell<&'s AddressSpace<'m>>,
    dune: Dune,
    _not_send: PhantomData<*mut ()>,
}

impl<'s, 'm> ActiveSpace<'s, 'm> {
    /// The space in use.
    pub fn space(&self) -> &'s AddressSpace<'m> {
        self.space.get()
    }

    /// Switches from this space to `other` without going back in between.
    ///
    /// # Safety
    ///
    /// 1. to 3. of [`AddressSpace::enter`], for `other`.
    #[inline]
    pub unsafe fn switch_to(&self, other: &'s AddressSpace<'m>) {
        other.load(self.dune);
        self.space.replace(other).active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for ActiveSpace<'_, '_> {
    fn drop(&mut self) {
        let space = self.space.get();
        space.memory.load_own(self.dune);
        space.active.fetch_sub(1, Ordering::Relaxed);
        space.memory.sharers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Memory {
    /// For [`CacheState::load`]: which thread loads a root, and whether it holds page tables that it may edit afterwards.
    fn loading(&self, _: Dune) -> (u64, bool) {
        // SAFETY: ring 0, by the token.
        (unsafe { thread_words::block() }, self.edits.is_mine())
    }

    /// Goes back to the process's own root.
    fn load_own(&self, dune: Dune) {
        let (thread, being_edited) = self.loading(dune);
        let tag = self.features.pcid.then(|| (Pcid::FIRST, self.cache.load(0, thread, being_edited)));
        // SAFETY: 1. the process's own root maps everything; 2. as for features, so CR4.PCIDE; 3. `cache`
        // knows of edits made while another space was in use.
        unsafe { tlb::load_root(dune, self.root(), tag) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pcids_run_out_and_come_back() {
        let pcids = Pcids::new();
        let all: Vec<_> = (0..4095).map(|_| pcids.allocate().unwrap()).collect();
        assert_eq!((all[0].get(), all[4094].get()), (1, 4095));
        assert_eq!(pcids.allocate(), Err(TlbError::PcidsExhausted { count: 4096 }));
        pcids.free(all[100]);
        assert_eq!(pcids.allocate().unwrap(), all[100]);
    }

    #[test]
    fn caches_are_kept_only_while_right() {
        let cache = CacheState::new();
        assert_eq!(cache.load(1, 7, false), Cached::Flush);
        assert_eq!(cache.load(1, 7, false), Cached::Keep);
        assert_eq!(cache.load(2, 7, false), Cached::Flush);
        cache.soil();
        assert_eq!(cache.load(2, 7, false), Cached::Flush);
        assert_eq!(cache.load(2, 7, false), Cached::Keep);
        assert_eq!(cache.load(2, 8, false), Cached::Flush, "another thread's CPU has been told of nothing");
        assert_eq!(cache.load(2, 7, false), Cached::Flush, "and may have missed edits since");
    }

    #[test]
    fn tables_that_are_held_over_a_load_may_be_edited_after_it() {
        let cache = CacheState::new();
        assert_eq!(cache.load(1, 7, false), Cached::Flush);
        cache.soil();
        assert_eq!(cache.load(1, 7, true), Cached::Flush);
        assert_eq!(cache.load(1, 7, false), Cached::Flush);
        assert_eq!(cache.load(1, 7, false), Cached::Keep);
    }
}
