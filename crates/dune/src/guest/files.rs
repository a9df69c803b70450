//! System calls that close descriptors: Dune's own stay open.
//!
//! They stand where programs do not look (`descriptor.rs`), but some close everything there is, by
//! close_range(2) or by the list in `/proc/self/fd`. For them Dune's descriptors are not there.

use linux_raw_sys::errno::{EBADF, EBUSY};
use linux_raw_sys::general::{
    __NR_close as CLOSE, __NR_close_range as CLOSE_RANGE, __NR_dup2 as DUP2, __NR_dup3 as DUP3,
};

use super::syscall::error;
use crate::contract::process::Process;
use crate::guest::hypercall::forward;

/// The calls that [`handle`] takes.
pub(crate) const NUMBERS: [u32; 4] = [CLOSE, CLOSE_RANGE, DUP2, DUP3];

/// Makes the call if it is one of this module's; the kernel's raw return value.
pub(super) fn handle(process: &Process, number: u32, arguments: &[u64; 6]) -> Option<u64> {
    let [first, second, flags, ..] = *arguments;
    let is_ours = |descriptor: u64| process.held_descriptor(descriptor as u32) == Some(descriptor as u32);
    Some(match number {
        CLOSE if is_ours(first) => error(EBADF),
        // As dup2(2) says of a descriptor that another thread is opening.
        DUP2 | DUP3 if is_ours(second) => error(EBUSY),
        CLOSE | DUP2 | DUP3 => forward(number, arguments),
        CLOSE_RANGE => {
            // No thread is just being made, whose descriptor is on no list yet.
            let _births = process.hold_births();
            close_range(process, (first as u32, second as u32), flags)
        }
        _ => return None,
    })
}

/// close_range(2), in pieces between Dune's descriptors.
fn close_range(process: &Process, (first, last): (u32, u32), flags: u64) -> u64 {
    // <linux/close_range.h>
    const CLOSE_RANGE_CLOEXEC: u32 = 1 << 2;
    let close = |first: u32, last: u32| forward(CLOSE_RANGE, &[first.into(), last.into(), flags, 0, 0, 0]);
    if first > last || flags as u32 & CLOSE_RANGE_CLOEXEC != 0 {
        // An error, or what Dune's descriptors are already.
        return close(first, last);
    }
    let mut next = first;
    loop {
        match process.held_descriptor(next).filter(|&descriptor| descriptor <= last) {
            None => return close(next, last),
            Some(descriptor) => {
                if descriptor > next {
                    let result = close(next, descriptor - 1);
                    if result != 0 {
                        return result;
                    }
                }
                if descriptor == last {
                    return 0;
                }
                next = descriptor + 1;
            }
        }
    }
}
