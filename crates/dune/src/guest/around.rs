//! Fault-around: a program that writes to fresh memory in order gets it 2 MiB at a time.
//!
//! A first touch in Dune mode costs two faults, of which Linux's own is one half: populating pages one by one cannot
//! cost less than Linux, whoever does it and however many at once (docs/results.md has the figures). A huge page can: Linux
//! makes one at the cost of clearing it, and the engine maps it at once.
//!
//! 1. When the program makes a private anonymous mapping that is writable, the page [`LEAD`] bytes into its first whole
//!    2 MiB is armed ([`prepare`], `memory/streams.rs`). Until then pages are touched one by one.
//! 2. The write that reaches it finds the pages before it dirty, or not. If so, this is a stream: Linux collapses the 2 MiB
//!    into a huge page, and the first leaf of the next 2 MiB is armed.
//! 3. A write to the beginning of that goes on with the stream. Any other access ends it.

use linux_raw_sys::general::{
    __NR_madvise as MADVISE, MADV_COLLAPSE, MADV_POPULATE_WRITE, MAP_ANONYMOUS, MAP_GROWSDOWN, MAP_HUGETLB,
    MAP_LOCKED, MAP_POPULATE, MAP_PRIVATE, MAP_STACK, MAP_TYPE, PROT_WRITE,
};

use crate::arch::page::{PAGE_BYTES, PageSize};
use crate::linux::sys;
use crate::memory::Memory;
use crate::memory::streams::Stream;

/// A huge page.
const HUGE: u64 = 2 << 20;
/// What a program has to write in order before memory is populated ahead of it.
const LEAD: u64 = 64 << 10;
/// So many of these pages must have been written to: a program may skip some, a guard for example.
const WRITTEN: usize = (LEAD / PAGE_BYTES) as usize * 3 / 4;
/// So many refusals of Linux's in a row end the attempts.
const PATIENCE: u32 = 64;

/// Watches the new mapping of `length` bytes at `start`, if programs write to its like in order.
pub(super) fn prepare(memory: &Memory, (start, length): (u64, u64), protection: u32, flags: u32) {
    // Stacks, Dune's own among them, are not written to from below; the others have their pages already.
    const REFUSED: u32 = MAP_GROWSDOWN | MAP_HUGETLB | MAP_LOCKED | MAP_POPULATE | MAP_STACK;
    let private = flags & MAP_TYPE == MAP_PRIVATE && flags & MAP_ANONYMOUS != 0;
    if !private || flags & REFUSED != 0 || protection & PROT_WRITE == 0 {
        return;
    }
    let first = start.next_multiple_of(HUGE);
    let end = start + length;
    if first + HUGE <= end {
        memory.watch(Stream { at: first + LEAD, end }, PageSize::Size4KiB);
    }
}

/// Serves the page fault at `address`, a `write` or not, if it is one of those that were arranged here. The access is
/// then to be tried again.
pub(super) fn follow(memory: &Memory, address: u64, write: bool) -> bool {
    let Some(stream) = memory.notice(address) else { return false };
    let region = address & !(HUGE - 1);
    let in_order = if stream.at != region {
        memory.dirty_before(stream.at, (LEAD / PAGE_BYTES) as usize) >= WRITTEN
    } else {
        address - region < LEAD
    };
    if !write || !in_order || region + HUGE > stream.end {
        return true;
    }
    let done = populate(address, region);
    memory.count_population(done, PATIENCE);
    let next = region + HUGE;
    if done && next + HUGE <= stream.end {
        memory.watch(Stream { at: next, end: stream.end }, PageSize::Size2MiB);
    }
    true
}

/// Has Linux back the 2 MiB at `region` by a huge page. Linux wants at least one page there, which is the one that is
/// about to be touched.
#[cold]
fn populate(address: u64, region: u64) -> bool {
    // SAFETY: both calls populate memory of the program's that it has not touched yet, and keep the content of what it
    // has touched (madvise(2)).
    let advise = |start: u64, length: u64, advice: u32| unsafe {
        sys::call(MADVISE, [start, length, advice.into(), 0, 0, 0]).is_ok()
    };
    advise(address & !(PAGE_BYTES - 1), PAGE_BYTES, MADV_POPULATE_WRITE)
        && advise(region, HUGE, MADV_COLLAPSE)
}
