//! Bits beside the heap: where cells begin, which hold objects, which of these are marked.
//!
//! There is one for each 16 bytes, of which that of a cell's beginning counts. So the bit of an address follows from the address alone, and
//! marking needs to know nothing of the block.

use super::blocks::{BLOCK, CLASSES};

/// Bytes for which there is a bit.
pub(super) const UNIT: usize = 16;
/// Bytes for which there is a word of bits.
pub(super) const SPAN: usize = 64 * UNIT;
/// Words of bits of a block.
pub(super) const WORDS: usize = BLOCK / SPAN;

/// A bit for each 16 bytes of a block.
pub(super) type Bits = [u64; WORDS];

/// Where cells of each class begin.
pub(super) static BEGINNINGS: [Bits; CLASSES.len()] = {
    let mut all = [[0; WORDS]; CLASSES.len()];
    let mut class = 0;
    while class < all.len() {
        let cell = CLASSES[class] as usize;
        let mut offset = 0;
        while offset + cell <= BLOCK {
            all[class][offset / SPAN] |= 1 << (offset / UNIT % 64);
            offset += cell;
        }
        class += 1;
    }
    all
};

/// The marks of all blocks, for what follows edges: these lead to objects, and nowhere else.
#[derive(Debug)]
pub(crate) struct Marks<'a> {
    pub(super) start: usize,
    pub(super) words: &'a mut [u64],
}

impl Marks<'_> {
    /// Marks the object whose cell is at `cell`; whether it had not been marked. An address outside of the heap is none.
    ///
    /// Within the heap an object is there: nobody asks whether.
    #[inline(always)]
    pub(crate) fn mark(&mut self, cell: usize) -> bool {
        let offset = cell.wrapping_sub(self.start);
        let Some(word) = self.words.get_mut(offset / SPAN) else { return false };
        let bit = 1u64 << (offset / UNIT % 64);
        if *word & bit != 0 {
            return false;
        }
        *word |= bit;
        true
    }

    /// The same for as long as it is lent.
    #[inline]
    pub(crate) fn reborrow(&mut self) -> Marks<'_> {
        Marks { start: self.start, words: self.words }
    }
}

/// The bits from `first` to `last` of word `index`.
fn mask(index: usize, first: usize, last: usize) -> u64 {
    let from = first.saturating_sub(index * 64).min(64);
    let to = (last + 1).saturating_sub(index * 64).min(64);
    let below = |bit: usize| if bit == 64 { u64::MAX } else { (1 << bit) - 1 };
    below(to) & !below(from)
}

/// Whether bit `index` is set.
#[inline]
pub(super) fn has_bit(words: &Bits, index: usize) -> bool {
    words[index / 64] & 1 << (index % 64) != 0
}

/// Whether one is, from `first` to `last`.
pub(super) fn any_bit(words: &Bits, first: usize, last: usize) -> bool {
    (first / 64..=last / 64).any(|index| words[index] & mask(index, first, last) != 0)
}

/// Gives those that are, from `first` to `last`, to `found`.
pub(super) fn each_bit(words: &Bits, first: usize, last: usize, mut found: impl FnMut(usize)) {
    for (index, word) in words.iter().enumerate().take(last / 64 + 1).skip(first / 64) {
        let mut bits = word & mask(index, first, last);
        while bits != 0 {
            found(index * 64 + bits.trailing_zeros() as usize);
            bits &= bits - 1;
        }
    }
}
