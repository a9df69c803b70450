//! Windows: ranges of virtual addresses with one guest-physical offset each.
//!
//! Inside Dune mode a process's memory has the addresses it always had, but the CPU's second translation
//! starts from *guest-physical* addresses, which are fewer (MAXPHYADDR, 39 to 52 bits, against 47 bits of
//! virtual ones). A window packs a stretch of the one into the other; KVM knows it as one memory slot.

use core::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering};

use x86_64::{PhysAddr, VirtAddr};

use super::plan::PlanError;
use crate::arch::page::{PAGE_BYTES, PageRange};
use crate::engine::{Engine, Machine};

pub use crate::engine::window::Window;

use crate::linux::reserved::{Reserved, Zeroed};
use crate::lock::holder::Holder;
use crate::lock::{Busy, Fork, ForkGuard, Guard, Rank, SpinLock};

/// 1 GiB: windows that are as long agree with their guest-physical addresses modulo this, so that 1 GiB pages fit.
pub(super) const GIB: u64 = 1 << 30;

/// The shortest windows: they begin and end on multiples of this, but where another one or the null page is in the way, and agree
/// with their guest-physical addresses modulo this.
pub(super) const GRANULE: u64 = 64 << 20;

/// There are so many below 2^47.
const GRANULES: usize = ((1 << 47) / GRANULE) as usize;

/// The guest-physical address of the first window.
pub(super) const FIRST_GPA: PhysAddr = PhysAddr::new(Engine::FIRST_GPA);

/// A window that readers may see while it is written: they look only when they have its number.
#[derive(Debug, Default)]
struct Cell {
    start: AtomicU64,
    end: AtomicU64,
    gpa: AtomicU64,
    /// The number of the window that was first in a granule that this one reaches into, too.
    other: AtomicU16,
}

impl Cell {
    fn window(&self) -> Window {
        Window {
            range: PageRange::known(self.start.load(Ordering::Relaxed), self.end.load(Ordering::Relaxed)),
            gpa: PhysAddr::new(self.gpa.load(Ordering::Relaxed)),
        }
    }
}

/// Programs that scatter their memory, as JavaScript engines do, have thousands of windows.
#[derive(Debug)]
struct Store {
    /// Windows by number, less one. Guest-physical addresses ascend.
    cells: [Cell; Windows::CAPACITY],
    /// For each granule of addresses the number of the last window that reaches into it, 0 for none. There is another one only
    /// where one begins within a granule, as it does above the null page.
    granules: [AtomicU16; GRANULES],
}

// SAFETY: integers.
unsafe impl Zeroed for Store {}

/// All windows of the process. They are added and never change or go; reading takes no lock.
#[derive(Debug)]
pub struct Windows {
    store: Reserved<Store>,
    length: AtomicUsize,
    append: SpinLock<()>,
}

impl Windows {
    /// How many windows there can be: KVM's slots on x86 since Linux 5.12.
    pub(crate) const CAPACITY: usize = Engine::MOST_WINDOWS;

    /// No windows yet.
    pub(super) fn new() -> Result<Windows, PlanError> {
        let bytes = Reserved::<Store>::BYTES;
        let store = Reserved::new().map_err(|errno| PlanError::OutOfMemory { bytes, errno })?;
        Ok(Windows { store, length: AtomicUsize::new(0), append: SpinLock::new(Rank::Windows, ()) })
    }

    /// The memory of this list, most of which is reserved only.
    pub(crate) fn list(&self) -> PageRange {
        self.store.range()
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
        self.store.cells[..self.len()].iter().map(Cell::window)
    }

    /// The windows that reach into the granule of `address`.
    fn near(&self, address: u64) -> impl Iterator<Item = Window> + '_ {
        let granule = self.store.granules.get((address / GRANULE) as usize);
        let mut number = granule.map_or(0, |number| number.load(Ordering::Acquire));
        core::iter::from_fn(move || {
            let cell = &self.store.cells[(number as usize).checked_sub(1)?];
            number = cell.other.load(Ordering::Relaxed);
            Some(cell.window())
        })
    }

    /// The window that holds `address`.
    #[inline]
    pub fn find(&self, address: VirtAddr) -> Option<Window> {
        self.near(address.as_u64()).find(|window| window.range.contains(address))
    }

    /// Where the first window after `at` begins, which is in none; `end` if that is not before.
    pub(super) fn next_after(&self, at: u64, end: u64) -> u64 {
        let later = |window: &Window| window.range.first() > at;
        let first = if (end - at) / GRANULE < self.len() as u64 {
            let granules = (round_down(at, GRANULE)..end).step_by(GRANULE as usize);
            let mut starts = granules
                .filter_map(|at| self.near(at).filter(later).map(|window| window.range.first()).min());
            starts.next()
        } else {
            self.iter().filter(later).map(|window| window.range.first()).min()
        };
        first.unwrap_or(end).min(end)
    }

    /// The guest-physical address of the process's memory at `address`; `None` outside every window.
    ///
    /// This is arithmetic: it does not ask what the page tables say about `address`.
    pub fn to_physical(&self, address: VirtAddr) -> Option<PhysAddr> {
        self.find(address)?.to_physical(address)
    }

    /// The virtual address at which the process, and Linux, know the guest-physical `address`.
    pub fn to_virtual(&self, address: PhysAddr) -> Option<VirtAddr> {
        self.find_physical(address.as_u64())?.to_virtual(address)
    }

    /// The window that holds the guest-physical `address`.
    fn find_physical(&self, address: u64) -> Option<Window> {
        let cells = &self.store.cells[..self.len()];
        let above = cells.partition_point(|cell| cell.gpa.load(Ordering::Relaxed) <= address);
        let window = cells[above.checked_sub(1)?].window();
        (address < window.gpa_end()).then_some(window)
    }

    /// The end of the guest-physical addresses that windows have.
    pub(super) fn gpa_end(&self) -> u64 {
        let last = self.len().checked_sub(1);
        last.map_or(FIRST_GPA.as_u64(), |last| self.store.cells[last].window().gpa_end())
    }

    /// The first guest-physical address in `start..start + bytes` that is in no window, or `None` if all are.
    pub(super) fn first_physical_outside(&self, start: u64, bytes: u64) -> Option<u64> {
        let mut at = start;
        let end = start.saturating_add(bytes);
        while at < end {
            at = match self.find_physical(at) {
                Some(window) => window.gpa_end(),
                None => return Some(at),
            };
        }
        None
    }

    /// Keeps others from adding windows.
    pub(super) fn hold(&self) -> Result<Guard<'_, ()>, PlanError> {
        self.append.lock().map_err(|_| PlanError::Busy)
    }

    /// As [`hold`](Self::hold), for the time of `fork`.
    pub(super) fn hold_across(&self, fork: Fork) -> Result<Option<ForkGuard<'_, ()>>, Busy> {
        self.append.lock_across(fork)
    }

    /// Frees the lock from a holder that `is_gone`.
    pub(super) fn free_if(&self, is_gone: impl Fn(Holder) -> bool) {
        self.append.free_if(is_gone);
    }

    /// Adds a window. It must not overlap another one, and its guest-physical addresses come after those of the others.
    pub(super) fn append(&self, window: Window) -> Result<(), PlanError> {
        self.append_held(&self.hold()?, window)
    }

    /// [`Self::append`] for who holds the windows.
    pub(super) fn append_held(&self, _held: &Guard<'_, ()>, window: Window) -> Result<(), PlanError> {
        let (first, end) = (window.range.first(), window.range.end());
        let length = self.length.load(Ordering::Relaxed);
        let last = length.checked_sub(1).map(|last| self.store.cells[last].window());
        let clash = |other: &Window| first < other.range.end() && other.range.first() < end;
        let granules = first / GRANULE..=(end - 1) / GRANULE;
        let others = granules.clone().flat_map(|granule| self.near(granule * GRANULE));
        let before = last.filter(|last| window.gpa.as_u64() < last.gpa_end());
        if let Some(other) = before.or_else(|| others.into_iter().find(clash)) {
            return Err(PlanError::Overlap { window, other });
        }
        let cell =
            self.store.cells.get(length).ok_or(PlanError::TooManyWindows { capacity: Windows::CAPACITY })?;
        cell.start.store(first, Ordering::Relaxed);
        cell.end.store(end, Ordering::Relaxed);
        cell.gpa.store(window.gpa.as_u64(), Ordering::Relaxed);
        let number = length as u16 + 1;
        for granule in granules {
            let place = &self.store.granules[granule as usize];
            let other = place.load(Ordering::Relaxed);
            if other != 0 {
                debug_assert_eq!(cell.other.load(Ordering::Relaxed), 0, "one end only is within a granule");
                cell.other.store(other, Ordering::Relaxed);
            }
            place.store(number, Ordering::Release);
        }
        self.length.store(length + 1, Ordering::Release);
        Ok(())
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

const _: () = assert!(FIRST_GPA.as_u64().is_multiple_of(GIB) && GIB.is_multiple_of(GRANULE));
const _: () = assert!(GRANULE.is_multiple_of(PAGE_BYTES) && Windows::CAPACITY < u16::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::page::TASK_SIZE;

    fn window(start: u64, end: u64, gpa: u64) -> Window {
        Window { range: PageRange::known(start, end), gpa: PhysAddr::new(gpa) }
    }

    #[test]
    fn translation_goes_both_ways() {
        let windows = Windows::new().unwrap();
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
    fn windows_share_the_granule_of_the_null_page() {
        let windows = Windows::new().unwrap();
        let starts = [0x40_0000, 0x5_0000, 0x4_f000, 0x1_0000];
        for (index, pair) in [GIB].iter().chain(&starts).collect::<Vec<_>>().windows(2).enumerate() {
            let (end, start) = (*pair[0], *pair[1]);
            windows.append(window(start, end, (4 + index as u64) * GIB + start)).unwrap();
        }
        for (index, start) in starts.into_iter().enumerate() {
            let found = |address| windows.to_physical(VirtAddr::new(address)).map(PhysAddr::as_u64);
            assert_eq!(found(start), Some((4 + index as u64) * GIB + start));
        }
        assert_eq!(windows.find(VirtAddr::new(0xf000)), None);
        assert_eq!(windows.find(VirtAddr::new(5 * GRANULE)).unwrap().range.first(), 0x40_0000);
        assert_eq!(windows.next_after(0x8000, GIB), 0x1_0000);
        assert_eq!(windows.next_after(0x8000, 0x9000), 0x9000);
        assert_eq!(windows.next_after(2 * GIB, TASK_SIZE), TASK_SIZE);
    }

    #[test]
    fn overlap_and_exhaustion_are_typed() {
        let windows = Windows::new().unwrap();
        for index in 0..Windows::CAPACITY as u64 {
            windows.append(window(index * GIB, (index + 1) * GIB, (index + 4) * GIB)).unwrap();
        }
        let far = (Windows::CAPACITY + 100) as u64 * GIB;
        assert!(matches!(windows.append(window(2 * GIB, 3 * GIB, far)), Err(PlanError::Overlap { .. })));
        let fresh = window(far, far + GIB, far);
        assert_eq!(windows.append(fresh), Err(PlanError::TooManyWindows { capacity: Windows::CAPACITY }));
        let below = windows.append(window(far, far + GIB, 4 * GIB));
        assert!(matches!(below, Err(PlanError::Overlap { .. })));
        assert_eq!(windows.next_after(far, TASK_SIZE), TASK_SIZE);
    }
}
