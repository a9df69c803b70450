//! Growth from ring 0: a fault at a mapping without a window, made behind Dune mode's back, for example by a thread
//! in host mode.

use x86_64::VirtAddr;

use super::request::{hypercall, kind};
use crate::Dune;
use crate::memory::maps;

/// Gives a window to the mapping at `address`. False if nothing is mapped there, it has a window already, or there
/// is no room for one.
pub(super) fn to(dune: Dune, address: VirtAddr) -> bool {
    let memory = dune.memory();
    let is_mapped = || matches!(maps::find(address.as_u64(), |_| ()), Ok(Some(())));
    if memory.windows().find(address).is_some() || !is_mapped() {
        return false;
    }
    let Ok(window) = memory.plan_window(address) else { return false };
    // SAFETY: ring 0, by the token; the window lives until the answer is there.
    let refused = unsafe { hypercall(kind::ADD_WINDOW, (&raw const window) as u64, 0) };
    refused == 0 && memory.add_window(window).is_ok()
}
