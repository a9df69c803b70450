//! What an edit of page tables still owes: to make the CPU forget translations that it has cached.

use core::mem::ManuallyDrop;
use core::ops::Add;
use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::{PhysAddr, VirtAddr};

use super::entry::Entry;
use super::frames::FrameAllocator;
use super::{shootdown, tlb};
use crate::arch::page::PageSize;
use crate::arch::token::Dune;

/// How many separate ranges a flush remembers before it becomes a flush of everything.
const SPANS: usize = 4;

/// From so many pages on, forgetting everything is cheaper than page by page (Linux's
/// `tlb_single_page_flush_ceiling`).
const PAGES: u64 = 33;

/// Pages of one size in a row: `count` of them from `start`, none if `count` is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: u64,
    count: u32,
    size: PageSize,
}

impl Span {
    const NONE: Span = Span { start: 0, count: 0, size: PageSize::Size4KiB };
}

/// How many edits' obligations have not been discharged. A flush that finds others than its own flushes everything: they may
/// have been forgotten (`core::mem::forget`), and whoever flushes after an edit has to rely on all CPUs having forgotten what
/// was there before, whoever edited it last.
static OWED: AtomicU64 = AtomicU64::new(0);
/// How many of these were dropped or deferred: the next flush of everything discharges them.
static DEFERRED: AtomicU64 = AtomicU64::new(0);

/// The obligation to flush what an edit changed, before anybody may rely on the edit.
///
/// Until it is discharged the CPU may use the translations from before the edit. Obligations of several edits
/// can be put together with `+` and discharged at once: a batched update.
///
/// One that is dropped, or forgotten, is not lost: the next [`now`](Self::now) of anybody flushes everything.
///
/// Page tables that an edit emptied are freed only when this is discharged, for the CPU may have cached a
/// pointer to them. If it is deferred or dropped they wait for [`Memory::collect`](super::Memory::collect).
#[derive(Debug)]
#[must_use = "the CPU may still use the old translations: call `now`, or `defer` where that is time enough"]
pub struct Flush<'m> {
    /// The first empty one ends the list.
    spans: [Span; SPANS],
    /// All of the current address space; the spans count no more.
    everything: bool,
    /// A translation concerned was global: a CR3 load would not do.
    globals: bool,
    retired: Option<Retired<'m>>,
    /// How many of [`OWED`] this is.
    edits: u32,
}

impl<'m> Flush<'m> {
    /// Owes nothing.
    #[inline]
    pub const fn none() -> Flush<'m> {
        Flush { spans: [Span::NONE; SPANS], everything: false, globals: false, retired: None, edits: 0 }
    }

    /// Owes a flush of the whole current address space, except global pages.
    pub const fn everything() -> Flush<'m> {
        let mut flush = Flush::none();
        flush.everything = true;
        flush
    }

    /// Owes `count` pages of 4 KiB from `start`; `old` are their entries from before the edit, ORed.
    #[inline]
    pub(super) fn run(start: u64, count: u32, old: Entry) -> Flush<'m> {
        let mut flush = Flush::none();
        let count = if old.may_be_cached() { count } else { 0 };
        flush.spans[0] = Span { start, count, size: PageSize::Size4KiB };
        flush.globals = old.may_be_cached() & old.is_global();
        flush
    }

    /// Notes what [`Self::run`] owes.
    pub(super) fn record_run(&mut self, start: u64, count: u32, old: Entry) {
        if old.may_be_cached() {
            self.globals |= old.is_global();
            self.push(Span { start, count, size: PageSize::Size4KiB });
        }
    }

    /// Counts this obligation as that of an edit of the program's. Under the lock of the tables, after the edit.
    #[inline]
    pub(super) fn owed(mut self) -> Flush<'m> {
        if !self.is_empty() {
            OWED.fetch_add(1, Ordering::Release);
            self.edits = 1;
        }
        self
    }

    /// Whether nothing is owed, as after mapping pages where there were none: the CPU does not cache the
    /// absence of a page.
    pub const fn is_empty(&self) -> bool {
        self.spans[0].count == 0 && !self.everything && self.retired.is_none()
    }

    /// How many pages are flushed one by one; `None` if everything is.
    pub fn pages(&self) -> Option<u64> {
        let pages = self.spans.iter().map(|span| u64::from(span.count)).sum();
        (!self.everything && pages < PAGES).then_some(pages)
    }

    /// Notes a page whose entry `old` was changed.
    #[inline]
    pub(super) fn record(&mut self, start: u64, size: PageSize, old: Entry) {
        if old.may_be_cached() {
            self.globals |= old.is_global();
            self.push(Span { start, count: 1, size });
        }
    }

    /// Notes that everything has to go.
    pub(super) fn record_everything(&mut self) {
        self.everything = true;
    }

    /// Notes that `old` may have been a global translation.
    pub(super) fn record_globals(&mut self, old: Entry) {
        self.globals |= old.may_be_cached() && old.is_global();
    }

    /// Takes over a table that no entry points to any more.
    pub(super) fn retire(&mut self, frames: &'m FrameAllocator, table: PhysAddr) {
        let table = table.as_u64();
        match &mut self.retired {
            Some(retired) => {
                frames.set_link(table, retired.head);
                retired.head = table;
            }
            None => {
                frames.set_link(table, 0);
                self.retired = Some(Retired { frames, head: table });
            }
        }
    }

    fn push(&mut self, span: Span) {
        if self.everything {
            return;
        }
        for index in 0..SPANS {
            let (last, next) = (&self.spans[index], self.spans.get(index + 1));
            if last.count == 0 {
                self.spans[index] = span;
                return;
            }
            let end = last.start.wrapping_add(u64::from(last.count) * last.size.bytes());
            if next.is_none_or(|next| next.count == 0) && last.size == span.size && end == span.start {
                self.spans[index].count = last.count.saturating_add(span.count);
                return;
            }
        }
        self.everything = true;
    }

    /// Both obligations as one.
    pub fn merge(mut self, mut other: Flush<'m>) -> Flush<'m> {
        self.everything |= other.everything;
        self.globals |= other.globals;
        self.edits += core::mem::take(&mut other.edits);
        for span in other.spans.iter().take_while(|span| span.count > 0) {
            self.push(*span);
        }
        self.retired = match (self.retired.take(), other.retired.take()) {
            (Some(mine), Some(other)) => Some(mine.join(other)),
            (mine, other) => mine.or(other),
        };
        self
    }

    /// Flushes, in the current address space, on this CPU and on those of the process's other threads in Dune mode,
    /// and frees tables that the edit emptied.
    #[inline]
    pub fn now(self, dune: Dune) {
        let this = ManuallyDrop::new(self);
        let single = this.spans[0].count == 1 && this.spans[1].count == 0;
        if OWED.load(Ordering::Acquire) != u64::from(this.edits) {
            ManuallyDrop::into_inner(this).now_with_others(dune);
        } else if single && !this.everything && this.retired.is_none() {
            tlb::flush_page(dune, VirtAddr::new_truncate(this.spans[0].start));
            shootdown::others(dune);
            this.settle(0);
        } else if !this.is_empty() {
            ManuallyDrop::into_inner(this).now_all(dune);
        }
    }

    /// [`Self::now`] while there are obligations of other edits: of other threads, deferred ones, forgotten ones.
    #[cold]
    #[inline(never)]
    fn now_with_others(self, dune: Dune) {
        let deferred = DEFERRED.swap(0, Ordering::AcqRel);
        flush_all_cpus(dune);
        self.discharge(deferred);
    }

    /// Everything owed here, and what was `deferred`, has been flushed on every CPU.
    fn discharge(self, deferred: u64) {
        let mut this = ManuallyDrop::new(self);
        if let Some(retired) = this.retired.take() {
            retired.release();
        }
        this.settle(deferred);
    }

    #[inline]
    fn settle(&self, deferred: u64) {
        let count = u64::from(self.edits) + deferred;
        if count > 0 {
            OWED.fetch_sub(count, Ordering::Release);
        }
    }

    /// [`Self::now`] for more than a page.
    #[inline(never)]
    fn now_all(self, dune: Dune) {
        match self.pages() {
            // INVLPG also forgets all that is cached of upper levels, so it covers retired tables too.
            Some(pages) if pages > 0 => {
                for span in &self.spans {
                    tlb::flush_pages(dune, span.start, span.size.bytes(), u64::from(span.count));
                }
            }
            _ if self.globals => tlb::flush_all(dune),
            _ => tlb::flush_current(dune),
        }
        shootdown::others(dune);
        self.discharge(0);
    }

    /// Flushes on this CPU alone, and leaves no obligation: for marks of pages that no other CPU is to access. It frees nothing.
    pub(crate) fn here(self, dune: Dune) {
        match self.pages() {
            Some(0) => {}
            Some(_) => {
                for span in &self.spans {
                    tlb::flush_pages(dune, span.start, span.size.bytes(), u64::from(span.count));
                }
            }
            None if self.globals => tlb::flush_all(dune),
            None => tlb::flush_current(dune),
        }
        self.waive();
    }

    /// Does not flush now, but leaves it to the next flush, which is one of everything then.
    ///
    /// Until then accesses may go on with the old rights, or to the old frame. It is what to do where rights were only
    /// added: the CPU drops a cached translation when it raises a #PF for it, so at worst a handler sees one fault too many.
    pub fn defer(self) {
        drop(self);
    }

    /// Does not flush, and leaves no obligation.
    ///
    /// # Safety
    ///
    /// The old translations do no harm, as long as a CPU may have them: rights were only added; or the tables are those of an
    /// [`AddressSpace`](super::AddressSpace) that is not in use, which is flushed when it is entered; or a later flush
    /// covers the same pages, and nobody relies on this edit before.
    pub unsafe fn ignore(self) {
        self.waive();
    }

    /// [`Self::ignore`] for edits of the library's own.
    pub(crate) fn waive(mut self) {
        self.settle(0);
        self.edits = 0;
    }

    /// Discharges without a CPU to flush: the tables have never been loaded, or are not in use.
    pub(crate) fn unused(self) {
        self.discharge(0);
    }
}

fn flush_all_cpus(dune: Dune) {
    tlb::flush_all(dune);
    shootdown::others(dune);
}

/// Flushes everything, and so discharges what was deferred.
pub(super) fn everything(dune: Dune) {
    let deferred = DEFERRED.swap(0, Ordering::AcqRel);
    flush_all_cpus(dune);
    OWED.fetch_sub(deferred, Ordering::Release);
}

/// In the child of a fork, whose CPU has cached nothing yet: what other threads of its parent owed is nobody's.
pub(super) fn start_over() {
    for count in [&OWED, &DEFERRED] {
        // Where it is 0 the page need not be copied.
        if count.load(Ordering::Relaxed) != 0 {
            count.store(0, Ordering::Release);
        }
    }
}

impl Drop for Flush<'_> {
    fn drop(&mut self) {
        if self.edits > 0 {
            DEFERRED.fetch_add(self.edits.into(), Ordering::AcqRel);
        }
    }
}

impl<'m> Add for Flush<'m> {
    type Output = Flush<'m>;

    fn add(self, other: Flush<'m>) -> Flush<'m> {
        self.merge(other)
    }
}

/// Page tables that no entry points to any more, linked through bits that the CPU ignores: it may still walk
/// them.
#[derive(Debug)]
struct Retired<'m> {
    frames: &'m FrameAllocator,
    head: u64,
}

impl<'m> Retired<'m> {
    fn join(self, mut other: Retired<'m>) -> Retired<'m> {
        let mut tail = self.head;
        while self.frames.link(tail) != 0 {
            tail = self.frames.link(tail);
        }
        self.frames.set_link(tail, other.head);
        other.head = 0;
        self
    }

    fn each(&mut self, mut act: impl FnMut(&FrameAllocator, PhysAddr)) {
        while self.head != 0 {
            let table = self.head;
            self.head = self.frames.link(table);
            act(self.frames, PhysAddr::new(table));
        }
    }

    /// Frees them all.
    #[cold]
    fn release(mut self) {
        self.each(|frames, table| {
            frames.free_table(table);
        });
    }
}

impl Drop for Retired<'_> {
    fn drop(&mut self) {
        self.each(FrameAllocator::quarantine);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Entry = Entry(1);

    #[test]
    fn neighbours_join_and_many_become_everything() {
        let mut flush = Flush::none();
        for page in 0..10 {
            flush.record(page * 4096, PageSize::Size4KiB, OLD);
        }
        assert_eq!((flush.spans[0].count, flush.pages()), (10, Some(10)));
        let flush = flush + {
            let mut large = Flush::none();
            large.record(1 << 30, PageSize::Size2MiB, OLD);
            large
        };
        assert_eq!(flush.pages(), Some(11));
        let mut flush = flush;
        for page in 0..40 {
            flush.record((1 << 40) + page * 4096, PageSize::Size4KiB, OLD);
        }
        assert_eq!(flush.pages(), None);
        let mut flush = Flush::none();
        for page in 0..5 {
            flush.record(page * 8192, PageSize::Size4KiB, OLD);
        }
        assert!(flush.everything);
        assert_eq!((Flush::none() + flush).pages(), None);
    }

    #[test]
    fn absent_pages_owe_nothing() {
        assert!(Flush::run(0, 1, Entry(0x1000)).is_empty());
        assert!(Flush::none().is_empty());
        assert!(!Flush::everything().is_empty());
    }

    #[test]
    fn retired_tables_are_freed_or_quarantined() {
        let frames = FrameAllocator::reserve(2 << 20).unwrap();
        let retire = |count| {
            let mut flush = Flush::none();
            frames.take_tables(count, |table| flush.retire(&frames, table)).unwrap();
            flush
        };
        let both = retire(2) + retire(3);
        assert_eq!(frames.stats().unwrap().in_use, 5 * 4096);
        both.unused();
        assert_eq!(frames.stats().unwrap().in_use, 0);
        retire(4).defer();
        assert_eq!(frames.stats().unwrap().in_use, 4 * 4096);
        assert_eq!(frames.release_quarantined(|| ()), 4);
        assert_eq!(frames.stats().unwrap().in_use, 0);
    }
}
