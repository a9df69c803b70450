//! execve(2) by one of several threads: the others end, and the first thread, whose number is the process's, goes on with the program.
//!
//! On Linux the thread that calls takes that number over (`de_thread` of fs/exec.c). Here it hands the program to the first thread; only where
//! that has ended it goes on itself, with its own number.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::exec::Next;
use super::{Process, Thread, exec, lock, threads};
use crate::error::say;
use crate::raw::{call, process, signals};

/// What interrupts the other threads: SIGSETXID, which C libraries keep for themselves and never block (nptl(7)).
const KICK: i32 = 33;
/// Between two kicks: one may come right before a call that waits.
const PAUSE: Duration = Duration::from_millis(1);
/// How long a thread may take to end. One that waits for a device, or has blocked the kick, does not.
const LIMIT: Duration = Duration::from_secs(10);

/// Who goes on, when all other threads have ended.
#[derive(Debug, Default)]
pub(super) struct Succession {
    /// Whether the threads are to end.
    is_open: AtomicBool,
    /// What the first thread is to go on with.
    next: Mutex<Option<Next>>,
}

impl Succession {
    /// Whether a thread has to [see](attend) what becomes of it before it goes on.
    pub(super) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// Held over a fork.
    pub(super) fn hold(&self) -> impl Sized {
        lock(&self.next)
    }

    /// In the child of a fork nobody executes anything.
    pub(super) fn forget(&self) {
        self.is_open.store(false, Ordering::Release);
    }
}

/// Has the process go on with `next`. Of an error the program has to be told; else the calling thread goes on with it, or ends.
pub(super) fn open(thread: &mut Thread, next: Next) -> Result<(), i32> {
    let process = thread.process;
    {
        let mut place = lock(&process.succession.next);
        if process.succession.is_open.swap(true, Ordering::AcqRel) {
            // Another thread was first, and this one is to end.
            return Err(libc::EAGAIN);
        }
        *place = Some(next);
    }
    signals::handle(KICK, 0);
    if !process::is_first_thread() {
        let first = std::process::id() as i32;
        let start = Instant::now();
        while process.threads.has_first() && lock(&process.succession.next).is_some() {
            kick(process, first, start);
        }
    }
    let next = lock(&process.succession.next).take();
    go_on_or_leave(thread, next);
    Ok(())
}

/// The calling thread ends, or it is the first one, and goes on.
pub(super) fn attend(thread: &mut Thread) {
    let next = process::is_first_thread().then(|| lock(&thread.process.succession.next).take()).flatten();
    go_on_or_leave(thread, next);
}

fn go_on_or_leave(thread: &mut Thread, next: Option<Next>) {
    // Other signals that have come are for who goes on.
    signals::pass_on(Some(KICK));
    match next {
        Some(next) => succeed(thread, next),
        None => threads::leave(thread),
    }
}

fn succeed(thread: &mut Thread, next: Next) {
    let process = thread.process;
    let (own, start) = (process::thread_number(), Instant::now());
    while !process.threads.is_one() {
        for number in process.threads.numbers().into_iter().filter(|number| *number != own) {
            kick(process, number, start);
        }
    }
    // Who ignores a signal has none waiting: nobody kicks any more.
    process::set_disposition(KICK, true);
    process::set_disposition(KICK, false);
    process.succession.forget();
    exec::succeed(thread, next);
}

/// Interrupts what the thread `number` does, and waits a little.
fn kick(process: &Process, number: i32, start: Instant) {
    if start.elapsed() > LIMIT {
        say(format_args!(
            "dune: {} threads do not end for an execve; the program ends",
            process.threads.count()
        ));
        process::die(libc::SIGKILL);
    }
    let arguments = [std::process::id().into(), number as u64, KICK as u64, 0, 0, 0];
    call::plain(libc::SYS_tgkill, arguments);
    sleep(PAUSE);
}
