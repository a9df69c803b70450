//! Growth: windows for mappings that the program made outside of the first ones.

use x86_64::VirtAddr;

use crate::engine::Machine;
use crate::error::GrowError;
use crate::memory::Memory;

/// Gives a window to the mapping at `address`, from the host loop: a slot of `machine`, then page-table entries.
///
/// New entries need no flush. That the edit is made on the host side is sound under two-dimensional paging, which
/// `enter` insists on: the page tables are plain memory to the engine.
pub(super) fn from_host<M: Machine>(memory: &Memory, machine: &M, address: u64) -> Result<(), GrowError> {
    let window = memory.plan_window(VirtAddr::new_truncate(address))?;
    machine.add_window(&window)?;
    Ok(memory.add_window(window)?)
}
