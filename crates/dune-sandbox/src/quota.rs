//! What the processes of a run have together, and may: memory, processes, threads, bytes that are written.
//!
//! The counts are in memory that all of them share, and that the program does not get at. Each process has a slot, with what it has of each
//! count, so that what a process had that was killed can be given back: when a count has reached its limit, the slots of processes that
//! are gone are [swept](Shared::sweep), and it is tried once more. A process is there until somebody has waited for it, as for Linux.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crate::error::say;
use crate::policy::Limits;
use crate::raw::{atomics, call, process};

/// More processes than this a run with limits has not.
const SLOTS: usize = 1 << 15;
/// In a slot's owner: the process has it for a child that it is about to make.
const RESERVED: u32 = 1 << 31;
/// The slot is being given back.
const SWEPT: u32 = RESERVED - 1;

/// A process.
#[repr(C)]
struct Slot {
    /// Its number; 0 if the slot is free.
    owner: AtomicU32,
    threads: AtomicU32,
    memory: AtomicU64,
}

/// What the processes of a run share.
#[repr(C)]
pub(crate) struct Shared {
    memory: AtomicU64,
    processes: AtomicU64,
    threads: AtomicU64,
    written: AtomicU64,
    /// Whether the run is being ended: nothing new begins.
    is_over: AtomicU32,
    /// The limits that something has failed for, by bits.
    reached: AtomicU32,
    slots: [Slot; SLOTS],
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("memory", &self.memory).field("processes", &self.processes).finish()
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Memory,
    Processes,
    Threads,
    /// It stays when its process is gone.
    Written,
}

const ALL: [What; 4] = [What::Memory, What::Processes, What::Threads, What::Written];

impl What {
    fn key(self) -> &'static str {
        match self {
            What::Memory => "memory_bytes",
            What::Processes => "processes",
            What::Threads => "threads",
            What::Written => "written_bytes",
        }
    }

    /// What the program then gets.
    fn error(self) -> &'static str {
        match self {
            What::Memory => "what maps more memory gets ENOMEM",
            What::Processes => "what makes another process gets EAGAIN",
            What::Threads => "what makes another thread gets EAGAIN",
            What::Written => "what writes more gets EDQUOT",
        }
    }
}

impl Shared {
    /// For errors.
    pub(crate) const WHAT: &str = "map memory that is shared with the program's processes";

    /// With nothing counted, for the children of this process.
    pub(crate) fn new() -> io::Result<&'static Shared> {
        atomics::zeros()
    }

    /// Nothing new begins from now on.
    pub(crate) fn end(&self) {
        self.is_over.store(1, Ordering::SeqCst);
    }

    /// The keys of the limits that something has failed for.
    pub(crate) fn reached(&self) -> Vec<&'static str> {
        let bits = self.reached.load(Ordering::Relaxed);
        ALL.into_iter().filter(|what| bits & 1 << *what as u32 != 0).map(What::key).collect()
    }

    fn count(&self, what: What) -> &AtomicU64 {
        match what {
            What::Memory => &self.memory,
            What::Processes => &self.processes,
            What::Threads => &self.threads,
            What::Written => &self.written,
        }
    }

    /// Gives back what processes had that are gone.
    fn sweep(&self) {
        const GONE: [i64; 2] = [-libc::ESRCH as i64, -libc::EPERM as i64];
        for slot in &self.slots {
            let owner = slot.owner.load(Ordering::Acquire);
            if owner == 0 || owner == SWEPT {
                continue;
            }
            // What may not be sent a signal is somebody else's, with a number that was a process's of the run.
            let process = u64::from(owner & !RESERVED);
            if !GONE.contains(&call::plain(libc::SYS_kill, [process, 0, 0, 0, 0, 0])) {
                continue;
            }
            let (order, failure) = (Ordering::AcqRel, Ordering::Relaxed);
            if slot.owner.compare_exchange(owner, SWEPT, order, failure).is_ok() {
                self.give_back(slot);
            }
        }
    }

    /// Frees a slot that nobody else uses, with all that it has.
    fn give_back(&self, slot: &Slot) {
        let (memory, threads) =
            (slot.memory.swap(0, Ordering::Relaxed), slot.threads.swap(0, Ordering::Relaxed));
        self.memory.fetch_sub(memory, Ordering::Relaxed);
        self.threads.fetch_sub(threads.into(), Ordering::Relaxed);
        self.processes.fetch_sub(1, Ordering::Relaxed);
        slot.owner.store(0, Ordering::Release);
    }
}

/// A process's view of them.
#[derive(Debug)]
pub(crate) struct Quota {
    shared: Option<&'static Shared>,
    limits: Limits,
    /// The process's own slot.
    own: AtomicUsize,
}

/// A slot for a child that is about to be made.
pub(crate) struct Claim<'q> {
    quota: &'q Quota,
    slot: usize,
    /// What stands in it.
    mark: u32,
    is_kept: bool,
}

impl Quota {
    /// For the first process of a run: `shared` has nothing in it yet, or nothing is limited.
    pub(crate) fn new(limits: Limits, shared: Option<&'static Shared>) -> &'static Quota {
        if let Some(shared) = shared {
            let first = &shared.slots[0];
            first.owner.store(std::process::id(), Ordering::Release);
            first.threads.store(1, Ordering::Relaxed);
            shared.processes.store(1, Ordering::Relaxed);
            shared.threads.store(1, Ordering::Relaxed);
        }
        Box::leak(Box::new(Quota { shared, limits, own: AtomicUsize::new(0) }))
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    fn own(&self, shared: &'static Shared) -> &'static Slot {
        &shared.slots[self.own.load(Ordering::Relaxed)]
    }

    fn limit(&self, what: What) -> u64 {
        self.limits.by_key(what.key()).unwrap_or(u64::MAX)
    }

    /// Adds to a count, unless that were more than its limit, which is then said.
    fn take(&self, shared: &Shared, what: What, more: u64) -> bool {
        let (limit, order) = (self.limit(what), Ordering::Relaxed);
        let add = || {
            let sum = |now: u64| now.checked_add(more).filter(|sum| *sum <= limit);
            shared.count(what).fetch_update(order, order, sum).is_ok()
        };
        if add() {
            return true;
        }
        if what != What::Written {
            shared.sweep();
            if add() {
                return true;
            }
        }
        self.tell_of(shared, what, limit);
        false
    }

    /// Says once that the limit is reached.
    fn tell_of(&self, shared: &Shared, what: What, limit: u64) {
        let bit = 1 << what as u32;
        if shared.reached.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            let (key, error) = (what.key(), what.error());
            say(format_args!("dune: the limit {key} ({limit}) of the policy is reached: {error}"));
        }
    }

    /// Whether what is written is counted.
    pub(crate) fn counts_written(&self) -> bool {
        self.limits.written_bytes.is_some() && self.shared.is_some()
    }

    /// So many bytes more that are to be written, if they may be.
    pub(crate) fn take_written(&self, more: u64) -> bool {
        let Some(shared) = self.shared.filter(|_| self.counts_written() && more > 0) else { return true };
        self.take(shared, What::Written, more)
    }

    /// Whether so many could be written now.
    pub(crate) fn has_room_for(&self, more: u64) -> bool {
        let written = self.shared.map_or(0, |shared| shared.written.load(Ordering::Relaxed));
        more <= self.limit(What::Written).saturating_sub(written)
    }

    /// As many of them as may be.
    pub(crate) fn take_some_written(&self, most: u64) -> u64 {
        let Some(shared) = self.shared.filter(|_| self.counts_written()) else { return most };
        let (limit, order) = (self.limit(What::Written), Ordering::Relaxed);
        let some = |now: u64| most.min(limit.saturating_sub(now));
        let now = shared.written.fetch_update(order, order, |now| Some(now + some(now))).unwrap_or(limit);
        if some(now) < most {
            self.tell_of(shared, What::Written, limit);
        }
        some(now)
    }

    /// So many of them have not been written.
    pub(crate) fn give_written(&self, less: u64) {
        if let Some(shared) = self.shared.filter(|_| self.counts_written()) {
            shared.written.fetch_sub(less, Ordering::Relaxed);
        }
    }

    /// So much more memory, if it may be.
    pub(crate) fn take_memory(&self, more: u64) -> bool {
        let Some(shared) = self.shared.filter(|_| self.limits.memory_bytes.is_some() && more > 0) else {
            return true;
        };
        let is_taken = self.take(shared, What::Memory, more);
        if is_taken {
            self.own(shared).memory.fetch_add(more, Ordering::Relaxed);
        }
        is_taken
    }

    /// So much less.
    pub(crate) fn give_memory(&self, less: u64) {
        let Some(shared) = self.shared.filter(|_| self.limits.memory_bytes.is_some() && less > 0) else {
            return;
        };
        self.own(shared).memory.fetch_sub(less, Ordering::Relaxed);
        shared.memory.fetch_sub(less, Ordering::Relaxed);
    }

    /// One more thread of this process, if it may be.
    pub(crate) fn take_thread(&self) -> bool {
        let Some(shared) = self.shared else { return true };
        if shared.is_over.load(Ordering::Relaxed) != 0 || !self.take(shared, What::Threads, 1) {
            return false;
        }
        self.own(shared).threads.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// A thread of several has ended, or not begun.
    pub(crate) fn give_thread(&self) {
        if let Some(shared) = self.shared {
            self.own(shared).threads.fetch_sub(1, Ordering::Relaxed);
            shared.threads.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The process ends: its memory is not there any more. It still is, until somebody has waited for it.
    pub(crate) fn leave(&self) {
        if let Some(shared) = self.shared {
            let memory = self.own(shared).memory.swap(0, Ordering::Relaxed);
            shared.memory.fetch_sub(memory, Ordering::Relaxed);
        }
    }

    /// A slot for a child, which will have all memory that this process has; or the errno. One at a time in a process.
    pub(crate) fn claim(&self) -> Result<Option<Claim<'_>>, i32> {
        let Some(shared) = self.shared else { return Ok(None) };
        let memory = self.own(shared).memory.load(Ordering::Relaxed);
        if shared.is_over.load(Ordering::Relaxed) != 0 || !self.take(shared, What::Processes, 1) {
            return Err(libc::EAGAIN);
        }
        let give = |what: What, less: u64| shared.count(what).fetch_sub(less, Ordering::Relaxed);
        if !self.take(shared, What::Threads, 1) {
            give(What::Processes, 1);
            return Err(libc::EAGAIN);
        }
        if !self.take(shared, What::Memory, memory) {
            give(What::Processes, 1);
            give(What::Threads, 1);
            return Err(libc::ENOMEM);
        }
        let mark = RESERVED | std::process::id();
        let (order, failure) = (Ordering::AcqRel, Ordering::Relaxed);
        let find = || {
            shared.slots.iter().position(|slot| slot.owner.compare_exchange(0, mark, order, failure).is_ok())
        };
        let found = find().or_else(|| {
            shared.sweep();
            find()
        });
        let Some(slot) = found else {
            give(What::Processes, 1);
            give(What::Threads, 1);
            give(What::Memory, memory);
            return Err(libc::EAGAIN);
        };
        shared.slots[slot].threads.store(1, Ordering::Relaxed);
        shared.slots[slot].memory.store(memory, Ordering::Relaxed);
        Ok(Some(Claim { quota: self, slot, mark, is_kept: false }))
    }
}

impl Claim<'_> {
    /// The slot is the child's, which is `child`; called by the parent and, if `is_child`, by the child.
    pub(crate) fn keep(mut self, child: u32, is_child: bool) {
        self.is_kept = true;
        let Some(shared) = self.quota.shared else { return };
        let owner = &shared.slots[self.slot].owner;
        let (order, failure) = (Ordering::AcqRel, Ordering::Acquire);
        let done = owner.compare_exchange(self.mark, child, order, failure);
        if is_child {
            if done.is_err_and(|owner| owner != child) {
                // The parent was killed before it could say so, and the slot has been given back.
                process::die(libc::SIGKILL);
            }
            self.quota.own.store(self.slot, Ordering::Relaxed);
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.quota.shared.filter(|_| !self.is_kept) {
            shared.give_back(&shared.slots[self.slot]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(limits: Limits) -> (&'static Shared, &'static Quota) {
        let shared = Shared::new().expect("memory");
        (shared, Quota::new(limits, Some(shared)))
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let (shared, quota) =
            quota(Limits { memory_bytes: Some(100), threads: Some(2), ..Limits::default() });
        assert!(quota.take_memory(60) && !quota.take_memory(41) && quota.take_memory(40));
        assert_eq!(shared.reached(), ["memory_bytes"]);
        quota.give_memory(1);
        assert!(quota.take_memory(1) && !quota.take_memory(u64::MAX));
        assert!(quota.take_thread() && !quota.take_thread());
        quota.give_thread();
        assert!(quota.take_thread());
        assert_eq!(shared.reached(), ["memory_bytes", "threads"]);
    }

    #[test]
    fn what_is_written_stays_written() {
        let (shared, quota) = quota(Limits { written_bytes: Some(100), ..Limits::default() });
        assert!(quota.counts_written() && quota.take_written(60) && !quota.take_written(41));
        quota.give_written(10);
        assert!(quota.has_room_for(50) && !quota.has_room_for(51));
        assert_eq!([quota.take_some_written(30), quota.take_some_written(30)], [30, 20]);
        assert!(quota.take_some_written(30) == 0 && !quota.take_written(1) && quota.take_written(0));
        assert!(!quota.take_written(u64::MAX) && shared.written.load(Ordering::Relaxed) == 100);
        assert_eq!(shared.reached(), ["written_bytes"]);
    }

    #[test]
    fn a_child_has_what_its_parent_has() {
        let limits = Limits { memory_bytes: Some(100), processes: Some(3), ..Limits::default() };
        let (shared, quota) = quota(limits);
        assert!(quota.take_memory(40));
        let claim = quota.claim().expect("room").expect("a slot");
        assert_eq!(shared.memory.load(Ordering::Relaxed), 80);
        assert!(matches!(quota.claim(), Err(libc::ENOMEM)));
        // No child was made.
        drop(claim);
        assert_eq!(shared.memory.load(Ordering::Relaxed), 40);
        assert_eq!(shared.processes.load(Ordering::Relaxed), 1);
        shared.end();
        assert!(matches!(quota.claim(), Err(libc::EAGAIN)) && !quota.take_thread());
    }

    #[test]
    fn who_is_gone_is_not_counted() {
        let (shared, quota) =
            quota(Limits { processes: Some(2), memory_bytes: Some(100), ..Limits::default() });
        assert!(quota.take_memory(50));
        let mut child = std::process::Command::new("/bin/true").spawn().expect("a child");
        quota.claim().expect("room").expect("a slot").keep(child.id(), false);
        // It has ended, but nobody has waited for it.
        assert!(matches!(quota.claim(), Err(libc::EAGAIN)));
        child.wait().expect("its end");
        assert!(quota.claim().is_ok_and(|claim| claim.is_some()));
        assert_eq!(shared.processes.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn without_limits_nothing_is_counted() {
        let quota = Quota::new(Limits::default(), None);
        assert!(quota.take_memory(u64::MAX) && quota.take_thread());
        assert!(quota.claim().is_ok_and(|claim| claim.is_none()));
    }
}
