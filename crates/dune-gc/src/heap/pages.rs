//! Sets of pages of the heap, by number.

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;

/// Some of the pages of the heap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PageSet {
    words: Vec<u64>,
}

impl PageSet {
    /// None of `pages` pages.
    pub(crate) fn new(pages: usize) -> PageSet {
        PageSet { words: vec![0; pages.div_ceil(64)] }
    }

    #[inline]
    pub(crate) fn add(&mut self, page: usize) {
        self.words[page / 64] |= 1 << (page % 64);
    }

    /// Has the eight pages of block `number` be those of `pages`.
    #[inline]
    pub(crate) fn set_block(&mut self, number: usize, pages: u8) {
        let (word, shift) = (&mut self.words[number / 8], number % 8 * 8);
        *word = *word & !(0xff << shift) | u64::from(pages) << shift;
    }

    #[cfg(test)]
    pub(crate) fn remove(&mut self, page: usize) {
        self.words[page / 64] &= !(1 << (page % 64));
    }

    #[cfg(test)]
    pub(crate) fn contains(&self, page: usize) -> bool {
        self.words[page / 64] & 1 << (page % 64) != 0
    }

    /// Removes all of the first `pages`.
    pub(crate) fn clear(&mut self, pages: usize) {
        self.words[..pages.div_ceil(64)].fill(0);
    }

    /// 64 pages each, of the first `pages`.
    pub(crate) fn words(&self, pages: usize) -> &[u64] {
        &self.words[..pages.div_ceil(64)]
    }

    /// How many there are of the first `pages`.
    pub(crate) fn len(&self, pages: usize) -> usize {
        self.words(pages).iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Adds the pages of `bits`, from page `64 * index` on.
    pub(crate) fn add_word(&mut self, index: usize, bits: u64) {
        self.words[index] |= bits;
    }

    /// The pages that are in both, of the first `pages`, in order.
    pub(crate) fn both(&self, other: &PageSet, pages: usize) -> Vec<usize> {
        let mut all = Vec::new();
        for (index, (one, two)) in self.words(pages).iter().zip(other.words(pages)).enumerate() {
            let mut bits = one & two;
            while bits != 0 {
                all.push(index * 64 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
        all
    }
}

/// The longest runs of pages that are `wanted`, each cut to where the first and the last of its pages is that `needs` something.
///
/// `word` gives both for 64 pages. A call that changes protection costs more than the pages between, for which it changes nothing.
pub(crate) fn runs(
    pages: usize,
    mut word: impl FnMut(usize) -> (u64, u64),
    mut run: impl FnMut(usize, usize),
) {
    // Where the part of the current run begins and ends that needs something.
    let mut part: Option<(usize, usize)> = None;
    for index in 0..pages.div_ceil(64) {
        let (wanted, needs) = word(index);
        if wanted == 0 || (needs == 0 && wanted == u64::MAX) {
            if wanted == 0
                && let Some((first, last)) = part.take()
            {
                run(first, last + 1);
            }
            continue;
        }
        for bit in 0..64 {
            let page = index * 64 + bit;
            if wanted & 1 << bit == 0 {
                if let Some((first, last)) = part.take() {
                    run(first, last + 1);
                }
            } else if needs & 1 << bit != 0 {
                part = Some((part.map_or(page, |(first, _)| first), page));
            }
        }
    }
    if let Some((first, last)) = part {
        run(first, last + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs_of(wanted: &[u64], needs: &[u64]) -> Vec<(usize, usize)> {
        let mut all = Vec::new();
        runs(wanted.len() * 64, |index| (wanted[index], needs[index]), |from, to| all.push((from, to)));
        all
    }

    #[test]
    fn a_run_spans_what_needs_nothing() {
        assert_eq!(runs_of(&[0b0111_1110], &[0b0001_0100]), [(2, 5)]);
        assert_eq!(runs_of(&[0b0110_1110], &[0b0110_0010]), [(1, 2), (5, 7)]);
        assert_eq!(runs_of(&[u64::MAX, u64::MAX, 1], &[1 << 63, 0, 1]), [(63, 129)]);
        assert_eq!(runs_of(&[u64::MAX, 0, 1], &[1 << 63, 0, 1]), [(63, 64), (128, 129)]);
        assert_eq!(runs_of(&[u64::MAX], &[0]), []);
    }

    #[test]
    fn sets_meet() {
        let (mut one, mut two) = (PageSet::new(200), PageSet::new(200));
        [3, 70, 199].into_iter().for_each(|page| one.add(page));
        [70, 71, 199].into_iter().for_each(|page| two.add(page));
        assert_eq!(one.both(&two, 200), [70, 199]);
        two.set_block(199 / 8, 0);
        assert_eq!(one.both(&two, 200), [70]);
        assert!(two.contains(71) && !two.contains(199));
        one.clear(200);
        assert_eq!(one.both(&two, 200), []);
    }
}
