//! Memory of which snapshots can be taken: what it was at one moment, while the program goes on writing.
//!
//! A snapshot guards the memory (`guard.rs`), in a time that does not depend on its size. Before a page is written to for the first time since,
//! its contents are copied for all snapshots that have none of their own yet (`kept.rs`). So the copy gets the new frame, and the
//! program keeps the page that Linux knows: system calls see what the program sees.
//!
//! Who reads a snapshot looks for a copy, and if there is none, reads the memory itself; then it looks again. If there is none
//! still, what it has read is what was there: the copy is there before the first write is. So no translation of a reader's ever
//! changes, and a write has no other CPU flush.
//!
//! # One moment
//!
//! A snapshot is taken under the lock of the page tables, until all CPUs have forgotten that they may write. A thread that writes meanwhile
//! with an old translation has written before that moment. One that faults waits for the lock, and has done nothing else before its
//! write is done; so no later write of it, or of a thread that has seen it, is in the snapshot either.
//!
//! # Who writes
//!
//! * The program's stores: a page fault ([`Memory::first_write`]).
//! * Linux, for system calls: what a call may write is copied before it is made ([`Memory::keep`], from `writers.rs`), and what calls under way
//!   may write is copied when a snapshot is taken.
//! * Calls that change mappings there: as writes.
//! * Edits of the page tables by the program, and further address spaces, are refused while there is such memory.

mod error;
mod guard;
mod kept;
mod regions;

use core::arch::asm;
use core::ptr;
use core::sync::atomic::{Ordering, fence};

use x86_64::{PhysAddr, VirtAddr};

use self::guard::{Guards, Page};
use self::kept::{Kept, Old};
use self::regions::Region;
use super::error::EditError;
use super::flush::Flush;
use super::frames::Contents;
use super::{Memory, entry::Entry, tlb};
use crate::arch::page::{PAGE_BYTES, PageRange, PageSize};
use crate::arch::token::Dune;
use crate::lock::Busy;

pub use error::SnapshotError;
pub(crate) use regions::MOST_REGIONS;
pub(super) use regions::Regions;

/// What the addresses of such memory are a multiple of.
pub(crate) const ALIGNMENT: u64 = 2 << 20;

impl Memory {
    fn guards(&self) -> Guards<'_> {
        Guards { frames: &self.frames, root: self.root }
    }

    /// A frame for a copy.
    fn frame(&self) -> Option<PhysAddr> {
        match self.frames.allocate(PageSize::Size4KiB, Contents::Any) {
            Ok(frame) => Some(frame.into_raw()),
            Err(_) => self.snapshots.spare(),
        }
    }

    /// An empty table.
    fn empty_table(&self) -> Option<PhysAddr> {
        let mut table = None;
        if self.frames.take_tables(1, |taken| table = Some(taken)).is_err() {
            table = self.snapshots.spare();
            table.inspect(|table| {
                let memory = self.frames.to_memory(table.as_u64()) as usize;
                // SAFETY: a frame of the arena, which is mapped for writing, and nobody else's.
                unsafe { ptr::with_exposed_provenance_mut::<u8>(memory).write_bytes(0, PAGE_BYTES as usize) };
            });
        }
        table
    }

    /// Has `range` be memory of which snapshots can be taken: private memory of the process, mapped for reading and writing, that begins and
    /// ends on multiples of [`ALIGNMENT`].
    pub(crate) fn add_region(&self, range: PageRange) -> Result<(), SnapshotError> {
        debug_assert!((range.first() | range.end()).is_multiple_of(ALIGNMENT));
        if range.bytes() > kept::REACH {
            return Err(SnapshotError::TooLarge { bytes: range.bytes(), most: kept::REACH });
        }
        let mut tables = self.page_tables()?;
        if tables.edits.spaces > 0 {
            return Err(SnapshotError::AddressSpaces { spaces: tables.edits.spaces });
        }
        tables.own(range)?.waive();
        self.snapshots.begin(range)?;
        self.guards().mark(range);
        Ok(())
    }

    /// `range`, of which there is no snapshot any more, is memory as any other, which is about to be unmapped.
    pub(crate) fn remove_region(&self, range: PageRange) -> Result<(), Busy> {
        self.locked(|| {
            if self.snapshots.end(range) {
                self.guards().unguard(range);
            }
        })
    }

    /// A root for what a snapshot will keep.
    pub(crate) fn snapshot_root(&self) -> Result<PhysAddr, SnapshotError> {
        let root = self.frames.allocate(PageSize::Size4KiB, Contents::Zeroed).map_err(EditError::from)?;
        Ok(root.into_raw())
    }

    /// Gives a root back of which there is no snapshot.
    pub(crate) fn free_snapshot_root(&self, root: PhysAddr) {
        self.frames.free_table(root);
    }

    /// Takes snapshots of the memories at these ranges, all of one moment, with these roots; or of none.
    pub(crate) fn begin_snapshots(
        &self,
        dune: Dune,
        parts: &[(PageRange, PhysAddr)],
    ) -> Result<(), SnapshotError> {
        dune.without_interrupts(|| self.take_snapshots(parts, |flush| flush.now(dune)))
    }

    /// [`Self::begin_snapshots`], without interrupts.
    fn take_snapshots(
        &self,
        parts: &[(PageRange, PhysAddr)],
        flush: impl FnOnce(Flush<'static>),
    ) -> Result<(), SnapshotError> {
        let _edits = self.edits.lock()?;
        if self.writers.may_be_anywhere() {
            return Err(SnapshotError::CallsUnderWay);
        }
        for (index, &(range, root)) in parts.iter().enumerate() {
            let added = self.region(range).and_then(|region| region.add(root));
            if let Err(error) = added {
                for &(range, root) in &parts[..index] {
                    self.region(range)?.remove(root);
                }
                return Err(error);
            }
        }
        self.snapshots.set_aside(&self.frames);
        // From here on calls that begin keep what they may write, when they get the lock.
        self.snapshots.snapshots.fetch_add(parts.len() as u32, Ordering::SeqCst);
        parts.iter().for_each(|(range, _)| self.guards().guard(*range));
        flush(Flush::everything());
        for &(range, _) in parts {
            for span in self.writers.under_way(range) {
                self.keep_span(self.region(range)?, span);
            }
        }
        Ok(())
    }

    /// The memory at `range`.
    fn region(&self, range: PageRange) -> Result<&Region, SnapshotError> {
        let none = EditError::NotMapped { address: range.start() };
        self.snapshots.at(range.first()).ok_or(none.into())
    }

    /// Ends the snapshot with this root, of which nobody reads any more. Others get the lock every now and then, who wait to write.
    ///
    /// # Errors
    ///
    /// The interrupted code of this thread has the lock, or another for seconds: what is left stays in use.
    pub(crate) fn end_snapshot(&self, range: PageRange, root: PhysAddr) -> Result<(), Busy> {
        let Some(region) = self.snapshots.at(range.first()) else { return Ok(()) };
        self.locked(|| region.begin_end(root))?;
        let kept = Kept { frames: &self.frames, root };
        kept.drain(|pages| {
            self.locked(|| {
                for (offset, frame) in pages {
                    // Snapshots that had nothing of the page when it was written to have the same copy.
                    let others = region.all(&self.frames).filter(|other| other.root != root);
                    if { others }.all(|other| other.find(offset) != Old::Kept(frame)) {
                        self.frames.free_table(frame);
                    }
                }
            })
        })?;
        self.locked(|| {
            region.remove(root);
            if self.snapshots.snapshots.fetch_sub(1, Ordering::SeqCst) == 1 {
                while let Some(spare) = self.snapshots.spare() {
                    self.frames.free_table(spare);
                }
            }
        })?;
        kept.free_tables();
        Ok(())
    }

    /// Calls `body` with the lock of the page tables, and without interrupts: what signal handlers write must find it free, or all done.
    fn locked<R>(&self, body: impl FnOnce() -> R) -> Result<R, Busy> {
        let locked = || self.edits.lock().map(|_edits| body());
        match Dune::of_caller() {
            Some(dune) => dune.without_interrupts(locked),
            None => locked(),
        }
    }

    /// Something is about to be written to `address`, which may be guarded: keeps what is there, and lets it be written. Whether it may
    /// be now.
    pub(crate) fn first_write(&self, dune: Dune, address: u64) -> bool {
        let page = address & !(PAGE_BYTES - 1);
        // The code that this has interrupted may hold the lock; it edits nothing of such memory.
        let Ok(_edits) = self.edits.lock_unless_mine() else { return false };
        let is_open = self.snapshots.at(page).is_some_and(|region| self.open(region, page));
        if is_open {
            tlb::flush_page(dune, VirtAddr::new_truncate(page));
        }
        is_open
    }

    /// Keeps what is in the page for the snapshots, and takes its guard away. Whether it may be written to now.
    fn open(&self, region: &Region, page: u64) -> bool {
        match self.guards().descend(page, || self.empty_table()) {
            Page::Open => return true,
            Page::Closed => return false,
            Page::Guarded(table, index) => {
                self.keep_page(region, page);
                table.update(index, Entry::unguarded);
            }
            Page::Undivided(table, level) => {
                let offset = page - region.start();
                region.snapshots(&self.frames).for_each(|snapshot| snapshot.lose(offset, level));
                table.update(level.index(page), Entry::unguarded);
            }
        }
        true
    }

    /// A call is about to be made that may write within `spans`: keeps what is there.
    #[inline]
    pub(crate) fn keep(&self, spans: impl Iterator<Item = (u64, u64)>) {
        if self.snapshots.snapshots.load(Ordering::SeqCst) != 0 {
            self.keep_spans(spans);
        }
    }

    #[cold]
    fn keep_spans(&self, spans: impl Iterator<Item = (u64, u64)>) {
        let _edits = self.edits.lock_without_limit();
        for span in spans {
            for (region, part) in self.snapshots.within(span) {
                self.keep_span(region, part);
            }
        }
    }

    fn keep_span(&self, region: &Region, (start, end): (u64, u64)) {
        (start..end).step_by(PAGE_BYTES as usize).for_each(|page| self.keep_page(region, page));
    }

    /// Keeps what is in the page for all snapshots that have nothing of it.
    fn keep_page(&self, region: &Region, page: u64) {
        let offset = page - region.start();
        let (mut copy, mut is_kept) = (None, false);
        for snapshot in region.snapshots(&self.frames) {
            match snapshot.find(offset) {
                // Then all older ones have something, too.
                Old::Kept(_) => break,
                Old::Lost => continue,
                Old::Same => (),
            }
            if copy.is_none() {
                copy = self.frame();
                // SAFETY: a page of the memory, which is mapped and readable, and a frame that is nobody else's.
                copy.inspect(|frame| unsafe {
                    copy_bytes(page, self.frames.to_memory(frame.as_u64()), PAGE_BYTES as usize);
                });
            }
            is_kept |= snapshot.insert(offset, copy, || self.empty_table());
        }
        if let Some(frame) = copy
            && !is_kept
        {
            self.frames.free_table(frame);
        }
    }

    /// Copies what was at `offset` of the memory at `range` to `to`, when the snapshot with this root was taken. The memory and the snapshot
    /// stay meanwhile.
    pub(crate) fn read_snapshot(
        &self,
        (range, root): (PageRange, PhysAddr),
        offset: u64,
        to: &mut [u8],
    ) -> Result<(), SnapshotError> {
        let kept = Kept { frames: &self.frames, root };
        let mut done = 0;
        while done < to.len() {
            let at = offset + done as u64;
            let (page, within) = (at & !(PAGE_BYTES - 1), at & (PAGE_BYTES - 1));
            let length = (to.len() - done).min((PAGE_BYTES - within) as usize);
            let to = &mut to[done..done + length];
            loop {
                let old = kept.find(page);
                let from = match old {
                    Old::Same => range.first() + page,
                    Old::Kept(frame) => self.frames.to_memory(frame.as_u64()),
                    Old::Lost => return Err(SnapshotError::Lost { offset: at }),
                };
                // SAFETY: so many bytes are in a page of the memory, or in a frame that the snapshot keeps, and in `to`.
                unsafe { copy_bytes(from + within, to.as_mut_ptr() as u64, length) };
                // What was read before is read before this.
                fence(Ordering::Acquire);
                if old != Old::Same || kept.find(page) == Old::Same {
                    break;
                }
            }
            done += length;
        }
        Ok(())
    }

    /// How many bytes the snapshot with this root keeps.
    pub(crate) fn bytes_kept(&self, root: PhysAddr) -> u64 {
        Kept { frames: &self.frames, root }.count() * PAGE_BYTES
    }
}

/// Copies bytes that others may write to meanwhile.
///
/// # Safety
///
/// So many bytes can be read at `from`, and written at `to`, where no reference of Rust's says that nobody does.
pub(crate) unsafe fn copy_bytes(from: u64, to: u64, bytes: usize) {
    let (words, rest) = (bytes / 8, bytes % 8);
    // SAFETY: 1. the caller's; 2. what the CPU copies so is no access of Rust's, so others may write meanwhile; 3. the direction flag is
    // clear in Rust code.
    unsafe {
        asm!("rep movsq", "mov rcx, {rest}", "rep movsb", rest = in(reg) rest,
            inout("rcx") words => _, inout("rsi") from => _, inout("rdi") to => _,
            options(nostack, preserves_flags));
    }
}

#[cfg(test)]
mod tests;
