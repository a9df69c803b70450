//! Places for Dune's own mappings: out of the way of the program's.
//!
//! Linux gives a mapping without an address the highest hole that is large enough: it may be one that the program has just made, below
//! a stack that grows (MAP_GROWSDOWN, which keeps a distance of 256 pages: `stack_guard_gap`), or where it is about to map again what
//! it has unmapped. So Dune's mappings have addresses. The first are above the main thread's stack, whose start chance has put some
//! GiB below the end of the address space: nothing grows there, Linux puts nothing there by itself, and the page tables of Dune mode
//! have a directory for that GiB already. What has no room there is far below the place that Linux would have chosen.
//!
//! They are in no core dump (MADV_DONTDUMP): a core is of the program.

use core::sync::atomic::{AtomicU64, Ordering};

use linux_raw_sys::errno::EEXIST;
use linux_raw_sys::general::{
    __NR_madvise, __NR_mmap, __NR_munmap, MADV_DONTDUMP, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MAP_ANONYMOUS,
    MAP_FIXED_NOREPLACE, MAP_PRIVATE, PROT_NONE, PROT_READ, PROT_WRITE,
};

use super::sys::{self, Errno};
use crate::arch::page::{PAGE_BYTES, TASK_SIZE};

const GIB: u64 = 1 << 30;

/// How far below the place that Linux would choose: more than the room that windows have below the program's mappings, so that the two
/// do not meet (`memory/plan.rs`).
const DISTANCE: u64 = 80 * GIB;
/// Above the stack, within the 2 MiB of its end, Linux puts the vDSO (`vdso_addr`, arch/x86/entry/vdso/vma.c).
const MARGIN: u64 = 2 << 20;
/// So much must be free above the stack: what is made before the first thread runs takes some 10 MiB.
const ROOM: u64 = 64 << 20;

/// Addresses that are handed out upwards; from 0 to 0 before anybody knows of them.
#[derive(Debug)]
struct Stretch {
    next: AtomicU64,
    end: AtomicU64,
    /// What is passed over where the program is in the way.
    step: u64,
}

/// Above the main thread's stack.
static ABOVE: Stretch = Stretch::new(2 << 20);
/// Behind [`ABOVE`], for what has to begin on multiples of 1 GiB.
static WHOLE: Stretch = Stretch::new(GIB);
/// Far below.
static BELOW: Stretch = Stretch::new(GIB);
/// Where [`WHOLE`] has no room: what has to begin on multiples of 1 GiB ends here, below [`BELOW`].
static LARGE: AtomicU64 = AtomicU64::new(0);

impl Stretch {
    const fn new(step: u64) -> Stretch {
        Stretch { next: AtomicU64::new(0), end: AtomicU64::new(0), step }
    }

    /// Makes it those of `start..end`, once.
    fn open(&self, start: u64, end: u64) {
        if self.next.compare_exchange(0, start, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.end.store(end, Ordering::Relaxed);
        }
    }

    /// A place for `bytes` bytes, if there is one.
    fn take(&self, bytes: u64, alignment: u64) -> Option<u64> {
        let start = |next: u64| next.next_multiple_of(alignment);
        let end = |next| {
            Some(start(next) + bytes.next_multiple_of(PAGE_BYTES))
                .filter(|&end| end <= self.end.load(Ordering::Relaxed))
        };
        self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, end).ok().map(start)
    }

    /// Goes on behind `taken`, which is the program's, if it is one of these addresses.
    fn pass(&self, taken: u64) {
        let behind = (taken + 1).next_multiple_of(self.step);
        let next = |next| (behind > next && behind <= self.end.load(Ordering::Relaxed)).then_some(behind);
        let _ = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }
}

/// Tells where the main thread's stack ends.
pub(crate) fn stack_ends_at(end: u64) {
    let start = (end + MARGIN / 2).next_multiple_of(MARGIN);
    // With the GiB ends the directory of page tables.
    let gib_end = start.next_multiple_of(GIB);
    let start = if gib_end - start < ROOM { gib_end } else { start };
    let end = (start + 1).next_multiple_of(GIB).min(TASK_SIZE);
    if end.saturating_sub(start) >= ROOM {
        ABOVE.open(start, end);
    }
    let last = TASK_SIZE & !(GIB - 1);
    if end < last {
        WHOLE.open(end, last);
    }
}

/// Whether Linux may back a mapping with huge pages (madvise(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HugePages {
    Wanted,
    /// Of what a few pages are touched they would make megabytes.
    Unwanted,
}

/// Maps `bytes` bytes of zeros that may be read and written, on a multiple of `alignment`, with further `flags` of mmap(2).
pub(crate) fn anonymous(bytes: u64, alignment: u64, flags: u32, huge: HugePages) -> Result<u64, Errno> {
    let start = map(bytes, alignment, MAP_PRIVATE | MAP_ANONYMOUS | flags, u64::MAX)?;
    let advice = if huge == HugePages::Wanted { MADV_HUGEPAGE } else { MADV_NOHUGEPAGE };
    // Kernels without huge pages refuse the advice, and do not need it.
    advise(start, bytes, advice);
    Ok(start)
}

/// Maps the first `bytes` bytes of `descriptor`, with `flags` of mmap(2).
pub(crate) fn descriptor(bytes: u64, flags: u32, descriptor: u64) -> Result<u64, Errno> {
    map(bytes, PAGE_BYTES, flags, descriptor)
}

fn map(bytes: u64, alignment: u64, flags: u32, descriptor: u64) -> Result<u64, Errno> {
    let start = match in_place(bytes, alignment, flags, descriptor) {
        None => anywhere(bytes, alignment, flags, descriptor)?,
        Some(result) => result?,
    };
    advise(start, bytes, MADV_DONTDUMP);
    Ok(start)
}

/// Maps at the next free place, if there is one.
fn in_place(bytes: u64, alignment: u64, flags: u32, descriptor: u64) -> Option<Result<u64, Errno>> {
    /// So many places may be taken by the program.
    const TRIES: u32 = 16;
    for _ in 0..TRIES {
        let (start, stretch) = take(bytes, alignment)?;
        match mmap(start, bytes, flags | MAP_FIXED_NOREPLACE, descriptor) {
            Err(errno) if errno.raw() == EEXIST as i32 => {
                if let Some(stretch) = stretch {
                    stretch.pass(start);
                }
            }
            // Linux before 4.17 takes the address for a hint.
            Ok(other) if other != start => {
                unmap(other, bytes);
                return None;
            }
            result => return Some(result),
        }
    }
    None
}

/// A place for `bytes` bytes, and whose it is of those that grow upwards.
fn take(bytes: u64, alignment: u64) -> Option<(u64, Option<&'static Stretch>)> {
    if alignment >= GIB {
        if let Some(start) = WHOLE.take(bytes, alignment) {
            return Some((start, Some(&WHOLE)));
        }
        open_below()?;
        let start = |end: u64| {
            end.checked_sub(bytes).map(|start| start & !(alignment - 1)).filter(|&start| start >= GIB)
        };
        let end = LARGE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, start).ok()?;
        return start(end).map(|start| (start, None));
    }
    if let Some(start) = ABOVE.take(bytes, alignment) {
        return Some((start, Some(&ABOVE)));
    }
    open_below()?;
    BELOW.take(bytes, alignment).map(|start| (start, Some(&BELOW)))
}

/// Chooses the places below, once.
fn open_below() -> Option<()> {
    if BELOW.next.load(Ordering::Relaxed) != 0 {
        return Some(());
    }
    // SAFETY: a new mapping, where Linux likes, which is gone again at once.
    let here = unsafe {
        let flags = u64::from(MAP_PRIVATE | MAP_ANONYMOUS);
        sys::call(__NR_mmap, [0, PAGE_BYTES, PROT_NONE.into(), flags, u64::MAX, 0]).ok()?
    };
    unmap(here, PAGE_BYTES);
    let first = here.checked_sub(DISTANCE)? & !(GIB - 1);
    let _ = LARGE.compare_exchange(0, first, Ordering::Relaxed, Ordering::Relaxed);
    BELOW.open(first.max(GIB), here);
    Some(())
}

/// Maps where Linux likes.
fn anywhere(bytes: u64, alignment: u64, flags: u32, descriptor: u64) -> Result<u64, Errno> {
    let margin = if alignment > PAGE_BYTES { alignment } else { 0 };
    let start = mmap(0, bytes + margin, flags, descriptor)?;
    let aligned = start.next_multiple_of(alignment);
    for (from, to) in [(start, aligned), (aligned + bytes, start + bytes + margin)] {
        if from < to {
            unmap(from, to - from);
        }
    }
    Ok(aligned)
}

fn mmap(start: u64, bytes: u64, flags: u32, descriptor: u64) -> Result<u64, Errno> {
    let protection = u64::from(PROT_READ | PROT_WRITE);
    // SAFETY: a new mapping, where nothing is: no flag says that it may replace another.
    unsafe { sys::call(__NR_mmap, [start, bytes, protection, flags.into(), descriptor, 0]) }
}

/// For what has just been mapped, and nobody knows of.
fn unmap(start: u64, bytes: u64) {
    // SAFETY: the callers have mapped the range and use it no more.
    let _ = unsafe { sys::raw(__NR_munmap, [start, bytes, 0, 0, 0, 0]) };
}

fn advise(start: u64, bytes: u64, advice: u32) {
    // SAFETY: none of the advice here changes what the memory holds.
    let _ = unsafe { sys::raw(__NR_madvise, [start, bytes, advice.into(), 0, 0, 0]) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use linux_raw_sys::general::MAP_NORESERVE;

    #[test]
    fn places_are_far_from_the_programs_and_aligned() {
        let small = anonymous(3 * PAGE_BYTES, PAGE_BYTES, 0, HugePages::Unwanted).unwrap();
        let aligned = anonymous(PAGE_BYTES, 1 << 20, 0, HugePages::Unwanted).unwrap();
        let large = anonymous(GIB, GIB, MAP_NORESERVE, HugePages::Wanted).unwrap();
        let programs = mmap(0, PAGE_BYTES, MAP_PRIVATE | MAP_ANONYMOUS, u64::MAX).unwrap();
        for place in [small, aligned, large] {
            assert!(programs.abs_diff(place) > GIB / 8, "{place:#x} is near {programs:#x}");
        }
        assert!(programs - large > 64 * GIB);
        assert!(aligned.is_multiple_of(1 << 20) && large.is_multiple_of(GIB));
        for (start, bytes) in
            [(small, 3 * PAGE_BYTES), (aligned, PAGE_BYTES), (large, GIB), (programs, PAGE_BYTES)]
        {
            unmap(start, bytes);
        }
        let anywhere = anywhere(PAGE_BYTES, 1 << 20, MAP_PRIVATE | MAP_ANONYMOUS, u64::MAX).unwrap();
        assert!(anywhere.is_multiple_of(1 << 20));
        unmap(anywhere, PAGE_BYTES);
    }

    #[test]
    fn a_stretch_is_handed_out_once_and_has_an_end() {
        let stretch = Stretch::new(1 << 20);
        assert_eq!(stretch.take(PAGE_BYTES, PAGE_BYTES), None, "nobody has opened it");
        stretch.open(10 << 20, 13 << 20);
        stretch.open(20 << 20, 30 << 20);
        assert_eq!(stretch.take(1, PAGE_BYTES), Some(10 << 20));
        assert_eq!(stretch.take(PAGE_BYTES, 1 << 20), Some(11 << 20));
        assert_eq!(stretch.take(2 << 20, PAGE_BYTES), None);
        stretch.pass((11 << 20) + PAGE_BYTES);
        stretch.pass(10 << 20);
        assert_eq!(stretch.take(PAGE_BYTES, PAGE_BYTES), Some(12 << 20));
        stretch.pass(12 << 20);
        assert_eq!(stretch.take(PAGE_BYTES, PAGE_BYTES), None);
    }
}
