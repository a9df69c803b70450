//! A window: a range of the process's memory as the engine is given it.

use core::fmt;

use x86_64::{PhysAddr, VirtAddr};

use crate::arch::page::PageRange;

/// A range of virtual addresses that one offset turns into guest-physical addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Window {
    /// The pages.
    pub range: PageRange,
    /// The guest-physical address of the first page, equal to its virtual address modulo 64 MiB, or 1 GiB if the window is as long.
    pub gpa: PhysAddr,
}

impl Window {
    /// The first virtual address.
    pub const fn start(&self) -> VirtAddr {
        self.range.start()
    }

    /// The length in bytes.
    pub const fn bytes(&self) -> u64 {
        self.range.bytes()
    }

    /// The guest-physical address of `address`, if it lies inside.
    #[inline]
    pub fn to_physical(&self, address: VirtAddr) -> Option<PhysAddr> {
        self.range
            .contains(address)
            .then(|| PhysAddr::new(self.gpa.as_u64() + (address.as_u64() - self.range.first())))
    }

    /// The virtual address of `address`, if it lies inside.
    #[inline]
    pub fn to_virtual(&self, address: PhysAddr) -> Option<VirtAddr> {
        let offset = address.as_u64().checked_sub(self.gpa.as_u64())?;
        (offset < self.bytes()).then(|| VirtAddr::new(self.range.first() + offset))
    }

    /// The guest-physical address after the last page.
    pub(crate) fn gpa_end(&self) -> u64 {
        self.gpa.as_u64() + self.bytes()
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Window({:?} at {:#x})", self.range, self.gpa)
    }
}
