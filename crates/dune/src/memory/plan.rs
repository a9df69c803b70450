//! The planner: which windows a process needs.
//!
//! Every mapping gets into a window, with room for what grows: the heap upwards, the area of mmap(2)
//! downwards, the stack downwards. Windows are few and large, because a slot costs next to nothing under
//! two-dimensional paging, however much of it is unmapped, while a window found missing later costs a new
//! slot. What limits them is the number of guest-physical addresses: rooms shrink before the plan fails.
//!
//! Some programs scatter their memory over all addresses: JavaScript engines ask for each 256 KiB of their heaps at a random one.
//! So from the seventeenth on windows are short, and grow only where one follows another.

use thiserror::Error;
use x86_64::{PhysAddr, VirtAddr};

use super::window::{FIRST_GPA, GIB, GRANULE, Window, Windows, round_down, round_up};
use crate::arch::page::{PAGE_BYTES, PageRange, TASK_SIZE};
use crate::linux::maps::{Line, MappingKind};
use crate::linux::sys::Errno;

/// Windows nearer to each other than this become one.
const NEAR: u64 = 4 * GIB;

/// How far the windows for an address found later reach in each direction, where nothing is in the way.
const LATER_ROOM: u64 = 4 * GIB;

/// So many windows may reach so far; later ones are short.
const WIDE: usize = 16;

/// How many regions the planner keeps apart.
const REGIONS: usize = 64;

/// What the planner has to keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The address after the last one that the process may have, [`TASK_SIZE`].
    pub task_size: u64,
    /// MAXPHYADDR of the vCPU: CPUID 8000_0008H:EAX bits 7:0.
    pub physical_bits: u8,
    /// Bytes of room below the area of mmap(2), for later mappings; less where addresses are scarce.
    pub mmap_room: u64,
    /// Bytes of room above the heap, for brk(2); less where addresses are scarce.
    pub heap_room: u64,
    /// Bytes of room below the stack; less where addresses are scarce.
    pub stack_room: u64,
    /// How many windows the engine can have, [`Windows::CAPACITY`] at most.
    pub windows: usize,
}

impl Limits {
    /// The usual rooms, for a vCPU with `physical_bits` guest-physical address bits.
    pub const fn new(physical_bits: u8) -> Limits {
        Limits {
            task_size: TASK_SIZE,
            physical_bits,
            mmap_room: 64 * GIB,
            heap_room: 16 * GIB,
            stack_room: GIB,
            windows: Windows::CAPACITY,
        }
    }

    /// The end of the guest-physical addresses. Page tables hold at most 52 bits.
    const fn gpa_end(&self) -> u64 {
        1 << if self.physical_bits > 52 { 52 } else { self.physical_bits }
    }

    /// Whether `bytes` of guest-physical addresses are there at all.
    pub(super) fn check(&self, bytes: u64) -> Result<(), PlanError> {
        if bytes > self.gpa_end() - FIRST_GPA.as_u64() { Err(self.too_few(bytes)) } else { Ok(()) }
    }

    fn too_few(&self, needed: u64) -> PlanError {
        let bits = 64 - FIRST_GPA.as_u64().saturating_add(needed - 1).leading_zeros();
        PlanError::TooFewPhysicalBits { needed: bits as u8, available: self.physical_bits }
    }
}

/// Why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The mappings do not fit into the guest-physical addresses.
    #[error(
        "the process's mappings need {needed} physical address bits and the vCPU has {available} (MAXPHYADDR): \
         map less memory before entering, or use a CPU with more"
    )]
    TooFewPhysicalBits {
        /// The bits that would do.
        needed: u8,
        /// The bits that there are.
        available: u8,
    },
    /// A mapping lies above what 4-level paging reaches.
    #[error(
        "the mapping {start:#x}..{end:#x} passes the task size {task_size:#x}: do not ask mmap for addresses of \
         five-level paging"
    )]
    BeyondTaskSize {
        /// The first address.
        start: u64,
        /// The address after the last one.
        end: u64,
        /// The limit.
        task_size: u64,
    },
    /// More separate windows are needed than can be.
    #[error("the process's mappings lie too scattered for {capacity} windows: map them nearer to each other")]
    TooManyWindows {
        /// `Limits::windows`.
        capacity: usize,
    },
    /// There are no addresses for the list of windows.
    #[error("cannot reserve {bytes} bytes for the list of windows: {errno}; raise RLIMIT_AS")]
    OutOfMemory {
        /// The bytes.
        bytes: u64,
        /// What Linux said.
        errno: Errno,
    },
    /// A window for the address exists already.
    #[error("address {address:#x} already lies in {window:?}: no further window is needed")]
    Covered {
        /// The address asked for.
        address: u64,
        /// The window it is in.
        window: Window,
    },
    /// Two windows would share addresses.
    #[error("{window:?} overlaps {other:?}: plan it again")]
    Overlap {
        /// The new window.
        window: Window,
        /// One that exists.
        other: Window,
    },
    /// The mappings were not in ascending order.
    #[error(
        "the mapping at {start:#x} comes after one that ends at {previous:#x}: give them in ascending order"
    )]
    Disordered {
        /// Where the mapping starts.
        start: u64,
        /// Where the one before ends.
        previous: u64,
    },
    /// Another window has been being added for seconds.
    #[error("another thread has been adding a window for seconds: try again")]
    Busy,
}

/// A stretch of addresses that needs a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Region {
    start: u64,
    end: u64,
}

impl Region {
    /// The start of the window: on a 1 GiB boundary, except in the first GiB, where the null page and what
    /// `vm.mmap_min_addr` protects must stay unmapped.
    fn window_start(self) -> u64 {
        if self.start < GIB { self.start } else { round_down(self.start, GIB) }
    }

    /// The end of the window: on a 1 GiB boundary, but never beyond the task size.
    fn window_end(self, limits: &Limits) -> u64 {
        round_up(self.end, GIB).min(limits.task_size)
    }

    /// Guest-physical addresses that the window uses up, a multiple of 1 GiB.
    fn cost(self) -> u64 {
        round_up(self.end, GIB) - round_down(self.start, GIB)
    }
}

/// Collects mappings and then decides. Needs no allocation.
#[derive(Debug)]
pub struct Planner {
    limits: Limits,
    regions: [Region; REGIONS],
    length: usize,
    /// A region has been left out.
    is_crowded: bool,
    previous: u64,
    heap: Option<u64>,
    stack: Option<u64>,
}

impl Planner {
    /// A plan without mappings.
    pub fn new(limits: Limits) -> Planner {
        let regions = [Region::default(); REGIONS];
        Planner { limits, regions, length: 0, is_crowded: false, previous: 0, heap: None, stack: None }
    }

    /// Takes a mapping in; they come in ascending order, as [`maps::for_each`](crate::linux::maps::for_each) gives
    /// them. Reservations, which nobody can access yet, need no window.
    pub fn add(&mut self, mapping: &Line<'_>) -> Result<(), PlanError> {
        if mapping.kind == MappingKind::Vsyscall {
            return Ok(());
        }
        let (start, end, task_size) = (mapping.start, mapping.end, self.limits.task_size);
        if end > task_size {
            return Err(PlanError::BeyondTaskSize { start, end, task_size });
        }
        if start < self.previous {
            return Err(PlanError::Disordered { start, previous: self.previous });
        }
        self.previous = end;
        if mapping.permissions.is_empty() {
            return Ok(());
        }
        match mapping.kind {
            MappingKind::Heap => self.heap = Some(end),
            MappingKind::Stack => self.stack = Some(start),
            _ => (),
        }
        if let Some(last) = self.regions[..self.length].last_mut()
            && start < round_up(last.end, GIB) + NEAR
        {
            last.end = end;
            return Ok(());
        }
        if self.length == REGIONS {
            self.leave_out();
        }
        self.regions[self.length] = Region { start, end };
        self.length += 1;
        Ok(())
    }

    /// Makes place for a region: the smallest gets a window of its own later.
    fn leave_out(&mut self) {
        let sizes = self.regions.iter().map(|region| region.end - region.start).enumerate();
        let (smallest, _) = sizes.min_by_key(|&(_, bytes)| bytes).expect("there are regions");
        self.regions.copy_within(smallest + 1.., smallest);
        self.length -= 1;
        self.is_crowded = true;
    }

    /// Whether mappings have been left out, which `cover` is for.
    pub fn is_crowded(&self) -> bool {
        self.is_crowded
    }

    /// Tells where the program break is, for a process that has no heap yet.
    pub fn program_break(&mut self, address: u64) {
        self.heap = self.heap.or(Some(address));
    }

    /// Adds the windows for the mappings taken in, with room for what grows, to `windows`, of which there is none yet.
    pub fn finish(mut self, windows: &Windows) -> Result<(), PlanError> {
        let needed = self.total();
        let available = self.limits.gpa_end().saturating_sub(FIRST_GPA.as_u64());
        if needed > available {
            return Err(self.too_few(needed));
        }
        // Rooms get half of what is left; the other half stays for windows found later.
        let wanted = self.limits.mmap_room + self.limits.heap_room + self.limits.stack_room;
        let spare = (available - needed) / 2;
        let scale = |room: u64| {
            let part = if wanted <= spare {
                room
            } else {
                (u128::from(room) * u128::from(spare) / u128::from(wanted)) as u64
            };
            round_down(part, GIB)
        };
        let (mmap, heap, stack) =
            (scale(self.limits.mmap_room), scale(self.limits.heap_room), scale(self.limits.stack_room));
        let bare = (self.regions, self.length);
        self.grow(mmap, heap, stack);
        self.join();
        if self.total() > available {
            // Reaching a program break far from the program cost more than its room.
            (self.regions, self.length) = bare;
            self.join();
        }

        let mut gpa = FIRST_GPA.as_u64();
        for region in &self.regions[..self.length] {
            let start = region.window_start();
            let window = Window {
                range: PageRange::known(start, region.window_end(&self.limits)),
                gpa: PhysAddr::new(gpa + start % GIB),
            };
            windows.append(window)?;
            gpa += region.cost();
        }
        debug_assert!(gpa <= self.limits.gpa_end());
        Ok(())
    }

    /// Gives room to what grows.
    fn grow(&mut self, mmap: u64, heap: u64, stack: u64) {
        if let Some(top) = self.heap {
            self.extend(top, top.saturating_add(heap));
        }
        // mmap(2) fills downwards from below the stack: the topmost region that holds anything besides the
        // stack is its area. It reaches down to its lowest neighbour that is nearer than the room itself.
        let stack_start = self.stack.unwrap_or(self.limits.task_size);
        let mut area = self.regions[..self.length].iter().rev().filter(|region| region.start < stack_start);
        if let Some(mut lowest) = area.next().map(|region| region.start) {
            for region in area {
                if lowest.saturating_sub(mmap) > region.end {
                    break;
                }
                lowest = region.start;
            }
            if lowest > self.heap.unwrap_or(0) {
                self.extend(lowest.saturating_sub(mmap).max(self.heap.unwrap_or(GIB)), lowest);
            }
        }
        if let Some(start) = self.stack {
            self.extend(start.saturating_sub(stack).max(GIB), start);
        }
    }

    /// Makes the region that ends near `start`, or starts at `end`, reach over all of `start..end`.
    fn extend(&mut self, start: u64, end: u64) {
        let end = end.min(self.limits.task_size);
        for region in &mut self.regions[..self.length] {
            if region.start == end {
                region.start = region.start.min(start);
                return;
            }
            if region.start <= start && start <= round_up(region.end, GIB) + NEAR {
                region.end = region.end.max(end);
                return;
            }
        }
    }

    /// Joins regions whose windows would touch or overlap, or lie so near that a gap is not worth a window.
    /// A gap joined in costs guest-physical addresses, so only gaps are joined that rooms paid for.
    fn join(&mut self) {
        let mut kept = 0;
        for index in 1..self.length {
            let region = self.regions[index];
            if round_down(region.start, GIB) <= round_up(self.regions[kept].end, GIB) {
                self.regions[kept].end = self.regions[kept].end.max(region.end);
            } else {
                kept += 1;
                self.regions[kept] = region;
            }
        }
        self.length = self.length.min(kept + 1);
    }

    /// The guest-physical addresses that the regions use.
    fn total(&self) -> u64 {
        self.regions[..self.length].iter().map(|region| region.cost()).sum()
    }

    fn too_few(&self, needed: u64) -> PlanError {
        self.limits.too_few(needed)
    }
}

/// The window to add for `address`, which lies outside all of `windows`: the first ones reach up to 4 GiB in each direction, the
/// others as `short` says, as far as other windows, the task size and guest-physical addresses allow. In the first 64 MiB it
/// starts at the 4 KiB page of `address`, since what lies below may be the null page.
pub fn plan_for(windows: &Windows, limits: &Limits, address: VirtAddr) -> Result<Window, PlanError> {
    let address = address.as_u64();
    if address >= limits.task_size {
        let end = address.saturating_add(1);
        return Err(PlanError::BeyondTaskSize { start: address, end, task_size: limits.task_size });
    }
    if let Some(window) = windows.find(VirtAddr::new(address)) {
        return Err(PlanError::Covered { address, window });
    }
    if windows.len() >= limits.windows {
        return Err(PlanError::TooManyWindows { capacity: limits.windows });
    }
    let left = limits.gpa_end().saturating_sub(round_up(windows.gpa_end(), GIB));
    let is_wide = windows.len() < WIDE && left > GIB;
    let (mut start, mut end) = if is_wide { wide(address, left) } else { short(windows, address, left) };
    start = start.max(if address < GRANULE { round_down(address, PAGE_BYTES) } else { GRANULE });
    end = end.min(limits.task_size);
    for window in windows.iter() {
        if window.range.end() <= address {
            start = start.max(window.range.end());
        } else {
            end = end.min(window.range.first());
        }
    }
    let unit = if end - start < GIB { GRANULE } else { GIB };
    let gpa = round_up(windows.gpa_end(), unit) + start % unit;
    if gpa + (end - start) > limits.gpa_end() {
        let needed = 64 - (gpa + (end - start) - 1).leading_zeros();
        return Err(PlanError::TooFewPhysicalBits { needed: needed as u8, available: limits.physical_bits });
    }
    Ok(Window { range: PageRange::known(start, end), gpa: PhysAddr::new(gpa) })
}

/// The GiB of `address`, and room around it if there is for others.
fn wide(address: u64, left: u64) -> (u64, u64) {
    let own = round_down(address, GIB);
    let room = round_down(((left - GIB) / 2).min(LATER_ROOM), GIB);
    // Nobody grows downwards into the first GiB.
    let low_end = if own == 0 { round_down(address, GRANULE) } else { GIB };
    (own.saturating_sub(room).max(low_end), own + GIB + room)
}

/// The 64 MiB of `address`, but twice as much as the window that it follows, upwards or downwards: so a program whose memory
/// grows needs few.
fn short(windows: &Windows, address: u64, left: u64) -> (u64, u64) {
    let (start, end) = (round_down(address, GRANULE), round_down(address, GRANULE) + GRANULE);
    let length = |neighbour: u64| {
        let window = VirtAddr::try_new(neighbour).ok().and_then(|address| windows.find(address))?;
        let wanted = (2 * window.bytes()).min(LATER_ROOM).min(left / 16);
        Some(round_down(wanted, GRANULE).max(GRANULE))
    };
    if let Some(length) = start.checked_sub(1).and_then(length) {
        (start, start + length)
    } else if let Some(length) = length(end) {
        (end.saturating_sub(length), end)
    } else {
        (start, end)
    }
}

/// Adds windows for `range`.
pub(super) fn cover(windows: &Windows, limits: &Limits, range: PageRange) -> Result<(), PlanError> {
    let mut at = range.first();
    while at < range.end() {
        let window = match windows.find(VirtAddr::new_truncate(at)) {
            Some(window) => window,
            None => {
                let window = plan_for(windows, limits, VirtAddr::new_truncate(at))?;
                windows.append(window)?;
                window
            }
        };
        at = window.range.end();
    }
    Ok(())
}

#[cfg(test)]
mod tests;
