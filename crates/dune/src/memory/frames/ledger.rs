//! Which frames are in use: the book-keeping of the arena's blocks, which a lock protects.

use crate::arch::page::{PAGE_BYTES, PageSize};

/// A block, 2 MiB.
pub(super) const BLOCK_BYTES: u64 = 2 << 20;
/// The small frames of a block.
const FRAMES: u32 = (BLOCK_BYTES / PAGE_BYTES) as u32;
/// No block.
const NONE: u32 = u32::MAX;

/// What a block is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Free and, for Linux, untouched.
    Clean,
    /// Free, and holding memory.
    Dirty,
    /// One frame of 2 MiB.
    Large,
    /// Frames of 4 KiB.
    Small,
}

/// One block's book-keeping.
#[derive(Debug)]
struct Block {
    /// A bit for each small frame in use.
    used: [u64; 8],
    free: u32,
    state: State,
    next: u32,
    previous: u32,
}

/// A doubly linked list of blocks.
#[derive(Debug)]
struct List {
    head: u32,
    length: u32,
}

impl List {
    const EMPTY: List = List { head: NONE, length: 0 };

    fn push(&mut self, blocks: &mut [Block], index: u32) {
        blocks[index as usize].next = self.head;
        blocks[index as usize].previous = NONE;
        if self.head != NONE {
            blocks[self.head as usize].previous = index;
        }
        self.head = index;
        self.length += 1;
    }

    fn remove(&mut self, blocks: &mut [Block], index: u32) {
        let (next, previous) = (blocks[index as usize].next, blocks[index as usize].previous);
        if previous == NONE {
            self.head = next;
        } else {
            blocks[previous as usize].next = next;
        }
        if next != NONE {
            blocks[next as usize].previous = previous;
        }
        self.length -= 1;
    }

    fn pop(&mut self, blocks: &mut [Block]) -> Option<u32> {
        let index = self.head;
        (index != NONE).then(|| {
            self.remove(blocks, index);
            index
        })
    }
}

/// What the lock protects.
#[derive(Debug)]
pub(in crate::memory) struct Ledger {
    blocks: Box<[Block]>,
    clean: List,
    dirty: List,
    partial: List,
    pub in_use: u64,
    pub high_water: u64,
}

impl Ledger {
    /// Of `count` free blocks; `None` if there is no memory for it.
    pub fn new(count: u32) -> Option<Ledger> {
        let block =
            |index| Block { used: [0; 8], free: FRAMES, state: State::Clean, next: index, previous: NONE };
        let mut blocks = Vec::new();
        blocks.try_reserve_exact(count as usize).ok()?;
        blocks.extend((0..count).map(block));
        let mut blocks = blocks.into_boxed_slice();
        let mut clean = List::EMPTY;
        for index in (0..count).rev() {
            clean.push(&mut blocks, index);
        }
        Some(Ledger { blocks, clean, dirty: List::EMPTY, partial: List::EMPTY, in_use: 0, high_water: 0 })
    }

    /// How many free blocks hold memory.
    pub fn dirty(&self) -> u32 {
        self.dirty.length
    }

    /// A free block that holds memory. It is on no list until [`Self::put_dirty`] or [`Self::put_clean`].
    pub fn take_dirty(&mut self) -> Option<u32> {
        self.dirty.pop(&mut self.blocks)
    }

    /// Takes the free block `index` back, which holds memory.
    pub fn put_dirty(&mut self, index: u32) {
        self.blocks[index as usize].state = State::Dirty;
        self.dirty.push(&mut self.blocks, index);
    }

    /// Takes the free block `index` back, which Linux does not back with memory.
    pub fn put_clean(&mut self, index: u32) {
        self.blocks[index as usize].state = State::Clean;
        self.clean.push(&mut self.blocks, index);
    }

    /// A free block, and whether it holds zeroes.
    fn take_block(&mut self) -> Option<(u32, bool)> {
        if let Some(index) = self.take_dirty() {
            return Some((index, false));
        }
        Some((self.clean.pop(&mut self.blocks)?, true))
    }

    pub fn take_large(&mut self) -> Option<(u64, bool)> {
        let (index, zero) = self.take_block()?;
        self.blocks[index as usize].state = State::Large;
        Some((u64::from(index) * BLOCK_BYTES, zero))
    }

    pub fn take_small(&mut self) -> Option<(u64, bool)> {
        if self.partial.head == NONE {
            let (index, _) = self.take_block()?;
            let block = &mut self.blocks[index as usize];
            (block.state, block.free, block.used) = (State::Small, FRAMES, [0; 8]);
            self.partial.push(&mut self.blocks, index);
        }
        let index = self.partial.head;
        let block = &mut self.blocks[index as usize];
        let word = block.used.iter().position(|&word| word != u64::MAX)?;
        let bit = block.used[word].trailing_ones();
        block.used[word] |= 1 << bit;
        block.free -= 1;
        if block.free == 0 {
            self.partial.remove(&mut self.blocks, index);
        }
        let offset = u64::from(index) * BLOCK_BYTES + (word as u64 * 64 + u64::from(bit)) * PAGE_BYTES;
        Some((offset, false))
    }

    /// Whether `count` small frames can be had.
    pub fn has_small(&self, count: usize) -> bool {
        let blocks = (self.clean.length + self.dirty.length) as usize;
        let mut have = blocks * FRAMES as usize;
        let mut index = self.partial.head;
        while have < count && index != NONE {
            let block = &self.blocks[index as usize];
            have += block.free as usize;
            index = block.next;
        }
        have >= count
    }

    /// Puts the frame back; `false` if it was not in use.
    pub fn put(&mut self, offset: u64, size: PageSize) -> bool {
        let index = (offset / BLOCK_BYTES) as u32;
        let block = &mut self.blocks[index as usize];
        match (size, block.state) {
            (PageSize::Size2MiB, State::Large) if offset.is_multiple_of(BLOCK_BYTES) => (),
            (PageSize::Size4KiB, State::Small) => {
                let frame = offset % BLOCK_BYTES / PAGE_BYTES;
                let (word, bit) = (frame as usize / 64, 1 << (frame % 64));
                if block.used[word] & bit == 0 {
                    return false;
                }
                block.used[word] &= !bit;
                block.free += 1;
                match block.free {
                    1 => self.partial.push(&mut self.blocks, index),
                    FRAMES => self.partial.remove(&mut self.blocks, index),
                    _ => (),
                }
            }
            _ => return false,
        }
        if size == PageSize::Size2MiB || self.blocks[index as usize].free == FRAMES {
            self.put_dirty(index);
        }
        self.in_use -= size.bytes();
        true
    }

    pub fn count(&mut self, bytes: u64) {
        self.in_use += bytes;
        self.high_water = self.high_water.max(self.in_use);
    }
}
