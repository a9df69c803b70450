//! Descriptors of Dune's own, which are not there for the program's calls.
//!
//! They stand where programs do not look (`linux/descriptor.rs`), but some look at all numbers, by close_range(2), fcntl(2), or the list in
//! `/proc/self/fd`. The entry stub sends a call here that names one of them in a register. It is made with a number that nobody has in
//! its place, so that Linux judges all else first: a path that is absolute, a bad address.

use core::iter;

use linux_raw_sys::errno::{EBADF, EBUSY};
use linux_raw_sys::general::{
    self as linux, __NR_close_range as CLOSE_RANGE, __NR_mmap as MMAP, MAP_ANONYMOUS, RLIMIT_NOFILE,
};

use super::syscall::error;
use crate::arch::token::Dune;
use crate::contract::block::SYSCALL_NUMBERS;
use crate::contract::file_table::FileTable;
use crate::contract::process::Process;
use crate::guest::hypercall::{forward, forward_unless_signalled};
use crate::linux::descriptor::{is_kept, is_own_argument};
use crate::linux::sys;

/// The calls that always come to [`handle`]: their descriptors are where the stub does not look.
pub(crate) const NUMBERS: [u32; 5] = [
    CLOSE_RANGE,
    linux::__NR_fanotify_mark,
    linux::__NR_fsconfig,
    linux::__NR_kcmp,
    linux::__NR_perf_event_open,
];

/// The arguments of each call that are descriptors, a bit each, by the table of all system calls. [`handle`] knows mmap(2) by itself.
static PLACES: [u8; SYSCALL_NUMBERS] = {
    let mut places = [0; SYSCALL_NUMBERS];
    let mut number = 0;
    while number < SYSCALL_NUMBERS {
        if let Some(call) = dune_syscalls::by_number(number as u64)
            && call.number != MMAP
        {
            places[number] = call.form.descriptor_arguments();
            if always_comes(call.number) {
                places[number] |= call.descriptor_arguments_of_variants();
            }
        }
        number += 1;
    }
    places
};

/// Whether the call is one of [`NUMBERS`].
const fn always_comes(number: u32) -> bool {
    let mut index = 0;
    while index < NUMBERS.len() {
        if NUMBERS[index] == number {
            return true;
        }
        index += 1;
    }
    false
}

/// For the stub: one bit for each call that has a descriptor in RDI, RSI or RDX.
pub(super) static IN_REGISTERS: [u64; SYSCALL_NUMBERS / 64] = bits(true);
/// For the stub: of those the ones that may have it in RSI or RDX.
pub(super) static NOT_ONLY_FIRST: [u64; SYSCALL_NUMBERS / 64] = bits(false);

const fn bits(with_first: bool) -> [u64; SYSCALL_NUMBERS / 64] {
    const IN_RDI: u8 = 1;
    const PAST_RDX: u8 = !0b111;
    let mut bits = [0; SYSCALL_NUMBERS / 64];
    let mut number = 0;
    while number < SYSCALL_NUMBERS {
        let places = PLACES[number];
        if !always_comes(number as u32) {
            assert!(places & PAST_RDX == 0, "the stub does not look there: NUMBERS lacks a call");
            if places & !IN_RDI != 0 || with_first && places != 0 {
                bits[number / 64] |= 1 << (number % 64);
            }
        }
        number += 1;
    }
    bits
}

/// The arguments of call `number` that are descriptors.
fn places(number: u32) -> impl Iterator<Item = usize> {
    let mut left = PLACES.get(number as usize).copied().unwrap_or(0);
    iter::from_fn(move || {
        let place = (left != 0).then(|| left.trailing_zeros() as usize)?;
        left &= left - 1;
        Some(place)
    })
}

/// Makes the call if it names a descriptor of Dune's; the kernel's raw return value, or, where the calling code `may_restart` it,
/// [`RESTART`](crate::contract::request::RESTART) if a signal came first. Other calls are other modules', or [`make`]'s.
#[inline]
pub(super) fn handle(process: &Process, number: u32, arguments: &[u64; 6], may_restart: bool) -> Option<u64> {
    match number {
        CLOSE_RANGE => {
            let [first, last, flags, ..] = *arguments;
            // No thread is just being made, whose descriptor is on no list yet.
            let _births = process.hold_births();
            Some(close_range(process, (first as u32, last as u32), flags))
        }
        MMAP => (arguments[3] as u32 & MAP_ANONYMOUS == 0 && is_ours(arguments[4])).then(|| error(EBADF)),
        _ => {
            let names_ours = places(number).any(|place| is_ours(arguments[place]));
            names_ours.then(|| without_ours(number, arguments, may_restart))
        }
    }
}

/// Whether an argument is a descriptor of Dune's, and the call the program's.
fn is_ours(argument: u64) -> bool {
    is_kept(argument as u32) && !is_own_argument(argument)
}

/// Makes the call with descriptors that nobody has in place of Dune's.
#[cold]
fn without_ours(number: u32, arguments: &[u64; 6], may_restart: bool) -> u64 {
    /// Above what `fs.nr_open` may be.
    const NOBODYS: u64 = i32::MAX as u64;
    let is_copy = matches!(number, linux::__NR_dup2 | linux::__NR_dup3);
    if is_copy && is_ours(arguments[1]) && arguments[1] < sys::soft_limit(RLIMIT_NOFILE) {
        // A number that the program could have: as dup2(2) says of a descriptor that another thread is opening.
        return error(EBUSY);
    }
    let mut changed = *arguments;
    for place in places(number).filter(|&place| is_ours(arguments[place])) {
        changed[place] = NOBODYS;
    }
    make(number, &changed, may_restart)
}

/// Makes the call, which is no module's; the kernel's raw return value, or RESTART as for [`handle`].
pub(super) fn make(number: u32, arguments: &[u64; 6], may_restart: bool) -> u64 {
    let call = if may_restart { forward_unless_signalled } else { forward };
    call(number, arguments)
}

/// close_range(2), in pieces between Dune's descriptors.
fn close_range(process: &Process, (first, last): (u32, u32), flags: u64) -> u64 {
    // <linux/close_range.h>
    const CLOSE_RANGE_UNSHARE: u32 = 1 << 1;
    const CLOSE_RANGE_CLOEXEC: u32 = 1 << 2;
    if flags as u32 & CLOSE_RANGE_UNSHARE != 0 {
        // SAFETY: this code runs at ring 0 in Dune mode.
        unsafe { Dune::assume() }.block().file_table.set(FileTable::new());
    }
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

impl Dune {
    /// Whether descriptor `number` is one that Dune keeps for itself. System calls of ring 0 that have it as an argument find it closed;
    /// whoever hands on descriptors within structures for ring 3 (`struct pollfd`, SCM_RIGHTS…) has to ask.
    pub fn keeps_descriptor(self, number: i32) -> bool {
        u32::try_from(number).is_ok_and(is_kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stub_looks_where_descriptors_are() {
        let has = |bits: &[u64], number: u32| bits[number as usize / 64] & 1 << (number % 64) != 0;
        for number in 0..SYSCALL_NUMBERS as u32 {
            let (all, always) = (PLACES[number as usize], NUMBERS.contains(&number));
            assert_eq!(has(&IN_REGISTERS, number), all != 0 && !always, "{number}");
            assert_eq!(has(&NOT_ONLY_FIRST, number), all & 0b110 != 0 && !always, "{number}");
        }
        assert!(has(&IN_REGISTERS, linux::__NR_read) && !has(&NOT_ONLY_FIRST, linux::__NR_read));
        assert!(!has(&IN_REGISTERS, linux::__NR_getpid));
        let places = |number| places(number).collect::<Vec<_>>();
        assert_eq!((places(linux::__NR_fstat), places(linux::__NR_stat)), (vec![0], vec![]));
        assert_eq!((places(linux::__NR_tee), places(linux::__NR_symlinkat)), (vec![0, 1], vec![1]));
        assert_eq!((places(linux::__NR_kcmp), places(linux::__NR_fsconfig)), (vec![3, 4], vec![0, 4]));
        assert_eq!((places(MMAP), places(CLOSE_RANGE)), (vec![], vec![]));
    }
}
