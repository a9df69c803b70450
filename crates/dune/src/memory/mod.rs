//! The memory of the process as Dune mode sees it: windows, page tables, frames, address spaces.
//!
//! The way of an address in Dune mode, from an instruction to memory:
//!
//! ```text
//!  virtual address ──page tables──▶ guest-physical address ──slots of the VM──▶ Linux's mapping
//!   (as in host mode)  table.rs     packed by windows: window.rs, plan.rs       (same virtual address)
//! ```
//!
//! 1. The *page tables* ([`PageTables`]) are memory of the process. They say of each page what Linux's mapping
//!    says ([`Mapping`](crate::MirrorMode)), and the program edits them with plain stores: protects, unmaps, aliases, lets ring 3 in.
//!    What it has edited so is its own, and the mirror leaves it alone. Their
//!    frames come from the library's arena ([`FrameAllocator`]), which is itself in a window.
//! 2. What they yield is a *guest-physical* address. A [`Window`] says by which offset it belongs to the
//!    virtual address that Linux knows; a plan made before entry finds the windows from
//!    `/proc/thread-self/maps` ([`maps`]).
//! 3. Each window is one slot of the VM: the second translation, from guest-physical addresses to the pages
//!    that Linux gave the process, is kept by the kernel. So a program may edit its tables as it likes and
//!    still reaches nothing but its own memory.
//!
//! The CPU caches translations: each edit returns a [`Flush`] that says what has to be forgotten ([`tlb`] has
//! the instructions). [`AddressSpace`] is a further root to switch to.
//!
//! # Whose page
//!
//! With [`MirrorMode::Precise`](crate::MirrorMode::Precise), the default, each mapping of Linux's is present with its
//! rights, and what Linux would not let the process access is not present: the page-table API finds nothing
//! mapped there, and [`PageTables::remap`] brings it in. mmap, munmap, mprotect, pkey_mprotect, mremap, brk,
//! shmat and shmdt made in Dune mode change the tables when they return. What changes otherwise, by a thread in
//! host mode or because a stack grows, is found when a page fault is not handled by the program.
//!
//! A page that the program edits through [`PageTables`] is the program's: faults do not undo what it did,
//! unmapping included. (The entry has a mark for that, in bit 9.) It is so until one of the system calls above
//! gives the page a new mapping or new rights; then the page is as Linux has it, ring 3 and all kept out.
//!
//! In an [`AddressSpace`] in use the calls and the faults change its tables and the process's own. A space
//! that is not in use learns of changes by faults when it is.
//!
//! # Handlers
//!
//! Everything here may be called from handlers, at any time: after the entry nothing allocates from
//! the heap, and locks that the interrupted code may hold yield [`Busy`] instead of waiting.
//!
//! # Five levels
//!
//! Walks start at `Level::ROOT` and go down one level at a time; five-level paging needs a root level, a
//! wider canonical range in [`PageRange`] and a larger `TASK_SIZE` (`arch/page.rs`).

pub(crate) mod caches;
mod entry;
mod error;
mod flush;
pub(crate) mod flush_counts;
mod frames;
mod grants;
mod grow;
mod harvest;
mod hold;
mod map;
pub(crate) mod mirror;
mod missed;
pub(crate) mod plan;
mod reach;
mod reshape;
mod retry;
pub(crate) mod shootdown;
pub(crate) mod snapshot;
mod space;
pub(crate) mod streams;
mod table;
pub mod tlb;
mod tree;
pub(crate) mod turns;
mod walk;
mod window;
mod work;
pub(crate) mod writers;

#[cfg(any(test, fuzzing))]
pub(crate) mod mirror_model;
#[cfg(any(test, fuzzing))]
pub(crate) mod model;

use core::ops::ControlFlow;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub use crate::arch::page::{PAGE_BYTES, PagePermissions, PageRange, PageSize, RangeError};
pub use crate::linux::maps::{self, MappingKind, MapsError};
pub use crate::lock::Busy;
pub use error::{EditError, MergeObstacle};
pub use flush::Flush;
pub use frames::{Contents, Frame, FrameAllocator, FrameError, FrameStats};
use linux_raw_sys::general as linux;
pub use map::MapSize;
pub use plan::PlanError;
pub use space::{ActiveSpace, AddressSpace, SpaceError};
pub use table::{Leaf, PageTables};
use thiserror::Error;
pub use tlb::{FlushKind, PagingFeatures, Pcid, TlbError};
pub use tree::SpaceKind;
pub use window::{Window, Windows};
pub use x86_64::{PhysAddr, VirtAddr};

use crate::arch::page::Level;
use crate::arch::token::Dune;
use crate::linux::sys;
use crate::lock::{Guard, Rank, SpinLock};
use caches::VcpuCaches;
use entry::Entry;
use mirror::Ownership;
use missed::Missed;
use plan::{Limits, Planner};
use snapshot::Regions;
use space::Pcids;
use streams::Streams;
use table::Edits;
use turns::Turns;
use writers::Writers;

/// What a process's memory is built from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryOptions {
    /// Address bits of the vCPU and room for growth.
    pub limits: Limits,
    /// What the vCPU's paging unit can do, as its CPUID says.
    pub features: PagingFeatures,
    /// Bytes of guest-physical memory for frames: page tables and what the program asks for. Reserved, not
    /// used.
    pub arena_bytes: u64,
    /// What the page tables say about the process's memory.
    pub mapping: mirror::MirrorMode,
    /// Whether a sequential first touch is served ahead.
    pub fault_around: bool,
}

impl MemoryOptions {
    /// The usual options: 1 GiB of frames.
    pub(crate) const fn new(physical_bits: u8, features: PagingFeatures) -> MemoryOptions {
        MemoryOptions {
            limits: Limits::new(physical_bits),
            features,
            arena_bytes: window::GIB,
            mapping: mirror::MirrorMode::Precise,
            fault_around: false,
        }
    }
}

/// Why a process's memory could not be built, or a window not be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The mappings could not be read.
    #[error(transparent)]
    Maps(#[from] MapsError),
    /// The mappings do not fit into windows.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// There are no frames.
    #[error(transparent)]
    Frames(#[from] FrameError),
    /// The tables could not be made.
    #[error(transparent)]
    Tables(#[from] EditError),
}

/// The memory of the process: its windows, its frames, its page tables. There is one per process.
// In this order: what a fork writes to (the locks) is near its beginning, on one page with that of `Process`.
#[derive(Debug)]
#[repr(C)]
pub struct Memory {
    windows: Windows,
    frames: FrameAllocator,
    limits: Limits,
    features: PagingFeatures,
    root: PhysAddr,
    /// The lock of all page tables.
    edits: SpinLock<Edits>,
    /// Counts the uses of the process's own tables, for address spaces that share some of them.
    version: AtomicU64,
    /// Counts changes of the process's own root, which address spaces have a copy of.
    root_changes: AtomicU64,
    /// Counts the uses of the process's own tables by threads in other address spaces.
    edits_from_others: AtomicU64,
    /// How many address spaces are entered, and how many threads beyond the first are in Dune mode: while there are
    /// any, an edit has more to do than a flush of this CPU.
    sharers: AtomicU32,
    pcids: Pcids,
    mapping: mirror::MirrorMode,
    /// What the mirror has yet to do.
    missed: Missed,
    /// Where brk(2) was last seen to be.
    program_break: AtomicU64,
    /// Where a sequential first touch is waited for.
    streams: Streams,
    /// The system calls that write memory, while somebody wants to know. Large, as the next.
    writers: Writers,
    /// The memories of which snapshots can be taken. Large, too.
    snapshots: Regions,
    /// The system calls that are changing mappings, and who edits after them. Last: large.
    turns: Turns,
}

impl Memory {
    /// Plans windows for what the process has mapped, and makes tables: none yet of the mappings as they are, which
    /// [`mirror_everything`](Self::mirror_everything) adds when no more is allocated, or those of the windows in full, which is present,
    /// writable, executable. All pages are the supervisor's and as large as fits.
    ///
    /// For the host side, before entry. Each window then becomes a slot, and [`root`](Self::root) goes to
    /// CR3.
    pub(crate) fn plan(options: &MemoryOptions) -> Result<Memory, MemoryError> {
        options.limits.check(options.arena_bytes)?;
        let mut frames = FrameAllocator::reserve(options.arena_bytes)?;
        let windows = plan_windows(options.limits)?;
        let range = frames.range();
        let arena = windows.find(range.start()).filter(|window| range.end() <= window.range.end());
        let arena = arena.and_then(|window| window.to_physical(range.start()));
        frames.attach(arena.ok_or(EditError::OutsideWindows { address: range.first() })?);
        let root = frames.allocate(PageSize::Size4KiB, Contents::Zeroed)?.into_raw();
        let memory = Memory {
            windows,
            frames,
            limits: options.limits,
            features: options.features,
            root,
            writers: Writers::new(),
            snapshots: Regions::new(),
            turns: Turns::new(),
            edits: SpinLock::new(Rank::Edits, Edits::default()),
            version: AtomicU64::new(0),
            root_changes: AtomicU64::new(0),
            edits_from_others: AtomicU64::new(0),
            sharers: AtomicU32::new(0),
            pcids: Pcids::new(),
            mapping: options.mapping,
            missed: Missed::new(),
            program_break: AtomicU64::new(0),
            streams: Streams::new(options.fault_around),
        };
        if options.mapping == mirror::MirrorMode::Full {
            for window in memory.windows.iter() {
                memory.page_tables()?.map_identically(window.range, PagePermissions::ALL)?.unused();
            }
        }
        Ok(memory)
    }

    /// [`Self::plan`], and the tables of the mappings as they are.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn build(options: &MemoryOptions) -> Result<Memory, MemoryError> {
        let memory = Memory::plan(options)?;
        if options.mapping == mirror::MirrorMode::Precise {
            memory.mirror_everything()?;
        }
        Ok(memory)
    }

    /// Makes the tables what Linux's mappings are now. For the host side, before entry: what has been allocated
    /// since [`Self::plan`] is mapped then, too.
    pub(crate) fn mirror_everything(&self) -> Result<(), MemoryError> {
        // SAFETY: 1. brk(0) changes nothing; it returns the program break.
        self.exchange_break(unsafe { sys::raw(linux::__NR_brk, [0; 6]) });
        self.synchronise(Memory::everything(), Ownership::Respect, Flush::unused)
    }

    /// The guest-physical address of the process's own root table: what CR3 holds at entry. Its PCID is 0.
    pub fn root(&self) -> PhysAddr {
        self.root
    }

    /// The windows; each is a slot of the VM.
    pub fn windows(&self) -> &Windows {
        &self.windows
    }

    /// The frames of the library.
    pub fn frames(&self) -> &FrameAllocator {
        &self.frames
    }

    /// What the paging unit can do.
    pub fn features(&self) -> PagingFeatures {
        self.features
    }

    /// The page tables of the process's own address space, to look up and to edit.
    #[inline]
    pub fn page_tables(&self) -> Result<PageTables<'_>, EditError> {
        Ok(self.own_tables(self.edits.lock()?))
    }

    #[inline]
    fn own_tables<'m>(&'m self, edits: Guard<'m, Edits>) -> PageTables<'m> {
        if self.sharers.load(Ordering::Relaxed) > 0 {
            self.count_edit_from_others();
        }
        PageTables {
            frames: &self.frames,
            windows: &self.windows,
            root: self.root,
            giant: self.features.giant_pages,
            version: Some(&self.version),
            root_changes: &self.root_changes,
            mirrors: self.mapping == mirror::MirrorMode::Precise,
            missed: &self.missed,
            writers: &self.writers,
            snapshots: &self.snapshots,
            edits,
        }
    }

    /// Protects `range` and flushes at once: [`PageTables::protect`] and [`Flush::now`] in one.
    ///
    /// For a single page that is 4 KiB large already, this is the shortest way: a walk, one compare-and-swap
    /// and one INVLPG. It is for handlers that change one page per fault, and always inlined there: most of what
    /// it would do for any permissions is done by the compiler for the ones given.
    ///
    /// # Errors
    ///
    /// As for [`PageTables::protect`].
    #[inline(always)]
    pub fn protect_now(
        &self,
        dune: Dune,
        range: PageRange,
        permissions: PagePermissions,
    ) -> Result<(), EditError> {
        error::refuse_user(range, permissions)?;
        if range.bytes() != PAGE_BYTES {
            return self.protect_pages(dune, range, permissions);
        }
        let edits = self.edits.lock_in_dune_mode(dune)?;
        if !self.protect_page(&edits, range.first(), permissions) {
            drop(edits);
            return self.protect_pages(dune, range, permissions);
        }
        drop(edits);
        tlb::flush_page(dune, range.start());
        // Asked after the edit: a thread that enters now reads the new entry.
        if self.sharers.load(Ordering::Relaxed) != 0 {
            self.reach_sharers(dune);
        }
        Ok(())
    }

    /// Protects one page of the process's own tables, if it is a page of 4 KiB; says whether it did.
    #[inline(always)]
    fn protect_page(&self, _edits: &Guard<'_, Edits>, address: u64, permissions: PagePermissions) -> bool {
        let bits = Entry::permission_bits(permissions) | Entry::OWNED;
        let user = permissions.contains(PagePermissions::USER);
        let Some(table) = table::leaf_table(&self.frames, self.root, address, user) else { return false };
        let index = Level(1).index(address);
        if table.update_mapped(index, |entry| entry.with_permissions(bits)).is_none() {
            return false;
        }
        self.version.store(self.version.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        true
    }

    /// What there is more to do after the edit and the flush of a page while there are sharers.
    #[cold]
    #[inline(never)]
    fn reach_sharers(&self, dune: Dune) {
        self.count_edit_from_others();
        shootdown::others(dune);
    }

    /// Counts an edit of the process's own tables, unless this CPU has them in use, and forgets what has to be forgotten at once.
    #[cold]
    #[inline(never)]
    fn count_edit_from_others(&self) {
        if Dune::of_caller().is_none_or(|dune| VcpuCaches::of(dune).is_away()) {
            self.edits_from_others.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// [`Self::protect_now`] for anything but a single page.
    #[inline(never)]
    fn protect_pages(
        &self,
        dune: Dune,
        range: PageRange,
        permissions: PagePermissions,
    ) -> Result<(), EditError> {
        let flush = self.page_tables()?.protect(range, permissions)?;
        flush.now(dune);
        Ok(())
    }

    /// A further thread is about to be in Dune mode.
    pub(crate) fn add_sharer(&self) {
        self.sharers.fetch_add(1, Ordering::SeqCst);
    }

    /// One of several threads is not in Dune mode any more.
    pub(crate) fn remove_sharer(&self) {
        self.sharers.fetch_sub(1, Ordering::SeqCst);
    }

    /// The page tables of another root.
    fn tables(&self, root: PhysAddr) -> Result<PageTables<'_>, EditError> {
        Ok(PageTables {
            frames: &self.frames,
            windows: &self.windows,
            root,
            giant: self.features.giant_pages,
            version: None,
            root_changes: &self.root_changes,
            mirrors: self.mapping == mirror::MirrorMode::Precise,
            missed: &self.missed,
            writers: &self.writers,
            snapshots: &self.snapshots,
            edits: self.edits.lock()?,
        })
    }

    /// Makes an address space that is now as the process's own is.
    pub fn new_space(&self, kind: SpaceKind) -> Result<AddressSpace<'_>, SpaceError> {
        // Copies of armed entries would be found by nobody.
        self.forbid_arming(streams::Reason::AddressSpaces);
        AddressSpace::new(self, kind, None)
    }

    /// Whether the calling thread is in a space that is not the process's own.
    #[inline]
    pub(crate) fn is_in_other_space(&self, dune: Dune) -> bool {
        VcpuCaches::of(dune).is_away()
    }

    /// Makes a space that is as the process's own is, and stays so, but for the addresses of the root's entry `private`: nothing is there.
    pub(crate) fn new_space_beside(&self, private: usize) -> Result<AddressSpace<'_>, SpaceError> {
        self.forbid_arming(streams::Reason::AddressSpaces);
        AddressSpace::new(self, SpaceKind::Shared, Some(private))
    }

    /// Flushes everything and then frees the tables whose obligations were deferred. Returns their number.
    pub fn collect(&self, dune: Dune) -> usize {
        self.frames.release_quarantined(|| flush::everything(dune))
    }
}

/// Windows for what the process has mapped now.
fn plan_windows(limits: Limits) -> Result<Windows, MemoryError> {
    // Their list is what ring 0 looks at in a page fault: it is among the mappings that get windows.
    let windows = Windows::new()?;
    let mut planner = Planner::new(limits);
    try_each_mapping(|mapping| planner.add(mapping))?;
    // SAFETY: 1. brk(0) changes nothing; it returns the program break.
    planner.program_break(unsafe { sys::raw(linux::__NR_brk, [0; 6]) });
    let is_crowded = planner.is_crowded();
    planner.finish(&windows)?;
    if is_crowded {
        try_each_mapping(|mapping| {
            let is_ours = mapping.end <= limits.task_size && !mapping.permissions.is_empty();
            if is_ours {
                plan::cover(&windows, &limits, PageRange::known(mapping.start, mapping.end))
            } else {
                Ok(())
            }
        })?;
    }
    Ok(windows)
}

/// Calls `visit` with each mapping until it fails.
fn try_each_mapping(
    mut visit: impl FnMut(&maps::Line<'_>) -> Result<(), PlanError>,
) -> Result<(), MemoryError> {
    let mut refused = None;
    maps::for_each(|mapping| match visit(mapping) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            refused = Some(error);
            ControlFlow::Break(())
        }
    })?;
    refused.map_or(Ok(()), |error| Err(error.into()))
}

/// The width of guest-physical addresses for tests with the mappings of their own process, among which AddressSanitizer has
/// terabytes.
#[cfg(test)]
const TEST_PHYSICAL_BITS: u8 = if cfg!(fuzzing) { 46 } else { 40 };

#[cfg(test)]
mod tests {
    use x86_64::VirtAddr;

    use super::*;

    pub(super) fn options(giant_pages: bool) -> MemoryOptions {
        let features = PagingFeatures { giant_pages, ..PagingFeatures::default() };
        let mapping = mirror::MirrorMode::Full;
        MemoryOptions { arena_bytes: 64 << 20, mapping, ..MemoryOptions::new(TEST_PHYSICAL_BITS, features) }
    }

    #[test]
    fn the_process_is_mapped_in_full() {
        for giant in [false, true] {
            let memory = Memory::build(&options(giant)).unwrap();
            let tables = memory.page_tables().unwrap();
            maps::for_each(|mapping| {
                if mapping.kind == MappingKind::Vsyscall {
                    return ControlFlow::Continue(());
                }
                let address = VirtAddr::new(mapping.start);
                // Other tests map and unmap meanwhile; all that matters is that windows and tables agree.
                if let Some(window) = memory.windows().find(address) {
                    assert_eq!(tables.translate(address), window.to_physical(address));
                    assert_eq!(tables.lookup(address).unwrap().permissions, PagePermissions::ALL);
                }
                ControlFlow::Continue(())
            })
            .unwrap();
            let here = VirtAddr::new(&raw const memory as u64);
            assert_eq!(memory.windows().to_virtual(tables.translate(here).unwrap()), Some(here));
            assert_eq!(tables.lookup(VirtAddr::zero()), None);
            drop(tables);
            let used = memory.frames().stats().unwrap().in_use;
            assert!(used < 4 << 20, "{used} bytes of tables");
        }
    }

    #[test]
    fn one_page_takes_the_short_way() {
        let memory = Memory::build(&options(true)).unwrap();
        let address = memory.frames().range().start() + (32u64 << 20);
        let page = PageRange::page(address);
        let protect =
            |address, permissions| memory.protect_page(&memory.edits.lock().unwrap(), address, permissions);
        assert!(!protect(page.first(), PagePermissions::READ), "it is a large page");
        memory.page_tables().unwrap().split(address, PageSize::Size4KiB).unwrap().defer();
        let before = memory.version.load(Ordering::Relaxed);
        assert!(protect(page.first(), PagePermissions::READ));
        assert_eq!(memory.version.load(Ordering::Relaxed), before + 1);
        let permissions = memory.page_tables().unwrap().lookup(address).unwrap().permissions;
        assert_eq!(permissions, PagePermissions::READ);
        let user = PagePermissions::READ | PagePermissions::USER;
        assert!(!protect(page.first(), user), "upper levels do not let ring 3 through");
        assert!(!protect(0, PagePermissions::READ));
    }

    #[test]
    fn a_second_editor_is_told() {
        let memory = Memory::build(&options(true)).unwrap();
        let _held = memory.page_tables().unwrap();
        assert_eq!(memory.page_tables().unwrap_err(), EditError::Busy(Busy));
    }

    #[test]
    fn too_small_an_arena_is_typed() {
        let memory = Memory::build(&MemoryOptions { arena_bytes: 2 << 20, ..options(true) }).unwrap();
        let mut tables = memory.page_tables().unwrap();
        let window = memory.windows().iter().max_by_key(Window::bytes).unwrap();
        let range = PageRange::new(VirtAddr::new(0xffff_9000_0000_0000), 8 << 30).unwrap();
        let size = MapSize::Exactly(PageSize::Size4KiB);
        let before = memory.frames().stats().unwrap().in_use;
        // SAFETY: 1. and 2. these tables are never loaded.
        let error = unsafe { tables.map(range, window.gpa, PagePermissions::READ, size) }.unwrap_err();
        assert_eq!(error, EditError::Frames(FrameError::Exhausted { capacity: 2 << 20 }));
        assert_eq!(memory.frames().stats().unwrap().in_use, before);
    }

    #[test]
    fn spaces_are_made_edited_and_freed() {
        let features = PagingFeatures { giant_pages: true, pcid: true, invpcid: true };
        let memory = Memory::build(&MemoryOptions { features, ..options(true) }).unwrap();
        let before = memory.frames().stats().unwrap().in_use;
        let address = VirtAddr::new(&raw const memory as u64);
        let page = PageRange::page(address);
        for kind in [SpaceKind::Copied, SpaceKind::Shared] {
            let space = memory.new_space(kind).unwrap();
            assert_eq!(space.pcid().unwrap().get(), 1);
            space.page_tables().unwrap().protect(page, PagePermissions::READ).unwrap().defer();
            let permissions = |tables: PageTables<'_>| tables.lookup(address).unwrap().permissions;
            assert_eq!(permissions(space.page_tables().unwrap()), PagePermissions::READ);
            assert_eq!(permissions(memory.page_tables().unwrap()), PagePermissions::ALL);
            assert_eq!(permissions(space.page_tables().unwrap()), PagePermissions::READ);
            if kind == SpaceKind::Shared {
                let refused = memory.page_tables().unwrap().merge(address, PageSize::Size2MiB);
                assert!(refused.is_ok() || matches!(refused, Err(EditError::NotMergeable { .. })));
                let _ = refused.map(Flush::defer);
            }
            space.page_tables().unwrap().unmap(page).unwrap().defer();
            assert_eq!(space.page_tables().unwrap().lookup(address), None);
            drop(space);
            assert_eq!(memory.frames().stats().unwrap().in_use, before);
        }
        let untagged = Memory::build(&options(true)).unwrap();
        let space = untagged.new_space(SpaceKind::Copied).unwrap();
        assert!(matches!(space.pcid(), Err(TlbError::Unsupported { feature: "PCID", .. })));
    }
}
