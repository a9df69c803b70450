//! The two parts of the address space: the program's, below, and the runtime's.
//!
//! Linux places what this process maps for itself (its own program, libraries, heap, stacks, Dune's arena) from 2/3 of the addresses
//! up to their end, and from their end down. The program's part ends below that, at 2^46, with a guard before it, where nothing is
//! ever mapped: a string that the kernel reads for the program and that has no end leads into the guard, and not further.
//!
//! A [`Span`] is a range of pages that lies in the program's part: only such ranges are mapped, changed, or let ring 3 in
//! (`raw/memory.rs`).

use crate::weakness::{Defence, lacks};

/// The first address: below it Linux maps nothing (vm.mmap_min_addr).
pub(crate) const START: u64 = 0x1_0000;
/// Where the runtime's part begins.
pub(crate) const RUNTIME: u64 = 1 << 46;
/// Where the program's part ends.
pub(crate) const END: u64 = RUNTIME - (1 << 30);
/// A mapping of huge pages that begins below it ends there, too.
const _: () = assert!(END.is_multiple_of(1 << 30));
/// The size of a page.
pub(crate) const PAGE: u64 = 4096;

/// Whether all of `length` bytes from `address` on are in the program's part, or may be: nothing of the runtime's is there.
pub(crate) fn contains(address: u64, length: u64) -> bool {
    address.checked_add(length).is_some_and(|end| end <= END) || lacks(Defence::Pointers)
}

/// Whether it is an address of the runtime's.
pub(crate) fn is_runtimes(address: u64) -> bool {
    (RUNTIME..1 << 47).contains(&address)
}

/// Whole pages in the program's part, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    start: u64,
    end: u64,
}

impl Span {
    /// `length` bytes from `start`, rounded up to whole pages. `None` unless `start` is the start of a page, and all is in the
    /// program's part.
    pub(crate) fn new(start: u64, length: u64) -> Option<Span> {
        let end = start.checked_add(length)?.checked_next_multiple_of(PAGE)?;
        let is_within = end <= END || lacks(Defence::Area);
        (start.is_multiple_of(PAGE) && start >= START && start < end && is_within)
            .then_some(Span { start, end })
    }

    pub(crate) fn start(self) -> u64 {
        self.start
    }

    pub(crate) fn end(self) -> u64 {
        self.end
    }

    pub(crate) fn length(self) -> u64 {
        self.end - self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_stay_in_the_programs_part() {
        assert_eq!(Span::new(START, 1).map(Span::length), Some(PAGE));
        assert_eq!(Span::new(END - PAGE, PAGE).map(Span::end), Some(END));
        for (start, length) in [
            (0, PAGE),
            (START - PAGE, PAGE),
            (START + 1, PAGE),
            (START, 0),
            (END - PAGE, PAGE + 1),
            (END, PAGE),
            (RUNTIME, PAGE),
            (START, u64::MAX),
            (START, u64::MAX - START),
            (!(PAGE - 1), PAGE),
        ] {
            assert_eq!(Span::new(start, length), None, "{start:#x} {length:#x}");
        }
    }

    #[test]
    fn ranges_do_not_wrap() {
        assert!(contains(0, END) && contains(END, 0));
        assert!(!contains(END, 1) && !contains(1, u64::MAX) && !contains(u64::MAX, 1));
        assert!(!contains(END - 8, 9) && !contains(RUNTIME, 0));
    }
}
