//! Robust futexes (get_robust_list(2)): locks of which others are told that their owner has ended without giving them back.
//!
//! Linux finds them by a list in memory that the thread has registered. Here Linux must not follow it, for it leads where the program likes; so
//! the supervisor does what `exit_robust_list` of kernel/futex/core.c does, by checked copies. It does so when a thread ends or executes, and for all
//! threads at exit_group(2). Where a signal ends the process nobody does.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::{Answer, Thread, error, lock};
use crate::checked::{ProgramMemory, Request};
use crate::raw::{call, process};

/// `struct robust_list_head`: the first entry, where in an entry's lock the word is, and the entry that is being changed.
const WORDS: usize = 3;
const LENGTH: u64 = 8 * WORDS as u64;
/// Entries that are looked at (ROBUST_LIST_LIMIT).
const MOST: usize = 2048;
/// In an entry's address: its lock inherits priorities.
const INHERITS: u64 = 1;

/// The lists of a process, by threads' numbers.
#[derive(Debug, Default)]
pub(super) struct Robust(Mutex<BTreeMap<i32, u64>>);

impl Robust {
    /// Held over a fork.
    pub(super) fn hold(&self) -> impl Sized {
        lock(&self.0)
    }

    /// In the child of a fork nobody has any, as on Linux.
    pub(super) fn forget(&self) {
        lock(&self.0).clear();
    }

    /// The calling thread ends, or executes.
    pub(super) fn release(&self, memory: ProgramMemory) {
        let own = process::thread_number();
        let head = lock(&self.0).remove(&own);
        if let Some(head) = head {
            release(memory, head, own);
        }
    }

    /// All threads end.
    pub(super) fn release_all(&self, memory: ProgramMemory) {
        let heads = std::mem::take(&mut *lock(&self.0));
        for (number, head) in heads {
            release(memory, head, number);
        }
    }
}

pub(super) fn set_robust_list(thread: &mut Thread, request: &mut Request) -> Answer {
    let [head, length, ..] = *request.arguments();
    if length != LENGTH {
        return error(libc::EINVAL);
    }
    let own = process::thread_number();
    let mut lists = lock(&thread.process.robust.0);
    if head == 0 {
        lists.remove(&own);
    } else {
        lists.insert(own, head);
    }
    0
}

/// Of threads of the process; of others Linux knows only what is the runtime's.
pub(super) fn get_robust_list(thread: &mut Thread, request: &mut Request) -> Answer {
    let [number, head, length, ..] = *request.arguments();
    let own = process::thread_number();
    let number = if number == 0 { own } else { number as i32 };
    if number != own && !thread.process.threads.numbers().contains(&number) {
        return error(if number > 0 { libc::EPERM } else { libc::ESRCH });
    }
    let list = lock(&thread.process.robust.0).get(&number).copied().unwrap_or(0);
    let memory = thread.memory();
    let written = memory.write_words(length, &[LENGTH]).and_then(|()| memory.write_words(head, &[list]));
    written.map_or(error(libc::EFAULT), |()| 0)
}

/// Marks the locks that the thread `owner` has, by the list at `head`, as far as that can be followed.
fn release(memory: ProgramMemory, head: u64, owner: i32) {
    let Ok([first, offset, pending]) = memory.words::<WORDS>(head) else { return };
    let mut entry = first;
    for _ in 0..MOST {
        if entry & !INHERITS == head {
            break;
        }
        // Before the lock is given away: who gets it may take the entry away.
        let next = memory.word(entry & !INHERITS);
        let is_pending = entry & !INHERITS == pending & !INHERITS;
        if !is_pending && give_back(memory, entry, offset, owner, false).is_none() {
            return;
        }
        let Ok(next) = next else { return };
        entry = next;
    }
    if pending & !INHERITS != 0 {
        give_back(memory, pending, offset, owner, true);
    }
}

/// Marks the lock of `entry`, if `owner` has it, and wakes one who waits for it; `None` if it can not be accessed.
fn give_back(memory: ProgramMemory, entry: u64, offset: u64, owner: i32, is_pending: bool) -> Option<()> {
    let (address, inherits) = ((entry & !INHERITS).wrapping_add(offset), entry & INHERITS != 0);
    if !address.is_multiple_of(4) {
        return None;
    }
    let mut bytes = [0; 4];
    dune_syscalls::Memory::read(&memory, address, &mut bytes).ok()?;
    let mut found = u32::from_le_bytes(bytes);
    if is_pending && !inherits && found == 0 {
        // It has been given back, and perhaps nobody been woken.
        call::wake(address);
        return Some(());
    }
    loop {
        if found & libc::FUTEX_TID_MASK != owner as u32 {
            return Some(());
        }
        let marked = found & libc::FUTEX_WAITERS | libc::FUTEX_OWNER_DIED;
        let before = memory.compare_exchange(address, found, marked).ok()?;
        if before == found {
            break;
        }
        found = before;
    }
    // Those that inherit priorities Linux gives on itself.
    if !inherits && found & libc::FUTEX_WAITERS != 0 {
        call::wake(address);
    }
    Some(())
}
