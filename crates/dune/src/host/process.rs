//! The process on the host side: the engine's machine beside what both sides share.

use core::cell::UnsafeCell;
use core::ops::Deref;
use core::ptr::null;
use core::sync::atomic::{AtomicU32, Ordering};

use x86_64::VirtAddr;

use super::error::EnterError;
use super::thread::{self, HostThread};
use super::windows;
use crate::arch::descriptors::Idt;
use crate::arch::page::{PagePermissions, PageRange};
use crate::contract::actions;
use crate::contract::process::{Process, current_process, forget_process};
use crate::contract::thread::Thread;
use crate::engine::{Engine, Machine, Vcpu};
use crate::guest::range_handlers;
use crate::lock::holder::Holder;
use crate::memory::Flush;
use crate::memory::mirror::{MirrorMode, Ownership};

/// The process in Dune mode, with its machine.
/// Begins a page, as what a fork writes to has to be together: see [`Process`].
#[derive(Debug)]
#[repr(C, align(4096))]
pub(crate) struct HostProcess {
    /// First, so that a pointer to it leads to all.
    shared: Process,
    machine: UnsafeCell<Engine>,
    next_vcpu: AtomicU32,
    pub(super) idt: Idt,
}

// SAFETY: the machine is replaced only in the child of a fork, which has one thread; else it is only read, and its
// methods are system calls.
unsafe impl Sync for HostProcess {}

impl Deref for HostProcess {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.shared
    }
}

/// The process, if it is in Dune mode.
pub(super) fn current() -> Option<&'static HostProcess> {
    // SAFETY: what `set_process` is given is the first field of a `HostProcess`, as a pointer to all of it, which is not freed
    // before it is forgotten.
    unsafe { current_process().cast::<HostProcess>().as_ref() }
}

impl HostProcess {
    pub(super) fn new(machine: Engine, shared: Process, idt: Idt) -> HostProcess {
        shared.set_descriptors(machine.descriptors());
        HostProcess { shared, machine: UnsafeCell::new(machine), idt, next_vcpu: AtomicU32::new(0) }
    }

    /// This, as [`set_process`](crate::contract::process::set_process) wants it.
    pub(super) fn as_shared(&self) -> *const Process {
        core::ptr::from_ref(self).cast()
    }

    pub(super) fn machine(&self) -> &Engine {
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
    pub(super) unsafe fn replace_machine(&self) -> &mut Engine {
        // SAFETY: the caller's.
        unsafe { &mut *self.machine.get() }
    }

    /// The number of a vCPU that there has not been yet.
    pub(super) fn new_vcpu_id(&self) -> u32 {
        self.next_vcpu.fetch_add(1, Ordering::Relaxed)
    }

    /// In the child of a fork, whose only thread is `survivor`: forgets the others and numbers vCPUs anew.
    ///
    /// # Safety
    ///
    /// As for [`Process::survive`].
    pub(super) unsafe fn survive(&self, survivor: *mut Thread) {
        // SAFETY: the caller's.
        unsafe { self.close_vcpus(survivor) };
        // SAFETY: the caller's.
        let own = unsafe {
            self.shared.survive(survivor);
            Holder::of((*survivor).block as u64)
        };
        range_handlers::free_if(|holder| holder != own);
        self.next_vcpu.store(1, Ordering::Relaxed);
    }

    /// Closes the engine's descriptors, for a process that goes on without them: the last thread has left for good, or a fork in host
    /// mode has copied them. Frees nothing, and does nothing the second time.
    ///
    /// # Safety
    ///
    /// No thread of this process is in Dune mode, nor enters it meanwhile, and nobody holds what [`machine`](HostProcess::machine)
    /// returned.
    pub(super) unsafe fn abandon(&self) {
        // SAFETY: the caller's.
        unsafe { self.close_vcpus(null()) };
        actions::free_if(|_| true);
        range_handlers::free_if(|_| true);
        // SAFETY: the caller's.
        unsafe { (*self.machine.get()).close() };
        forget_process();
    }

    /// Closes the vCPUs of all threads but `survivor`.
    ///
    /// # Safety
    ///
    /// No thread but that of `survivor` is in Dune mode in this process, and nobody holds what [`HostThread::vcpu`] returned of
    /// the others.
    unsafe fn close_vcpus(&self, survivor: *const Thread) {
        for thread in self.threads().filter(|&thread| !core::ptr::eq(thread, survivor)) {
            // SAFETY: the thread is on the list; that nobody uses its vCPU, says the caller.
            unsafe { (*HostThread::vcpu_place(thread::behind(thread))).close() };
        }
    }

    /// Gives memory of the library's own windows and page-table entries that stay: ring 0 can not do without it, not even
    /// to take a page fault. In both modes.
    ///
    /// The mirror leaves the entries alone: what it is told may be older than this memory, and say that there is a gap.
    pub(super) fn pin(&self, start: u64, bytes: u64) -> Result<(), EnterError> {
        /// Others may take the entries away as fast as they are made; the lock of the tables does the waiting.
        const TRIES: u32 = 1000;
        let range = PageRange::covering(VirtAddr::new_truncate(start), bytes)
            .expect("what Linux has mapped lies in the task's address space");
        for address in [start, start + bytes - 1] {
            windows::give(self.memory(), self.machine(), address)?;
        }
        if self.memory().mapping() == MirrorMode::Full {
            return Ok(());
        }
        let keep = || {
            let mut tables = self.memory().page_tables()?;
            // No CPU has used entries for this memory.
            tables.pin(range).map(Flush::waive)
        };
        let mut kept = keep();
        for _ in 0..TRIES {
            if kept.is_ok() {
                break;
            }
            let _ = self
                .memory()
                .mirror(range, PagePermissions::READ_WRITE, Ownership::Respect)
                .map(Flush::waive);
            kept = keep();
        }
        kept.map_err(|error| EnterError::Memory(error.into()))
    }
}
