//! One space of ring 3's.

use std::mem::ManuallyDrop;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::{Reserve, SpaceMemory, UserSpaceError, lock};
use crate::arch::page::{Level, PagePermissions, PageRange};
use crate::arch::token::Dune;
use crate::memory::{AddressSpace, EditError, Flush, PageTables};
use crate::user::error::UserError;
use crate::user::{TimeLimit, UserContext, UserExit, enter_ring3};
use crate::weakness::{Defence, lacks};

/// A space that may have more tables than this is not kept for the next one.
const MOST_TABLES: u64 = 8;

/// An address space of ring 3's: what code that runs in it may touch. Threads may use it at once.
///
/// See [`UserSpaces`](super::UserSpaces) for an example. Dropping it takes back what it was granted.
#[derive(Debug)]
pub struct UserSpace {
    reserve: Arc<Reserve>,
    /// There until this is dropped.
    space: ManuallyDrop<AddressSpace<'static>>,
    granted: Mutex<Grants>,
    /// How many tables of pages there may be for what it was ever granted.
    spread: AtomicU64,
    /// How many threads run ring 3 in it.
    running: AtomicU32,
}

/// What the space has, without overlaps.
type Grants = Vec<Grant>;

/// Pages that the space has, all of one memory.
#[derive(Debug)]
struct Grant {
    memory: Arc<SpaceMemory>,
    range: PageRange,
    permissions: PagePermissions,
}

impl UserSpace {
    pub(super) fn new(reserve: Arc<Reserve>, space: AddressSpace<'static>, spread: u64) -> UserSpace {
        let (granted, running, spread) = (Mutex::default(), AtomicU32::new(0), AtomicU64::new(spread));
        UserSpace { reserve, space: ManuallyDrop::new(space), granted, spread, running }
    }

    /// Gives ring 3 exactly these `permissions` (`READ`, `WRITE`, `EXECUTE`) for all of `memory`, here; what is left out it has no
    /// longer when this returns, nor have threads that run in the space now. None is [`revoke`](Self::revoke).
    ///
    /// # Errors
    ///
    /// [`UserSpaceError::Foreign`], [`UserSpaceError::Tables`]; it is then as it was, but for parts that had rights of their own
    /// ([`grant_part`](Self::grant_part)), of which some may have the new ones.
    pub fn grant(
        &self,
        dune: Dune,
        memory: &Arc<SpaceMemory>,
        permissions: PagePermissions,
    ) -> Result<(), UserSpaceError> {
        self.grant_pages(dune, memory, memory.range(), permissions)
    }

    /// As [`grant`](Self::grant), for the pages of `memory` in which `bytes` lie. No permissions take them away.
    ///
    /// # Errors
    ///
    /// As for that; [`UserSpaceError::Outside`].
    pub fn grant_part(
        &self,
        dune: Dune,
        memory: &Arc<SpaceMemory>,
        bytes: Range<u64>,
        permissions: PagePermissions,
    ) -> Result<(), UserSpaceError> {
        match memory.pages(bytes)? {
            Some(range) => self.grant_pages(dune, memory, range, permissions),
            None => Ok(()),
        }
    }

    /// `range` is in `memory`.
    fn grant_pages(
        &self,
        dune: Dune,
        memory: &Arc<SpaceMemory>,
        range: PageRange,
        permissions: PagePermissions,
    ) -> Result<(), UserSpaceError> {
        let permissions = permissions & PagePermissions::ALL;
        if !memory.is_of(&self.reserve) {
            return Err(UserSpaceError::Foreign { start: memory.start() });
        }
        if permissions.is_empty() {
            return self.revoke_pages(dune, memory, range);
        }
        let user = permissions | PagePermissions::USER;
        let mut granted = lock(&self.granted);
        let mut rest = Some(range);
        while let Some(range) = rest {
            let (part, index, left) = next_part(&granted, range);
            if let Some(index) = index {
                // SAFETY: 1. and 2. the mapping is `memory`'s own, without references into it; 3. it is not given back before this space
                // has dropped it.
                let flush = unsafe { self.space.page_tables()?.protect_for_user(part, user) }?;
                self.settle(dune, flush);
                take_part(&mut granted, index, part);
            } else {
                let (flush, has_more) = dune.reaching(|| {
                    // SAFETY: as above; nothing is there, so nobody relies on what is.
                    unsafe { self.space.page_tables()?.show(part, user) }
                })?;
                self.settle(dune, flush);
                if has_more {
                    self.spread.fetch_add(1 + (part.bytes() >> Level(2).shift()), Ordering::Relaxed);
                }
            }
            granted.push(Grant { memory: Arc::clone(memory), range: part, permissions });
            rest = left;
        }
        Ok(())
    }

    /// Takes `memory` away from ring 3 here, also from threads that run in the space now; it has no effect where it was not granted.
    ///
    /// # Errors
    ///
    /// [`UserSpaceError::Tables`]; it is granted still then, but for parts that had rights of their own, which may be gone.
    pub fn revoke(&self, dune: Dune, memory: &Arc<SpaceMemory>) -> Result<(), UserSpaceError> {
        self.revoke_pages(dune, memory, memory.range())
    }

    /// `range` is in `memory`.
    fn revoke_pages(
        &self,
        dune: Dune,
        memory: &Arc<SpaceMemory>,
        range: PageRange,
    ) -> Result<(), UserSpaceError> {
        if !memory.is_of(&self.reserve) {
            return Ok(());
        }
        let mut granted = lock(&self.granted);
        let mut rest = Some(range);
        while let Some(range) = rest {
            let (part, index, left) = next_part(&granted, range);
            if let Some(index) = index {
                let mut tables = self.space.page_tables()?;
                let flush = take_out(&mut tables, memory, part)?;
                drop(tables);
                if self.settle(dune, flush) {
                    // A thread may have written between the look at the marks and the flush.
                    memory.mark_range(part);
                }
                take_part(&mut granted, index, part);
            }
            rest = left;
        }
        Ok(())
    }

    /// Notes what ring 3 has written to `memory` in this space, as revoking does, and leaves it its rights: for
    /// [`SpaceMemory::clear`]. As long as a thread runs there, that is all of it.
    ///
    /// # Errors
    ///
    /// [`UserSpaceError::Tables`].
    pub fn harvest(&self, dune: Dune, memory: &Arc<SpaceMemory>) -> Result<(), UserSpaceError> {
        let granted = lock(&self.granted);
        for grant in granted.iter().filter(|grant| Arc::ptr_eq(&grant.memory, memory)) {
            let mut tables = self.space.page_tables()?;
            let flush = tables.harvest_dirty(grant.range, |start, size| {
                let start = start.as_u64();
                let (from, to) =
                    (start.max(grant.range.first()), (start + size.bytes()).min(grant.range.end()));
                memory.mark_range(PageRange::known(from, to));
            });
            drop(tables);
            if self.settle(dune, flush) {
                // A thread may have written since, by a translation that says that the page is marked already.
                memory.mark_range(grant.range);
            }
        }
        Ok(())
    }

    /// What ring 3 may do with `bytes` bytes at `address`, all of which it was granted at once, or by parts that end at none of them: the
    /// memory that they are in, and the offset in it. For supervisors that are given addresses.
    pub fn find(&self, address: u64, bytes: u64) -> Option<(Arc<SpaceMemory>, u64, PagePermissions)> {
        let granted = lock(&self.granted);
        granted.iter().find_map(|grant| {
            let is_within =
                address >= grant.range.first() && address.checked_add(bytes)? <= grant.range.end();
            is_within.then(|| {
                let offset = address - grant.memory.range().first();
                (Arc::clone(&grant.memory), offset, grant.permissions)
            })
        })
    }

    /// [`Dune::run_user`] in this space.
    ///
    /// # Safety
    ///
    /// As for [`Dune::run_user`].
    ///
    /// # Errors
    ///
    /// As for that; [`UserError::InAnotherSpace`] if the thread is in an [`AddressSpace`].
    #[inline]
    pub unsafe fn run(&self, dune: Dune, context: &mut UserContext) -> Result<UserExit, UserError> {
        // SAFETY: the caller's.
        unsafe { self.run_while(dune, context, || true) }
    }

    /// [`Dune::run_user_until`] in this space.
    ///
    /// # Safety
    ///
    /// As for [`Dune::run_user`].
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run).
    #[inline]
    pub unsafe fn run_until(
        &self,
        dune: Dune,
        context: &mut UserContext,
        limit: &TimeLimit,
    ) -> Result<UserExit, UserError> {
        // SAFETY: the caller's.
        unsafe { self.run_while(dune, context, || !limit.is_over()) }
    }

    /// # Safety
    ///
    /// As for [`Dune::run_user`].
    #[inline(always)]
    unsafe fn run_while(
        &self,
        dune: Dune,
        context: &mut UserContext,
        may_run: impl Fn() -> bool,
    ) -> Result<UserExit, UserError> {
        if self.reserve.memory.is_in_other_space(dune) {
            return Err(UserError::InAnotherSpace);
        }
        // Before this space is loaded: see `settle`.
        self.running.fetch_add(1, Ordering::SeqCst);
        let enter = |context: &mut UserContext| {
            dune.without_interrupts(|| {
                // SAFETY: 1. interrupts are off, and the process's own space is in use, which was looked at; 2. the way into ring 3 and back
                // accesses the block, `context`, its vector state and this stack, which are not at this module's addresses; `run` calls
                // this, and keeps the conditions of `enter_ring3`.
                may_run().then(|| unsafe { self.space.within(dune, || enter_ring3(context)) })
            })
        };
        // SAFETY: the caller's.
        let exit = unsafe { dune.run(context, enter) };
        self.running.fetch_sub(1, Ordering::Release);
        exit
    }

    /// Discharges the flush of an edit of this space's tables; whether a thread may have used the old ones meanwhile.
    ///
    /// A thread that comes after this sees that there was an edit, and flushes itself (`memory/caches.rs`); one that came before it, and has
    /// left since the edit began, may have cached what was there, with the count from the edit's beginning.
    fn settle(&self, dune: Dune, flush: Flush<'_>) -> bool {
        self.space.note_edit();
        let is_in_use = self.running.load(Ordering::SeqCst) > 0;
        if is_in_use && !lacks(Defence::Flush) {
            flush.now(dune)
        } else {
            flush.unused()
        }
        is_in_use
    }
}

/// The first part of `range` that is all granted, by which grant, or that is not; and what is left behind it.
#[inline]
fn next_part(granted: &Grants, range: PageRange) -> (PageRange, Option<usize>, Option<PageRange>) {
    let (first, mut end) = (range.first(), range.end());
    let mut found = None;
    for (index, grant) in granted.iter().enumerate() {
        let (from, to) = (grant.range.first(), grant.range.end());
        if (from..to).contains(&first) {
            (found, end) = (Some(index), end.min(to));
            break;
        }
        if from > first {
            end = end.min(from);
        }
    }
    let left = (end < range.end()).then(|| PageRange::known(end, range.end()));
    (PageRange::known(first, end), found, left)
}

/// Takes `part` out of the grant `index`, which has it.
fn take_part(granted: &mut Grants, index: usize, part: PageRange) {
    let Grant { memory, range, permissions } = granted.swap_remove(index);
    let around = [(range.first(), part.first()), (part.end(), range.end())];
    for (from, to) in around.into_iter().filter(|(from, to)| from < to) {
        granted.push(Grant { memory: Arc::clone(&memory), range: PageRange::known(from, to), permissions });
    }
}

/// Takes `range` of `memory` out of `tables`, and notes which of its pages were written to.
fn take_out<'m>(
    tables: &mut PageTables<'m>,
    memory: &SpaceMemory,
    range: PageRange,
) -> Result<Flush<'m>, EditError> {
    tables.hide(range, |start, bytes| memory.mark_range(PageRange::known(start, start + bytes)))
}

impl Drop for UserSpace {
    fn drop(&mut self) {
        // SAFETY: taken out here only.
        let space = unsafe { ManuallyDrop::take(&mut self.space) };
        let granted = self.granted.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (mut is_empty, spread) = (true, *self.spread.get_mut());
        for grant in core::mem::take(granted) {
            let taken = space.page_tables().and_then(|mut tables| {
                // Nobody runs in it, and who will run in it flushes first.
                take_out(&mut tables, &grant.memory, grant.range).map(Flush::unused)
            });
            if taken.is_err() {
                // Who has interrupted an edit drops this. Better lost than found in the next space.
                is_empty = false;
                core::mem::forget(grant);
            }
        }
        if !is_empty {
            core::mem::forget(space);
        } else if spread <= MOST_TABLES {
            lock(&self.reserve.spare).push((space, spread));
        }
    }
}
