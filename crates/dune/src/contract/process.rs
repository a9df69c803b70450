//! What the threads of the process in Dune mode share, as both sides know it: no engine, no host loops.

use core::ptr::null_mut;
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, Ordering};

use super::actions;
use super::config::{Config, Threads};
use super::launcher::Launcher;
use super::thread::{Thread, User};
use crate::arch::token::Dune;
use crate::engine::{Engine, Machine};
use crate::linux::{kept, proc, release, sys};
use crate::lock::holder::Holder;
use crate::lock::{Guard, Rank, SpinLock};
use crate::memory::{EditError, Memory, PageTables, shootdown};

static PROCESS: AtomicPtr<Process> = AtomicPtr::new(null_mut());

/// What the threads of the process share; there is one as soon as one of them is in Dune mode.
#[inline]
pub(crate) fn process() -> &'static Process {
    // SAFETY: set before the first token was handed out, and never freed.
    unsafe { &*PROCESS.load(Ordering::Acquire) }
}

/// The same, if there is one: where it stands.
pub(crate) fn current_process() -> *const Process {
    PROCESS.load(Ordering::Acquire)
}

/// There is none after all.
pub(crate) fn forget_process() {
    shootdown::forget_threads();
    PROCESS.store(null_mut(), Ordering::Release);
}

/// There is one from now on, for ever or until it is [forgotten](forget_process).
pub(crate) fn set_process(process: *const Process) {
    PROCESS.store(process.cast_mut(), Ordering::Release);
}

impl Dune {
    /// The page tables of the process, locked for editing until the value is dropped.
    ///
    /// # Errors
    ///
    /// [`EditError::Busy`] if somebody holds them, for example the code that a trap handler interrupted.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use dune::memory::{PagePermissions, PageRange};
    /// use x86_64::VirtAddr;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let address = 0x7000_0000_0000;
    /// let dune = dune::enter()?;
    /// let page = PageRange::new(VirtAddr::new(address), 4096)?;
    /// dune.page_tables()?.protect(page, PagePermissions::READ)?.now(dune);
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn page_tables(self) -> Result<PageTables<'static>, EditError> {
        self.memory().page_tables()
    }

    /// The memory of the process as Dune mode sees it: windows, frames, address spaces.
    #[inline]
    pub fn memory(self) -> &'static Memory {
        process().memory()
    }
}

/// The process in Dune mode.
///
/// A fork writes to the locks, its child to more, and each page that either writes to costs both sides a copy and faults of both
/// levels: they are together.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Process {
    threads_start_in: Threads,
    launcher: Option<Launcher>,
    unmodified: bool,
    may_leave_for_good: bool,
    has_filters_of_its_own: bool,
    has_untrusted_code: bool,
    /// For which code rt_sigreturn(2) sets the alternate stack, see there.
    restores_stack_first: bool,
    /// Every thread there ever was, linked by `Thread::next`. None is taken out: a vCPU can not be destroyed before its
    /// machine.
    threads: AtomicPtr<Thread>,
    /// The engine's own descriptors.
    descriptors: [AtomicI32; Engine::DESCRIPTORS],
    /// Held while a thread is made: one at a time, and none while another thread forks, whose child would have its vCPU,
    /// that nobody knows of, and limits that are raised for a moment.
    births: SpinLock<()>,
    /// Whose it is (getpid(2)).
    id: AtomicU32,
    /// Last: its end is large.
    memory: Memory,
}

impl Process {
    /// One without threads yet.
    pub(crate) fn new(memory: Memory, config: &Config) -> Process {
        Process {
            memory,
            threads_start_in: config.threads,
            launcher: config.launcher.clone(),
            unmodified: config.unmodified,
            may_leave_for_good: config.leave_for_good,
            has_filters_of_its_own: config.filters_of_its_own,
            has_untrusted_code: config.untrusted_code,
            restores_stack_first: release::is_at_least(6, 12),
            threads: AtomicPtr::new(null_mut()),
            descriptors: [const { AtomicI32::new(-1) }; Engine::DESCRIPTORS],
            births: SpinLock::new(Rank::Births, ()),
            id: AtomicU32::new(sys::process_id()),
        }
    }

    /// The engine's descriptors are these.
    pub(crate) fn set_descriptors(&self, descriptors: impl Iterator<Item = i32>) {
        for (kept, descriptor) in self.descriptors.iter().zip(descriptors) {
            kept.store(descriptor, Ordering::Relaxed);
        }
    }

    /// Puts `thread` on the list, for ever.
    ///
    /// # Safety
    ///
    /// It is not freed while this is used, and leads to all that the host side keeps behind it.
    pub(crate) unsafe fn enlist(&self, thread: *mut Thread) {
        let mut first = self.threads.load(Ordering::Relaxed);
        loop {
            // SAFETY: the caller's.
            unsafe { (*thread).next.store(first, Ordering::Relaxed) };
            match self.threads.compare_exchange_weak(first, thread, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => first = now,
            }
        }
    }

    /// All threads there ever were.
    pub(crate) fn threads(&self) -> impl Iterator<Item = *mut Thread> {
        let mut next = self.threads.load(Ordering::Acquire);
        core::iter::from_fn(move || {
            let thread = next;
            // SAFETY: threads on the list are never freed, and `next` does not change once they are on it.
            (!thread.is_null()).then(|| next = unsafe { (*thread).next.load(Ordering::Relaxed) })?;
            Some(thread)
        })
    }

    /// The same, to look at.
    pub(crate) fn each_thread(&self) -> impl Iterator<Item = &Thread> {
        // SAFETY: threads on the list are never freed, and all that changes of them is atomic.
        self.threads().map(|thread| unsafe { &*thread })
    }

    /// The lowest descriptor from `first` on that Dune holds.
    pub(crate) fn held_descriptor(&self, first: u32) -> Option<u32> {
        let threads = self.each_thread().map(|thread| &thread.descriptor);
        let engines = threads.chain(&self.descriptors).map(|descriptor| descriptor.load(Ordering::Relaxed));
        let all = engines.chain(proc::kept()).chain(kept::numbers()).filter(|&descriptor| descriptor >= 0);
        all.map(|descriptor| descriptor as u32).filter(|&descriptor| descriptor >= first).min()
    }

    /// In the child of a fork, whose only thread is `survivor`: forgets the others. Their memory stays with the child, as what
    /// threads of its parent held always does.
    ///
    /// # Safety
    ///
    /// As for [`enlist`](Process::enlist); there is no other thread.
    pub(crate) unsafe fn survive(&self, survivor: *mut Thread) {
        // SAFETY: the caller's.
        let next = unsafe { &(*survivor).next };
        // Most have none: a page that is not written to is not copied.
        if !next.load(Ordering::Relaxed).is_null() {
            next.store(null_mut(), Ordering::Relaxed);
        }
        self.threads.store(survivor, Ordering::Release);
        while self.active_threads() > 1 {
            self.depart();
        }
        // SAFETY: the caller's.
        let own = Holder::of(unsafe { (*survivor).block } as u64);
        let is_gone = |holder| holder != own;
        // SAFETY: the survivor's block, which lives as long as the process; these fields are atomic.
        let limits = unsafe { &(*(*survivor).block).time_limits };
        limits.forget();
        actions::free_if(is_gone);
        self.births.free_if(is_gone);
        self.memory.survive(is_gone);
        self.id.store(sys::process_id(), Ordering::Relaxed);
    }

    /// Its id, as getpid(2) tells it.
    pub(crate) fn id(&self) -> u32 {
        self.id.load(Ordering::Relaxed)
    }

    /// Whether it is the calling process's: a fork in host mode copies it, and KVM's machine stays the parent's.
    pub(crate) fn is_own(&self) -> bool {
        self.id.load(Ordering::Relaxed) == sys::process_id()
    }

    /// Keeps other threads from making threads; `None` if the interrupted code of this one makes one.
    pub(crate) fn hold_births(&self) -> Option<Guard<'_, ()>> {
        self.births.lock_without_limit().ok()
    }

    /// Waits until no thread is just being made with a limit raised for a moment, which another program or a child that shares
    /// memory would keep.
    pub(crate) fn wait_for_births(&self) {
        drop(self.hold_births());
    }

    /// Frees the locks that the thread of `block` held, which has ended: its program has forgotten page tables
    /// (`core::mem::forget`), or it shared this memory as a process of its own and was killed.
    pub(crate) fn free_locks_from(&self, block: u64) {
        let is_gone = |holder| holder == Holder::of(block);
        actions::free_if(is_gone);
        self.births.free_if(is_gone);
        self.memory.free_if(is_gone);
        self.memory.forget_calls(is_gone);
    }

    /// Counts a thread that is about to be in Dune mode.
    pub(crate) fn arrive(&self) {
        // One too many for a moment, as the child of a fork may keep it: that costs flushes; one too few, edits.
        self.memory.add_sharer();
        if shootdown::count_in() == 0 {
            self.memory.remove_sharer();
        }
    }

    /// Counts a thread out. Whether it was the last.
    pub(crate) fn depart(&self) -> bool {
        let is_last = shootdown::count_out() == 1;
        if !is_last {
            self.memory.remove_sharer();
        }
        is_last
    }

    /// Whether the thread `id` has been in Dune mode and is about to end.
    pub(crate) fn is_ending(&self, id: u32) -> bool {
        let ending = User::Ending(id).word();
        self.each_thread().any(|thread| thread.user.load(Ordering::Acquire) == ending)
    }

    /// Whether its program knows nothing of Dune mode.
    pub(crate) fn is_unmodified(&self) -> bool {
        self.unmodified
    }

    /// What is executed in place of programs, if they are to stay in Dune mode.
    pub(crate) fn launcher(&self) -> Option<&Launcher> {
        self.launcher.as_ref()
    }

    /// Whether rt_sigreturn(2) sets the alternate stack before the registers, for the handler that calls it, and not after
    /// them, for the code that goes on: so since Linux 6.12 (sys_rt_sigreturn in arch/x86/kernel/signal_64.c). It makes a
    /// difference where one of the two runs on the stack.
    pub(crate) fn restores_stack_first(&self) -> bool {
        self.restores_stack_first
    }

    /// Whether filters that it puts itself under let the engine's calls through.
    pub(crate) fn has_filters_of_its_own(&self) -> bool {
        self.has_filters_of_its_own
    }

    /// See [`Config::untrusted_code`].
    pub(crate) fn has_untrusted_code(&self) -> bool {
        self.has_untrusted_code
    }

    /// Whether its threads may go on in host mode where they can not stay, with whatever tokens they have.
    pub(crate) fn may_leave_for_good(&self) -> bool {
        self.may_leave_for_good
    }

    /// Where new threads go.
    pub(crate) fn threads_start_in(&self) -> Threads {
        self.threads_start_in
    }

    /// How many threads are in Dune mode.
    pub(crate) fn active_threads(&self) -> u32 {
        shootdown::threads()
    }

    /// The memory of the process.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }
}
