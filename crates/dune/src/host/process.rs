//! What all threads of the process in Dune mode share, and the list of them.

use core::cell::UnsafeCell;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use x86_64::VirtAddr;

use super::error::EnterError;
use super::grow;
use super::thread::HostThread;
use crate::arch::descriptors::Idt;
use crate::arch::page::PageRange;
use crate::contract::actions;
use crate::contract::config::Threads;
use crate::contract::launcher::Launcher;
use crate::engine::kvm::KvmMachine;
use crate::engine::{Machine, Vcpu};
use crate::guest::range_handlers;
use crate::linux::{proc, sys};
use crate::lock::{Guard, SpinLock};
use crate::memory::mirror::{Mapping, Ownership};
use crate::memory::{Flush, Memory};

/// The process in Dune mode.
#[derive(Debug)]
pub(crate) struct Process {
    machine: UnsafeCell<KvmMachine>,
    pub(super) memory: Memory,
    pub(super) idt: Idt,
    threads_start_in: Threads,
    launcher: Option<Launcher>,
    /// Every thread there ever was, linked by `HostThread::next`. None is taken out: a vCPU can not be destroyed
    /// before its machine.
    threads: AtomicPtr<HostThread>,
    /// How many of them are in Dune mode.
    active: AtomicU32,
    next_vcpu: AtomicU32,
    /// Held while a thread is made: one at a time, and none while another thread forks, whose child would have its vCPU,
    /// that nobody knows of, and limits that are raised for a moment.
    births: SpinLock<()>,
    /// Whose it is (getpid(2)).
    id: AtomicU32,
}

// SAFETY: the machine is replaced only in the child of a fork, which has one thread; else it is only read, and its
// methods are system calls.
unsafe impl Sync for Process {}

impl Process {
    pub(super) fn new(
        machine: KvmMachine,
        memory: Memory,
        idt: Idt,
        threads_start_in: Threads,
        launcher: Option<Launcher>,
    ) -> Process {
        Process {
            machine: UnsafeCell::new(machine),
            memory,
            idt,
            threads_start_in,
            launcher,
            threads: AtomicPtr::new(null_mut()),
            active: AtomicU32::new(0),
            next_vcpu: AtomicU32::new(0),
            births: SpinLock::new(()),
            id: AtomicU32::new(sys::process_id()),
        }
    }

    pub(super) fn machine(&self) -> &KvmMachine {
        // SAFETY: see `replace_machine` for the only time it changes.
        unsafe { &*self.machine.get() }
    }

    /// The machine, to be made anew.
    ///
    /// # Safety
    ///
    /// The process is the child of a fork and has no other thread, and nobody holds what [`machine`](Process::machine)
    /// returned.
    #[expect(clippy::mut_from_ref, reason = "the caller is the only thread there is")]
    pub(super) unsafe fn replace_machine(&self) -> &mut KvmMachine {
        // SAFETY: the caller's.
        unsafe { &mut *self.machine.get() }
    }

    /// The number of a vCPU that there has not been yet.
    pub(super) fn new_vcpu_id(&self) -> u32 {
        self.next_vcpu.fetch_add(1, Ordering::Relaxed)
    }

    /// Puts `thread` on the list, for ever.
    pub(super) fn enlist(&self, thread: *mut HostThread) {
        let mut first = self.threads.load(Ordering::Relaxed);
        loop {
            // SAFETY: `thread` is not on the list yet, so nobody else looks at it.
            unsafe { (*thread).next = first };
            match self.threads.compare_exchange_weak(first, thread, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => first = now,
            }
        }
    }

    /// All threads there ever were.
    pub(super) fn threads(&self) -> impl Iterator<Item = *mut HostThread> {
        let mut next = self.threads.load(Ordering::Acquire);
        core::iter::from_fn(move || {
            let thread = next;
            // SAFETY: threads on the list are never freed, and `next` does not change once they are on it.
            (!thread.is_null()).then(|| next = unsafe { (*thread).next })?;
            Some(thread)
        })
    }

    /// The lowest descriptor from `first` on that Dune holds.
    pub(crate) fn held_descriptor(&self, first: u32) -> Option<u32> {
        // SAFETY: threads on the list are never freed; their vCPUs change in the child of a fork only, when it is alone.
        let vcpus = self.threads().map(|thread| unsafe { (*thread).vcpu.descriptor() });
        let all = vcpus.chain(self.machine().descriptors()).chain(proc::kept());
        all.map(|descriptor| descriptor as u32).filter(|&descriptor| descriptor >= first).min()
    }

    /// In the child of a fork, whose only thread is `survivor`: forgets the others and numbers vCPUs anew. Their
    /// memory stays with the child, as what threads of its parent held always does.
    pub(super) fn survive(&self, survivor: *mut HostThread) {
        self.close_vcpus(survivor);
        // SAFETY: the survivor is on no list while this thread, the only one, puts it on a new one.
        unsafe { (*survivor).next = null_mut() };
        self.threads.store(survivor, Ordering::Release);
        while self.active.load(Ordering::Relaxed) > 1 {
            self.depart();
        }
        self.next_vcpu.store(1, Ordering::Relaxed);
        // SAFETY: as before.
        let block = unsafe { (*survivor).block.as_ptr() } as u64;
        let is_gone = |holder| holder != block;
        actions::free_if(is_gone);
        range_handlers::free_if(is_gone);
        self.births.free_if(is_gone);
        self.memory.free_if(is_gone);
        self.id.store(sys::process_id(), Ordering::Relaxed);
    }

    /// Whether it is the calling process's: a fork in host mode copies it, and KVM's machine stays the parent's.
    pub(super) fn is_own(&self) -> bool {
        self.id.load(Ordering::Relaxed) == sys::process_id()
    }

    /// Closes the engine's descriptors, which a fork in host mode has copied. The calling thread is the only one.
    pub(super) fn abandon(&self) {
        self.close_vcpus(null_mut());
        actions::free_if(|_| true);
        range_handlers::free_if(|_| true);
        // SAFETY: nobody uses the machine in this process, which is about to get another.
        unsafe { core::ptr::drop_in_place(self.machine.get()) };
        crate::forget_process();
    }

    /// In the child of a fork: closes the vCPUs of all threads but `survivor`. The list is not used any more.
    fn close_vcpus(&self, survivor: *mut HostThread) {
        for thread in self.threads().filter(|&thread| thread != survivor) {
            // SAFETY: the thread does not exist in this process, and its vCPU belongs to the parent's machine: this
            // closes the inherited descriptors, once, as the thread leaves the list.
            unsafe { core::ptr::drop_in_place(&raw mut (*thread).vcpu) };
        }
    }

    /// Gives memory of the library's own windows and page-table entries that stay: ring 0 can not do without it, not even
    /// to take a page fault. In both modes.
    ///
    /// The mirror leaves the entries alone: what it is told may be older than this memory, and say that there is a gap.
    pub(super) fn pin(&self, start: u64, bytes: u64) -> Result<(), EnterError> {
        /// Others may take the entries away as fast as they are made; the lock of the tables does the waiting.
        const TRIES: u32 = 1000;
        if self.memory.mapping() == Mapping::Full {
            return Ok(());
        }
        let range = PageRange::covering(VirtAddr::new_truncate(start), bytes)
            .expect("what Linux has mapped lies in the task's address space");
        for address in [start, start + bytes - 1] {
            grow::to(&self.memory, self.machine(), address)?;
        }
        let keep = || {
            let mut tables = self.memory.page_tables()?;
            // No CPU has used entries for this memory.
            tables.pin(range).map(Flush::ignore)
        };
        let mut kept = keep();
        for _ in 0..TRIES {
            if kept.is_ok() {
                break;
            }
            let _ = self.memory.synchronise(range, Ownership::Respect, Flush::ignore);
            kept = keep();
        }
        kept.map_err(|error| EnterError::Memory(error.into()))
    }

    /// Keeps other threads from making threads; `None` if one of them has been about it for seconds.
    pub(crate) fn hold_births(&self) -> Option<Guard<'_, ()>> {
        self.births.lock().ok()
    }

    /// Waits until no thread is just being made with a limit raised for a moment, which another program or a child that shares
    /// memory would keep.
    pub(crate) fn wait_for_births(&self) {
        drop(self.hold_births());
    }

    /// Frees the locks that the thread of `block` held, which shared this memory as a process of its own and was killed.
    pub(crate) fn free_locks_from(&self, block: u64) {
        let is_gone = |holder| holder == block;
        range_handlers::free_if(is_gone);
        self.births.free_if(is_gone);
        self.memory.free_if(is_gone);
    }

    /// Counts a thread that is about to be in Dune mode.
    pub(super) fn arrive(&self) {
        // One too many for a moment, as the child of a fork may keep it: that costs flushes; one too few, edits.
        self.memory.add_sharer();
        if self.active.fetch_add(1, Ordering::SeqCst) == 0 {
            self.memory.remove_sharer();
        }
    }

    /// Counts a thread out. Whether it was the last.
    pub(super) fn depart(&self) -> bool {
        let is_last = self.active.fetch_sub(1, Ordering::SeqCst) == 1;
        if !is_last {
            self.memory.remove_sharer();
        }
        is_last
    }

    /// Whether the thread `id` has been in Dune mode and is about to end.
    pub(crate) fn is_ending(&self, id: u32) -> bool {
        // SAFETY: threads on the list are never freed.
        self.threads().any(|thread| unsafe { (*thread).user.load(Ordering::Acquire) } == id)
    }

    /// What is executed in place of programs, if they are to stay in Dune mode.
    pub(crate) fn launcher(&self) -> Option<&Launcher> {
        self.launcher.as_ref()
    }

    /// Where new threads go.
    pub(crate) fn threads_start_in(&self) -> Threads {
        self.threads_start_in
    }

    /// How many threads are in Dune mode.
    pub(crate) fn active_threads(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// The memory of the process.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }
}
