//! Address ranges that only one lane uses, at the same place in both modes.

use super::access;
use super::generator::Generator;
use super::record::Digest;

/// The size of a page.
pub const PAGE: u64 = 4096;

/// A range of addresses.
#[derive(Debug)]
pub struct Arena {
    start: u64,
    pages: u64,
}

impl Arena {
    /// `pages` pages from `start` on.
    pub fn new(start: u64, pages: u64) -> Arena {
        Arena { start, pages }
    }

    /// A page and a number of pages from there on: few mostly.
    pub fn part(&self, random: &mut Generator) -> (u64, u64) {
        let first = random.below(self.pages);
        let most = random.choose(&[1, 4, 16, self.pages]).min(self.pages - first);
        (self.start + first * PAGE, (1 + random.below(most)) * PAGE)
    }

    /// Any address where eight bytes have place; seldom across pages.
    pub fn address(&self, random: &mut Generator) -> u64 {
        let page = self.start + random.below(self.pages) * PAGE;
        if page != self.start && random.once_in(16) {
            return page - 1 - random.below(7);
        }
        page + random.choose(&[0, PAGE - 8, random.clone().below(PAGE / 8) * 8])
    }

    /// How many bytes there are from `address` to the end.
    pub fn room(&self, address: u64) -> u64 {
        self.start + self.pages * PAGE - address
    }

    /// The addresses of its pages.
    pub fn pages(&self) -> impl Iterator<Item = u64> + use<> {
        (self.start..self.start + self.pages * PAGE).step_by(PAGE as usize)
    }

    /// The numbers of its pages in a range.
    pub fn indices(&self, address: u64, length: u64) -> std::ops::Range<usize> {
        let index =
            |address: u64| (address.clamp(self.start, self.start + self.pages * PAGE) - self.start) / PAGE;
        index(address) as usize..index(address.saturating_add(length).next_multiple_of(PAGE)) as usize
    }

    /// Every byte that can be read, and how what can not faults.
    pub fn digest(&self) -> u64 {
        let mut digest = Digest::default();
        for page in self.pages() {
            let first = access::load(page);
            digest.add(first.0);
            if !first.is_fault() {
                for at in (page..page + PAGE).step_by(8) {
                    // SAFETY: the page can be read, and only this thread changes the range.
                    digest.add(unsafe { (at as *const u64).read_volatile() });
                }
            }
        }
        digest.value()
    }
}
