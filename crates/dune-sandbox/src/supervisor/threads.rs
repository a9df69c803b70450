//! Threads: each is a thread of Linux's in Dune mode, with a supervisor's loop of its own.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, mpsc};

use dune::memory::VirtAddr;
use dune::user::UserContext;

use super::wish::Wish;
use super::{Answer, Thread, error, lock};
use crate::checked::Request;
use crate::error::say;
use crate::raw::{call, process, signals};

/// The threads of a process.
#[derive(Debug)]
pub(super) struct Threads {
    /// How many there are.
    count: AtomicUsize,
    /// The numbers of those that have begun.
    numbers: Mutex<Vec<i32>>,
    /// Whether the first one is still there.
    has_first: AtomicBool,
}

impl Threads {
    /// The first one.
    pub(super) fn new() -> Threads {
        Threads {
            count: AtomicUsize::new(1),
            numbers: Mutex::new(vec![process::thread_number()]),
            has_first: AtomicBool::new(true),
        }
    }

    /// Held over a fork.
    pub(super) fn hold(&self) -> MutexGuard<'_, Vec<i32>> {
        lock(&self.numbers)
    }

    /// In the child of a fork there is one.
    pub(super) fn forget_others(&self, numbers: &mut Vec<i32>) {
        numbers.clear();
        numbers.push(process::thread_number());
        self.count.store(1, Ordering::Relaxed);
        self.has_first.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_one(&self) -> bool {
        self.count() == 1
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// The numbers of those that have begun and not ended.
    pub(super) fn numbers(&self) -> Vec<i32> {
        lock(&self.numbers).clone()
    }

    /// Whether the first one is still there.
    pub(super) fn has_first(&self) -> bool {
        self.has_first.load(Ordering::Acquire)
    }

    /// The calling thread is not there any more; whether it was the last one.
    fn end(&self) -> bool {
        let own = process::thread_number();
        lock(&self.numbers).retain(|number| *number != own);
        if process::is_first_thread() {
            self.has_first.store(false, Ordering::Release);
        }
        self.count.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// What clone(2) sets in the registers of a new thread or child.
pub(super) fn set_registers(context: &mut UserContext, wish: &Wish) {
    context.set_return_value(0);
    if wish.stack != 0 {
        context.registers.rsp = wish.stack;
    }
    if wish.has(libc::CLONE_SETTLS) {
        context.set_fs_base(VirtAddr::new_truncate(wish.base));
    }
}

/// clone(2) of a thread.
pub(super) fn start(thread: &mut Thread, wish: &Wish) -> Answer {
    let mut context = thread.context.clone();
    set_registers(&mut context, wish);
    let (process, mask) = (thread.process, thread.signals.mask());
    let parent = process::thread_number();
    let word = |flag: i32, address: u64| if wish.has(flag) { address } else { 0 };
    let cleared = word(libc::CLONE_CHILD_CLEARTID, wish.child_word);
    let told = word(libc::CLONE_CHILD_SETTID, wish.child_word);
    let told_parent = word(libc::CLONE_PARENT_SETTID, wish.parent_word);
    if !process.quota.take_thread() {
        return error(libc::EAGAIN);
    }
    let (tell, hear) = mpsc::sync_channel(1);
    process.threads.count.fetch_add(1, Ordering::Relaxed);
    // The new thread starts with all signals blocked: see `Signals::begin`.
    let (_, before) = process::change_mask(libc::SIG_SETMASK as u64, Some(u64::MAX));
    let body = move || {
        let _guard = Guard;
        let Some(dune) = dune::current() else {
            say(format_args!("dune: a thread is not in Dune mode; the program ends"));
            process::die(libc::SIGKILL);
        };
        let mut thread = Thread::new(dune, process, context);
        let number = process::thread_number();
        lock(&process.threads.numbers).push(number);
        // The parent waits, and its filters are still there. Who sets those of all threads finds this one by its number, or is found here.
        thread.filters = process.filters.begin(parent);
        // Before the program goes on anywhere, as Linux does: it may have cleared them soon after.
        for address in [told, told_parent] {
            if address != 0 {
                let _ = thread.memory().write(address, &(number as u32).to_le_bytes());
            }
        }
        let _ = tell.send(number.into());
        drop(tell);
        thread.cleared = cleared;
        thread.signals.begin(mask);
        if let Err(error) = thread.run() {
            say(format_args!("dune: {error}"));
            process::die(libc::SIGKILL);
        }
    };
    let started = {
        // Dune makes the new thread's virtual CPU, whose descriptor nobody is to get at.
        let _descriptors = process.keep_descriptors();
        std::thread::Builder::new().stack_size(STACK).spawn(body)
    };
    process::change_mask(libc::SIG_SETMASK as u64, Some(before));
    match started {
        Ok(_) => hear.recv().unwrap_or(error(libc::EAGAIN)),
        Err(_) => {
            process.threads.count.fetch_sub(1, Ordering::Relaxed);
            process.quota.give_thread();
            error(libc::EAGAIN)
        }
    }
}

/// A supervisor's loop that panics ends the process: its thread of the program's can not go on, and others would wait for it.
struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            process::die(libc::SIGKILL);
        }
    }
}

/// What a supervisor's loop takes.
const STACK: usize = 256 << 10;

/// exit(2): the thread ends, and with the last one the process.
pub(super) fn exit(thread: &mut Thread, request: &mut Request) -> Answer {
    end(thread, request.arguments()[0] as i32)
}

/// The thread ends with this status, and with the last one the process.
pub(super) fn end(thread: &mut Thread, status: i32) -> Answer {
    if thread.process.threads.end() {
        thread.end_process(status);
    }
    thread.process.robust.release(thread.memory());
    thread.process.filters.end();
    thread.process.quota.give_thread();
    signals::pass_on(None);
    if thread.cleared != 0 {
        // What waits for the end: pthread_join(3).
        let _ = thread.memory().write(thread.cleared, &[0; 4]);
        call::wake(thread.cleared);
    }
    if process::is_first_thread() {
        // The first thread's end is not the process's.
        process::exit_thread(status);
    }
    thread.is_over = true;
    0
}

/// The thread ends, since another one executes a program: nobody waits for it. Its signals have been [passed on](signals::pass_on).
pub(super) fn leave(thread: &mut Thread) {
    thread.process.robust.release(thread.memory());
    thread.process.filters.end();
    thread.process.threads.end();
    thread.process.quota.give_thread();
    thread.is_over = true;
}
