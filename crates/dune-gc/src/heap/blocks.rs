//! The blocks of the heap: which cells hold objects, and which of these are marked.
//!
//! All of it is beside the heap, so that neither marking nor sweeping writes to pages of objects, which would count as the program's
//! writes. A block has cells of one size, or is part of one large cell.
//!
//! An object that has been marked stays marked until the next full collection: it is *old*. One that is there and not marked is
//! *young*.

use super::bits::{BEGINNINGS, Bits, Marks, SPAN, UNIT, WORDS, any_bit, each_bit, has_bit};
use super::pages::{PAGE, PageSet};

/// Bytes of a block.
pub(crate) const BLOCK: usize = 32 << 10;
/// Pages of a block.
pub(crate) const PAGES: usize = BLOCK / PAGE;
/// Bytes of cells: multiples of 16, of which each wastes little of a block.
pub(crate) const CLASSES: [u32; 20] =
    [32, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024, 1360, 2048, 2720, 4096, 8192];
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
    /// How many held objects after the last sweep.
    used: u16,
    /// Objects have been put here since the last sweep.
    has_young: bool,
    /// Some objects here want to be dropped.
    has_drops: bool,
    /// The cells that hold objects.
    objects: Bits,
}

impl Block {
    const FREE: Block = Block {
        usage: Usage::Free,
        cell: 0,
        reciprocal: 0,
        cells: 0,
        used: 0,
        has_young: false,
        has_drops: false,
        objects: [0; WORDS],
    };

    /// The cell in which `offset` is. Exact, as offsets are below 2^15: the reciprocal is off by less than one, which makes less
    /// than 2^15 / 2^32 of a cell.
    #[inline]
    fn index(&self, offset: usize) -> usize {
        (offset * self.reciprocal as usize) >> 32
    }

    /// Where the cell begins in which `offset` is.
    #[inline]
    fn beginning(&self, offset: usize) -> usize {
        self.index(offset) * self.cell as usize
    }

    /// The pages on which objects are, in whole or in part, as bits: of a block of small cells.
    fn pages(&self) -> u8 {
        match self.used {
            0 => 0,
            used if used == self.cells => u8::MAX,
            _ => (0..PAGES).fold(0, |pages, page| {
                let (first, last) = self.on_page(page);
                pages | u8::from(any_bit(&self.objects, first, last)) << page
            }),
        }
    }

    /// The bits of cells that are on a page, in whole or in part: from which to which.
    fn on_page(&self, page: usize) -> (usize, usize) {
        (self.beginning(page * PAGE) / UNIT, (page * PAGE + PAGE - 1) / UNIT)
    }
}

/// All blocks, from the beginning of the heap to the last that has been in use.
#[derive(Debug)]
pub(crate) struct Blocks {
    start: usize,
    /// How many there may be.
    most: usize,
    blocks: Vec<Block>,
    /// Those of each block.
    marks: Vec<Bits>,
}

/// A place for objects of a class: the free cells that begin in a kilobyte of a block.
///
/// What is taken of it is known to be objects when it is given back: [`Blocks::put_back`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor {
    pub(crate) free: u64,
    /// What was free at first.
    there: u64,
    /// The address of the first bit.
    start: usize,
    block: u32,
    word: u32,
    /// Some of the objects want to be dropped.
    drops: bool,
}

impl Cursor {
    /// It leads to no block yet.
    pub(crate) const NONE: Cursor =
        Cursor { free: 0, there: 0, start: 0, block: u32::MAX, word: 0, drops: false };

    /// Takes the first free cell: its address.
    #[inline]
    pub(crate) fn take(&mut self, drops: bool) -> usize {
        let bit = self.free.trailing_zeros() as usize;
        self.free &= self.free - 1;
        if drops {
            self.drops = true;
        }
        self.start + bit * UNIT
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
        Blocks { start, most, blocks: Vec::new(), marks: Vec::new() }
    }

    /// How many pages have been in use.
    pub(crate) fn pages(&self) -> usize {
        self.blocks.len() * PAGES
    }

    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// The block of the cell in which `address` is, and where in the block the cell begins, if an object is there.
    #[inline]
    fn find(&self, address: usize) -> Option<(usize, usize)> {
        let offset = address.wrapping_sub(self.start);
        let block = offset / BLOCK;
        let it = self.blocks.get(block)?;
        let (block, beginning) = match it.usage {
            Usage::Small(_) => (block, it.beginning(offset % BLOCK)),
            Usage::Large(_) => (block, 0),
            Usage::Part(before) => (block - before as usize, 0),
            Usage::Free => return None,
        };
        has_bit(&self.blocks[block].objects, beginning / UNIT).then_some((block, beginning))
    }

    #[inline]
    fn cell(&self, block: usize, beginning: usize) -> usize {
        self.start + block * BLOCK + beginning
    }

    /// What marks objects by their values' addresses.
    #[inline]
    pub(crate) fn marks(&mut self) -> Marks<'_> {
        Marks { start: self.start, words: self.marks.as_flattened_mut() }
    }

    /// Whether some objects may want to be dropped.
    pub(crate) fn have_drops(&self) -> bool {
        self.blocks.iter().any(|block| block.has_drops)
    }

    /// Marks the object in which `address` is, if there is one. Its cell, if it had not been marked.
    #[inline]
    pub(crate) fn mark(&mut self, address: usize) -> Option<usize> {
        let (block, beginning) = self.find(address)?;
        let cell = self.cell(block, beginning);
        self.marks().mark(cell).then_some(cell)
    }

    /// Whether the object in which `address` is is marked.
    pub(crate) fn is_marked(&self, address: usize) -> bool {
        self.object_at(address).is_some_and(|(_, is_marked)| is_marked)
    }

    /// The cell of the object in which `address` is, and whether it is marked.
    pub(crate) fn object_at(&self, address: usize) -> Option<(usize, bool)> {
        let (block, beginning) = self.find(address)?;
        Some((self.cell(block, beginning), has_bit(&self.marks[block], beginning / UNIT)))
    }

    pub(crate) fn clear_marks(&mut self) {
        self.marks.as_flattened_mut().fill(0);
    }

    /// Gives the cells of old objects on `page` to `found`.
    pub(crate) fn each_old_on(&self, page: usize, mut found: impl FnMut(usize)) {
        let number = page / PAGES;
        let Some(block) = self.blocks.get(number) else { return };
        match block.usage {
            Usage::Free => (),
            Usage::Small(_) => {
                let (first, last) = block.on_page(page % PAGES);
                each_bit(&self.marks[number], first, last, |bit| found(self.cell(number, bit * UNIT)));
            }
            Usage::Large(_) | Usage::Part(_) => {
                let head =
                    if let Usage::Part(before) = block.usage { number - before as usize } else { number };
                if has_bit(&self.marks[head], 0) {
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
        let Usage::Small(class) = block.usage else { return None };
        (word..WORDS).find_map(|word| {
            let free = !block.objects[word] & BEGINNINGS[usize::from(class)][word];
            let start = self.cell(number as usize, word * SPAN);
            let word = word as u32;
            (free != 0).then_some(Cursor { free, there: free, start, block: number, word, drops: false })
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
            self.marks.push([0; WORDS]);
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
                self.marks.resize(first + count, [0; WORDS]);
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
            let marks = self.marks[number];
            if block.has_drops {
                for (word, (objects, marks)) in block.objects.iter().zip(&marks).enumerate() {
                    let mut bits = objects & !marks;
                    while bits != 0 {
                        dead(self.cell(number, word * SPAN + bits.trailing_zeros() as usize * UNIT));
                        bits &= bits - 1;
                    }
                }
            }
            let block = &mut self.blocks[number];
            block.objects = marks;
            block.used = marks.iter().map(|word| word.count_ones() as u16).sum();
            block.has_young = false;
            let pages = match block.usage {
                Usage::Large(_) if block.used != 0 => u8::MAX,
                _ => block.pages(),
            };
            (number..number + count).for_each(|number| old.set_block(number, pages));
        }
        let block = &self.blocks[number];
        if block.used == 0 {
            self.blocks[number..number + count].fill(Block::FREE);
            return Swept::Free;
        }
        let bytes = |cells: u16| usize::from(cells) * block.cell as usize;
        match block.usage {
            Usage::Small(class) => {
                let (free, used) = (bytes(block.cells - block.used), bytes(block.used));
                Swept::Small { class: class.into(), free, used }
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

#[cfg(test)]
#[path = "blocks_tests.rs"]
mod tests;
