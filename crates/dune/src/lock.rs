//! A lock that a handler may meet while the code it interrupted holds it.
//!
//! A handler runs on the thread of the code that it interrupted. Would it wait for a lock that this code holds, it would
//! wait for ever: it is told [`Busy`] at once, and can do without or leave the work for later. Who holds a lock is the
//! thread's block, or nobody in particular in host mode, where no handler of ours takes locks.
//!
//! A lock of another thread is waited for, since its edits must not be lost only because that thread does not run at this
//! moment: first spinning, then giving the CPU to others, then sleeping, for some seconds at most.

use core::cell::UnsafeCell;
use core::fmt;
use core::hint::spin_loop;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU64, Ordering};

use linux_raw_sys::general::__NR_sched_yield;
use thiserror::Error;

use crate::arch::token::Dune;
use crate::arch::{cpu, thread_words};
use crate::linux::sys;

/// How often a waiter looks before it gives its CPU to others: longer than an edit takes.
const SPINS: u32 = 64;
/// How often it gives its CPU to others before it sleeps: the holder may be a thread that does not run.
const ROUNDS: u32 = 256;
/// How many milliseconds it sleeps, all in all: the holder may be in a call to the engine on a busy machine.
const PAUSES: u32 = if cfg!(test) { 500 } else { 3000 };

/// The lock is taken: by the code that this handler interrupted, or for seconds by another thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "the lock is held, perhaps by the code that this handler interrupted: do it after the handler returns"
)]
pub struct Busy;

/// A `T` behind a lock.
pub(crate) struct SpinLock<T> {
    /// [`FREE`], [`HOST`], or the address of the holder's thread block.
    holder: AtomicU64,
    value: UnsafeCell<T>,
}

const FREE: u64 = 0;
/// Some thread in host mode.
const HOST: u64 = 1;

/// Who takes a lock.
#[inline(always)]
fn caller() -> u64 {
    // SAFETY: in Dune mode, which is ring 0.
    if cpu::in_dune_mode() { unsafe { thread_words::block() } } else { HOST }
}

// SAFETY: 1. a `&SpinLock<T>` gives access to the T to one holder at a time, which sends it between threads.
unsafe impl<T: Send> Sync for SpinLock<T> {}

/// The right to use the value; gives the lock back when dropped.
pub(crate) struct Guard<'l, T> {
    lock: &'l SpinLock<T>,
}

impl<T> SpinLock<T> {
    pub const fn new(value: T) -> SpinLock<T> {
        SpinLock { holder: AtomicU64::new(FREE), value: UnsafeCell::new(value) }
    }

    /// Takes the lock, waiting for other threads, but not for ever.
    #[inline]
    pub fn lock(&self) -> Result<Guard<'_, T>, Busy> {
        let caller = caller();
        self.take(caller).or_else(|_| self.wait(caller))
    }

    /// [`Self::lock`] for who knows that this is Dune mode: the shortest way.
    #[inline(always)]
    pub fn lock_in_dune_mode(&self, _dune: Dune) -> Result<Guard<'_, T>, Busy> {
        // SAFETY: ring 0, by the token.
        let caller = unsafe { thread_words::block() };
        match self.take(caller) {
            Ok(guard) => Ok(guard),
            Err(_) => self.wait(caller),
        }
    }

    /// Frees the lock if its holder, a thread block, `is_gone`: its thread was killed, or is the parent's in the child of a fork.
    pub fn free_if(&self, is_gone: impl Fn(u64) -> bool) {
        let holder = self.holder.load(Ordering::Relaxed);
        if holder != FREE && is_gone(holder) {
            let _ = self.holder.compare_exchange(holder, FREE, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    #[inline(always)]
    fn take(&self, caller: u64) -> Result<Guard<'_, T>, Busy> {
        match self.holder.compare_exchange(FREE, caller, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Ok(Guard { lock: self }),
            Err(_) => Err(Busy),
        }
    }

    #[cold]
    #[inline(never)]
    fn wait(&self, caller: u64) -> Result<Guard<'_, T>, Busy> {
        for round in 0..ROUNDS + PAUSES {
            for _ in 0..SPINS {
                spin_loop();
                let holder = self.holder.load(Ordering::Relaxed);
                if holder == FREE
                    && let Ok(guard) = self.take(caller)
                {
                    return Ok(guard);
                }
                if holder == caller && caller != HOST {
                    return Err(Busy);
                }
            }
            if round < ROUNDS {
                // SAFETY: sched_yield takes no argument and touches no memory.
                let _ = unsafe { sys::raw(__NR_sched_yield, [0; 6]) };
            } else {
                sys::pause();
            }
        }
        Err(Busy)
    }

    /// The value, when nobody else can have it.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<T: Default> Default for SpinLock<T> {
    fn default() -> SpinLock<T> {
        SpinLock::new(T::default())
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
        self.lock.holder.store(FREE, Ordering::Release);
    }
}

impl<T> fmt::Debug for SpinLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpinLock").field("holder", &self.holder).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Guard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guard")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_taker_is_told_and_never_hangs() {
        let lock = SpinLock::new(1);
        let mut guard = lock.lock().unwrap();
        *guard += 1;
        assert_eq!(lock.lock().err(), Some(Busy));
        drop(guard);
        assert_eq!(*lock.lock().unwrap(), 2);
    }

    #[test]
    fn survivors_keep_theirs() {
        let lock = SpinLock::new(1);
        let guard = lock.lock().unwrap();
        lock.free_if(|holder| holder != HOST);
        assert_eq!(lock.lock().err(), Some(Busy));
        core::mem::forget(guard);
        lock.free_if(|holder| holder != 0x1000);
        assert!(lock.lock().is_ok());
    }

    #[test]
    fn threads_exclude_each_other() {
        let lock = SpinLock::new(0u32);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        loop {
                            if let Ok(mut guard) = lock.lock() {
                                *guard += 1;
                                break;
                            }
                            std::thread::yield_now();
                        }
                    }
                });
            }
        });
        assert_eq!(*lock.lock().unwrap(), 4000);
    }
}
