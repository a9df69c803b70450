//! Threads in every order that chance brings: the lock, forks that hold it, the turns of memory calls, and the queue of signals.
//!
//! The sources are the crate's own, compiled here once more over atomics at which another thread may come (`arch/atomic.rs` is replaced)
//! and over a Linux of a few lines. A failure prints the schedule; `shuttle::replay` repeats it.

#![expect(dead_code, reason = "sources that are used in part, and for a test only")]

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use shuttle::thread;

mod arch {
    /// Atomics at whose operations another thread may come.
    pub mod atomic {
        pub use core::sync::atomic::Ordering;

        /// Another thread may come, in a test that lets it.
        pub fn spin_loop() {
            if crate::EXPLORES.get() {
                shuttle::thread::yield_now();
            }
        }

        macro_rules! atomic {
            ($name:ident, $of:ty) => {
                #[derive(Debug)]
                #[repr(transparent)]
                pub struct $name(core::sync::atomic::$name);

                impl $name {
                    pub const fn new(value: $of) -> $name {
                        $name(core::sync::atomic::$name::new(value))
                    }

                    pub fn load(&self, order: Ordering) -> $of {
                        spin_loop();
                        self.0.load(order)
                    }

                    pub fn store(&self, value: $of, order: Ordering) {
                        spin_loop();
                        self.0.store(value, order);
                    }

                    pub fn swap(&self, value: $of, order: Ordering) -> $of {
                        spin_loop();
                        self.0.swap(value, order)
                    }

                    pub fn compare_exchange(
                        &self,
                        old: $of,
                        new: $of,
                        order: Ordering,
                        failure: Ordering,
                    ) -> Result<$of, $of> {
                        spin_loop();
                        self.0.compare_exchange(old, new, order, failure)
                    }
                }
            };
        }

        atomic!(AtomicU64, u64);
        atomic!(AtomicBool, bool);

        impl AtomicU64 {
            pub fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
                spin_loop();
                self.0.fetch_sub(value, order)
            }

            pub fn as_ptr(&self) -> *mut u64 {
                self.0.as_ptr()
            }

            pub fn fetch_min(&self, value: u64, order: Ordering) -> u64 {
                spin_loop();
                self.0.fetch_min(value, order)
            }

            pub fn fetch_max(&self, value: u64, order: Ordering) -> u64 {
                spin_loop();
                self.0.fetch_max(value, order)
            }
        }
    }

    pub mod cpu {
        pub fn in_dune_mode() -> bool {
            true
        }
    }

    pub mod thread_words {
        pub const TASK: usize = 0;
        pub const LOCK_RANKS: usize = 4;

        /// Blocks of threads, as far as locks look into them. Each test has its own, on a thread of the harness's.
        #[repr(align(64))]
        struct Blocks([[core::sync::atomic::AtomicU32; 16]; 8]);

        thread_local! {
            static BLOCKS: &'static Blocks = Box::leak(Box::new(Blocks(Default::default())));
        }

        /// # Safety
        ///
        /// None.
        pub unsafe fn block() -> u64 {
            let number: usize = format!("{:?}", shuttle::thread::current().id())
                .chars()
                .filter(char::is_ascii_digit)
                .collect::<String>()
                .parse()
                .expect("a number");
            BLOCKS.with(|blocks| (&raw const blocks.0[number]).expose_provenance() as u64)
        }
    }

    pub mod token {
        #[derive(Clone, Copy)]
        pub struct Dune;
    }

    pub(crate) use crate::page;
}

mod linux {
    pub mod sys {
        use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
        use std::cell::RefCell;

        use linux_raw_sys::errno::{EAGAIN, ETIMEDOUT};
        use linux_raw_sys::general::{__NR_futex, FUTEX_PRIVATE_FLAG, FUTEX_WAKE};

        /// Whether a fork has copied the memory.
        pub static COPIED: AtomicBool = AtomicBool::new(false);

        #[derive(Debug, PartialEq, Eq)]
        pub struct Errno(u32);

        impl Errno {
            pub fn raw(&self) -> i32 {
                self.0 as i32
            }
        }

        thread_local! {
            /// Who sleeps, and where: a number that nobody else has, and the address. Those of each test are on a thread of the
            /// harness's, on which shuttle runs one of its threads at a time.
            static SLEEPERS: RefCell<Vec<(u64, u64)>> = const { RefCell::new(Vec::new()) };
        }

        /// futex(2): in a test whose sleepers have no limit a wake that is lost ends in a deadlock, which shuttle tells.
        fn futex([address, operation, seen, ..]: [u64; 6]) -> Result<u64, Errno> {
            shuttle::thread::yield_now();
            if operation == u64::from(FUTEX_WAKE | FUTEX_PRIVATE_FLAG) {
                SLEEPERS.with_borrow_mut(|sleepers| {
                    if let Some(first) = sleepers.iter().position(|sleeper| sleeper.1 == address) {
                        sleepers.remove(first);
                    }
                });
                return Ok(0);
            }
            // SAFETY: the address is that of a lock's word, which its caller has borrowed.
            let now = unsafe { &*core::ptr::with_exposed_provenance::<AtomicU32>(address as usize) };
            if u64::from(now.load(Ordering::SeqCst)) != seen {
                return Err(Errno(EAGAIN));
            }
            let own = (crate::next_number(), address);
            SLEEPERS.with_borrow_mut(|sleepers| sleepers.push(own));
            while SLEEPERS.with_borrow(|sleepers| sleepers.contains(&own)) {
                if crate::NAPS_END.get() {
                    SLEEPERS.with_borrow_mut(|sleepers| sleepers.retain(|sleeper| *sleeper != own));
                    return Err(Errno(ETIMEDOUT));
                }
                shuttle::thread::yield_now();
            }
            Ok(0)
        }

        /// # Safety
        ///
        /// As for [`call`].
        pub unsafe fn raw(number: u32, arguments: [u64; 6]) -> u64 {
            // SAFETY: the caller's.
            unsafe { call(number, arguments) }.unwrap_or(0)
        }

        /// # Safety
        ///
        /// futex(2): the first is the address of a word. Other calls do nothing.
        pub unsafe fn call(number: u32, arguments: [u64; 6]) -> Result<u64, Errno> {
            if number == __NR_futex {
                return futex(arguments);
            }
            shuttle::thread::yield_now();
            Ok(8)
        }

        pub fn thread_id() -> u32 {
            1
        }
    }

    pub mod proc {
        use std::sync::atomic::Ordering;

        use super::sys::COPIED;

        pub fn pagemap_entry(_: u64) -> Option<u64> {
            shuttle::thread::yield_now();
            Some(1 << 63 | u64::from(!COPIED.load(Ordering::SeqCst)) << 56)
        }
    }
}

mod report {
    pub fn message(_: core::fmt::Arguments<'_>) {}
}

#[path = "../src/lock/mod.rs"]
mod lock;

mod contract {
    pub mod signal_frame {
        #[derive(Debug, Clone, Copy)]
        pub struct SignalInfo {
            pub signal: i32,
            pub errno: i32,
            pub code: i32,
            pub padding: i32,
            pub fields: [u64; 14],
        }
    }
}

use contract::signal_frame;
#[path = "../src/contract/signal_queue.rs"]
mod signal_queue;

#[path = "../src/memory/missed.rs"]
mod missed;
#[path = "../src/arch/page.rs"]
mod page;
#[path = "../src/memory/turns.rs"]
mod turns;

use linux::sys::COPIED;
use lock::holder::Holder;
use lock::{Fork, ForkGuard, Rank, SpinLock};
use signal_queue::{Action, Queue, Taken};
use turns::{Span, Turns};

/// So many schedules of each test: some seconds in all.
const SCHEDULES: usize = 400;

thread_local! {
    /// Whether other threads may come: not in the tests that the sources bring with them.
    static EXPLORES: Cell<bool> = const { Cell::new(false) };
    /// Whether who sleeps wakes without being woken.
    static NAPS_END: Cell<bool> = const { Cell::new(false) };
    static NUMBERS: Cell<u64> = const { Cell::new(0) };
}

/// A number that nobody else on this thread of the harness's has got.
fn next_number() -> u64 {
    NUMBERS.set(NUMBERS.get() + 1);
    NUMBERS.get()
}

/// Runs `body` in so many schedules.
fn explore(schedules: usize, body: impl Fn() + Send + Sync + 'static) {
    EXPLORES.set(true);
    shuttle::check_random(body, schedules);
    EXPLORES.set(false);
}

#[test]
fn one_thread_at_a_time_has_the_lock() {
    explore(SCHEDULES, || {
        let lock = Arc::new(SpinLock::new(Rank::Calls, 0));
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let lock = Arc::clone(&lock);
                thread::spawn(move || {
                    for _ in 0..2 {
                        let mut count = lock.lock_without_limit().expect("another thread's");
                        let seen = *count;
                        thread::yield_now();
                        *count = seen + 1;
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        assert_eq!(*lock.lock().expect("free"), 6);
    });
}

/// A fork that does not return before another thread has had the lock: that is had only when the copy is made, and given back by
/// who has it.
#[test]
fn a_fork_loses_its_lock_when_it_has_copied() {
    NAPS_END.set(true);
    explore(SCHEDULES / 4, || {
        COPIED.store(false, Ordering::SeqCst);
        let lock = Arc::new(SpinLock::new(Rank::Calls, false));
        let others: Vec<_> = (0..2)
            .map(|_| {
                let lock = Arc::clone(&lock);
                thread::spawn(move || {
                    let mut guard = lock.lock_without_limit().expect("another thread's");
                    assert!(!*guard, "two have it");
                    *guard = true;
                    thread::yield_now();
                    *guard = false;
                })
            })
            .collect();
        let held = lock.lock_without_limit().expect("another thread's").across(Fork::begin());
        for _ in 0..200 {
            thread::yield_now();
            assert!(held.is_held(), "nothing is copied yet");
        }
        COPIED.store(true, Ordering::SeqCst);
        others.into_iter().for_each(|other| other.join().expect("no panic"));
        let _: Option<_> = ForkGuard::back(held);
        assert!(lock.lock().is_ok());
    });
}

/// What is mapped, by page: what Linux says, and what the tables say.
type Pages = Mutex<[u8; 8]>;

/// Threads map, protect and unmap pages of the same few. When all have returned, the tables say what Linux does.
#[test]
fn the_last_edit_tells_the_truth() {
    explore(SCHEDULES, || {
        let turns = Arc::new(Turns::new());
        let pages: Arc<[Pages; 2]> = Arc::default();
        let threads: Vec<_> = (0..3u64)
            .map(|number| {
                let (turns, pages) = (Arc::clone(&turns), Arc::clone(&pages));
                thread::spawn(move || {
                    use shuttle::rand::Rng;
                    for _ in 0..2 {
                        let mut random = shuttle::rand::thread_rng();
                        let (first, rights) = (random.gen_range(0..6usize), 1 + number as u8);
                        let length = random.gen_range(1..3usize);
                        memory_call(&turns, &pages, random.gen_range(0..3), first..first + length, rights);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        let [linux, tables] = [0, 1].map(|index| *pages[index].lock().expect("no panic"));
        assert_eq!(linux, tables);
    });
}

/// A call that sets the rights of pages (0), lets Linux choose pages (1), or unmaps (2), as `guest/memory_calls.rs` makes them.
fn memory_call(turns: &Turns, pages: &[Pages; 2], kind: u32, range: std::ops::Range<usize>, rights: u8) {
    const PAGE: u64 = 4096;
    let span =
        |range: &std::ops::Range<usize>| Span::new(range.start as u64 * PAGE, range.len() as u64 * PAGE);
    let [linux, tables] = pages;
    let set = |to: &Pages, range: std::ops::Range<usize>, rights| {
        to.lock().expect("no panic")[range].fill(rights);
    };
    let ask = |range: std::ops::Range<usize>| {
        let says = *linux.lock().expect("no panic");
        thread::yield_now();
        tables.lock().expect("no panic")[range.clone()].copy_from_slice(&says[range]);
    };
    match kind {
        0 => {
            let mut turn = turns.begin([span(&range), Span::NONE], false);
            turn.outside(|| set(linux, range.clone(), rights));
            if turn.is_alone() { set(tables, range, rights) } else { ask(range) }
        }
        1 => {
            let mut turn = turns.begin([Span::NONE; 2], true);
            let got = turn.outside(|| {
                let mut linux = linux.lock().expect("no panic");
                let free = linux.iter().position(|&page| page == 0)?;
                linux[free] = rights;
                Some(free..free + 1)
            });
            let Some(got) = got else { return };
            turn.get(span(&got));
            if turn.is_alone() { set(tables, got, rights) } else { ask(got) }
        }
        _ => {
            let mut turn = turns.begin([span(&range), Span::NONE], false);
            set(tables, range.clone(), 0);
            turn.outside(|| set(linux, range.clone(), 0));
            if !turn.is_alone() {
                ask(range);
            }
        }
    }
}

/// Signals come out as they went in, whenever they come: the host side may interrupt ring 0 at any place.
#[test]
fn signals_are_taken_in_order() {
    const SIGNALS: i32 = 20;
    /// A thread's host side and its ring 0, as two threads.
    struct Shared(Queue);
    // SAFETY: one thread pushes and one pops: an entry is written before `tail` passes it, and read before `head` does.
    unsafe impl Sync for Shared {}
    explore(SCHEDULES / 2, || {
        let both = Arc::new(Shared(Queue::new()));
        let (host, unblock) = (Arc::clone(&both), Arc::new(AtomicBool::new(false)));
        let unblocked = Arc::clone(&unblock);
        let queue = &both.0;
        let host = thread::spawn(move || {
            let host = &host; // all of it, not its field, which may not be sent
            for signal in 1..=SIGNALS {
                let info =
                    signal_frame::SignalInfo { signal, errno: 0, code: 0, padding: 0, fields: [0; 14] };
                let taken = Taken { info, action: Action::default(), mask: 0, handler_mask: 0 };
                if !host.0.push(&taken) {
                    // Linux sends none until ring 0 has made room.
                    while !unblocked.swap(false, Ordering::SeqCst) {
                        thread::yield_now();
                    }
                }
            }
        });
        let mut last = 0;
        while last < SIGNALS {
            while let Some(taken) = queue.pop() {
                last += 1;
                assert_eq!(taken.info.signal, last);
            }
            if queue.end_throttling() {
                unblock.store(true, Ordering::SeqCst);
            }
            // What has been pushed since is pending, or will be.
            while last < SIGNALS && !queue.is_pending() {
                thread::yield_now();
            }
        }
        host.join().expect("no panic");
        assert!(queue.pop().is_none());
    });
}

/// Holders are told apart.
#[test]
fn threads_have_names() {
    explore(10, || {
        let other = thread::spawn(Holder::caller).join().expect("no panic");
        assert_ne!(other, Holder::caller());
    });
}
