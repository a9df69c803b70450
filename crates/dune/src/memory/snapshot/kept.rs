//! What a snapshot keeps of the pages that have been written to since: a tree like page tables, whose leaves are frames with the old
//! contents.
//!
//! One thread adds to it, under the lock of the page tables; others look things up meanwhile without a lock. What has been added stays
//! until the snapshot ends.

use core::sync::atomic::{Ordering, fence};

use x86_64::PhysAddr;

use crate::arch::page::Level;
use crate::memory::entry::{Entry, Table};
use crate::memory::frames::FrameAllocator;
use crate::memory::table::table_at;

/// The level of a tree's root: it reaches 512 GiB.
const TOP: Level = Level(3);
/// The bytes that a tree can tell of.
pub(super) const REACH: u64 = 512 << 30;
/// How many pages are drained at a time, at most.
const AT_A_TIME: usize = 64;
/// Stands for pages of which the old contents could not be kept. No frame has this address.
const LOST: Entry = Entry(1);

/// What a snapshot has of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Old {
    /// Nothing: it has not been written to.
    Same,
    /// What it was.
    Kept(PhysAddr),
    /// Nothing, though it has been written to: there was no frame.
    Lost,
}

/// A snapshot's tree.
#[derive(Clone, Copy)]
pub(super) struct Kept<'m> {
    pub frames: &'m FrameAllocator,
    pub root: PhysAddr,
}

impl<'m> Kept<'m> {
    fn table(self, address: u64) -> &'m Table {
        table_at(self.frames, self.frames.offset(), address)
    }

    /// What there is of the page at `offset`.
    pub fn find(self, offset: u64) -> Old {
        let (mut level, mut at) = (TOP, self.root.as_u64());
        loop {
            let entry = self.table(at).get(level.index(offset));
            // Contents, and tables, are there before entries.
            fence(Ordering::Acquire);
            match entry {
                Entry::EMPTY => return Old::Same,
                LOST => return Old::Lost,
                Entry(frame) if level.0 == 1 => return Old::Kept(PhysAddr::new_truncate(frame)),
                Entry(table) => (level, at) = (level.below(), table),
            }
        }
    }

    /// Keeps `frame` for the page at `offset`, of which there was nothing; without a frame, or if `new_table` gives none, it is lost.
    /// Whether it is kept.
    pub fn insert(
        self,
        offset: u64,
        frame: Option<PhysAddr>,
        mut new_table: impl FnMut() -> Option<PhysAddr>,
    ) -> bool {
        let (mut level, mut at) = (TOP, self.root.as_u64());
        loop {
            let (table, index) = (self.table(at), level.index(offset));
            let entry = table.get(index);
            if level.0 == 1 || entry == Entry::EMPTY {
                let below = if level.0 == 1 { frame } else { frame.and_then(|_| new_table()) };
                table.set(index, below.map_or(LOST, |address| Entry(address.as_u64())));
                match below {
                    Some(table) if level.0 > 1 => (level, at) = (level.below(), table.as_u64()),
                    kept => return kept.is_some(),
                }
            } else if entry == LOST {
                return false;
            } else {
                (level, at) = (level.below(), entry.0);
            }
        }
    }

    /// All that is not kept of what an entry of `level` tells, `offset` among it, is lost.
    pub fn lose(self, offset: u64, level: Level) {
        let (mut above, mut table) = (TOP, self.table(self.root.as_u64()));
        loop {
            let index = above.index(offset);
            match table.get(index) {
                LOST => return,
                Entry::EMPTY => return table.set(index, LOST),
                Entry(below) if above <= level => return self.lose_below(above.below(), below),
                Entry(below) => (above, table) = (above.below(), self.table(below)),
            }
        }
    }

    fn lose_below(self, level: Level, address: u64) {
        let table = self.table(address);
        for index in 0..512 {
            match table.get(index) {
                Entry::EMPTY => table.set(index, LOST),
                Entry(below) if level.0 > 1 && below != LOST.0 => self.lose_below(level.below(), below),
                _ => (),
            }
        }
    }

    /// How many pages are kept. Others may be added meanwhile.
    pub fn count(self) -> u64 {
        self.count_below(TOP, self.root.as_u64())
    }

    fn count_below(self, level: Level, address: u64) -> u64 {
        let entries = (0..512).map(|index| self.table(address).get(index));
        let below = |entry: Entry| match entry {
            Entry::EMPTY | LOST => 0,
            Entry(_) if level.0 == 1 => 1,
            Entry(table) => self.count_below(level.below(), table),
        };
        entries.map(below).sum()
    }

    /// Gives the pages that are kept to `take`, some at a time with their offsets, as long as it succeeds. What it takes is kept no more.
    ///
    /// Nobody adds to the tree meanwhile.
    pub fn drain<E>(
        self,
        mut take: impl FnMut(&mut dyn Iterator<Item = (u64, PhysAddr)>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.drain_below(TOP, self.root.as_u64(), 0, &mut take)
    }

    fn drain_below<E>(
        self,
        level: Level,
        address: u64,
        base: u64,
        take: &mut impl FnMut(&mut dyn Iterator<Item = (u64, PhysAddr)>) -> Result<(), E>,
    ) -> Result<(), E> {
        let table = self.table(address);
        let entry = |index: usize| match table.get(index) {
            Entry::EMPTY | LOST => None,
            Entry(below) => Some((index, base + index as u64 * level.span(), below)),
        };
        if level.0 > 1 {
            for (_, offset, below) in (0..512).filter_map(entry) {
                self.drain_below(level.below(), below, offset, take)?;
            }
            return Ok(());
        }
        for first in (0..512).step_by(AT_A_TIME) {
            let kept = || (first..first + AT_A_TIME).filter_map(entry);
            if kept().next().is_some() {
                take(&mut kept().map(|(index, offset, frame)| {
                    table.set(index, Entry::EMPTY);
                    (offset, PhysAddr::new_truncate(frame))
                }))?;
            }
        }
        Ok(())
    }

    /// Frees the tables of a tree that keeps nothing any more, and that nobody looks at.
    pub fn free_tables(self) {
        self.free_tables_below(TOP, self.root);
    }

    fn free_tables_below(self, level: Level, address: PhysAddr) {
        if level.0 > 1 {
            let entries = (0..512).map(|index| self.table(address.as_u64()).get(index));
            for Entry(below) in entries.filter(|&entry| entry != Entry::EMPTY && entry != LOST) {
                self.free_tables_below(level.below(), PhysAddr::new_truncate(below));
            }
        }
        self.frames.free_table(address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(bytes: u64) -> FrameAllocator {
        FrameAllocator::reserve(bytes).expect("an arena")
    }

    fn table(frames: &FrameAllocator) -> Option<PhysAddr> {
        let mut taken = None;
        frames.take_tables(1, |table| taken = Some(table)).ok()?;
        taken
    }

    #[test]
    fn pages_are_kept_found_and_freed() {
        let frames = frames(8 << 20);
        let kept = Kept { frames: &frames, root: table(&frames).expect("a table") };
        let offsets = [0, 4096, (2 << 20) - 4096, 2 << 20, 5 << 30, REACH - 4096];
        let mut all = Vec::new();
        for offset in offsets {
            assert_eq!(kept.find(offset), Old::Same);
            let frame = table(&frames).expect("a frame");
            assert!(kept.insert(offset, Some(frame), || table(&frames)));
            all.push((offset, frame));
        }
        assert!(all.iter().all(|&(offset, frame)| kept.find(offset) == Old::Kept(frame)));
        assert_eq!(kept.find(8192), Old::Same);
        let mut freed = Vec::new();
        let freed_all = kept.drain(|pages| {
            pages.for_each(|(offset, frame)| {
                frames.free_table(frame);
                freed.push((offset, frame));
            });
            Ok::<(), ()>(())
        });
        assert_eq!((freed_all, freed), (Ok(()), all));
        assert_eq!(kept.count(), 0);
        kept.free_tables();
        assert_eq!(frames.stats().expect("no lock is held").in_use, 0);
    }

    #[test]
    fn a_large_page_is_lost_but_for_what_is_kept() {
        let frames = frames(8 << 20);
        let kept = Kept { frames: &frames, root: table(&frames).expect("a table") };
        let frame = table(&frames).expect("a frame");
        assert!(kept.insert((2 << 20) + 4096, Some(frame), || table(&frames)));
        kept.lose((2 << 20) + 8192, Level(2));
        kept.lose(8 << 20, Level(2));
        let found = [0, 2 << 20, (2 << 20) + 4096, (4 << 20) - 4096, 4 << 20, (8 << 20) + 4096, 10 << 20];
        let expected = [Old::Same, Old::Lost, Old::Kept(frame), Old::Lost, Old::Same, Old::Lost, Old::Same];
        assert_eq!(found.map(|at| kept.find(at)), expected);
        kept.lose(1 << 30, Level(3));
        assert_eq!([1 << 30, 2 << 30].map(|at| kept.find(at)), [Old::Lost, Old::Same]);
    }

    #[test]
    fn what_there_is_no_frame_for_is_lost_and_nothing_else() {
        let frames = frames(2 << 20);
        let kept = Kept { frames: &frames, root: table(&frames).expect("a table") };
        let frame = table(&frames).expect("a frame");
        assert!(kept.insert(4096, Some(frame), || table(&frames)));
        assert!(!kept.insert(8192, None, || table(&frames)));
        assert!(!kept.insert(4 << 20, Some(frame), || None));
        let found = [4096, 8192, 12288, 4 << 20, (4 << 20) + 4096, 2 << 20].map(|at| kept.find(at));
        assert_eq!(found, [Old::Kept(frame), Old::Lost, Old::Same, Old::Lost, Old::Lost, Old::Same]);
        assert!(!kept.insert((4 << 20) + 4096, Some(frame), || table(&frames)), "it was lost before");
        let mut count = 0;
        let drained = kept.drain(|pages| {
            count += pages.count();
            Err(())
        });
        assert_eq!((drained, count), (Err(()), 1));
    }
}
