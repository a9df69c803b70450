//! Safe, direct use of the CPU's privileged features for an ordinary Linux process.
//!
//! [`enter`] puts the calling thread into *Dune mode*: ring 0 of a virtual machine that is the process itself. It
//! keeps its memory, files and system calls, and gains exceptions ([`Dune::set_handler`]), page tables
//! ([`Dune::page_tables`], [`memory`]), privilege rings ([`user`]) and segmentation. Linux stays protected by the
//! hardware: Dune mode can ask nothing of it that the process could not ask before.
//!
//! ```no_run
//! let dune = dune::enter()?;
//! println!("hello from ring 0; exits so far: {}", dune.counters().exits());
//! # Ok::<(), dune::EnterError>(())
//! ```

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("Dune runs on x86-64 Linux: it is made of that CPU's privileged features");

mod arch;
mod contract;
pub mod counters;
pub mod doctor;
mod engine;
mod guest;
mod host;
mod linux;
mod lock;
pub mod memory;
mod report;
pub mod user;

use core::marker::PhantomData;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

pub use arch::cpu;
pub use arch::frame::TrapFrame;
pub use arch::vector::Vector;
pub use contract::launcher::Launcher;
pub use counters::Counters;
pub use guest::{Handler, LeanHandler, MAX_NESTING, TrapOutcome};
pub use host::error::{EngineError, EnterError, HandlerError, LeaveError, SegmentError, UserError};
pub use linux::sys::Errno;
pub use memory::mirror::Mapping;

use host::process::Process;
use memory::{EditError, Memory, PageTables};

/// Proof that the calling thread is in Dune mode.
///
/// Only [`enter`] and trap handlers get one; privileged operations are its methods. It stays on its thread.
#[derive(Debug, Clone, Copy)]
pub struct Dune {
    _not_send: PhantomData<*mut ()>,
}

impl Dune {
    /// The token.
    ///
    /// # Safety
    ///
    /// The calling thread is at ring 0 in Dune mode.
    pub(crate) unsafe fn assume() -> Dune {
        Dune { _not_send: PhantomData }
    }

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

static PROCESS: AtomicPtr<Process> = AtomicPtr::new(null_mut());

/// What the threads of the process share; there is one as soon as one of them is in Dune mode.
#[inline]
pub(crate) fn process() -> &'static Process {
    // SAFETY: set before the first token was handed out, and never freed.
    unsafe { &*PROCESS.load(Ordering::Acquire) }
}

/// The same, if there is one.
pub(crate) fn current_process() -> Option<&'static Process> {
    // SAFETY: as above.
    unsafe { PROCESS.load(Ordering::Acquire).as_ref() }
}

/// There is none after all.
fn forget_process() {
    PROCESS.store(null_mut(), Ordering::Release);
}

fn set_process(process: &'static Process) {
    PROCESS.store(core::ptr::from_ref(process).cast_mut(), Ordering::Release);
}

/// The token, if the calling thread is in Dune mode: for threads that were started there, and for libraries.
pub fn current() -> Option<Dune> {
    // SAFETY: the thread is at ring 0.
    cpu::in_dune_mode().then(|| unsafe { Dune::assume() })
}

/// Where threads run that a thread in Dune mode starts with clone(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Threads {
    /// In Dune mode, like the thread that starts them, each with a virtual CPU of its own.
    #[default]
    DuneMode,
    /// In host mode, like threads that were started before [`enter`]. They share memory with Dune mode, which learns of
    /// what they map when it is first touched.
    HostMode,
}

/// Whether memory is populated ahead of a program that touches fresh pages one after the other.
///
/// In Dune mode the first touch of a page costs about twice what it costs in host mode, since Linux and the engine
/// each handle it. So when the program has written the first 64 KiB of a part of a fresh private anonymous mapping in
/// order, the 2 MiB that they belong to become one huge page (`MADV_COLLAPSE`, madvise(2), Linux 6.1), and so does each
/// 2 MiB that the program goes on to write to from its start. A stream is never more than 2 MiB ahead of
/// the program. A touch that is not part of a stream gets its page and no more. What Linux refuses (memory or a cgroup's
/// limit exhausted, `MADV_NOHUGEPAGE`, rights that change within the 2 MiB, userfaultfd) is touched page by page as
/// before.
///
/// For each 2 MiB the thread makes two madvise calls of its own, which the process's seccomp filter has to let through.
///
/// It rests while the program has a handler for #PF, so no handler sees a fault more, and for good once
/// it has made an address space or set a thread's own handler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FaultAround {
    /// Never.
    Off,
    /// Where `/sys/kernel/mm/transparent_hugepage/enabled` says `madvise`. With `always` Linux makes huge pages itself
    /// at the first touch, and with `never` there shall be none.
    #[default]
    Permitted,
    /// Whatever that file says.
    Always,
}

/// How to enter Dune mode. [`enter`] takes the defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub(crate) frame_arena: Option<u64>,
    pub(crate) mapping: Mapping,
    pub(crate) threads: Threads,
    pub(crate) fault_around: FaultAround,
    pub(crate) launcher: Option<Launcher>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            frame_arena: None,
            mapping: Mapping::Precise,
            threads: Threads::DuneMode,
            fault_around: FaultAround::Permitted,
            launcher: None,
        }
    }
}

impl Config {
    /// The defaults.
    pub fn new() -> Config {
        Config::default()
    }

    /// Address space in bytes to reserve for frames that the library owns: page tables and what the program
    /// allocates from [`Memory::frames`]. Memory is used as frames are. Default: 1 GiB, or where address space is
    /// limited (RLIMIT_AS, `ulimit -v`) a sixteenth of the limit, if that is less.
    #[must_use]
    pub fn frame_arena(mut self, bytes: u64) -> Config {
        self.frame_arena = Some(bytes);
        self
    }

    /// What the page tables say about the process's memory. Default: [`Mapping::Precise`].
    #[must_use]
    pub fn mapping(mut self, mapping: Mapping) -> Config {
        self.mapping = mapping;
        self
    }

    /// Whether a program that touches fresh memory page by page gets it 2 MiB at a time. Default:
    /// [`FaultAround::Permitted`].
    #[must_use]
    pub fn fault_around(mut self, wanted: FaultAround) -> Config {
        self.fault_around = wanted;
        self
    }

    /// Where threads run that a thread in Dune mode starts. Default: [`Threads::DuneMode`].
    #[must_use]
    pub fn threads(mut self, threads: Threads) -> Config {
        self.threads = threads;
        self
    }

    /// Keeps programs in Dune mode that the process execs, its children too: `launcher` is executed in their place, and has
    /// to start them. Default: they run in host mode, as exec leaves Dune mode.
    ///
    /// Programs that Linux would give another user or capabilities, that it would refuse, and those in formats other than
    /// x86-64 ELF and `#!` scripts are left to Linux, and so are those of a process that has got a tracer since it entered, which
    /// wants to see the program start. Children that share their parent's memory until they exec (vfork,
    /// posix_spawn) then run in Dune mode.
    #[must_use]
    pub fn follow_exec(mut self, launcher: Launcher) -> Config {
        self.launcher = Some(launcher);
        self
    }

    /// Enters Dune mode: returns in the same thread, on the same stack, at ring 0.
    ///
    /// # Errors
    ///
    /// [`EnterError`]; the process is then as it was before.
    pub fn enter(&self) -> Result<Dune, EnterError> {
        host::enter::enter(self)
    }
}

/// Returns the calling thread to host mode, where it goes on: the same stack, memory, files and signal handlers. The others
/// stay where they are. It may [`enter`] again.
///
/// # Errors
///
/// [`LeaveError`]; the thread is where it was.
///
/// # Safety
///
/// No [`Dune`] token is used in this thread afterwards, and nothing that depends on ring 0, on trap handlers or on changes
/// to the page tables.
///
/// # Example
///
/// ```no_run
/// let dune = dune::enter()?;
/// println!("in ring 0: {}", dune::cpu::in_dune_mode());
/// // SAFETY: `dune` is not used any more.
/// unsafe { dune::leave()? };
/// println!("in ring 0: {}", dune::cpu::in_dune_mode());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub unsafe fn leave() -> Result<(), LeaveError> {
    guest::leave::leave()
}

/// Enters Dune mode with the default [`Config`].
///
/// Everything the process had goes on: memory, files, system calls. Threads and fork children that are started from here
/// on are in Dune mode, too; signal handlers run in host mode, outside of Dune mode.
///
/// # Errors
///
/// [`EnterError`]; the process is then as it was before.
///
/// # Example
///
/// ```no_run
/// let dune = dune::enter()?;
/// println!("in ring 0: {}", dune::cpu::in_dune_mode());
/// # Ok::<(), dune::EnterError>(())
/// ```
pub fn enter() -> Result<Dune, EnterError> {
    Config::default().enter()
}
