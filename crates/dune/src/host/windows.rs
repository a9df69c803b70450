//! Windows for mappings that the program made outside of the first ones.

use core::sync::atomic::{AtomicBool, Ordering};

use thiserror::Error;
use x86_64::VirtAddr;

use super::error::EnterError;
use crate::engine::Machine;
use crate::engine::error::EngineError;
use crate::memory::{Memory, MemoryError, PlanError};
use crate::report;

/// Why a new mapping got no window.
#[derive(Debug, Error)]
pub(crate) enum GrowError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl From<GrowError> for EnterError {
    fn from(error: GrowError) -> EnterError {
        match error {
            GrowError::Plan(error) => EnterError::Memory(error.into()),
            GrowError::Engine(error) => EnterError::Engine(error),
            GrowError::Memory(error) => EnterError::Memory(error),
        }
    }
}

/// Gives a window to the mapping at `address` unless it has one: a slot of `machine`, then page-table entries.
///
/// New entries need no flush. That the edit is made on the host side is sound under two-dimensional paging, which
/// `enter` insists on: the page tables are plain memory to the engine.
pub(super) fn give<M: Machine>(memory: &Memory, machine: &M, address: u64) -> Result<(), GrowError> {
    memory.grow(VirtAddr::new_truncate(address), |window| Ok(machine.add_window(window)?))
}

/// Gives windows to all that has been mapped since the first were planned.
pub(super) fn give_to_all<M: Machine>(memory: &Memory, machine: &M) -> Result<(), GrowError> {
    memory.grow_to_all(|window| Ok(machine.add_window(window)?))
}

/// As [`give`], for the program's memory: an access to it will fail if this does, and the reason is told once.
#[cold]
pub(super) fn give_or_report<M: Machine>(memory: &Memory, machine: &M, address: u64) -> bool {
    static REPORTED: AtomicBool = AtomicBool::new(false);
    let grown = give(memory, machine, address);
    if let Err(error) = &grown
        && !REPORTED.swap(true, Ordering::Relaxed)
    {
        report::message(format_args!("dune: Dune mode can not reach the memory at {address:#x}: {error}"));
    }
    grown.is_ok()
}
