//! Children: fork(2) and its relatives.
//!
//! A child is a process of Linux's, in Dune mode from its first instruction, whose supervisor goes on where the parent's was: it is a copy,
//! as all else. A parent whose memory is borrowed until an exec (vfork, posix_spawn) waits: see `borrowed.rs`.

use std::fs;
use std::sync::atomic::Ordering;

use super::borrowed::Borrowed;
use super::wish::{Kind, Wish};
use super::{Answer, Thread, error, threads};
use crate::checked::Request;
use crate::raw::{call, process, signals};

/// fork(2).
pub(super) fn fork(thread: &mut Thread, _: &mut Request) -> Answer {
    new_process(thread)
}

/// vfork(2).
pub(super) fn vfork(thread: &mut Thread, _: &mut Request) -> Answer {
    child(thread, &Wish::VFORK)
}

/// clone(2).
pub(super) fn clone(thread: &mut Thread, request: &mut Request) -> Answer {
    make(thread, &Wish::of_clone(*request.arguments()))
}

/// clone3(2). Policies see it as the clone(2) that it is: with flags that nobody can change any more.
pub(super) fn clone3(thread: &mut Thread, request: &Request) -> Answer {
    let [address, size, ..] = *request.arguments();
    let wish = match Wish::of_clone3(thread.memory(), address, size) {
        Ok(wish) => wish,
        Err(errno) => return error(errno),
    };
    match thread.permit(&wish.request()) {
        Ok(()) => make(thread, &wish),
        Err(denied) => denied,
    }
}

fn make(thread: &mut Thread, wish: &Wish) -> Answer {
    match wish.kind() {
        Ok(Kind::Thread) => threads::start(thread, wish),
        Ok(Kind::Child) => child(thread, wish),
        Err(errno) => {
            if errno == libc::ENOSYS {
                thread.process.log(
                    "clone with other flags than those of threads and children",
                    "is not implemented yet, and answered with ENOSYS",
                );
            }
            error(errno)
        }
    }
}

fn new_process(thread: &mut Thread) -> i64 {
    if thread.process.is_restricted.load(Ordering::Relaxed) && fs::File::open("/proc/self/maps").is_err() {
        thread.process.log(
            "of a child, under a Landlock ruleset of its own that denies /proc,",
            "is not implemented yet, and answered with EACCES",
        );
        return error(libc::EACCES);
    }
    // What comes for the child waits with Linux, until the child has forgotten what has come for the parent.
    process::change_mask(libc::SIG_SETMASK as u64, Some(u64::MAX));
    let result = thread.process.fork();
    if result == 0 {
        signals::forget();
    }
    let mask = thread.signals.mask();
    thread.signals.begin(mask);
    if result == 0 {
        thread.cleared = 0;
        thread.borrowed = None;
        if let Some(watch) = &thread.process.watch {
            watch.started(thread, true);
        }
    }
    result
}

fn child(thread: &mut Thread, wish: &Wish) -> Answer {
    let parent = call::plain(libc::SYS_getpid, [0; 6]);
    let borrowed = wish.has(libc::CLONE_VFORK).then(|| Borrowed::new(thread)).transpose();
    let mut borrowed = match borrowed {
        Ok(borrowed) => borrowed,
        Err(error) => return error,
    };
    let result = new_process(thread);
    if result == 0 {
        threads::set_registers(&mut thread.context, wish);
        if wish.clears_handlers() {
            thread.process.actions().reset();
        }
        if wish.has(libc::CLONE_CHILD_SETTID) {
            let _ = thread.memory().write(wish.child_word, &std::process::id().to_le_bytes());
        }
        if wish.has(libc::CLONE_CHILD_CLEARTID) {
            thread.cleared = wish.child_word;
        }
        thread.borrowed = borrowed.take().map(|borrowed| (borrowed, parent));
        return 0;
    }
    if result > 0 {
        // Linux does not say where a write fails, either.
        if wish.has(libc::CLONE_PARENT_SETTID) {
            let _ = thread.memory().write(wish.parent_word, &(result as u32).to_le_bytes());
        }
        if wish.has(libc::CLONE_PIDFD) {
            let _changes = thread.process.change_descriptors();
            let descriptor = call::plain(libc::SYS_pidfd_open, [result as u64, 0, 0, 0, 0, 0]);
            let _ = thread.memory().write(wish.pidfd_word, &(descriptor as u32).to_le_bytes());
        }
        if let Some(borrowed) = borrowed {
            borrowed.wait_for(thread, result as i32);
        }
    }
    result
}
