//! Listings of `/proc/self/fd`, `fdinfo` and `task`: without Dune's descriptors and KVM's task.
//!
//! Linux lists them like the program's. Only an entry whose name is the number of one of Dune's descriptors, or of this process, makes
//! this module ask which directory it is: others cost a look at each name.

use core::sync::atomic::{AtomicU64, Ordering};

use linux_raw_sys::general::{
    __NR_fstatfs as FSTATFS, __NR_getdents as GETDENTS, __NR_getdents64 as GETDENTS64,
};

use super::copy;
use crate::guest::hypercall::{forward, forward_unless_signalled};
use crate::linux::descriptor::{is_kept, is_own_argument};
use crate::linux::task_stat::TaskStat;
use crate::linux::{proc, sys};

/// The calls that [`handle`] takes.
pub(crate) const NUMBERS: [u32; 2] = [GETDENTS, GETDENTS64];

/// Makes the call of process `own` if it is one of this module's; the kernel's raw return value, or, where the calling code `may_restart` it,
/// [`RESTART`](crate::contract::request::RESTART) if a signal came first.
pub(super) fn handle(own: u32, number: u32, arguments: &[u64; 6], may_restart: bool) -> Option<u64> {
    let name = match number {
        GETDENTS => 18,
        GETDENTS64 => 19,
        _ => return None,
    };
    let call = if may_restart { forward_unless_signalled } else { forward };
    if is_own_argument(arguments[0]) {
        return Some(call(number, arguments));
    }
    loop {
        let result = call(number, arguments);
        let Ok(length @ 1..) = sys::result(result) else { return Some(result) };
        let list = List { start: arguments[1], length, name };
        let suspicious = |id: u32| is_kept(id) || id == own;
        if !list.any(suspicious) {
            return Some(result);
        }
        let left = match Directory::of(arguments[0] as u32) {
            Some(Directory::Descriptors) => list.without(|entry| entry.number().is_some_and(is_kept)),
            Some(Directory::Tasks) => list.without(|entry| is_kvms(own, entry)),
            None => return Some(result),
        };
        // Nothing left is not the end of the directory.
        if left != 0 {
            return Some(left);
        }
    }
}

/// Which of the directories in question a descriptor is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Directory {
    Descriptors,
    Tasks,
}

impl Directory {
    fn of(descriptor: u32) -> Option<Directory> {
        /// PROC_SUPER_MAGIC (<linux/magic.h>), the first word of `struct statfs`.
        const PROC: u64 = 0x9fa0;
        let mut status = [0u64; 15];
        let told = forward(FSTATFS, &[descriptor.into(), status.as_mut_ptr() as u64, 0, 0, 0, 0]);
        if told != 0 || status[0] != PROC {
            return None;
        }
        let mut path = [0u8; 128];
        Directory::named(proc::path_of(descriptor, &mut path)?, proc::own_process()?)
    }

    /// By its path, if it is one of process `own`.
    fn named(path: &[u8], own: u32) -> Option<Directory> {
        let mut parts = path.rsplit(|&byte| byte == b'/');
        let is_own = |part: Option<&[u8]>| part.and_then(proc::number) == Some(own);
        match parts.next()? {
            b"task" if is_own(parts.next()) => Some(Directory::Tasks),
            b"fd" | b"fdinfo" => {
                let id = parts.next();
                let is_ours = is_own(id) || (parts.next() == Some(b"task") && is_own(parts.next()));
                is_ours.then_some(Directory::Descriptors)
            }
            _ => None,
        }
    }
}

/// Whether `entry` of `/proc/self/task` is KVM's task. There is one at most, as long as the process lives.
fn is_kvms(process: u32, entry: &Entry) -> bool {
    /// A process, and above 32 bits its task of KVM's, 0 for none.
    static FOUND: AtomicU64 = AtomicU64::new(0);
    let Some(id) = entry.number() else { return false };
    let found = FOUND.load(Ordering::Relaxed);
    if found as u32 == process {
        return found >> 32 == id.into();
    }
    let is_kvms = TaskStat::of(b"self", entry.digits()).is_ok_and(|stat| stat.is_kvms);
    if is_kvms {
        FOUND.store(u64::from(id) << 32 | u64::from(process), Ordering::Relaxed);
    }
    is_kvms
}

/// What Linux has written to the program's memory.
#[derive(Debug, Clone, Copy)]
struct List {
    start: u64,
    length: u64,
    /// Where in an entry its name is.
    name: usize,
}

/// The start of an entry (getdents(2)): a name of digits is in it in full.
#[derive(Debug, Clone, Copy)]
struct Entry {
    bytes: [u8; 32],
    name: usize,
}

impl Entry {
    fn length(&self) -> u64 {
        u16::from_ne_bytes([self.bytes[16], self.bytes[17]]).into()
    }

    /// The name, if it begins with a digit.
    fn digits(&self) -> &[u8] {
        let name = &self.bytes[self.name..];
        &name[..name.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(name.len())]
    }

    /// The name, if it is a number.
    fn number(&self) -> Option<u32> {
        let digits = self.digits();
        let is_whole = !digits.is_empty() && self.bytes.get(self.name + digits.len()) == Some(&0);
        is_whole.then(|| proc::number(digits)).flatten()
    }
}

impl List {
    /// The entry at `offset`, if there is one.
    fn entry(&self, offset: u64) -> Option<Entry> {
        /// The shortest that there is.
        const SHORTEST: u64 = 24;
        let left = self.length.checked_sub(offset)?;
        let mut bytes = [0; 32];
        if left < SHORTEST {
            return None;
        }
        // SAFETY: at most as many bytes as `bytes` has.
        unsafe {
            copy::bytes_from_program(bytes.as_mut_ptr() as u64, self.start + offset, left.min(32) & !7)
        }
        .ok()?;
        let entry = Entry { bytes, name: self.name };
        (entry.length() >= SHORTEST && entry.length() <= left).then_some(entry)
    }

    /// Whether the name of an entry is such a number.
    fn any(&self, is_it: impl Fn(u32) -> bool) -> bool {
        let mut offset = 0;
        while let Some(entry) = self.entry(offset) {
            if entry.number().is_some_and(&is_it) {
                return true;
            }
            offset += entry.length();
        }
        false
    }

    /// Takes entries out; how many bytes are left.
    fn without(&self, is_out: impl Fn(&Entry) -> bool) -> u64 {
        let (mut from, mut to) = (0, 0);
        while let Some(entry) = self.entry(from) {
            let length = entry.length();
            if !is_out(&entry) {
                // SAFETY: both lie in the list that Linux has written for the program; entries are whole words.
                let moved =
                    unsafe { copy::bytes_to_program(self.start + to, self.start + from, length & !7) };
                if moved.is_err() {
                    break;
                }
                to += length;
            }
            from += length;
        }
        to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_the_own_process_are_known() {
        let of = |path: &str| Directory::named(path.as_bytes(), 12);
        for path in ["/proc/12/fd", "/proc/12/fdinfo", "/mnt/12/task/13/fd", "/proc/12/task/12/fdinfo"] {
            assert_eq!(of(path), Some(Directory::Descriptors), "{path}");
        }
        assert_eq!(of("/proc/12/task"), Some(Directory::Tasks));
        for path in
            ["/proc", "/proc/13/fd", "/proc/13/task", "/proc/12/task/13", "/proc/13/task/12/fd/x", "fd", ""]
        {
            assert_eq!(of(path), None, "{path}");
        }
    }

    #[test]
    fn names_are_numbers_in_full_or_not_at_all() {
        let number = |name: &[u8]| {
            let mut bytes = [0xff; 32];
            bytes[19..19 + name.len()].copy_from_slice(name);
            Entry { bytes, name: 19 }.number()
        };
        assert_eq!(number(b"1024\0"), Some(1024));
        for name in [&b"\0"[..], b"x1\0", b"1x\0", b"..\0", b"1234567890123"] {
            assert_eq!(number(name), None, "{name:?}");
        }
    }
}
