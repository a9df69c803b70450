//! From ring 0: windows for mappings without one.

use x86_64::VirtAddr;

use crate::arch::token::Dune;
use crate::contract::request::Kind;
use crate::guest::hypercall::hypercall;

/// Gives a window to `address` unless it has one. False if there is no room for one.
pub(super) fn give(dune: Dune, address: VirtAddr) -> bool {
    if dune.memory().windows().find(address).is_some() {
        return true;
    }
    // SAFETY: ring 0, by the token; the request takes an address.
    unsafe { hypercall(Kind::Grow, address.as_u64(), 0) != 0 }
}
