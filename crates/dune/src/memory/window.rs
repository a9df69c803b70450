//! Windows: ranges of virtual addresses with one guest-physical offset each.
//!
//! Inside Dune mode a process's memory has the addresses it always had, but the CPU's second translation
//! starts from *guest-physical* addresses, which are fewer (MAXPHYADDR, 39 to 52 bits, against 47 bits of
//! virtual ones). A window packs a stretch of the one into the other; KVM knows it as one memory slot.

use core::fmt;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use x86_64::{PhysAddr, VirtAddr};

use super::page::{PAGE_BYTES, PageRange};
use super::plan::PlanError;
use crate::lock::{Guard, SpinLock};

/// 1 GiB: windows agree with their guest-physical addresses modulo this, so that 1 GiB pages fit.
pub(super) const GIB: u64 = 1 << 30;

/// The guest-physical address of the first window. Below lie KVM's private pages (TSS, identity map, APIC).
pub const FIRST_GPA: PhysAddr = PhysAddr::new(4 * GIB);

/// A range of virtual addresses that one offset turns into guest-physical addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// The pages.
    pub range: PageRange,
    /// The guest-physical address of the first page, equal to its virtual address modulo 1 GiB.
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
    pub(super) fn gpa_end(&self) -> u64 {
        self.gpa.as_u64() + self.bytes()
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Window({:?} at {:#x})", self.range, self.gpa)
    }
}

/// A window that readers may see while it is written: they look only after `Windows::length` says so.
#[derive(Debug, Default)]
struct Cell {
    start: AtomicU64,
    end: AtomicU64,
    gpa: AtomicU64,
}

/// All windows of the process. They are added and never change or go; reading takes no lock.
#[derive(Debug)]
pub struct Windows {
    cells: [Cell; Windows::CAPACITY],
    length: AtomicUsize,
    append: SpinLock<()>,
}

impl Windows {
    /// How many windows there can be. KVM has at least 509 slots on x86.
    pub const CAPACITY: usize = 64;

    /// No windows yet.
    pub fn new() -> Windows {
        Windows {
            cells: [const { Cell { start: AtomicU64::new(0), end: AtomicU64::new(0), gpa: AtomicU64::new(0) } };
                Windows::CAPACITY],
            length: AtomicUsize::new(0),
            append: SpinLock::new(()),
        }
    }

    /// The number of windows.
    pub fn len(&self) -> usize {
        self.length.load(Ordering::Acquire)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The windows in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = Window> + '_ {
        self.cells[..self.len()].iter().map(|cell| Window {
            range: PageRange::known(cell.start.load(Ordering::Relaxed), cell.end.load(Ordering::Relaxed)),
            gpa: PhysAddr::new(cell.gpa.load(Ordering::Relaxed)),
        })
    }

    /// The window that holds `address`.
    pub fn find(&self, address: VirtAddr) -> Option<Window> {
        self.iter().find(|window| window.range.contains(address))
    }

    /// The guest-physical address of the process's memory at `address`; `None` outside every window.
    ///
    /// This is arithmetic: it does not ask what the page tables say about `address`.
    pub fn to_physical(&self, address: VirtAddr) -> Option<PhysAddr> {
        self.iter().find_map(|window| window.to_physical(address))
    }

    /// The virtual address at which the process, and Linux, know the guest-physical `address`.
    pub fn to_virtual(&self, address: PhysAddr) -> Option<VirtAddr> {
        self.iter().find_map(|window| window.to_virtual(address))
    }

    /// The first guest-physical address in `start..start + bytes` that is in no window, or `None` if all are.
    pub(super) fn first_physical_outside(&self, start: u64, bytes: u64) -> Option<u64> {
        let mut at = start;
        let end = start.saturating_add(bytes);
        'covered: while at < end {
            for window in self.iter() {
                if window.gpa.as_u64() <= at && at < window.gpa_end() {
                    at = window.gpa_end();
                    continue 'covered;
                }
            }
            return Some(at);
        }
        None
    }

    /// Keeps others from adding windows.
    pub(super) fn hold(&self) -> Result<Guard<'_, ()>, PlanError> {
        self.append.lock().map_err(|_| PlanError::Busy)
    }

    /// Frees the lock from a holder that `is_gone`.
    pub(super) fn free_if(&self, is_gone: impl Fn(u64) -> bool) {
        self.append.free_if(is_gone);
    }

    /// Adds a window. It must not overlap another one, on either side.
    pub(super) fn append(&self, window: Window) -> Result<(), PlanError> {
        self.append_held(&self.hold()?, window)
    }

    /// [`Self::append`] for who holds the windows.
    pub(super) fn append_held(&self, _held: &Guard<'_, ()>, window: Window) -> Result<(), PlanError> {
        let clash = |other: &Window| {
            let gpa = window.gpa.as_u64() < other.gpa_end() && other.gpa.as_u64() < window.gpa_end();
            let (mine, other) = (window.range, other.range);
            gpa || mine.first() < other.end() && other.first() < mine.end()
        };
        if let Some(other) = self.iter().find(clash) {
            return Err(PlanError::Overlap { window, other });
        }
        let length = self.length.load(Ordering::Relaxed);
        let cell = self.cells.get(length).ok_or(PlanError::TooManyWindows { capacity: Windows::CAPACITY })?;
        cell.start.store(window.range.first(), Ordering::Relaxed);
        cell.end.store(window.range.end(), Ordering::Relaxed);
        cell.gpa.store(window.gpa.as_u64(), Ordering::Relaxed);
        self.length.store(length + 1, Ordering::Release);
        Ok(())
    }
}

impl Default for Windows {
    fn default() -> Windows {
        Windows::new()
    }
}

/// `address` rounded down to a multiple of `alignment`, a power of two.
pub(super) const fn round_down(address: u64, alignment: u64) -> u64 {
    address & !(alignment - 1)
}

/// `address` rounded up to a multiple of `alignment`, a power of two.
pub(super) const fn round_up(address: u64, alignment: u64) -> u64 {
    round_down(address + (alignment - 1), alignment)
}

const _: () = assert!(FIRST_GPA.as_u64().is_multiple_of(GIB) && GIB.is_multiple_of(PAGE_BYTES));

#[cfg(test)]
mod tests {
    use super::*;

    fn window(start: u64, end: u64, gpa: u64) -> Window {
        Window { range: PageRange::known(start, end), gpa: PhysAddr::new(gpa) }
    }

    #[test]
    fn translation_goes_both_ways() {
        let windows = Windows::new();
        windows.append(window(0x40_0000, GIB, 4 * GIB + 0x40_0000)).unwrap();
        windows.append(window(100 * GIB, 102 * GIB, 5 * GIB)).unwrap();
        let address = VirtAddr::new(101 * GIB + 5);
        let physical = windows.to_physical(address).unwrap();
        assert_eq!(physical.as_u64(), 6 * GIB + 5);
        assert_eq!(windows.to_virtual(physical), Some(address));
        assert_eq!(windows.to_physical(VirtAddr::new(0)), None);
        assert_eq!(windows.to_physical(VirtAddr::new(102 * GIB)), None);
        assert_eq!(windows.to_virtual(PhysAddr::new(7 * GIB)), None);
        assert_eq!(windows.first_physical_outside(4 * GIB + 0x40_0000, 3 * GIB), Some(7 * GIB));
        assert_eq!(windows.first_physical_outside(5 * GIB, 2 * GIB), None);
    }

    #[test]
    fn overlap_and_exhaustion_are_typed() {
        let windows = Windows::new();
        for index in 0..Windows::CAPACITY as u64 {
            windows.append(window(index * GIB, (index + 1) * GIB, (index + 4) * GIB)).unwrap();
        }
        let other = window(2 * GIB, 3 * GIB, 500 * GIB);
        assert!(matches!(windows.append(other), Err(PlanError::Overlap { .. })));
        let fresh = window(200 * GIB, 201 * GIB, 500 * GIB);
        assert_eq!(windows.append(fresh), Err(PlanError::TooManyWindows { capacity: 64 }));
        assert!(matches!(
            windows.append(window(300 * GIB, 301 * GIB, 4 * GIB)),
            Err(PlanError::Overlap { .. })
        ));
    }
}
