//! Address spaces: further roots, and the switch between them.
//!
//! Each space has a PCID where the CPU has PCIDs: the CPU keeps the translations of several spaces apart, and
//! a switch need not forget any (Intel SDM Vol. 3A §4.10.1). A space that was edited since it was last used on
//! a vCPU is flushed by the switch to it, for a flush obligation concerns only the space in use when it is
//! discharged (`caches.rs`). Threads may use spaces at once, the same or several.

use core::cell::Cell;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use thiserror::Error;
use x86_64::PhysAddr;

use super::Memory;
use super::caches::{Identity, VcpuCaches};
use super::error::EditError;
use super::table::{PageTables, table_at};
use super::tlb::{self, Invpcid, Pcid, TlbError};
use super::tree::{Copied, SpaceKind, renew_root};
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

/// The number of the space that was made last.
static LAST: AtomicU64 = AtomicU64::new(0);

/// An address space besides the process's own: a root with tables, and a PCID.
///
/// It starts as the process's address space is when it is made, so all code, stacks and tables are in it.
/// What comes to the process later is in one of [`SpaceKind::Shared`] where it has not edited the tables itself; into others it has to
/// be mapped, too ([`PageTables::remap`]).
///
/// Dropping it frees its tables. It cannot be dropped while an [`ActiveSpace`] uses it.
#[derive(Debug)]
pub struct AddressSpace<'m> {
    memory: &'m Memory,
    root: PhysAddr,
    pcid: Option<Pcid>,
    kind: SpaceKind,
    /// Its [number](Identity::number).
    number: u64,
    /// How often its tables were taken to be edited.
    edits: AtomicU64,
    /// What of the process's root it has had, or never gets.
    copied: Copied,
    /// The state of the process's own root that it has copied.
    root_changes: AtomicU64,
    /// How many guards use it.
    active: AtomicU32,
}

impl<'m> AddressSpace<'m> {
    pub(super) fn new(
        memory: &'m Memory,
        kind: SpaceKind,
        private: Option<usize>,
    ) -> Result<AddressSpace<'m>, SpaceError> {
        let pcid = if memory.features.pcid { Some(memory.pcids.allocate()?) } else { None };
        let copied = Copied::default();
        private.into_iter().for_each(|index| copied.leave_out(index));
        let made = memory.page_tables().and_then(|mut tables| {
            // What is written by way of another root would be noticed by nobody.
            tables.snapshots.refuse(Memory::everything())?;
            let changes = memory.root_changes.load(Ordering::Acquire);
            let root = tables.clone_root(kind, &copied)?;
            tables.edits.spaces += 1;
            Ok((root, changes))
        });
        let (root, root_changes) = made.inspect_err(|_| {
            pcid.inspect(|&pcid| memory.pcids.free(pcid));
        })?;
        let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        let (edits, active) = (AtomicU64::new(0), AtomicU32::new(0));
        let root_changes = AtomicU64::new(root_changes);
        Ok(AddressSpace { memory, root, pcid, kind, number, edits, copied, root_changes, active })
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
        self.note_edit();
        Ok(tables)
    }

    /// Has each vCPU forget this space's translations when it loads it next: before edits whose flush may be left to that, and after edits
    /// that others may have read before.
    pub(crate) fn note_edit(&self) {
        self.edits.fetch_add(1, Ordering::SeqCst);
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
    pub unsafe fn enter(&self, dune: Dune) -> ActiveSpace<'_, 'm> {
        self.memory.sharers.fetch_add(1, Ordering::Relaxed);
        self.load(dune);
        ActiveSpace { space: Cell::new(self), dune, _not_send: PhantomData }
    }

    /// Loads CR3, for ring 0 to go on in this space.
    fn load(&self, dune: Dune) {
        self.active.fetch_add(1, Ordering::Relaxed);
        VcpuCaches::of(dune).go_away();
        self.load_root(dune);
    }

    /// Runs `body` with this space in use, and goes back to the process's own.
    ///
    /// # Safety
    ///
    /// 1. Interrupts are off, and the current space is the process's own.
    /// 2. All that `body` accesses at ring 0 lay in the process's space when this was called, and nothing of it at addresses that this
    ///    space has as its own; `body` edits no tables and takes no trap at ring 0.
    #[inline(always)]
    pub(crate) unsafe fn within<T>(&self, dune: Dune, body: impl FnOnce() -> T) -> T {
        self.load_root(dune);
        let result = body();
        self.memory.load_own(dune);
        result
    }

    /// Has the root show what the process's own shows now.
    #[cold]
    #[inline(never)]
    fn renew(&self, changes: u64) {
        let table =
            |root: PhysAddr| table_at(&self.memory.frames, self.memory.frames.offset(), root.as_u64());
        renew_root(table(self.memory.root), table(self.root), &self.copied);
        self.root_changes.store(changes, Ordering::Release);
    }

    #[inline]
    fn load_root(&self, dune: Dune) {
        let changes = self.memory.root_changes.load(Ordering::Acquire);
        if self.kind == SpaceKind::Shared && self.root_changes.load(Ordering::Acquire) != changes {
            self.renew(changes);
        }
        // Both only grow, so the sum changes when one does.
        let edits = self.edits.load(Ordering::Relaxed)
            + match self.kind {
                SpaceKind::Copied => 0,
                SpaceKind::Shared => self.memory.version.load(Ordering::Relaxed),
            };
        let holds_tables = self.memory.edits.is_mine();
        if holds_tables {
            // They may be the process's own, which this CPU does not use any more.
            self.memory.edits_from_others.fetch_add(1, Ordering::Relaxed);
        }
        let caches = VcpuCaches::of(dune);
        let number = self.number;
        let tag = self.pcid.map(|pcid| (pcid, caches.load(Identity { pcid, number }, edits, holds_tables)));
        // SAFETY: 1. the caller of `enter` or `switch_to` vouches for what is mapped; 2. a PCID exists only
        // where the features, and with them CR4.PCIDE, have it; 3. `caches` compares the edits since the last
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
    /// Goes back to the process's own root.
    #[inline]
    fn load_own(&self, dune: Dune) {
        let edits = self.edits_from_others.load(Ordering::Relaxed);
        let cached = VcpuCaches::of(dune).load_own(edits, self.edits.is_mine());
        let tag = self.features.pcid.then_some((Pcid::FIRST, cached));
        // SAFETY: 1. the process's own root maps everything; 2. as for features, so CR4.PCIDE; 3. `caches`
        // compares the edits made while another space was in use.
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
    fn what_comes_to_the_process_comes_to_spaces() {
        use super::super::{Contents, Level, MapSize, PagePermissions, PageRange, PageSize, VirtAddr};
        let memory = Memory::build(&super::super::tests::options(true)).unwrap();
        let (at, page) = (0xffff_9000_0000_0000, PageSize::Size4KiB);
        let spaces = [
            memory.new_space(SpaceKind::Shared).unwrap(),
            memory.new_space_beside(Level::ROOT.index(at)).unwrap(),
        ];
        let frame = memory.frames().allocate(page, Contents::Zeroed).unwrap();
        let place = PageRange::page(VirtAddr::new(at));
        let rights = PagePermissions::READ;
        // SAFETY: these tables are never loaded.
        let mapped = unsafe {
            memory.page_tables().unwrap().map(place, frame.address(), rights, MapSize::Exactly(page))
        };
        mapped.unwrap().unused();
        let seen = || {
            let changes = memory.root_changes.load(Ordering::Relaxed);
            spaces.each_ref().map(|space| {
                space.renew(changes);
                space.page_tables().unwrap().lookup(place.start()).is_some()
            })
        };
        assert_ne!(
            memory.root_changes.load(Ordering::Relaxed),
            spaces[0].root_changes.load(Ordering::Relaxed)
        );
        assert_eq!(seen(), [true, false], "the second has these addresses for itself");
        let all = PageRange::new(VirtAddr::new(at), Level::ROOT.span()).unwrap();
        spaces[0].page_tables().unwrap().unmap(all).unwrap().unused();
        assert_eq!(seen(), [false, false], "what it has unmapped stays away");
        assert!(memory.page_tables().unwrap().lookup(place.start()).is_some());
    }
}
