//! The main thread's stack, which Linux grows on faults of host mode only.
//!
//! An access in Dune mode reaches Linux through KVM's get_user_pages, which does not grow stacks since Linux 6.5.
//! So the mapping is grown to its limit before entry; its pages are still made when touched.

use core::ops::ControlFlow;

use linux_raw_sys::general::{__NR_rt_sigprocmask, RLIMIT_STACK, SIG_BLOCK};

use crate::linux::maps::{self, MappingKind};
use crate::linux::{place, sys};

/// The most that is grown where RLIMIT_STACK allows more.
const MOST: u64 = 64 << 20;
/// Left below the limit for what Linux counts besides.
const MARGIN: u64 = 64 << 10;

/// Grows the stack to RLIMIT_STACK, as far as there is room below it.
pub(super) fn grow() {
    let Some((start, end)) = stack() else { return };
    place::stack_ends_at(end);
    let Ok(limits) = sys::limits(RLIMIT_STACK) else { return };
    let mut size = limits.rlim_cur.min(MOST).saturating_sub(MARGIN);
    while end - size.min(end) < start {
        if touch((end - size) & !0xfff) {
            return;
        }
        size /= 2;
    }
}

/// The bounds of the main thread's stack.
fn stack() -> Option<(u64, u64)> {
    let mut bounds = None;
    maps::for_each(|mapping| {
        if matches!(mapping.kind, MappingKind::Stack) {
            bounds = Some((mapping.start, mapping.end));
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })
    .ok()?;
    bounds
}

/// Has Linux write to the page at `address`: it grows the stack, or refuses without a signal.
fn touch(address: u64) -> bool {
    // SAFETY: rt_sigprocmask without a new mask writes the old one, eight bytes, to a page that is below everything
    // on the stack.
    unsafe { sys::call(__NR_rt_sigprocmask, [SIG_BLOCK.into(), 0, address, 8, 0, 0]) }.is_ok()
}
