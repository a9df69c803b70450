//! Who holds a lock.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicU32, Ordering};

use linux_raw_sys::errno::{EINTR, ESRCH, ETIMEDOUT};
use linux_raw_sys::general::{
    __NR_futex, __NR_sched_yield, __NR_tkill, FUTEX_PRIVATE_FLAG, FUTEX_WAIT, FUTEX_WAKE, timespec,
};

use crate::arch::atomic::AtomicU64;
use crate::arch::{cpu, thread_words};
use crate::linux::sys;

/// A thread, as the word of a lock has it: the address of its block in Dune mode, its number in host mode, with a mark that no
/// address of a block has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder(u64);

const WAIT: u64 = (FUTEX_WAIT | FUTEX_PRIVATE_FLAG) as u64;
const WAKE: u64 = (FUTEX_WAKE | FUTEX_PRIVATE_FLAG) as u64;
/// What futex(2) looks at.
const HALF: u64 = u32::MAX as u64;

/// A thread in host mode.
const HOST: u64 = 1;
/// Where the number of a thread in host mode begins.
const NUMBER: u32 = 8;

impl Holder {
    /// The caller.
    #[inline(always)]
    pub fn caller() -> Holder {
        if cpu::in_dune_mode() {
            // SAFETY: in Dune mode, which is ring 0.
            Holder(unsafe { thread_words::block() })
        } else {
            Holder(u64::from(sys::thread_id()) << NUMBER | HOST)
        }
    }

    /// The thread with this word.
    pub const fn of(word: u64) -> Holder {
        Holder(word)
    }

    /// What [`of`](Self::of) takes; never 0.
    pub const fn word(self) -> u64 {
        self.0
    }

    /// The number of its task, 0 if it is not known.
    pub fn task(self) -> u32 {
        if self.0 & HOST != 0 {
            return (self.0 >> NUMBER) as u32;
        }
        self.block_word(thread_words::TASK).load(Ordering::Relaxed)
    }

    /// Whether it executes nothing any more: a process that shared this one's memory and was killed. Threads end only by system
    /// calls of their own, which hold nothing.
    pub fn is_gone(self) -> bool {
        let task = self.task();
        // SAFETY: signal 0 is none.
        let asked = || unsafe { sys::call(__NR_tkill, [task.into(), 0, 0, 0, 0, 0]) };
        task != 0 && asked().is_err_and(|errno| errno.raw() == ESRCH as i32)
    }

    /// The ranks of the locks that it holds, a bit for each; `None` if that is not known. What a host loop holds is not counted to
    /// its thread in Dune mode.
    #[cfg(debug_assertions)]
    pub fn ranks(self) -> Option<&'static AtomicU32> {
        if self.0 & HOST != 0 {
            return host::ranks(self.0);
        }
        Some(self.block_word(thread_words::LOCK_RANKS))
    }

    /// The 32 bits at `offset` of its block.
    fn block_word(self, offset: usize) -> &'static AtomicU32 {
        // SAFETY: the word is that of a thread in Dune mode, whose block is never freed, and has such a number there (`contract/block.rs`
        // asserts it).
        unsafe { &*core::ptr::with_exposed_provenance(self.0 as usize + offset) }
    }
}

/// Sleeps while the low half of `word` is `seen`'s, for `milliseconds` at most (futex(2)). How many milliseconds it was, 0 if somebody
/// has ended it.
///
/// Where a signal waits it spins for about a millisecond: Linux would not let it sleep.
pub(super) fn sleep(word: &AtomicU64, seen: u64, milliseconds: u32) -> u32 {
    const SPINS: u32 = 20_000;
    let limit = timespec { tv_sec: 0, tv_nsec: i64::from(milliseconds) * 1_000_000 };
    let arguments = [word.as_ptr() as u64, WAIT, seen & HALF, (&raw const limit) as u64, 0, 0];
    // SAFETY: the call reads the word and `limit`.
    match unsafe { sys::call(__NR_futex, arguments) } {
        Err(errno) if errno.raw() == ETIMEDOUT as i32 => milliseconds,
        Err(errno) if errno.raw() == EINTR as i32 => {
            (0..SPINS).for_each(|_| spin_loop());
            // SAFETY: sched_yield takes no argument and touches no memory.
            let _ = unsafe { sys::raw(__NR_sched_yield, [0; 6]) };
            1
        }
        _ => 0,
    }
}

/// Wakes one thread that [`sleep`]s.
#[cold]
#[inline(never)]
pub(super) fn wake(word: &AtomicU64) {
    // SAFETY: the call touches no memory.
    let _ = unsafe { sys::raw(__NR_futex, [word.as_ptr() as u64, WAKE, 1, 0, 0, 0]) };
}

/// What threads in host mode hold, by their numbers: they have no block, and no thread-local storage.
#[cfg(debug_assertions)]
mod host {
    use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    /// A thread, which keeps the place for ever, and its ranks.
    struct Place(AtomicU64, AtomicU32);

    const PLACES: usize = 1024;
    static TABLE: [Place; PLACES] = [const { Place(AtomicU64::new(0), AtomicU32::new(0)) }; PLACES];

    /// The ranks of the thread with this word; `None` if there is no place for it.
    pub fn ranks(word: u64) -> Option<&'static AtomicU32> {
        const TRIES: usize = 16;
        let first = (word >> super::NUMBER) as usize;
        (first..first + TRIES).map(|index| &TABLE[index % PLACES]).find_map(|Place(thread, ranks)| {
            let seen = thread.compare_exchange(0, word, Ordering::Relaxed, Ordering::Relaxed);
            (seen == Ok(0) || seen == Err(word)).then_some(ranks)
        })
    }
}
