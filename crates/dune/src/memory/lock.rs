//! A spin lock that a handler may meet while the code it interrupted holds it.
//!
//! A handler runs on the thread of the code that it interrupted. Would it wait for a lock that this code
//! holds, it would wait for ever. So taking the lock spins only for a bounded time and then says [`Busy`]:
//! the handler can do without, or leave the work for later.

use core::cell::UnsafeCell;
use core::fmt;
use core::hint::spin_loop;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering};

use linux_raw_sys::general::__NR_sched_yield;
use thiserror::Error;

use crate::sys;

/// How often a waiter gives its CPU to others before it gives up: the holder may be a thread that does not run.
const ROUNDS: u32 = 256;
/// How often a waiter looks in between: longer than an edit takes.
const SPINS: u32 = 64;

/// The lock stayed taken: by the code that this handler interrupted, or by a thread that does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "the lock is held, perhaps by the code that this handler interrupted: do it after the handler returns"
)]
pub struct Busy;

/// A `T` behind a bounded spin lock.
pub(super) struct SpinLock<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: 1. a `&SpinLock<T>` gives access to the T to one holder at a time, which sends it between threads.
unsafe impl<T: Send> Sync for SpinLock<T> {}

/// The right to use the value; gives the lock back when dropped.
pub(super) struct Guard<'l, T> {
    lock: &'l SpinLock<T>,
}

impl<T> SpinLock<T> {
    pub const fn new(value: T) -> SpinLock<T> {
        SpinLock { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Takes the lock, waiting for a bounded time.
    #[inline]
    pub fn lock(&self) -> Result<Guard<'_, T>, Busy> {
        if !self.taken.swap(true, Ordering::Acquire) {
            return Ok(Guard { lock: self });
        }
        self.wait()
    }

    #[cold]
    #[inline(never)]
    fn wait(&self) -> Result<Guard<'_, T>, Busy> {
        for _ in 0..ROUNDS {
            for _ in 0..SPINS {
                spin_loop();
                if !self.taken.load(Ordering::Relaxed) && !self.taken.swap(true, Ordering::Acquire) {
                    return Ok(Guard { lock: self });
                }
            }
            // SAFETY: sched_yield takes no argument and touches no memory.
            let _ = unsafe { sys::raw(__NR_sched_yield, [0; 6]) };
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
        self.lock.taken.store(false, Ordering::Release);
    }
}

impl<T> fmt::Debug for SpinLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpinLock").field("taken", &self.taken).finish_non_exhaustive()
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
