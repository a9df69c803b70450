//! Heaps whose pages are protected: what a handler for their faults knows.
//!
//! Handlers find the heap for an address in a table of atomics, without lock or allocation. A place is taken when a heap is made and given back when
//! it is gone; faults at its addresses come from the thread that it belongs to, and so never while that is about it.

use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use super::TrackerError;
use crate::heap::{PAGE, PageSet, Space, runs};

/// How many heaps can be watched at a time.
const MOST: usize = 64;

/// A place of the table.
pub(super) struct Place {
    /// 0 for nobody.
    start: AtomicUsize,
    pages: AtomicUsize,
    /// A bit for each page that is protected.
    protected: AtomicPtr<AtomicU64>,
    /// What the handler needs to open a page: a descriptor.
    descriptor: AtomicI32,
}

static PLACES: [Place; MOST] = [const {
    Place {
        start: AtomicUsize::new(0),
        pages: AtomicUsize::new(0),
        protected: AtomicPtr::new(std::ptr::null_mut()),
        descriptor: AtomicI32::new(-1),
    }
}; MOST];

/// A heap that is watched.
#[derive(Debug)]
pub(super) struct Watch {
    place: usize,
    start: usize,
    protected: Box<[AtomicU64]>,
    /// What was protected when writes were last begun to be watched.
    begun: Vec<u64>,
}

/// A page that a handler has found.
#[derive(Clone, Copy)]
pub(super) struct Page {
    /// Its first address.
    pub(super) address: usize,
    number: usize,
    place: &'static Place,
}

impl Page {
    /// It is not protected any more.
    pub(super) fn opened(self) {
        self.place.word(self.number).fetch_and(!(1 << (self.number % 64)), Ordering::Relaxed);
    }

    /// The addresses of the heap that it belongs to: from where, and how many bytes.
    pub(super) fn heap(self) -> (usize, usize) {
        (self.place.start.load(Ordering::Relaxed), self.place.pages.load(Ordering::Relaxed) * PAGE)
    }

    /// What the heap's pages are opened by: see [`Watch::open_by`].
    pub(super) fn descriptor(self) -> i32 {
        self.place.descriptor.load(Ordering::Relaxed)
    }

    /// No page of its heap is protected any more.
    pub(super) fn all_opened(self) {
        let pages = self.place.pages.load(Ordering::Relaxed);
        (0..pages).step_by(64).for_each(|page| self.place.word(page).store(0, Ordering::Relaxed));
    }
}

impl Place {
    /// The bits of 64 pages, for a fault in the heap, which is there so.
    fn word(&self, page: usize) -> &AtomicU64 {
        // SAFETY: the words are there as long as the place is taken, one bit for each page.
        unsafe { &*self.protected.load(Ordering::Relaxed).add(page / 64) }
    }
}

/// The protected page of a watched heap in which `address` is.
pub(super) fn find(address: usize) -> Option<Page> {
    for place in &PLACES {
        let start = place.start.load(Ordering::Acquire);
        let page = address.wrapping_sub(start) / PAGE;
        if start != 0 && page < place.pages.load(Ordering::Relaxed) {
            let is_protected = place.word(page).load(Ordering::Relaxed) & 1 << (page % 64) != 0;
            return is_protected.then_some(Page { address: address & !(PAGE - 1), number: page, place });
        }
    }
    None
}

impl Watch {
    /// Takes a place for the heap.
    pub(super) fn new(space: &Space) -> Result<Watch, TrackerError> {
        /// Nobody's address: a place that is being filled.
        const FILLING: usize = 1;
        let pages = space.bytes() / PAGE;
        let protected: Box<[AtomicU64]> = (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let take = |place: &Place| {
            place.start.compare_exchange(0, FILLING, Ordering::Acquire, Ordering::Relaxed).is_ok()
        };
        let index = PLACES.iter().position(take).ok_or(TrackerError::TooMany { most: MOST })?;
        let place = &PLACES[index];
        place.pages.store(pages, Ordering::Relaxed);
        place.protected.store(protected.as_ptr().cast_mut(), Ordering::Relaxed);
        place.start.store(space.start(), Ordering::Release);
        let begun = vec![0; protected.len()];
        Ok(Watch { place: index, start: space.start(), protected, begun })
    }

    /// Has the handler open pages by `descriptor`.
    pub(super) fn open_by(&self, descriptor: i32) {
        PLACES[self.place].descriptor.store(descriptor, Ordering::Relaxed);
    }

    /// Adds the pages that have been opened since [`begin`](Self::begin).
    pub(super) fn written(&self, pages: usize, written: &mut PageSet) {
        for index in 0..pages.div_ceil(64) {
            let opened = self.begun[index] & !self.protected[index].load(Ordering::Relaxed);
            if opened != 0 {
                written.add_word(index, opened);
            }
        }
    }

    /// Has `set` protect the pages that are `old` and open, and open those that are protected and not old: by start, bytes, and whether
    /// they are to be writable.
    pub(super) fn begin(
        &mut self,
        old: &PageSet,
        pages: usize,
        mut set: impl FnMut(usize, usize, bool) -> Result<(), TrackerError>,
    ) -> Result<(), TrackerError> {
        let mut refused = None;
        let old = old.words(pages);
        let protected = |index: usize| self.protected[index].load(Ordering::Relaxed);
        for writable in [false, true] {
            let word = |index: usize| match writable {
                false => (old[index], old[index] & !protected(index)),
                true => (!old[index], !old[index] & protected(index)),
            };
            runs(pages, word, |from, to| {
                if refused.is_none() {
                    refused = set(self.start + from * PAGE, (to - from) * PAGE, writable).err();
                }
            });
        }
        for (index, &word) in old.iter().enumerate() {
            // After an error nobody knows which pages are protected. All that are to be, and were, may be: the handler opens one that is open
            // already, too.
            let others = if refused.is_some() { protected(index) } else { 0 };
            self.protected[index].store(word | others, Ordering::Relaxed);
            self.begun[index] = word;
        }
        refused.map_or(Ok(()), Err)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        PLACES[self.place].start.store(0, Ordering::Release);
    }
}
