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

use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

pub use arch::cpu;
pub use arch::frame::{GeneralRegisters, TrapFrame};
pub use arch::token::Dune;
pub use arch::vector::Vector;
pub use contract::config::{Config, FaultAround, Threads};
pub use contract::launcher::Launcher;
pub use counters::Counters;
pub use engine::error::EngineError;
pub use guest::error::{HandlerError, LeaveError, SegmentError};
pub use guest::{Handler, LeanHandler, MAX_NESTING, TrapHandler, TrapOutcome};
pub use host::error::EnterError;
pub use linux::sys::Errno;
pub use memory::mirror::Mapping;
pub use user::error::UserError;

use host::process::Process;
use memory::{EditError, Memory, PageTables};

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

impl Config {
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
