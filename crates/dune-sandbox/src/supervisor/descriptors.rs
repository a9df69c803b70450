//! Descriptors: that the runtime's own are not the program's, not even while they are being made.
//!
//! What the runtime opens gets the lowest free number for a moment, before it stands where every call of the program's is refused
//! (`Dune::keeps_descriptor`). So the lock of the process's descriptors is held to write while it does, and to read by each call that gives
//! a file another number, takes one away, or hands one on.

use super::{Answer, Process, Thread, error};
use crate::checked::Request;
use crate::raw::{call, result};
use crate::weakness::{Defence, lacks};

/// Calls `make` with the lock that the call needs, and with duplicates of the descriptors that it hands on.
pub(super) fn pass_and(
    process: &Process,
    request: &mut Request,
    make: impl FnOnce(&mut Request) -> i64,
) -> Result<i64, i64> {
    match i64::from(request.call().number) {
        // They change which files descriptors are, by descriptors that they are given.
        libc::SYS_close | libc::SYS_dup | libc::SYS_dup2 | libc::SYS_dup3 | libc::SYS_close_range => {
            let _changes = process.change_descriptors();
            Ok(make(request))
        }
        libc::SYS_fcntl if matches!(request.form().name, "F_DUPFD" | "F_DUPFD_CLOEXEC") => {
            let _changes = process.change_descriptors();
            Ok(make(request))
        }
        // Dune opens files of /proc for them: priorities of process groups (`guest/priority.rs` there).
        libc::SYS_getpriority | libc::SYS_setpriority | libc::SYS_ioprio_set => {
            let _makes = process.keep_descriptors();
            Ok(make(request))
        }
        _ if request.passes_descriptors() && !lacks(Defence::Descriptors) => {
            let _passed = pass(process, request)?;
            Ok(make(request))
        }
        _ => Ok(make(request)),
    }
}

/// Descriptors that a message hands on: duplicates, so that they are what they were when they were looked at, however long the message
/// waits. They are closed with this.
struct Passed<'p> {
    process: &'p Process,
    numbers: Vec<i32>,
}

impl Drop for Passed<'_> {
    fn drop(&mut self) {
        if self.numbers.is_empty() {
            return;
        }
        let _changes = self.process.change_descriptors();
        for number in &self.numbers {
            call::plain(libc::SYS_close, [*number as u64, 0, 0, 0, 0, 0]);
        }
    }
}

/// Puts duplicates in the place of the descriptors that a message hands on.
fn pass<'p>(process: &'p Process, request: &mut Request) -> Result<Passed<'p>, i64> {
    let mut passed = Passed { process, numbers: Vec::new() };
    // What is over is closed without the lock: see `Passed`.
    let done = {
        let _changes = process.change_descriptors();
        request.replace_passed(|number| {
            let arguments = [number as u64, libc::F_DUPFD_CLOEXEC as u64, 0, 0, 0, 0];
            let duplicate = result(call::plain(libc::SYS_fcntl, arguments))? as i32;
            passed.numbers.push(duplicate);
            Ok(duplicate)
        })
    };
    done.map(|()| passed)
}

/// close_range(2), but for CLOSE_RANGE_UNSHARE: all threads have one table, which the supervisor looks at.
pub(super) fn close_range(thread: &mut Thread, request: &mut Request) -> Answer {
    const UNSHARE: u64 = 1 << 1;
    if request.arguments()[2] & UNSHARE != 0 {
        thread.process.log("close_range with CLOSE_RANGE_UNSHARE", "is refused");
        return error(libc::EINVAL);
    }
    thread.check_and_forward(request)
}

/// mmap(2): of files, while nobody changes what the descriptor is. What Linux has made without a name (a virtual CPU, above all) is nothing to
/// be mapped, and huge pages are not: with them Linux decides how long a mapping is.
pub(super) fn mmap(thread: &mut Thread, request: &mut Request) -> Answer {
    let [.., flags, descriptor, _] = *request.arguments();
    if flags as i32 & libc::MAP_ANONYMOUS != 0 {
        return thread.process.space.mmap(thread.dune, request.arguments());
    }
    let _held = thread.process.keep_descriptors();
    match call::file_system(descriptor as i32) {
        Err(errno) => error(errno),
        Ok(call::ANONYMOUS_INODES) if thread.process.trust.is_none() => error(libc::ENODEV),
        Ok(call::HUGE_PAGES) => error(libc::EINVAL),
        Ok(_) => thread.process.space.mmap(thread.dune, request.arguments()),
    }
}
