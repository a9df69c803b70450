//! Pages: their sizes, their permissions, and ranges of them.

use bitflags::bitflags;
use thiserror::Error;
use x86_64::VirtAddr;

/// The bytes of the smallest page, 4 KiB.
pub const PAGE_BYTES: u64 = 1 << 12;

/// The end of the addresses that Linux gives to a process under 4-level paging: 2^47 less a guard page
/// (`TASK_SIZE_MAX` in arch/x86/include/asm/page_64_types.h). A memory slot that passes it is refused.
pub(crate) const TASK_SIZE: u64 = (1 << 47) - PAGE_BYTES;

/// The sizes of page that 4-level paging knows (Intel SDM Vol. 3A §4.5, AMD APM Vol. 2 §5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageSize {
    /// 4 KiB, mapped by an entry of a page table (level 1).
    Size4KiB,
    /// 2 MiB, mapped by an entry of a page directory (level 2).
    Size2MiB,
    /// 1 GiB, mapped by an entry of a page-directory-pointer table (level 3); needs CPUID
    /// 8000_0001H:EDX\[26\] (`pdpe1gb`).
    Size1GiB,
}

impl PageSize {
    /// The size, and the alignment of such a page, in bytes.
    pub const fn bytes(self) -> u64 {
        1 << Level::of(self).shift()
    }

    /// The next larger size; `None` for 1 GiB.
    pub const fn larger(self) -> Option<PageSize> {
        match self {
            PageSize::Size4KiB => Some(PageSize::Size2MiB),
            PageSize::Size2MiB => Some(PageSize::Size1GiB),
            PageSize::Size1GiB => None,
        }
    }
}

/// The level of a paging structure: 4 is the root (PML4), 1 a page table.
///
/// Five-level paging would add `Level(5)` here and start the walks of [`crate::memory::PageTables`] there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Level(pub u8);

impl Level {
    /// The level walks start at: the PML4.
    pub const ROOT: Level = Level(4);

    /// The level whose leaves are pages of `size`.
    pub const fn of(size: PageSize) -> Level {
        match size {
            PageSize::Size4KiB => Level(1),
            PageSize::Size2MiB => Level(2),
            PageSize::Size1GiB => Level(3),
        }
    }

    /// The binary logarithm of the bytes that one entry of this level covers.
    pub const fn shift(self) -> u32 {
        3 + 9 * self.0 as u32
    }

    /// The bytes that one entry of this level covers.
    pub const fn span(self) -> u64 {
        1 << self.shift()
    }

    /// The index of the entry for `address` in a table of this level.
    pub const fn index(self, address: u64) -> usize {
        (address >> self.shift()) as usize & 511
    }

    /// The level below.
    pub const fn below(self) -> Level {
        Level(self.0 - 1)
    }

    /// The page size of a leaf at this level; `None` at the root, which has no leaves.
    pub const fn leaf(self) -> Option<PageSize> {
        match self.0 {
            1 => Some(PageSize::Size4KiB),
            2 => Some(PageSize::Size2MiB),
            3 => Some(PageSize::Size1GiB),
            _ => None,
        }
    }
}

bitflags! {
    /// What may be done with a page.
    ///
    /// The CPU cannot deny reading of a present page: without [`READ`](Self::READ) (and without `WRITE` and
    /// `EXECUTE`) a page is not present, every access is a #PF, and its entry keeps the frame so that a later
    /// [`protect`](crate::memory::PageTables::protect) brings it back. `WRITE` or `EXECUTE` alone imply reading.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct PagePermissions: u8 {
        /// May be read.
        const READ = 1 << 0;
        /// May be written.
        const WRITE = 1 << 1;
        /// May be executed (the entry's NX bit is clear).
        const EXECUTE = 1 << 2;
        /// Ring 3 may do the same; without it the page is the supervisor's.
        const USER = 1 << 3;
        /// The translation outlives CR3 loads (SDM Vol. 3A §4.10.2.4). Its flush needs `CR4.PGE` toggled,
        /// which [`Flush`](crate::memory::Flush) knows and does.
        const GLOBAL = 1 << 4;
    }
}

impl PagePermissions {
    /// Reading, writing and executing for the supervisor.
    pub const ALL: PagePermissions = Self::READ.union(Self::WRITE).union(Self::EXECUTE);

    /// Reading and writing for the supervisor.
    pub const READ_WRITE: PagePermissions = Self::READ.union(Self::WRITE);
}

/// Why two numbers are no range of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RangeError {
    /// An end is not on a page boundary.
    #[error("{address:#x} is not aligned to {alignment:#x} bytes: round it, or use PageRange::covering")]
    Misaligned {
        /// The offending address or length, in bytes.
        address: u64,
        /// The alignment needed, in bytes.
        alignment: u64,
    },
    /// The range holds no page.
    #[error("the range at {start:#x} is empty: give it a length of at least one page")]
    Empty {
        /// Where the range starts.
        start: u64,
    },
    /// The range leaves the half of the address space that it starts in.
    #[error("{bytes:#x} bytes at {start:#x} pass the end of the canonical addresses: use a shorter range")]
    NotCanonical {
        /// Where the range starts.
        start: u64,
        /// Its length in bytes.
        bytes: u64,
    },
}

/// A range of whole 4 KiB pages, not empty, in one canonical half of the address space.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRange {
    start: u64,
    end: u64,
}

impl PageRange {
    /// The end of the lower canonical half under 4-level paging.
    const LOWER_END: u64 = 1 << 47;
    /// The end of the last usable page of the upper half (the very last page is left out so that an end
    /// always fits 64 bits).
    const UPPER_END: u64 = !(PAGE_BYTES - 1);

    /// The range of `bytes` bytes from `start`, both multiples of 4 KiB.
    #[inline]
    pub const fn new(start: VirtAddr, bytes: u64) -> Result<PageRange, RangeError> {
        let start = start.as_u64();
        if !start.is_multiple_of(PAGE_BYTES) {
            return Err(RangeError::Misaligned { address: start, alignment: PAGE_BYTES });
        }
        if !bytes.is_multiple_of(PAGE_BYTES) {
            return Err(RangeError::Misaligned { address: bytes, alignment: PAGE_BYTES });
        }
        if bytes == 0 {
            return Err(RangeError::Empty { start });
        }
        let limit = if start < Self::LOWER_END { Self::LOWER_END } else { Self::UPPER_END };
        if start > limit || bytes > limit - start {
            return Err(RangeError::NotCanonical { start, bytes });
        }
        Ok(PageRange { start, end: start + bytes })
    }

    /// The smallest range of pages that covers `bytes` bytes from `start`.
    pub const fn covering(start: VirtAddr, bytes: u64) -> Result<PageRange, RangeError> {
        let first = start.as_u64() & !(PAGE_BYTES - 1);
        let Some(end) = start.as_u64().checked_add(bytes) else {
            return Err(RangeError::NotCanonical { start: start.as_u64(), bytes });
        };
        let Some(end) = end.checked_next_multiple_of(PAGE_BYTES) else {
            return Err(RangeError::NotCanonical { start: start.as_u64(), bytes });
        };
        if bytes == 0 {
            return Err(RangeError::Empty { start: start.as_u64() });
        }
        PageRange::new(VirtAddr::new_truncate(first), end - first)
    }

    /// The 4 KiB page that holds `address`; the very last page of the address space, which no range can hold,
    /// becomes the one before it.
    #[inline]
    pub const fn page(address: VirtAddr) -> PageRange {
        let start = address.as_u64() & !(PAGE_BYTES - 1);
        let start = if start == Self::UPPER_END { start - PAGE_BYTES } else { start };
        PageRange { start, end: start + PAGE_BYTES }
    }

    /// A range known to be aligned, not empty and canonical.
    pub(crate) const fn known(start: u64, end: u64) -> PageRange {
        debug_assert!(start < end && start.is_multiple_of(PAGE_BYTES) && end.is_multiple_of(PAGE_BYTES));
        PageRange { start, end }
    }

    /// The first address.
    #[inline]
    pub const fn start(self) -> VirtAddr {
        VirtAddr::new_truncate(self.start)
    }

    /// The length in bytes, never 0.
    #[inline]
    pub const fn bytes(self) -> u64 {
        self.end - self.start
    }

    /// The number of 4 KiB pages, never 0.
    pub const fn pages(self) -> u64 {
        self.bytes() / PAGE_BYTES
    }

    /// Whether `address` lies inside.
    pub const fn contains(self, address: VirtAddr) -> bool {
        self.start <= address.as_u64() && address.as_u64() < self.end
    }

    /// The first address as a number.
    #[inline]
    pub(crate) const fn first(self) -> u64 {
        self.start
    }

    /// The address after the last page; not canonical for the last range of the lower half.
    #[inline]
    pub(crate) const fn end(self) -> u64 {
        self.end
    }
}

impl core::fmt::Debug for PageRange {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked() {
        let at = |address| VirtAddr::new(address);
        assert_eq!(PageRange::new(at(0x1000), 0x2000).unwrap().pages(), 2);
        assert_eq!(
            PageRange::new(at(0x1001), 0x1000),
            Err(RangeError::Misaligned { address: 0x1001, alignment: 4096 })
        );
        assert_eq!(
            PageRange::new(at(0x1000), 0x1234),
            Err(RangeError::Misaligned { address: 0x1234, alignment: 4096 })
        );
        assert_eq!(PageRange::new(at(0x1000), 0), Err(RangeError::Empty { start: 0x1000 }));
        assert!(PageRange::new(at(0x7fff_ffff_f000), 0x1000).is_ok());
        assert!(PageRange::new(at(0x7fff_ffff_f000), 0x2000).is_err());
        assert!(PageRange::new(at(0xffff_ffff_ffff_f000), 0x1000).is_err());
        assert!(PageRange::new(at(0xffff_8000_0000_0000), 0x1000).is_ok());
        assert_eq!(PageRange::covering(at(0x1fff), 2).unwrap(), PageRange::new(at(0x1000), 0x2000).unwrap());
        assert!(PageRange::covering(at(0xffff_ffff_ffff_fff0), 0x20).is_err());
        assert!(PageRange::page(at(u64::MAX)).bytes() == PAGE_BYTES);
    }

    #[test]
    fn sizes_and_levels_agree() {
        for (size, bytes) in
            [(PageSize::Size4KiB, 1 << 12), (PageSize::Size2MiB, 1 << 21), (PageSize::Size1GiB, 1u64 << 30)]
        {
            assert_eq!(size.bytes(), bytes);
            assert_eq!(Level::of(size).leaf(), Some(size));
        }
        assert_eq!(Level::ROOT.index(0x7fff_ffff_f000), 255);
    }
}
