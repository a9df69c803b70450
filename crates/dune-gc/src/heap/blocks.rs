//! The blocks of the heap: which cells hold objects, and which of these are marked.
//!
//! All of it is beside the heap, so that neither marking nor sweeping writes to pages of objects, which would count as the program's
//! writes. A block has cells of one size, or is part of one large cell.
//!
//! An object that has been marked stays marked until the next full collection: it is *old*. One that is there and not marked is
//! *young*.

use super::pages::{PAGE, PageSet};

/// Bytes of a block.
pub(crate) const BLOCK: usize = 32 << 10;
/// Pages of a block.
pub(crate) const PAGES: usize = BLOCK / PAGE;
/// Bytes of cells: multiples of 16, of which each wastes little of a block.
pub(crate) const CLASSES: [u32; 20] =
    [32, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024, 1360, 2048, 2720, 4096, 8192];
/// Bits for the smallest cells.
const WORDS: usize = BLOCK / CLASSES[0] as usize / 64;

/// The class for each 16 bytes more: how long a slice is comes to be known when it is made.
const STEPS: usize = CLASSES[CLASSES.len() - 1] as usize / 16 + 1;
const CLASS_OF: [u8; STEPS] = {
    let mut all = [0; STEPS];
    let (mut class, mut index) = (0, 0);
    while index < all.len() {
        if index * 16 > CLASSES[class] as usize {
            class += 1;
        }
        all[index] = class as u8;
        index += 1;
    }
    all
};

/// The class of cells for so many bytes; none for a large cell.
#[inline]
pub(crate) const fn class_of(bytes: usize) -> Option<usize> {
    let index = bytes.div_ceil(16);
    if index < CLASS_OF.len() { Some(CLASS_OF[index] as usize) } else { None }
}

/// What a block is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usage {
    Free,
    /// Cells of a class.
    Small(u8),
    /// One cell, which so many blocks from here on are.
    Large(u32),
    /// Part of the large cell that begins so many blocks before.
    Part(u32),
}

/// A block.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    usage: Usage,
    /// Bytes of a cell.
    cell: u32,
    /// 2^32 divided by that, rounded up: see [`Block::index`].
    reciprocal: u32,
    /// How many there are.
    cells: u16,
    /// Objects have been put here since the last sweep.
    has_young: bool,
    /// Some objects here want to be dropped.
    has_drops: bool,
    /// The cells that hold objects.
    objects: [u64; WORDS],
    marks: [u64; WORDS],
}

impl Block {
    const FREE: Block = Block {
        usage: Usage::Free,
        cell: 0,
        reciprocal: 0,
        cells: 0,
        has_young: false,
        has_drops: false,
        objects: [0; WORDS],
        marks: [0; WORDS],
    };

    /// The cell in which `offset` is. Exact, as offsets are below 2^15: the reciprocal is off by less than one, which makes less
    /// than 2^15 / 2^32 of a cell.
    #[inline]
    fn index(&self, offset: usize) -> usize {
        (offset * self.reciprocal as usize) >> 32
    }

    fn words(&self) -> usize {
        usize::from(self.cells).div_ceil(64)
    }

    fn objects(&self) -> u32 {
        self.objects[..self.words()].iter().map(|word| word.count_ones()).sum()
    }
}

/// All blocks, from the beginning of the heap to the last that has been in use.
#[derive(Debug)]
pub(crate) struct Blocks {
    start: usize,
    /// How many there may be.
    most: usize,
    blocks: Vec<Block>,
}

/// A place for objects of a class: the free cells of 64 of a block.
///
/// What is taken of it is known to be objects when it is given back: [`Blocks::put_back`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor {
    pub(crate) free: u64,
    /// What was free at first.
    there: u64,
    /// Address of the first cell.
    start: usize,
    cell: usize,
    block: u32,
    word: u32,
    /// Some of the objects want to be dropped.
    drops: bool,
}

impl Cursor {
    /// It leads to no block yet.
    pub(crate) const NONE: Cursor =
        Cursor { free: 0, there: 0, start: 0, cell: 0, block: u32::MAX, word: 0, drops: false };

    /// Takes the first free cell: its address.
    #[inline]
    pub(crate) fn take(&mut self, drops: bool) -> usize {
        let bit = self.free.trailing_zeros() as usize;
        self.free &= self.free - 1;
        if drops {
            self.drops = true;
        }
        self.start + bit * self.cell
    }

    /// How many cells are free.
    pub(crate) fn len(&self) -> usize {
        self.free.count_ones() as usize
    }

    /// The same with its first cell alone.
    pub(crate) fn first(self) -> Cursor {
        let free = self.free & self.free.wrapping_neg();
        Cursor { free, there: free, ..self }
    }
}

impl Blocks {
    /// Blocks from address `start` on, of which there may be `most`.
    pub(crate) fn new(start: usize, most: usize) -> Blocks {
        Blocks { start, most, blocks: Vec::new() }
    }

    /// How many pages have been in use.
    pub(crate) fn pages(&self) -> usize {
        self.blocks.len() * PAGES
    }

    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// The cell in which `address` is, if an object is there.
    #[inline]
    fn find(&self, address: usize) -> Option<(usize, usize)> {
        let offset = address.wrapping_sub(self.start);
        let block = offset / BLOCK;
        let it = self.blocks.get(block)?;
        let (block, index) = match it.usage {
            Usage::Small(_) => (block, it.index(offset % BLOCK)),
            Usage::Large(_) => (block, 0),
            Usage::Part(before) => (block - before as usize, 0),
            Usage::Free => return None,
        };
        let bit = 1u64 << (index % 64);
        (self.blocks[block].objects[index / 64] & bit != 0).then_some((block, index))
    }

    #[inline]
    fn cell(&self, block: usize, index: usize) -> usize {
        self.start + block * BLOCK + index * self.blocks[block].cell as usize
    }

    /// Marks the object in which `address` is. Its cell, if it had not been marked.
    #[inline]
    pub(crate) fn mark(&mut self, address: usize) -> Option<usize> {
        let (block, index) = self.find(address)?;
        let word = &mut self.blocks[block].marks[index / 64];
        let bit = 1u64 << (index % 64);
        if *word & bit != 0 {
            return None;
        }
        *word |= bit;
        Some(self.cell(block, index))
    }

    /// Whether the object in which `address` is is marked.
    pub(crate) fn is_marked(&self, address: usize) -> bool {
        self.object_at(address).is_some_and(|(_, is_marked)| is_marked)
    }

    /// The cell of the object in which `address` is, and whether it is marked.
    pub(crate) fn object_at(&self, address: usize) -> Option<(usize, bool)> {
        let (block, index) = self.find(address)?;
        let is_marked = self.blocks[block].marks[index / 64] & 1 << (index % 64) != 0;
        Some((self.cell(block, index), is_marked))
    }

    pub(crate) fn clear_marks(&mut self) {
        for block in &mut self.blocks {
            let words = block.words();
            block.marks[..words].fill(0);
        }
    }

    /// Gives the cells of old objects on `page` to `found`.
    pub(crate) fn each_old_on(&self, page: usize, mut found: impl FnMut(usize)) {
        let (number, first_byte) = (page / PAGES, page % PAGES * PAGE);
        let Some(block) = self.blocks.get(number) else { return };
        match block.usage {
            Usage::Free => (),
            Usage::Small(_) => {
                let last = block.index(first_byte + PAGE - 1).min(usize::from(block.cells) - 1);
                each_bit(&block.marks, block.index(first_byte), last, |index| {
                    found(self.cell(number, index))
                });
            }
            Usage::Large(_) | Usage::Part(_) => {
                let head =
                    if let Usage::Part(before) = block.usage { number - before as usize } else { number };
                if self.blocks[head].marks[0] & 1 != 0 {
                    found(self.cell(head, 0));
                }
            }
        }
    }

    /// The next cells behind those of `cursor` in its block, which are used up.
    pub(crate) fn cells_after(&self, cursor: &Cursor) -> Option<Cursor> {
        self.cells_from(cursor.block, cursor.word as usize + 1)
    }

    /// Free cells of a block.
    pub(crate) fn cells_of(&self, block: u32) -> Option<Cursor> {
        self.cells_from(block, 0)
    }

    fn cells_from(&self, number: u32, word: usize) -> Option<Cursor> {
        let block = self.blocks.get(number as usize)?;
        (word..block.words()).find_map(|word| {
            let rest = usize::from(block.cells) - word * 64;
            let all = if rest >= 64 { u64::MAX } else { (1 << rest) - 1 };
            let free = !block.objects[word] & all;
            let start = self.cell(number as usize, word * 64);
            let (cell, there, drops) = (block.cell as usize, free, false);
            (free != 0).then_some(Cursor {
                free,
                there,
                start,
                cell,
                block: number,
                word: word as u32,
                drops,
            })
        })
    }

    /// What has been taken of `cursor` are objects now.
    pub(crate) fn put_back(&mut self, cursor: &Cursor) {
        let taken = cursor.there & !cursor.free;
        if taken != 0 {
            let block = &mut self.blocks[cursor.block as usize];
            block.objects[cursor.word as usize] |= taken;
            block.has_young = true;
            block.has_drops |= cursor.drops;
        }
    }

    /// Makes a free block one of `class`.
    pub(crate) fn use_block(&mut self, number: usize, class: usize) {
        let cell = CLASSES[class];
        let cells = (BLOCK / cell as usize) as u16;
        let reciprocal = (1u64 << 32).div_ceil(u64::from(cell)) as u32;
        self.blocks[number] =
            Block { usage: Usage::Small(class as u8), cell, reciprocal, cells, ..Block::FREE };
    }

    /// The free blocks, in order.
    pub(crate) fn free(&self) -> impl DoubleEndedIterator<Item = u32> + '_ {
        let numbered = self.blocks.iter().enumerate();
        numbered.filter(|(_, block)| block.usage == Usage::Free).map(|(number, _)| number as u32)
    }

    /// A further block, if there may be one.
    pub(crate) fn grow(&mut self) -> Option<usize> {
        (self.blocks.len() < self.most).then(|| {
            self.blocks.push(Block::FREE);
            self.blocks.len() - 1
        })
    }

    /// Takes a large cell of `count` blocks: its address.
    pub(crate) fn take_large(&mut self, count: usize, drops: bool) -> Option<usize> {
        let mut run = 0;
        let free = self.blocks.iter().position(|block| {
            run = if block.usage == Usage::Free { run + 1 } else { 0 };
            run == count
        });
        let first = match free {
            Some(last) => last + 1 - count,
            None => {
                // Free blocks at the end are part of it.
                let first = self.blocks.len() - run;
                if count > self.most - first {
                    return None;
                }
                self.blocks.resize(first + count, Block::FREE);
                first
            }
        };
        for (before, block) in self.blocks[first..first + count].iter_mut().enumerate() {
            *block = Block { usage: Usage::Part(before as u32), ..Block::FREE };
        }
        let mut objects = [0; WORDS];
        objects[0] = 1;
        let usage = Usage::Large(count as u32);
        let head = &mut self.blocks[first];
        *head = Block { usage, cells: 1, has_young: true, has_drops: drops, objects, ..Block::FREE };
        Some(self.cell(first, 0))
    }

    /// Sweeps block `number`: gives the cells of objects that are not marked to `dead` if some of the block want to be dropped. In `old` are
    /// the pages with objects afterwards. Without `all` only a block with young objects is looked at. What is free in it then, in bytes,
    /// and what is in use.
    pub(crate) fn sweep(
        &mut self,
        number: usize,
        all: bool,
        old: &mut PageSet,
        mut dead: impl FnMut(usize),
    ) -> Swept {
        let block = &self.blocks[number];
        let count = match block.usage {
            Usage::Free => return Swept::Free,
            Usage::Part(_) => return Swept::Part,
            Usage::Small(_) => 1,
            Usage::Large(count) => count as usize,
        };
        if all || block.has_young {
            if block.has_drops {
                for word in 0..block.words() {
                    let mut bits = block.objects[word] & !block.marks[word];
                    while bits != 0 {
                        dead(self.cell(number, word * 64 + bits.trailing_zeros() as usize));
                        bits &= bits - 1;
                    }
                }
            }
            let block = &mut self.blocks[number];
            block.objects = block.marks;
            block.has_young = false;
            let block = &self.blocks[number];
            let is_small = matches!(block.usage, Usage::Small(_));
            for page in 0..count * PAGES {
                let has_old = if is_small {
                    let (first, last) = (block.index(page * PAGE), block.index(page * PAGE + PAGE - 1));
                    any_bit(&block.marks, first, last.min(usize::from(block.cells) - 1))
                } else {
                    block.marks[0] & 1 != 0
                };
                let page = number * PAGES + page;
                if has_old { old.add(page) } else { old.remove(page) }
            }
        }
        let block = &self.blocks[number];
        let objects = block.objects();
        match block.usage {
            _ if objects == 0 => {
                self.blocks[number..number + count].fill(Block::FREE);
                Swept::Free
            }
            Usage::Small(class) => {
                let free = (u32::from(block.cells) - objects) * block.cell;
                Swept::Small {
                    class: class.into(),
                    free: free as usize,
                    used: (objects * block.cell) as usize,
                }
            }
            _ => Swept::Large { used: count * BLOCK },
        }
    }
}

/// What a block is after its sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Swept {
    Free,
    Part,
    Small { class: usize, free: usize, used: usize },
    Large { used: usize },
}

/// The bits from `first` to `last` of word `index`.
fn mask(index: usize, first: usize, last: usize) -> u64 {
    let from = first.saturating_sub(index * 64).min(64);
    let to = (last + 1).saturating_sub(index * 64).min(64);
    let below = |bit: usize| if bit == 64 { u64::MAX } else { (1 << bit) - 1 };
    below(to) & !below(from)
}

fn any_bit(words: &[u64; WORDS], first: usize, last: usize) -> bool {
    (first / 64..=last / 64).any(|index| words[index] & mask(index, first, last) != 0)
}

fn each_bit(words: &[u64; WORDS], first: usize, last: usize, mut found: impl FnMut(usize)) {
    for (index, word) in words.iter().enumerate().take(last / 64 + 1).skip(first / 64) {
        let mut bits = word & mask(index, first, last);
        while bits != 0 {
            found(index * 64 + bits.trailing_zeros() as usize);
            bits &= bits - 1;
        }
    }
}

#[cfg(test)]
#[path = "blocks_tests.rs"]
mod tests;
