//! The page tables: looking up, and editing what is mapped.
//!
//! Tables are memory of the process: ordinary stores edit them, the CPU reads them (Intel SDM Vol. 3A §4.5,
//! AMD APM Vol. 2 §5.3). Each edit goes over its range twice (`walk.rs`). The first time it only checks, and counts the
//! tables that it will need; these are set aside; the second time it cannot fail. So a refused edit has
//! changed nothing.
//!
//! Mapping and unmapping is in `map.rs`, other page sizes in `reshape.rs`, accessed
//! and dirty marks in `harvest.rs`, whole trees in `tree.rs`.

use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::{PhysAddr, VirtAddr};

use super::entry::{Entry, Table};
use super::error::{EditError, refuse_user};
use super::flush::Flush;
use super::frames::FrameAllocator;
use super::missed::Missed;
use super::snapshot::Regions;
use super::walk::{Rule, Slot, Step};
use super::window::Windows;
use super::work::Work;
use super::writers::Writers;
use crate::arch::page::{Level, PAGE_BYTES, PagePermissions, PageRange, PageSize};
use crate::lock::Guard;

/// What the lock of all page tables protects besides them.
#[derive(Debug, Default)]
pub(super) struct Edits {
    /// The number of address spaces that share tables of the process's own root.
    pub shared: u32,
    /// The number of address spaces besides the process's own.
    pub spaces: u32,
}

/// A page as the tables map it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leaf {
    /// The first virtual address of the page.
    pub start: VirtAddr,
    /// Its size.
    pub size: PageSize,
    /// The guest-physical address of its first byte.
    pub frame: PhysAddr,
    /// What may be done with it.
    pub permissions: PagePermissions,
    /// The CPU has accessed it since the mark was last cleared.
    pub accessed: bool,
    /// The CPU has written to it since the mark was last cleared.
    pub dirty: bool,
}

impl Leaf {
    pub(super) fn new(start: u64, level: Level, size: PageSize, entry: Entry) -> Leaf {
        Leaf {
            start: VirtAddr::new_truncate(start),
            size,
            frame: PhysAddr::new_truncate(entry.frame(level)),
            permissions: entry.permissions(),
            accessed: entry.is_accessed(),
            dirty: entry.is_dirty(),
        }
    }
}

/// The page tables of an address space, for one caller at a time: holding this holds the lock of all page
/// tables.
///
/// Keep it short. A handler that runs meanwhile gets [`EditError::Busy`] instead of its own.
#[derive(Debug)]
pub struct PageTables<'m> {
    pub(super) frames: &'m FrameAllocator,
    pub(super) windows: &'m Windows,
    pub(super) root: PhysAddr,
    /// The CPU has 1 GiB pages.
    pub(super) giant: bool,
    /// For the process's own root, of which other roots may share tables: the count of its edits.
    pub(super) version: Option<&'m AtomicU64>,
    /// And the count of changes of the root itself.
    pub(super) root_changes: &'m AtomicU64,
    /// These are the tables that mirror Linux's mappings: what the program unmaps is marked as its own.
    pub(super) mirrors: bool,
    /// Where to note what could not be mirrored.
    pub(super) missed: &'m Missed,
    /// The system calls under way that write memory.
    pub(super) writers: &'m Writers,
    /// The memories of which snapshots can be taken, where the program edits nothing.
    pub(super) snapshots: &'m Regions,
    pub(super) edits: Guard<'m, Edits>,
}

/// Applies `edit` to every page, of which none may be missing.
pub(super) struct EditLeaves<F> {
    pub user: bool,
    pub edit: F,
}

impl<'m, F: Fn(Entry) -> Entry> Rule<'m> for EditLeaves<F> {
    #[inline]
    fn user(&self) -> bool {
        self.user
    }

    #[inline]
    fn step(&self, tables: &PageTables<'m>, slot: &Slot) -> Result<Step, EditError> {
        if slot.entry.is_empty() {
            return Err(tables.not_mapped(slot.at));
        }
        Ok(if slot.is_leaf() && slot.is_whole() { Step::Set } else { Step::Descend })
    }

    #[inline]
    fn set(&self, _: &PageTables<'m>, table: &Table, slot: &Slot, flush: &mut Flush<'m>) {
        let old = table.update(slot.index(), &self.edit);
        if let Some(size) = slot.level.leaf() {
            flush.record(slot.at, size, old);
        }
    }

    fn check_lowest(
        &self,
        tables: &PageTables<'m>,
        table: &Table,
        (start, end): (u64, u64),
    ) -> Result<(), EditError> {
        let level = Level(1);
        if table.all_mapped((level.index(start), level.index(end - 1))) {
            return Ok(());
        }
        let missing = |at: &u64| table.get(level.index(*at)).is_empty();
        let first = (start..end).step_by(PAGE_BYTES as usize).find(missing);
        first.map_or(Ok(()), |at| Err(tables.not_mapped(at)))
    }

    fn set_lowest(&self, _: &PageTables<'m>, table: &Table, (start, end): (u64, u64), flush: &mut Flush<'m>) {
        let seen = table.update_all((Level(1).index(start), Level(1).index(end - 1)), &self.edit);
        flush.record_run(start, ((end - start) / PAGE_BYTES) as u32, seen);
    }
}

impl Drop for PageTables<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(version) = self.version {
            // The lock is still held: nobody else counts.
            version.store(version.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }
}

impl<'m> PageTables<'m> {
    /// The guest-physical address of the root, as CR3 holds it.
    pub fn root(&self) -> PhysAddr {
        self.root
    }

    /// The page at `address`; `None` where nothing is mapped. Pages without permissions are found too.
    pub fn lookup(&self, address: VirtAddr) -> Option<Leaf> {
        let (level, _, entry) = self.find(address.as_u64());
        let size = level.leaf()?;
        (!entry.is_empty()).then(|| Leaf::new(address.as_u64() & !(size.bytes() - 1), level, size, entry))
    }

    /// The guest-physical address that the tables give `address`.
    pub fn translate(&self, address: VirtAddr) -> Option<PhysAddr> {
        let leaf = self.lookup(address)?;
        Some(leaf.frame + (address.as_u64() - leaf.start.as_u64()))
    }

    /// Gives ring 0 exactly `permissions` for every page of `range`, and ring 3 none: what is left out is taken away.
    ///
    /// Without any of `READ`, `WRITE` and `EXECUTE` the pages are no longer present, but keep their frames.
    /// Larger pages are split only where an end of the range cuts them. Accessed and dirty marks stay.
    ///
    /// # Errors
    ///
    /// [`EditError::NeedsGrant`] for `USER`: letting ring 3 in takes [`protect_for_user`](Self::protect_for_user).
    /// Others of [`EditError`] where a page is missing, or a table for smaller pages can not be had.
    #[inline]
    pub fn protect(
        &mut self,
        range: PageRange,
        permissions: PagePermissions,
    ) -> Result<Flush<'m>, EditError> {
        refuse_user(range, permissions)?;
        self.set_permissions(range, permissions)
    }

    /// [`protect`](Self::protect) for all of `ranges`, with one flush for all. If one of them is refused, none is changed.
    ///
    /// # Errors
    ///
    /// As for [`protect`](Self::protect).
    pub fn protect_each(
        &mut self,
        ranges: &[PageRange],
        permissions: PagePermissions,
    ) -> Result<Flush<'m>, EditError> {
        let bits = Entry::permission_bits(permissions) | Entry::OWNED;
        let rule = EditLeaves { user: false, edit: |entry: Entry| entry.with_permissions(bits) };
        let mut count = 0;
        for range in ranges {
            refuse_user(*range, permissions)?;
            self.snapshots.refuse(*range)?;
            count += self.count(&rule, (range.first(), range.end()))?;
        }
        let mut work = Work::begin(self.frames, count)?;
        for range in ranges {
            self.apply(&rule, (range.first(), range.end()), &mut work);
        }
        Ok(work.flush.owed())
    }

    /// As [`protect`](Self::protect), for ring 3 too where `permissions` has `USER`.
    ///
    /// # Safety
    ///
    /// From now on until ring 3 is kept out again and the [`Flush`] of that is discharged, code in ring 3 may do what
    /// `permissions` says with the memory of `range`, at any time and on any thread that calls
    /// [`run_user`](crate::Dune::run_user), and what it does is nobody's to know. So, with `WRITE`:
    ///
    /// 1. No Rust reference leads to that memory, and no code of ring 0 relies on what it holds: it is accessed through
    ///    raw pointers, by volatile or atomic accesses, or by checked copies
    ///    ([`copy_from_user`](crate::Dune::copy_from_user)).
    /// 2. It holds nothing that the CPU or Linux trusts: no page tables, no descriptor tables, no stacks of ring 0, no
    ///    code that ring 0 executes.
    /// 3. It is not given back (freed, unmapped, moved, discarded for another use) before.
    ///
    /// Without `WRITE` ring 3 can change nothing, and there is no condition; but ring 0 may not write either.
    ///
    /// Calls that keep ring 3 out again are safe, so anybody may make them: nothing may rely on ring 3 getting in. An
    /// [`AddressSpace`](super::AddressSpace) that is made meanwhile keeps its own copy of the right.
    pub unsafe fn protect_for_user(
        &mut self,
        range: PageRange,
        permissions: PagePermissions,
    ) -> Result<Flush<'m>, EditError> {
        self.set_permissions(range, permissions)
    }

    #[inline]
    fn set_permissions(
        &mut self,
        range: PageRange,
        permissions: PagePermissions,
    ) -> Result<Flush<'m>, EditError> {
        let bits = Entry::permission_bits(permissions) | Entry::OWNED;
        let user = permissions.contains(PagePermissions::USER);
        let start = range.first();
        if range.bytes() == PAGE_BYTES
            && let Some(table) = self.leaf_table(start, user)
            && let Some(old) =
                table.update_mapped(Level(1).index(start), |entry| entry.with_permissions(bits))
        {
            return Ok(Flush::run(start, 1, old).owed());
        }
        self.protect_range(range, bits, user).map(Flush::owed)
    }

    /// [`Self::set_permissions`] for more than one page.
    #[inline(never)]
    fn protect_range(&mut self, range: PageRange, bits: u64, user: bool) -> Result<Flush<'m>, EditError> {
        if let Some((table, indices)) = self.only_table(range, user)
            && table.all_mapped(indices)
        {
            let seen = table.update_all(indices, |entry| entry.with_permissions(bits));
            return Ok(Flush::run(range.first(), range.pages() as u32, seen));
        }
        self.snapshots.refuse(range)?;
        self.edit_leaves(range, user, |entry| entry.with_permissions(bits))
    }

    /// Lets ring 3 into every page of `range`, and adds `permissions` to those that each page has, which become ring 3's too.
    ///
    /// # Safety
    ///
    /// As for [`protect_for_user`](Self::protect_for_user), where the pages have `WRITE` afterwards.
    pub unsafe fn grant_user(
        &mut self,
        range: PageRange,
        permissions: PagePermissions,
    ) -> Result<Flush<'m>, EditError> {
        let add = permissions | PagePermissions::USER;
        self.snapshots.refuse(range)?;
        self.edit_leaves(range, true, |entry| {
            entry.with_permissions(Entry::permission_bits(entry.permissions() | add) | Entry::OWNED)
        })
        .map(Flush::owed)
    }

    /// Makes every page of `range` the supervisor's again; its other permissions stay.
    pub fn revoke_user(&mut self, range: PageRange) -> Result<Flush<'m>, EditError> {
        self.snapshots.refuse(range)?;
        self.edit_leaves(range, false, |entry| {
            let permissions = entry.permissions() - PagePermissions::USER;
            entry.with_permissions(Entry::permission_bits(permissions) | Entry::OWNED)
        })
        .map(Flush::owed)
    }

    /// Applies `edit` to the entry of every page of `range`.
    pub(super) fn edit_leaves(
        &mut self,
        range: PageRange,
        user: bool,
        edit: impl Fn(Entry) -> Entry,
    ) -> Result<Flush<'m>, EditError> {
        let (span, rule) = ((range.first(), range.end()), EditLeaves { user, edit });
        let mut work = Work::begin(self.frames, self.count(&rule, span)?)?;
        self.apply(&rule, span, &mut work);
        Ok(work.flush)
    }

    /// The table below entry `index`, to edit: splits a page, copies a table that is another root's, lets
    /// ring 3 through.
    pub(super) fn enter(
        &self,
        table: &Table,
        index: usize,
        level: Level,
        user: bool,
        work: &mut Work<'m>,
        at: u64,
    ) -> &'m Table {
        let entry = table.get(index);
        if entry.is_leaf(level) {
            return self.split_entry(table, index, level, user, work, at);
        }
        if entry.is_shared() {
            let copy = work.stock.pop();
            let (from, to) = (self.child(entry), self.table(copy));
            for index in 0..512 {
                let entry = from.get(index);
                let leaf = level.below().0 == 1 || entry.is_empty() || entry.is_leaf(level.below());
                to.set(index, if leaf { entry } else { entry.shared() });
            }
            table.set(index, Entry::table(copy, user || entry.is_user()));
            work.flush.record_everything();
        } else if user && !entry.is_user() {
            table.update(index, |entry| Entry::table(PhysAddr::new_truncate(entry.table_address()), true));
            work.flush.record_everything();
            self.count_change_of(level);
        }
        self.child(table.get(index))
    }

    /// Counts a change of an entry of `level` that points to a table, if it is one of the process's own root.
    pub(super) fn count_change_of(&self, level: Level) {
        if level == Level::ROOT && self.version.is_some() {
            self.root_changes.fetch_add(1, Ordering::Release);
        }
    }

    /// The table of 4 KiB pages for `address`, if there is one that can be edited as it is.
    #[inline]
    pub(super) fn leaf_table(&self, address: u64, user: bool) -> Option<&'m Table> {
        leaf_table(self.frames, self.root, address, user)
    }

    /// The table of 4 KiB pages that decides about all of `range`, if one does and can be edited as it is, and the first and the last index
    /// there.
    #[inline]
    pub(super) fn only_table(&self, range: PageRange, user: bool) -> Option<(&'m Table, (usize, usize))> {
        let (first, last) = (range.first(), range.end() - 1);
        let is_one = (first ^ last) >> Level(2).shift() == 0;
        let table = if is_one { self.leaf_table(first, user) } else { None };
        table.map(|table| (table, (Level(1).index(first), Level(1).index(last))))
    }

    /// The entry that decides about `address`: a leaf, or an empty entry, with its level and table.
    pub(super) fn find(&self, address: u64) -> (Level, &'m Table, Entry) {
        find(self.frames, self.root, address)
    }

    #[inline]
    pub(super) fn root_table(&self) -> &'m Table {
        self.table(self.root)
    }

    #[inline]
    pub(super) fn child(&self, entry: Entry) -> &'m Table {
        self.table(PhysAddr::new_truncate(entry.table_address()))
    }

    /// The table at a guest-physical address, which is in the arena as all tables are.
    #[inline]
    pub(super) fn table(&self, address: PhysAddr) -> &'m Table {
        table_at(self.frames, self.frames.offset(), address.as_u64())
    }

    /// The error for an address without a page.
    #[cold]
    pub(super) fn not_mapped(&self, address: u64) -> EditError {
        if self.windows.find(VirtAddr::new_truncate(address)).is_none() {
            EditError::OutsideWindows { address }
        } else {
            EditError::NotMapped { address: VirtAddr::new_truncate(address) }
        }
    }

    /// Whether every level above the page at `address` lets ring 3 through, for tests.
    #[cfg(any(test, fuzzing))]
    pub(super) fn user_reaches(&self, address: VirtAddr) -> bool {
        let (mut level, mut table) = (Level::ROOT, self.root_table());
        loop {
            let entry = table.get(level.index(address.as_u64()));
            if !entry.is_user() || entry.is_leaf(level) {
                return entry.is_user();
            }
            (level, table) = (level.below(), self.child(entry));
        }
    }

    /// What a page at `address` of `level` leaves behind when the program unmaps it.
    pub(super) fn vacancy(&self, level: Level, address: u64) -> Entry {
        let leaf = level.leaf().is_some_and(|size| self.giant || size != PageSize::Size1GiB);
        let mirrored = || self.windows.find(VirtAddr::new_truncate(address)).is_some();
        if self.mirrors && leaf && mirrored() { Entry::hole(level) } else { Entry::EMPTY }
    }

    /// Takes the table `below` entry `index` of `table` out, for `vacancy` in its place, if all of its entries are `empty`.
    pub(super) fn free_if_full_of(
        &self,
        empty: Entry,
        below: &Table,
        (table, index, vacancy): (&Table, usize, Entry),
        flush: &mut Flush<'m>,
    ) {
        if self.may_free() && below.is_full_of(empty) {
            let old = table.swap(index, vacancy);
            flush.retire(self.frames, PhysAddr::new_truncate(old.table_address()));
        }
    }

    /// Whether tables may be freed that become empty: not while others share them.
    pub(super) fn may_free(&self) -> bool {
        self.version.is_none() || self.edits.shared == 0
    }
}

/// As [`PageTables::leaf_table`], from any root.
#[inline]
pub(super) fn leaf_table(
    frames: &FrameAllocator,
    root: PhysAddr,
    address: u64,
    user: bool,
) -> Option<&Table> {
    let user = Entry::table(PhysAddr::zero(), user).0 & Entry::USER;
    let (mask, wanted) = (Entry::FOLLOW_MASK | user, Entry::PRESENT | user);
    let offset = frames.offset();
    let mut table = root.as_u64();
    for level in [Level(4), Level(3), Level(2)] {
        let entry = table_at(frames, offset, table).get(level.index(address));
        if entry.0 & mask != wanted {
            return None;
        }
        table = entry.table_address();
    }
    Some(table_at(frames, offset, table))
}

/// As [`PageTables::find`], from any root.
#[inline]
pub(super) fn find(frames: &FrameAllocator, root: PhysAddr, address: u64) -> (Level, &Table, Entry) {
    let offset = frames.offset();
    let (mut level, mut table) = (Level::ROOT, table_at(frames, offset, root.as_u64()));
    loop {
        let entry = table.get(level.index(address));
        if entry.is_empty() || entry.is_leaf(level) {
            return (level, table, entry);
        }
        (level, table) = (level.below(), table_at(frames, offset, entry.table_address()));
    }
}

/// The table at the guest-physical `address`; walks look the arena's `offset` up once.
#[inline]
pub(super) fn table_at(frames: &FrameAllocator, offset: u64, address: u64) -> &Table {
    let memory = address.wrapping_sub(offset);
    debug_assert!(frames.range().contains(VirtAddr::new_truncate(memory)));
    // SAFETY: 1. the address comes from the root or an entry, so it is a frame that this library allocated
    // from the arena as a table; 2. the arena lives as long as `frames`; 3. a table is given back only after its
    // last entry is gone, and entries change under the lock, which the caller holds, or the code that it has
    // interrupted on its thread (`streams.rs`, `disarm`); 4. tables are accessed by atomics only, by the CPU too.
    unsafe { &*ptr::with_exposed_provenance::<Table>(memory as usize) }
}

/// Where the part of `at..end` ends that one entry of `level` decides about.
#[inline]
pub(super) const fn part_end(level: Level, at: u64, end: u64) -> u64 {
    let last = at | (level.span() - 1);
    if last < end - 1 { last + 1 } else { end }
}
