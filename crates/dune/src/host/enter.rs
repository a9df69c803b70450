//! Entering: from a process like any other to one whose thread runs in ring 0.

use core::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use linux_raw_sys::general::RLIMIT_AS;

use super::error::EnterError;
use super::process::{self, HostProcess};
use super::switch::{Continuation, switch};
use super::thread::{self, HostThread, ThreadMemory};
use super::{huge, main_stack, windows};
use crate::arch::cpu;
use crate::arch::token::Dune;
use crate::contract::config::Config;
use crate::contract::file_table::FileTable;
use crate::contract::process::{Process, forget_process, set_process};
use crate::contract::thread::{Thread, User};
use crate::doctor;
use crate::engine::{Engine, Machine};
use crate::guest::trap;
use crate::linux::mapped::Mapped;
use crate::linux::maps::MapsError;
use crate::linux::sys::Errno;
use crate::linux::{kept, proc, sys};
use crate::memory::mirror::{MirrorMode, Ownership};
use crate::memory::{Memory, MemoryOptions, PagingFeatures, Windows};
use crate::report;

/// Held while the process enters for the first time.
static ENTRY: Mutex<()> = Mutex::new(());

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
    let first = ENTRY.lock().unwrap_or_else(PoisonError::into_inner);
    match process::current() {
        Some(process) if process.is_own() => {
            drop(first);
            return join(process);
        }
        // Closing what it has would close it for that process, whose threads run.
        Some(process) if process.machine().is_of_this_memory() => return Err(EnterError::SharedMemory),
        // The child of a fork that was made in host mode: what it inherited serves its parent only.
        // SAFETY: the machine is of the parent's memory, so no thread of this process is in Dune mode, nor one that shares this memory;
        // others that enter wait for `first`.
        Some(process) => unsafe { process.abandon() },
        None => (),
    }
    let facts = doctor::check()?;
    let machine = Engine::open()?;
    // What the windows must cover comes first, then the windows.
    main_stack::grow();
    let thread_memory = ThreadMemory::new()?;
    let mut features = PagingFeatures::detect();
    features.pcid &= machine.cpu_limits().pcid;
    let mut options = MemoryOptions::new(facts.engine.physical_address_bits, features);
    options.arena_bytes = config.frame_arena.unwrap_or_else(default_arena);
    options.limits.windows = machine.most_windows().min(Windows::CAPACITY);
    options.mapping = config.mapping;
    options.fault_around = config.mapping == MirrorMode::Precise && huge::wanted(config.fault_around);
    let memory = Memory::plan(&options)?;
    for window in memory.windows().iter() {
        machine.add_window(&window)?;
    }
    let shared = Process::new(memory, config);
    let process = Leaked::new(HostProcess::new(machine, shared, trap::gates()));
    let mut place = HostThread::placed(process.get(), thread_memory)?;
    place.host().continuation.set(Continuation::here());
    proc::keep();
    let kept = if config.untrusted_code { Some(kept::keep().map_err(cannot_keep)?) } else { None };
    report::withhold_addresses(config.untrusted_code);
    if config.launcher.is_some() || config.unmodified {
        proc::keep_tracer();
    }
    // With what has been allocated since the windows were planned. From here on nothing is, until Dune mode.
    windows::give_to_all(process.get().memory(), process.get().machine())?;
    if config.mapping == MirrorMode::Precise {
        process.get().memory().mirror_everything()?;
    }
    place.pin()?;
    process.get().arrive();
    let (stack, place) = (place.host().stack.top(), place.leak());
    let thread = thread::behind(place.cast());
    // SAFETY: leaked; should entry fail, the process that has the list goes first.
    unsafe { process.get().enlist(place.cast::<Thread>()) };
    set_process(process.get().as_shared());
    // SAFETY: 1. the loop stack is the thread's own and unused; 2. the windows were planned after everything
    // the thread uses was mapped; 3. process and thread are leaked below.
    let refused = unsafe { switch(stack, thread) } != 0;
    if refused {
        // SAFETY: `switch` returned in host mode, so that nobody uses the thread any more.
        let mut place = unsafe { Mapped::from_leaked(place) };
        let exit = format!("{:?}", place.host().refused.get());
        drop(place);
        forget_process();
        return Err(EnterError::Refused { exit });
    }
    // From here on this is Dune mode, and what it runs on stays.
    core::mem::forget((process, kept));
    // SAFETY: the first hypercall was answered: this thread is at ring 0.
    Ok(unsafe { Dune::assume() })
}

fn cannot_keep(errno: Errno) -> EnterError {
    EnterError::Memory(MapsError::Open { errno }.into())
}

/// Enters where other threads have entered before, or this one has.
fn join(process: &'static HostProcess) -> Result<Dune, EnterError> {
    main_stack::grow();
    let place = HostThread::place(process, FileTable::FIRST)?;
    let thread = thread::behind(place);
    let stack = {
        // SAFETY: threads are never freed.
        let thread = unsafe { &*thread };
        thread.continuation.set(Continuation::here());
        thread.stack.top()
    };
    process.arrive();
    // SAFETY: 1. the loop stack is the thread's own and unused; 2. block and stacks are in the page tables, and faults
    // bring the rest; 3. threads on the list stay.
    if unsafe { switch(stack, thread) } != 0 {
        process.depart();
        // SAFETY: as before.
        let thread = unsafe { &*thread };
        let exit = format!("{:?}", thread.refused.get());
        thread.shared().user.store(User::Nobody.word(), Ordering::Release);
        return Err(EnterError::Refused { exit });
    }
    // SAFETY: the first hypercall was answered: this thread is at ring 0.
    let dune = unsafe { Dune::assume() };
    if process.memory().mapping() == MirrorMode::Precise {
        // What host mode has changed. The rights that it has added would be found by faults; not all that it has taken.
        let _calls = process.memory().hold_calls();
        process
            .memory()
            .synchronise_or_miss(Memory::everything(), Ownership::Respect, |flush| flush.now(dune));
    }
    Ok(dune)
}

/// How many bytes are reserved for frames: little enough that a process with a limit on address space keeps the rest.
fn default_arena() -> u64 {
    const USUAL: u64 = 1 << 30;
    USUAL.min(sys::soft_limit(RLIMIT_AS) / 16)
}
