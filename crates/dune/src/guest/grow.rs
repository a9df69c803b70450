//! Growth from ring 0: windows for mappings without one.

use x86_64::VirtAddr;

use super::request::{hypercall, kind};
use crate::Dune;
use crate::memory::maps;

/// Gives a window to the mapping at `address`, made behind Dune mode's back, for example by a thread in host mode.
/// False if nothing is mapped there, it has a window already, or there is no room for one.
pub(super) fn to(dune: Dune, address: VirtAddr) -> bool {
    let is_mapped = || matches!(maps::find(address.as_u64(), |_| ()), Ok(Some(())));
    dune.memory().windows().find(address).is_none() && is_mapped() && window(dune, address)
}

/// Gives a window to `address` unless it has one. False if there is no room for one.
pub(super) fn window(dune: Dune, address: VirtAddr) -> bool {
    if dune.memory().windows().find(address).is_some() {
        return true;
    }
    // SAFETY: ring 0, by the token; the request takes an address.
    unsafe { hypercall(kind::GROW, address.as_u64(), 0) != 0 }
}
