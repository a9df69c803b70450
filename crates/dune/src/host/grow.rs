//! Growth: windows for mappings that the program made outside of the first ones.

use core::sync::atomic::{AtomicBool, Ordering};

use x86_64::VirtAddr;

use super::error::GrowError;
use crate::engine::Machine;
use crate::memory::Memory;
use crate::report;

/// Gives a window to the mapping at `address` unless it has one: a slot of `machine`, then page-table entries.
///
/// New entries need no flush. That the edit is made on the host side is sound under two-dimensional paging, which
/// `enter` insists on: the page tables are plain memory to the engine.
pub(super) fn to<M: Machine>(memory: &Memory, machine: &M, address: u64) -> Result<(), GrowError> {
    memory.grow(VirtAddr::new_truncate(address), |window| Ok(machine.add_window(window)?))
}

/// As [`to`], for the program's memory: an access to it will fail if this does, and the reason is told once.
#[cold]
pub(super) fn or_report<M: Machine>(memory: &Memory, machine: &M, address: u64) -> bool {
    static REPORTED: AtomicBool = AtomicBool::new(false);
    let grown = to(memory, machine, address);
    if let Err(error) = &grown
        && !REPORTED.swap(true, Ordering::Relaxed)
    {
        report::message(format_args!("dune: Dune mode can not reach the memory at {address:#x}: {error}"));
    }
    grown.is_ok()
}
