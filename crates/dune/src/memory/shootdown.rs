//! Making the other threads' CPUs forget translations.
//!
//! A flush reaches the CPU it is executed on. For the others the engine has a way, with a page that it takes away from the process
//! (`Machine::flush_others`). So each thread keeps a page for that: it is touched, for there must be something to take away,
//! and given back. With one page for all, a thread could find it taken away by another, whose flush had reached some CPUs
//! before this thread's edit.
//!
//! No thread has to be interrupted by us, nobody waits for a thread that sleeps in Linux, and nothing can hang.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::arch::thread_words;
use crate::arch::token::Dune;
use crate::engine::{Engine, Machine};
use crate::report;

/// How many threads are in Dune mode: with so many CPUs' translations there is to reckon.
static THREADS: AtomicU32 = AtomicU32::new(0);

/// Counts a thread that is about to be in Dune mode; how many there were.
pub(crate) fn count_in() -> u32 {
    THREADS.fetch_add(1, Ordering::SeqCst)
}

/// Counts a thread out; how many there were.
pub(crate) fn count_out() -> u32 {
    THREADS.fetch_sub(1, Ordering::SeqCst)
}

/// Those that have been counted are not there: those of a parent, or one that has not entered after all.
pub(crate) fn forget_threads() {
    THREADS.store(0, Ordering::SeqCst);
}

/// How many threads are in Dune mode.
#[inline]
pub(crate) fn threads() -> u32 {
    THREADS.load(Ordering::Relaxed)
}

static SHOOTDOWNS: AtomicU64 = AtomicU64::new(0);

/// Flushes all translations of the other threads in Dune mode, if there are any. When it returns, none of them uses an
/// old one.
#[inline]
pub(crate) fn others(_dune: Dune) {
    if threads() > 1 {
        flush();
    }
}

#[cold]
#[inline(never)]
fn flush() {
    SHOOTDOWNS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: 1. ring 0, by the caller's token; the block is this thread's own; 2. the flush page is a page of the thread's
    // that holds nothing. It is touched in Dune mode, so that the second level has it.
    let flush_page = unsafe {
        let flush_page = thread_words::flush_page();
        (*(flush_page as *const AtomicU64)).fetch_add(1, Ordering::SeqCst);
        flush_page
    };
    if !Engine::flush_others(flush_page) {
        // Who goes on would let others use what this thread believes to be protected.
        report::fatal(format_args!("Linux refuses each way to make the other threads flush"));
    }
}

/// How often the other threads were made to flush.
pub(crate) fn count() -> u64 {
    SHOOTDOWNS.load(Ordering::Relaxed)
}
