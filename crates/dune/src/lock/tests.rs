//! What the lock promises. (Not a part of the lock's module, whose sources `tests/schedules.rs` compiles once more.)

use std::sync::mpsc;
use std::thread;

use crate::linux::sys;
use crate::lock::holder::Holder;
use crate::lock::{Busy, Fork, Guard, Rank, SpinLock, overruns};

/// A guard is not shared, whatever its value is: a name with two meanings is refused by the compiler.
const _: fn() = || {
    trait NotSync<Meaning> {
        fn name() {}
    }
    impl<T> NotSync<()> for T {}
    impl<T: Sync> NotSync<u8> for T {}
    <Guard<'static, core::cell::Cell<u32>> as NotSync<_>>::name();
    <Guard<'static, u32> as NotSync<_>>::name();
};

#[test]
fn the_same_thread_is_told_at_once() {
    let lock = SpinLock::new(Rank::Calls, 1);
    let mut guard = lock.lock().unwrap();
    *guard += 1;
    assert_eq!(lock.lock().err(), Some(Busy));
    assert_eq!(lock.lock_without_limit().err(), Some(Busy));
    drop(guard);
    assert_eq!(*lock.lock().unwrap(), 2);
}

/// Calls `body` while another thread holds `lock`; what it returns, and when the other has let go.
fn while_held<T: Send, R>(lock: &SpinLock<T>, body: impl FnOnce(&dyn Fn()) -> R) -> R {
    let ((held, is_held), (release, is_released)) = (mpsc::channel(), mpsc::channel::<()>());
    thread::scope(|scope| {
        scope.spawn(move || {
            let _guard = lock.lock().unwrap();
            held.send(()).unwrap();
            let _ = is_released.recv();
        });
        is_held.recv().unwrap();
        body(&|| release.send(()).unwrap())
    })
}

#[test]
fn who_waits_with_a_limit_is_told_and_counted() {
    let lock = SpinLock::new(Rank::Edits, ());
    while_held(&lock, |release| {
        let before = overruns();
        assert_eq!(lock.lock().err(), Some(Busy));
        assert!(overruns() > before);
        release();
    });
}

#[test]
fn who_waits_without_a_limit_gets_it() {
    let lock = SpinLock::new(Rank::Calls, ());
    while_held(&lock, |release| {
        thread::scope(|scope| {
            let before = overruns();
            let waiter = scope.spawn(|| lock.lock_without_limit().map(drop));
            while overruns() == before {
                thread::yield_now();
            }
            assert!(!waiter.is_finished());
            release();
            assert_eq!(waiter.join().unwrap(), Ok(()));
        });
    });
}

#[test]
fn survivors_keep_theirs() {
    let lock = SpinLock::new(Rank::Edits, 1);
    let guard = lock.lock().unwrap();
    lock.free_if(|holder| holder != Holder::caller());
    assert_eq!(lock.lock().err(), Some(Busy));
    core::mem::forget(guard);
    lock.free_if(|holder| holder == Holder::caller());
    assert!(lock.lock().is_ok());
}

#[test]
fn a_holder_that_is_gone_loses_it() {
    let lock = SpinLock::new(Rank::Windows, ());
    thread::scope(|scope| {
        scope.spawn(|| core::mem::forget(lock.lock().unwrap()));
    });
    assert!(lock.lock().is_ok());
}

#[test]
fn threads_exclude_each_other() {
    let lock = SpinLock::new(Rank::Calls, 0u32);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1000).for_each(|_| *lock.lock_without_limit().unwrap() += 1));
        }
    });
    assert_eq!(*lock.lock().unwrap(), 4000);
}

#[test]
fn a_lock_across_a_fork_is_given_back_or_was_taken_away() {
    let lock = SpinLock::new(Rank::Edits, 7);
    let held = lock.lock().unwrap().across(Fork::begin());
    assert!(held.is_held());
    assert_eq!(lock.lock().err(), Some(Busy));
    assert_eq!(held.back().map(|guard| *guard), Some(7));
    let held = lock.lock().unwrap().across(Fork::begin());
    lock.free_if(|_| true);
    let other = lock.lock().unwrap();
    assert!(!held.is_held());
    drop(held);
    assert_eq!(lock.lock().err(), Some(Busy), "what is another's by now is not freed");
    drop(other);
    let held = lock.lock().unwrap().across(Fork::begin());
    lock.free_if(|_| true);
    assert!(held.back().is_none());
}

/// A fork that does not return although the child has its copy: others go on.
#[test]
fn the_copy_of_a_fork_ends_the_wait() {
    let lock = SpinLock::new(Rank::Calls, ());
    let ((held, is_held), (release, is_released)) = (mpsc::channel(), mpsc::channel::<()>());
    thread::scope(|scope| {
        let lock = &lock;
        scope.spawn(move || {
            let guard = lock.lock().unwrap().across(Fork::begin());
            // SAFETY: the child only waits to be killed.
            let child = unsafe { sys::raw(linux_raw_sys::general::__NR_fork, [0; 6]) };
            if child == 0 {
                loop {
                    sys::pause();
                }
            }
            held.send(child).unwrap();
            let _ = is_released.recv();
            assert!(!guard.is_held());
        });
        let child = is_held.recv().unwrap();
        assert!(lock.lock_without_limit().is_ok());
        release.send(()).unwrap();
        // SAFETY: ends the child.
        let _ = unsafe { sys::raw(linux_raw_sys::general::__NR_kill, [child, 9, 0, 0, 0, 0]) };
    });
}

#[test]
#[cfg(debug_assertions)]
fn the_wrong_order_is_noticed() {
    let (windows, calls) = (SpinLock::new(Rank::Windows, ()), SpinLock::new(Rank::Calls, ()));
    let order = |first: &SpinLock<()>, second: &SpinLock<()>| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _first = first.lock();
            let _second = second.lock();
        }))
    };
    assert!(order(&calls, &windows).is_ok());
    assert!(order(&windows, &calls).is_err());
}
