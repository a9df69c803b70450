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
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod guest;
mod host;
mod linux;
mod lock;
#[cfg(test)]
#[path = "lock/tests.rs"]
mod lock_tests;
pub mod memory;
mod report;
pub mod soundness;
pub mod user;
#[cfg(feature = "_weakened")]
#[doc(hidden)]
pub mod weakness;
#[cfg(not(feature = "_weakened"))]
mod weakness;

pub use arch::cpu;
pub use arch::frame::{GeneralRegisters, TrapFrame};
pub use arch::token::Dune;
pub use arch::vector::Vector;
pub use contract::config::{Config, FaultAround, Threads};
pub use contract::launcher::Launcher;
pub use counters::Counters;
pub use engine::error::EngineError;
pub use guest::error::{HandlerError, LeaveError, SegmentError};
pub use guest::snapshot;
pub use guest::{Handler, LeanHandler, LinuxWrites, MAX_NESTING, TrapHandler, TrapOutcome};
pub use host::error::EnterError;
pub use linux::sys::Errno;
pub use memory::mirror::MirrorMode;
pub use user::error::UserError;
// The types of the `x86_64` crate that this library's methods return, besides `memory::{VirtAddr, PhysAddr}`.
pub use x86_64::registers::rflags::RFlags;
pub use x86_64::structures::idt::PageFaultErrorCode;

/// The token, if the calling thread is in Dune mode: for threads that were started there, and for libraries.
pub fn current() -> Option<Dune> {
    Dune::of_caller()
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
/// on are in Dune mode, too, and so are signal handlers of threads that are.
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

/// The README's code, compiled with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
