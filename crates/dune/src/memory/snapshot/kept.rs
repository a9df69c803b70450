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

    /// Gives each page that is kept to `free`, and frees the tree.
    pub fn free(self, mut free: impl FnMut(u64, PhysAddr)) {
        self.free_below(TOP, self.root, 0, &mut free);
    }

    fn free_below(self, level: Level, address: PhysAddr, base: u64, free: &mut impl FnMut(u64, PhysAddr)) {
        let table = self.table(address.as_u64());
        for index in 0..512 {
            let entry = table.get(index as usize);
            let (offset, below) = (base + index * level.span(), PhysAddr::new_truncate(entry.0));
            if entry == Entry::EMPTY || entry == LOST {
            } else if level.0 == 1 {
                free(offset, below);
            } else {
                self.free_below(level.below(), below, offset, free);
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
        kept.free(|offset, frame| {
            frames.free_table(frame);
            freed.push((offset, frame));
        });
        assert_eq!(freed, all);
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
        kept.free(|_, _| count += 1);
        assert_eq!(count, 1);
    }
}
