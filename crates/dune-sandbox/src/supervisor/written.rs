//! Counting what the program's calls hand to descriptors, where a limit says how much that may be in all (`written_bytes`).
//!
//! What a call may hand over is taken from the limit before it is made, and given back as far as it did not: so the limit holds with any number of
//! threads and processes. A long one is made in pieces, since what waits for its reader would keep others from writing.

use dune_syscalls::Output;

use super::{Answer, Thread, error};
use crate::checked::Request;
use crate::raw::{call, result};

/// As long as a pipe (pipe(7)).
const PIECE: u64 = 65536;

/// Calls `make` for the call, or as often as there are pieces, as far as the limit lets it.
pub(super) fn count(
    thread: &Thread,
    request: &mut Request,
    make: &mut dyn FnMut(&mut Request) -> Answer,
) -> Answer {
    let quota = thread.process.quota;
    if !quota.counts_written() {
        return make(request);
    }
    match request.form().output() {
        Some(Output::Bytes { length, buffer, offset }) => {
            let most = request.arguments()[usize::from(length)];
            // What is written to a socket is one message, it may be.
            if (most > PIECE || !quota.has_room_for(most)) && (buffer.is_none() || !is_socket(request)) {
                return in_pieces(thread, request, (length, buffer, offset), make);
            }
            whole(thread, request, most, make)
        }
        Some(Output::Parts) => whole(thread, request, request.led_to(), make),
        _ => {
            let more = grown(request);
            take(thread, more, || make(request))
        }
    }
}

/// A call that makes a file longer, or takes space, by so much if it succeeds.
fn take(thread: &Thread, more: u64, make: impl FnOnce() -> Answer) -> Answer {
    let quota = thread.process.quota;
    if !quota.take_written(more) {
        return error(libc::EDQUOT);
    }
    let answer = make();
    if answer < 0 {
        quota.give_written(more);
    }
    answer
}

/// Has `make` give a file that is open this length.
pub(super) fn grow(
    thread: &Thread,
    descriptor: i32,
    length: u64,
    make: impl FnOnce() -> i64,
) -> Result<i64, i64> {
    let more = if thread.process.quota.counts_written() { growth(descriptor, length) } else { 0 };
    result(take(thread, more, make))
}

/// All of it, or nothing.
fn whole(
    thread: &Thread,
    request: &mut Request,
    most: u64,
    make: &mut dyn FnMut(&mut Request) -> Answer,
) -> Answer {
    let quota = thread.process.quota;
    if !quota.take_written(most) {
        return error(libc::EDQUOT);
    }
    let answer = make(request);
    // Of messages the result is how many: they count as they were asked for.
    let is_of_messages = i64::from(request.call().number) == libc::SYS_sendmmsg;
    let done = match u64::try_from(answer) {
        Err(_) => 0,
        Ok(_) if is_of_messages => most,
        Ok(done) => done.min(most),
    };
    quota.give_written(most - done);
    answer
}

fn in_pieces(
    thread: &Thread,
    request: &mut Request,
    (length, buffer, offset): (u8, Option<u8>, Option<u8>),
    make: &mut dyn FnMut(&mut Request) -> Answer,
) -> Answer {
    let quota = thread.process.quota;
    let most = request.arguments()[usize::from(length)];
    let mut done = 0;
    while done < most {
        let piece = quota.take_some_written(PIECE.min(most - done));
        if piece == 0 {
            return if done > 0 { done as Answer } else { error(libc::EDQUOT) };
        }
        request.set_argument(length.into(), piece);
        let answer = make(request);
        let moved = u64::try_from(answer).unwrap_or(0).min(piece);
        quota.give_written(piece - moved);
        done += moved;
        if answer < 0 && done == 0 {
            return answer;
        }
        // tee(2) leaves what it has copied where it was.
        if moved < piece || i64::from(request.call().number) == libc::SYS_tee {
            break;
        }
        for argument in [buffer, offset].into_iter().flatten() {
            request.advance(argument.into(), moved);
        }
    }
    done as Answer
}

fn is_socket(request: &Request) -> bool {
    let is_one = |descriptor: i32| {
        call::about(descriptor).is_some_and(|about| about.mode & libc::S_IFMT == libc::S_IFSOCK)
    };
    request.form().descriptors(request.arguments()).any(|(_, descriptor)| is_one(descriptor))
}

/// How much longer a call makes a file, or how much space it takes.
fn grown(request: &Request) -> u64 {
    let [descriptor, second, _, fourth, ..] = *request.arguments();
    match i64::from(request.call().number) {
        libc::SYS_ftruncate => growth(descriptor as i32, second),
        // Not those that take some away.
        libc::SYS_fallocate
            if second as i32 & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_COLLAPSE_RANGE) == 0 =>
        {
            fourth
        }
        _ => 0,
    }
}

/// How much longer a file gets by this length.
fn growth(descriptor: i32, length: u64) -> u64 {
    call::about(descriptor).map_or(0, |about| length.saturating_sub(about.size))
}
