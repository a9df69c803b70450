//! Locks that a handler may meet while the code it interrupted holds them.
//!
//! A handler runs on the thread of the code that it interrupted. Would it wait for a lock that this code holds, it would
//! wait for ever: it is told [`Busy`] at once, and can do without or leave the work for later. Who holds a lock is the
//! thread's block, or in host mode the number of its task.
//!
//! A lock of another thread is waited for, since its edits must not be lost only because that thread does not run at this
//! moment: first spinning for as long as an edit takes, then asleep (futex(2)). A waiter that sleeps leaves a mark in the word, and who
//! frees a lock with the mark wakes one. So hundreds of waiting threads do not keep the one that has the lock from its CPU.
//!
//! # Order
//!
//! Whoever waits for a lock as long as it takes holds none of the same or a higher [`Rank`]. Debug builds check it. Nobody holds
//! one over a call that has its caller wait for another thread, or over an access to memory of the program's that may: what is
//! waited for may need the lock. (Who holds a fork's is in the module `copied`.)
//!
//! | rank | what it keeps together | taken by | a limit |
//! |---|---|---|---|
//! | actions | the program's signal actions, here and with Linux | rt_sigaction, faults, entering and leaving | none: it would bring the two apart |
//! | births | the list of threads, their descriptors, and limits that are raised for a moment | whoever makes a thread, or passes limits or descriptors on | none: a child or another program would have what is not its own |
//! | handlers | the table of handlers for ranges | who changes it | an error |
//! | calls | the memory calls that are under way, and the edits after them | memory calls, faults, whoever enters | none: edits would come in another order than Linux's changes |
//! | windows | the list of windows and the engine's slots | whoever needs a window | an error: no window |
//! | streams | where fault-around waits | memory calls, faults | left alone: a hint |
//! | page tables | all page tables | edits; the program, as long as it likes | an error, or a note to edit later (`memory/missed.rs`) |
//! | frames | which frames are free | edits; the program | an error, or quarantine |
//!
//! A fork takes all of them but that of handlers (of whose table the child uses a copy that is whole), in this order, and fails with EAGAIN if one with a limit does not come.
//!
//! What has no limit is held for some edits or calls to Linux that do not wait, so it comes when its holder runs. Should that be
//! stopped (by a tracer, or as a process of its own that shares this memory), others wait as they do in Linux for whoever is
//! stopped with a lock of their own; should it be killed, the lock is taken from it. A wait of some seconds is counted
//! (`Counters`) and told once.

mod copied;
pub(crate) mod holder;
mod rank;

use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

use thiserror::Error;

use crate::arch::atomic::{AtomicBool, AtomicU64, spin_loop};
use crate::arch::thread_words;
use crate::arch::token::Dune;
use crate::report;
use holder::Holder;
pub(crate) use rank::{Rank, held};

/// How often a waiter looks before it sleeps: longer than an edit takes.
const SPINS: u32 = if cfg!(test) { 4 } else { 64 };
/// How many milliseconds it sleeps at most before it looks again, though nobody has woken it.
const NAP: u32 = 250;
/// The same where a fork has the lock: whether that has made its copy by now.
const FORKS_NAP: u32 = 8;
/// How many milliseconds of sleep are too long: the holder may be in a call to the engine on a busy machine.
const TOO_LONG: u32 = if cfg!(test) { 500 } else { 3000 };

/// The lock is taken: by the code that this handler interrupted, or for seconds by another thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "the lock is held, perhaps by the code that this handler interrupted: do it after the handler returns"
)]
pub struct Busy;

/// A `T` behind a lock, in this order: those that every fork takes are few pages.
#[repr(C)]
pub(crate) struct SpinLock<T> {
    /// [`FREE`], or the word of its [`Holder`] with the number of a fork above it if that is what holds it; in both cases with
    /// [`AWAITED`] if somebody may sleep until it is free.
    word: AtomicU64,
    rank: Rank,
    value: UnsafeCell<T>,
}

const FREE: u64 = 0;
/// No holder's word has it, and it is among the 32 bits that futex(2) looks at.
const AWAITED: u64 = 2;
/// Where the number of a fork begins; addresses end below. The number is one of 15 bits and never 0.
const FORK: u32 = 48;
const FORKS: u64 = (1 << 15) - 1;

/// Who holds a lock with this word.
const fn holder(word: u64) -> Holder {
    Holder::of(word & ((1 << FORK) - 1) & !AWAITED)
}

/// Whether a fork does.
const fn is_forks(word: u64) -> bool {
    word >> FORK != 0
}

/// How often a thread has waited for seconds.
static OVERRUNS: AtomicU32 = AtomicU32::new(0);

/// How often threads have waited for a lock for seconds.
pub(crate) fn overruns() -> u64 {
    OVERRUNS.load(Ordering::Relaxed).into()
}

// SAFETY: 1. a `&SpinLock<T>` gives access to the T to one holder at a time, which sends it between threads.
unsafe impl<T: Send> Sync for SpinLock<T> {}

/// The right to use the value; gives the lock back when dropped.
///
/// It stays on the thread that took the lock, which is its holder, and is as good as a `&mut T`: shared with other threads it would share the
/// value, whatever that is.
pub(crate) struct Guard<'l, T> {
    lock: &'l SpinLock<T>,
    owner: Holder,
    value: PhantomData<(&'l mut T, *const ())>,
}

/// As a [`Guard`], for the time of a fork; the parent's may be taken away once the child has its copy.
#[derive(Debug)]
#[must_use]
pub(crate) struct ForkGuard<'l, T> {
    lock: &'l SpinLock<T>,
    /// The word that the lock has meanwhile.
    word: u64,
}

/// How long a lock is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Some seconds.
    Limited,
    /// As long as somebody holds it.
    Unlimited,
}

impl<T> SpinLock<T> {
    pub const fn new(rank: Rank, value: T) -> SpinLock<T> {
        SpinLock { word: AtomicU64::new(FREE), rank, value: UnsafeCell::new(value) }
    }

    /// Takes the lock, waiting for other threads, but not for ever.
    #[inline]
    pub fn lock(&self) -> Result<Guard<'_, T>, Busy> {
        let caller = Holder::caller();
        self.take(caller).or_else(|_| self.wait(caller, Patience::Limited))
    }

    /// [`Self::lock`] for who knows that this is Dune mode: the shortest way.
    #[inline(always)]
    pub fn lock_in_dune_mode(&self, _dune: Dune) -> Result<Guard<'_, T>, Busy> {
        // SAFETY: ring 0, by the token.
        let caller = Holder::of(unsafe { thread_words::block() });
        match self.take(caller) {
            Ok(guard) => Ok(guard),
            Err(_) => self.wait(caller, Patience::Limited),
        }
    }

    /// Takes the lock, waiting as long as another thread holds it. Busy only if the code that this handler interrupted does.
    #[inline]
    pub fn lock_without_limit(&self) -> Result<Guard<'_, T>, Busy> {
        let caller = Holder::caller();
        self.take(caller).or_else(|_| self.wait(caller, Patience::Unlimited))
    }

    /// [`Self::lock`]; `None` if the code that this handler interrupted holds it, which does nothing meanwhile.
    pub fn lock_unless_mine(&self) -> Result<Option<Guard<'_, T>>, Busy> {
        match self.lock() {
            Ok(guard) => Ok(Some(guard)),
            Err(Busy) if self.is_mine() => Ok(None),
            Err(Busy) => Err(Busy),
        }
    }

    /// [`Self::lock`] for the time of `fork`; `None` if the code that this handler interrupted holds it.
    pub fn lock_across(&self, fork: Fork) -> Result<Option<ForkGuard<'_, T>>, Busy> {
        self.across(self.lock(), fork)
    }

    /// [`Self::lock_without_limit`] for the time of `fork`.
    pub fn lock_across_without_limit(&self, fork: Fork) -> Result<Option<ForkGuard<'_, T>>, Busy> {
        self.across(self.lock_without_limit(), fork)
    }

    fn across<'l>(
        &self,
        taken: Result<Guard<'l, T>, Busy>,
        fork: Fork,
    ) -> Result<Option<ForkGuard<'l, T>>, Busy> {
        match taken {
            Ok(guard) => Ok(Some(guard.across(fork))),
            Err(Busy) if holder(self.word.load(Ordering::Relaxed)) == Holder::caller() => Ok(None),
            Err(Busy) => Err(Busy),
        }
    }

    /// Whether the calling thread has the lock: the code that this handler has interrupted.
    pub fn is_mine(&self) -> bool {
        let word = self.word.load(Ordering::Relaxed);
        word != FREE && holder(word) == Holder::caller()
    }

    /// Frees the lock if its holder `is_gone`: it was killed, or is the parent's in the child of a fork.
    pub fn free_if(&self, is_gone: impl Fn(Holder) -> bool) {
        let word = self.word.load(Ordering::Relaxed);
        if word != FREE && is_gone(holder(word)) {
            self.free(word);
        }
    }

    /// Frees the lock if a holder that is gone has it still, and no other that has got its block or number since.
    ///
    /// One thread does so at a time; who comes meanwhile looks again later. So from the moment when the lock is seen with the word of
    /// a holder that is gone before and after it, nobody else changes it.
    #[cold]
    fn free_of_gone(&self, word: u64) {
        static BUSY: AtomicBool = AtomicBool::new(false);
        if BUSY.swap(true, Ordering::Acquire) {
            return;
        }
        let owner = holder(word);
        let task = owner.task();
        let is_gone = || owner.task() == task && owner.is_gone();
        if is_gone() && self.word.load(Ordering::Acquire) & !AWAITED == word & !AWAITED && is_gone() {
            self.free(word);
        }
        BUSY.store(false, Ordering::Release);
    }

    /// Frees the lock if it still has this word, but for the mark of waiters.
    fn free(&self, word: u64) {
        let seen = self.replace(word, |seen| seen & AWAITED);
        if seen.is_some_and(|seen| seen & AWAITED != 0) {
            self.wake_one();
        }
    }

    /// Puts another word in the place of this one, which may have got the mark of waiters; the word that was there.
    fn replace(&self, word: u64, new: impl Fn(u64) -> u64) -> Option<u64> {
        let mut seen = self.word.load(Ordering::Relaxed);
        while seen & !AWAITED == word & !AWAITED {
            match self.word.compare_exchange(seen, new(seen), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(seen),
                Err(other) => seen = other,
            }
        }
        None
    }

    #[inline(always)]
    fn take(&self, caller: Holder) -> Result<Guard<'_, T>, Busy> {
        self.take_with(FREE, caller, 0)
    }

    /// Takes the lock if it is `free`, with that mark or without; with [`AWAITED`] as the `mark` if others may sleep.
    #[inline(always)]
    fn take_with(&self, free: u64, caller: Holder, mark: u64) -> Result<Guard<'_, T>, Busy> {
        match self.word.compare_exchange(free, caller.word() | mark, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => {
                held::add(caller, self.rank);
                Ok(Guard { lock: self, owner: caller, value: PhantomData })
            }
            Err(_) => Err(Busy),
        }
    }

    /// Wakes one of those who may sleep, of which the mark alone has just been left.
    #[cold]
    #[inline(never)]
    fn wake_one(&self) {
        // Whoever has taken it meanwhile, or does when it wakes, keeps the mark.
        let _ = self.word.compare_exchange(AWAITED, FREE, Ordering::Relaxed, Ordering::Relaxed);
        holder::wake(&self.word);
    }

    #[cold]
    #[inline(never)]
    fn wait(&self, caller: Holder, patience: Patience) -> Result<Guard<'_, T>, Busy> {
        let mut mark = 0;
        let (mut slept, mut last) = (0, caller);
        loop {
            let mut word = FREE;
            for _ in 0..SPINS {
                spin_loop();
                word = self.word.load(Ordering::Relaxed);
                if word & !AWAITED == FREE
                    && let Ok(guard) = self.take_with(word, caller, word | mark)
                {
                    return Ok(guard);
                }
                if holder(word) == caller {
                    return Err(Busy);
                }
            }
            if word & !AWAITED == FREE || !self.mark(word) {
                continue;
            }
            // When it is woken, others may sleep on: whoever has the lock then has to know.
            mark = AWAITED;
            let nap = if is_forks(word) { FORKS_NAP } else { NAP };
            let unwoken = holder::sleep(&self.word, word | AWAITED, nap);
            if unwoken == 0 {
                continue;
            }
            // Where many wait their turn comes late, and the lock is another's each time: that is no wait for one that is stopped.
            let is_same = holder(word) == last;
            last = holder(word);
            slept = if is_same { slept + unwoken } else { unwoken };
            if is_forks(word) && copied::is_made() {
                self.free(word);
            } else if slept >= TOO_LONG {
                slept = 0;
                self.overrun(word);
                if holder(word).is_gone() {
                    self.free_of_gone(word);
                } else if patience == Patience::Limited {
                    return Err(Busy);
                }
            }
        }
    }

    /// Whether the lock has this word, now with the mark of waiters.
    fn mark(&self, word: u64) -> bool {
        let marked = word | AWAITED;
        word == marked
            || self.word.compare_exchange(word, marked, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Counts, and tells once, that the lock has not come from the holder with `word` for seconds.
    #[cold]
    fn overrun(&self, word: u64) {
        static TOLD: AtomicU32 = AtomicU32::new(0);
        OVERRUNS.fetch_add(1, Ordering::Relaxed);
        let is_first = TOLD.fetch_or(1 << self.rank as u32, Ordering::Relaxed) & 1 << self.rank as u32 == 0;
        if word != FREE && is_first && !cfg!(test) {
            report::message(format_args!(
                "dune: thread {} has held the lock of {} for seconds: perhaps it is stopped",
                holder(word).task(),
                self.rank
            ));
        }
    }

    /// The value, when nobody else can have it.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

/// The number of a fork, for its locks: before them the caller has taken one that keeps others from forking.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fork(u64);

impl Fork {
    /// The one that is about to be made.
    pub fn begin() -> Fork {
        Fork((copied::begin() % FORKS + 1) << FORK)
    }
}

impl<'l, T> Guard<'l, T> {
    /// Holds the lock for the time of `fork`.
    pub fn across(self, fork: Fork) -> ForkGuard<'l, T> {
        let (lock, own) = (self.lock, self.owner.word());
        core::mem::forget(self);
        lock.replace(own, |seen| seen | fork.0);
        ForkGuard { lock, word: own | fork.0 }
    }

    /// Who holds the lock.
    pub fn owner(&self) -> Holder {
        self.owner
    }
}

impl<'l, T> ForkGuard<'l, T> {
    /// Whether the lock has been held up to now: in a child, whether its copy is of a moment when it was.
    pub fn is_held(&self) -> bool {
        self.lock.word.load(Ordering::Acquire) & !AWAITED == self.word
    }

    /// The right to use the value again, unless the lock has been taken away.
    pub fn back(self) -> Option<Guard<'l, T>> {
        let own = holder(self.word).word();
        let seen = self.lock.replace(self.word, |seen| own | seen & AWAITED);
        seen.is_some().then(|| {
            let (lock, owner) = (self.lock, holder(self.word));
            core::mem::forget(self);
            Guard { lock, owner, value: PhantomData }
        })
    }
}

impl<T> Drop for ForkGuard<'_, T> {
    fn drop(&mut self) {
        held::remove(holder(self.word), self.lock.rank);
        // Else it is another thread's by now.
        self.lock.free(self.word);
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: 1. this guard is the only one of its lock while it lives.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: 1. this guard is the only one of its lock while it lives; 2. it is borrowed mutably.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        held::remove(self.owner, self.lock.rank);
        // One instruction, LOCK SUB, and a jump by what it leaves: an exchange takes two more.
        let own = self.owner.word();
        if self.lock.word.fetch_sub(own, Ordering::Release) != own {
            self.lock.wake_one();
        }
    }
}

impl<T> fmt::Debug for SpinLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word.load(Ordering::Relaxed);
        f.debug_struct("SpinLock").field("rank", &self.rank).field("word", &word).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Guard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guard")
    }
}
