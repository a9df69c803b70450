//! Entering: from a process like any other to one whose thread runs in ring 0.

use core::sync::atomic::{AtomicU32, Ordering};

use super::main_stack;
use super::signal_frame;
use super::switch::switch;
use super::thread::{HostThread, ThreadMemory};
use crate::engine::Machine;
use crate::engine::kvm::KvmMachine;
use crate::error::EnterError;
use crate::memory::mirror::Mapping;
use crate::memory::{Memory, MemoryError, MemoryOptions, PageRange, PagingFeatures};
use crate::{Config, Dune, cpu, doctor, sys};
use linux_raw_sys::general::__NR_gettid;

/// The thread that is in Dune mode or about to enter, 0 for none.
static ENTERED: AtomicU32 = AtomicU32::new(0);

/// Gives the place back unless the thread has entered.
struct Claim;

impl Claim {
    fn take() -> Result<Claim, EnterError> {
        // SAFETY: gettid takes no argument.
        let thread = unsafe { sys::raw(__NR_gettid, [0; 6]) } as u32;
        match ENTERED.compare_exchange(0, thread, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Ok(Claim),
            Err(thread) => Err(EnterError::OtherThread { thread }),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        ENTERED.store(0, Ordering::Release);
    }
}

/// A box that outlives every reference to it: leaked when Dune mode has started, freed when it has not.
struct Leaked<T: 'static>(*mut T);

impl<T> Leaked<T> {
    fn new(value: T) -> Leaked<T> {
        Leaked(Box::into_raw(Box::new(value)))
    }

    fn get(&self) -> &'static T {
        // SAFETY: the box is freed only by `Drop`, when entry has failed and everything that got the reference is
        // gone (see the order in `enter`).
        unsafe { &*self.0 }
    }
}

impl<T> Drop for Leaked<T> {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw`, and dropped once.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

/// See [`Config::enter`].
pub(crate) fn enter(config: &Config) -> Result<Dune, EnterError> {
    if cpu::in_dune_mode() {
        return Err(EnterError::AlreadyInDuneMode);
    }
    if let Some(signal) = signal_frame::handler_in_progress() {
        return Err(EnterError::InSignalHandler { signal });
    }
    let claim = Claim::take()?;
    let facts = doctor::check()?;
    let machine = KvmMachine::open()?;
    // What the windows must cover comes first, then the windows.
    main_stack::grow();
    let thread_memory = ThreadMemory::new()?;
    let mut features = PagingFeatures::detect();
    features.pcid &= machine.cpu_limits().pcid;
    let mut options = MemoryOptions::new(facts.engine.physical_address_bits, features);
    options.arena_bytes = config.frame_arena;
    options.mapping = config.mapping;
    let memory = Leaked::new(Memory::build(&options)?);
    for guard in thread_memory.guards() {
        unmap_guard(memory.get(), guard)?;
    }
    for window in memory.get().windows().iter() {
        machine.add_window(&window)?;
    }
    let thread = Box::into_raw(Box::new(HostThread::new(machine, 0, memory.get(), thread_memory)?));
    if config.mapping == Mapping::Precise {
        // What has been allocated since the tables were built. From here on nothing is, until Dune mode.
        memory.get().mirror_everything()?;
    }
    crate::set_memory(memory.get());
    // SAFETY: 1. the loop stack is the thread's own and unused; 2. the windows were planned after everything the
    // thread uses was mapped; 3. memory and thread are leaked below.
    let refused = unsafe { switch((*thread).stack.top(), thread) } != 0;
    if refused {
        // SAFETY: `switch` returned in host mode, so that nobody uses the thread any more.
        let thread = unsafe { Box::from_raw(thread) };
        let exit = format!("{:?}", thread.refused);
        drop(thread);
        return Err(EnterError::Refused { exit });
    }
    // From here on this is Dune mode, and what it runs on stays.
    core::mem::forget(memory);
    core::mem::forget(claim);
    // SAFETY: the first hypercall was answered: this thread is at ring 0.
    Ok(unsafe { Dune::assume() })
}

/// Takes a guard out of Dune mode's view.
fn unmap_guard(memory: &'static Memory, guard: PageRange) -> Result<(), EnterError> {
    let flush = memory.page_tables().and_then(|mut tables| tables.unmap(guard)).map_err(MemoryError::from)?;
    // No CPU has used the tables yet.
    flush.ignore();
    Ok(())
}
