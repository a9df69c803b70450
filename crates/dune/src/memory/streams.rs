//! Streams: where a program may be about to touch fresh memory page by page, and how Dune notices.
//!
//! The mirror makes pages present before they are touched, so a first touch is a second-level fault, which no code of
//! ours sees. To see that a program writes to fresh memory in order, one leaf on its way is *armed*: it is not
//! present, but as good as that, and its first access is a #PF. `guest/around.rs` decides where to arm and what to do
//! then.
//!
//! There are at most [`MOST`] armed leaves. Each is on the list here before it is armed, so that all can be disarmed
//! when faults begin to be somebody else's business: a handler of the program's for #PF must see none of these. A leaf
//! that is edited, remapped or divided is not armed any more; its place on the list is then merely out of date.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use x86_64::VirtAddr;

use super::Memory;
use super::table::{PageTables, table_at};
use crate::arch::page::{Level, PAGE_BYTES, PageRange, PageSize};
use crate::lock::holder::Holder;
use crate::lock::{Busy, Fork, ForkGuard, Rank, SpinLock};

/// How many streams are watched at most; the oldest gives way.
const MOST: usize = 16;

/// Why nothing may be armed.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Reason {
    /// The process has a handler for #PF.
    ProcessHandler = 1,
    /// A thread has, or had, one of its own.
    ThreadHandler = 2,
    /// Address spaces copy page tables.
    AddressSpaces = 4,
    /// There are handlers for #PF in ranges.
    RangeHandlers = 8,
}

/// A place to watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stream {
    /// An address in the armed leaf; 0 for a free place.
    pub at: u64,
    /// Where the mapping ends, as far as it has been left alone since it was made.
    pub end: u64,
}

#[derive(Debug, Default)]
pub(super) struct List {
    streams: [Stream; MOST],
    oldest: usize,
}

/// The streams of a process.
#[derive(Debug)]
pub(super) struct Streams {
    wanted: bool,
    /// How many places of the list are taken; a hint for those who have no time to look.
    count: AtomicU32,
    /// The [`Reason`]s that there are.
    forbidden: AtomicU8,
    /// Linux has refused a huge page so often that asking again is not worth it.
    given_up: AtomicBool,
    refusals: AtomicU32,
    populated: AtomicU64,
    list: SpinLock<List>,
}

impl Streams {
    pub fn new(wanted: bool) -> Streams {
        Streams {
            wanted,
            count: AtomicU32::new(0),
            forbidden: AtomicU8::new(0),
            given_up: AtomicBool::new(false),
            refusals: AtomicU32::new(0),
            populated: AtomicU64::new(0),
            list: SpinLock::new(Rank::Streams, List::default()),
        }
    }

    /// Keeps others from changing the list for the time of `fork`.
    pub fn hold_across(&self, fork: Fork) -> Result<Option<ForkGuard<'_, List>>, Busy> {
        self.list.lock_across(fork)
    }

    /// Frees the lock from a holder that `is_gone`.
    pub fn free_if(&self, is_gone: impl Fn(Holder) -> bool) {
        self.list.free_if(is_gone);
    }
}

impl List {
    /// Calls `change` with each stream and drops those that it refuses.
    fn retain(&mut self, count: &AtomicU32, mut change: impl FnMut(&mut Stream) -> bool) {
        for stream in self.streams.iter_mut().filter(|stream| stream.at != 0) {
            if !change(stream) {
                *stream = Stream::default();
            }
        }
        let taken = self.streams.iter().filter(|stream| stream.at != 0).count();
        count.store(taken as u32, Ordering::Relaxed);
    }
}

impl PageTables<'_> {
    /// Arms the leaf at `address`, made no larger than `size`, if it is one that the mirror has made writable.
    fn arm(&mut self, address: u64, size: PageSize) -> bool {
        let usable = |tables: &Self| {
            let (level, table, entry) = tables.find(address);
            let fit = entry.is_present() && entry.is_writable() && !entry.is_owned() && !entry.is_user();
            fit.then_some((level, table, entry))
        };
        let Some((level, ..)) = usable(self) else { return false };
        if level > Level::of(size) {
            let Ok(flush) = self.split(VirtAddr::new_truncate(address), size) else { return false };
            // Before and after translate alike. A CPU that keeps the old translation only does not notice the access.
            flush.waive();
        }
        let Some((level, table, entry)) = usable(self) else { return false };
        table.exchange(level.index(address), entry, entry.armed()).is_ok()
    }
}

impl Memory {
    /// Whether new mappings are to be watched.
    #[inline]
    pub(crate) fn wants_streams(&self) -> bool {
        self.streams.wanted
            && self.streams.forbidden.load(Ordering::Relaxed) == 0
            && !self.streams.given_up.load(Ordering::Relaxed)
    }

    /// Whether there may be an armed leaf.
    #[inline]
    pub(crate) fn has_streams(&self) -> bool {
        self.streams.count.load(Ordering::Relaxed) != 0
    }

    /// Arms the leaf at `stream.at`, made no larger than `size`.
    pub(crate) fn watch(&self, stream: Stream, size: PageSize) {
        let Ok(mut list) = self.streams.list.lock() else { return };
        if !self.wants_streams() {
            return;
        }
        let place = list.streams.iter().position(|stream| stream.at == 0).unwrap_or(list.oldest);
        self.disarm(list.streams[place].at);
        list.oldest = (place + 1) % MOST;
        list.streams[place] = stream;
        // Before the leaf is armed: whoever trips over it has to look.
        self.streams.count.fetch_add(1, Ordering::SeqCst);
        let armed = self.page_tables().is_ok_and(|mut tables| tables.arm(stream.at, size));
        list.retain(&self.streams.count, |other| armed || *other != stream);
    }

    /// Makes the leaf at `address` present if it is armed, and says what was watched there.
    pub(crate) fn notice(&self, address: u64) -> Option<Stream> {
        let level = self.disarm(address)?;
        let mut found = None;
        if let Ok(mut list) = self.streams.list.lock() {
            list.retain(&self.streams.count, |stream| {
                let here = (stream.at ^ address) >> level.shift() == 0;
                if here {
                    found = Some(*stream);
                }
                !here
            });
        }
        // Without a place on the list it is an access like any other.
        Some(found.unwrap_or_default())
    }

    /// Makes the leaf at `address` present if it is armed; its level. The access may be one of the code that holds the lock
    /// of the tables: then they are this thread's to walk, since nobody else edits them.
    fn disarm(&self, address: u64) -> Option<Level> {
        let _edits = self.edits.lock_unless_mine().ok()?;
        let page = VirtAddr::try_new(address & !(PAGE_BYTES - 1)).ok()?;
        let frame = self.windows.find(page)?.to_physical(page)?.as_u64();
        let root = self.foreign_root().unwrap_or(self.root);
        let (mut level, mut at) = (Level::ROOT, root.as_u64());
        loop {
            let table = table_at(&self.frames, self.frames.offset(), at);
            let index = level.index(address);
            let entry = table.get(index);
            if entry.is_armed() {
                let offset = page.as_u64() & (level.span() - 1);
                let _ = (entry.frame(level) + offset == frame)
                    .then(|| table.exchange(index, entry, entry.disarmed()));
                return Some(level);
            }
            if entry.is_empty() || entry.is_leaf(level) {
                return None;
            }
            (level, at) = (level.below(), entry.table_address());
        }
    }

    /// How many of the `pages` pages before `address`, which are in one 2 MiB with it, have been written to.
    pub(crate) fn dirty_before(&self, address: u64, pages: usize) -> usize {
        let Ok(tables) = self.page_tables() else { return 0 };
        let Some(table) = tables.leaf_table(address, false) else { return 0 };
        let last = Level(1).index(address);
        (last.saturating_sub(pages)..last).filter(|&index| table.get(index).is_dirty()).count()
    }

    /// The mappings of `range` have changed: no stream goes on there.
    #[inline]
    pub(crate) fn cut_streams(&self, range: PageRange) {
        if self.has_streams() {
            self.cut(range);
        }
    }

    #[cold]
    fn cut(&self, range: PageRange) {
        let Ok(mut list) = self.streams.list.lock() else { return };
        list.retain(&self.streams.count, |stream| {
            let meets = range.first() < stream.end && stream.at < range.end();
            if meets && range.first() <= stream.at {
                self.disarm(stream.at);
                return false;
            }
            if meets {
                stream.end = range.first();
            }
            true
        });
    }

    /// From now on nothing is armed.
    pub(crate) fn forbid_arming(&self, reason: Reason) {
        self.streams.forbidden.fetch_or(reason as u8, Ordering::SeqCst);
        if let Ok(mut list) = self.streams.list.lock() {
            list.retain(&self.streams.count, |stream| {
                self.disarm(stream.at);
                false
            });
        }
    }

    /// `reason` is gone.
    pub(crate) fn allow_arming(&self, reason: Reason) {
        self.streams.forbidden.fetch_and(!(reason as u8), Ordering::SeqCst);
    }

    /// Counts 2 MiB that were populated, or that Linux would not populate. After `patience` refusals in a row nothing is
    /// armed any more.
    pub(crate) fn count_population(&self, done: bool, patience: u32) {
        if done {
            self.streams.refusals.store(0, Ordering::Relaxed);
            self.streams.populated.fetch_add(1, Ordering::Relaxed);
        } else if self.streams.refusals.fetch_add(1, Ordering::Relaxed) + 1 >= patience {
            self.streams.given_up.store(true, Ordering::Relaxed);
        }
    }

    /// How often 2 MiB were populated ahead of a program.
    pub(crate) fn populated_ahead(&self) -> u64 {
        self.streams.populated.load(Ordering::Relaxed)
    }
}
