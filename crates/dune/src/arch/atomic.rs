//! The atomics of what several threads run through at once: `tests/schedules.rs` puts others in their place, and then lets another thread
//! come at each.

pub(crate) use core::hint::spin_loop;
pub(crate) use core::sync::atomic::{AtomicBool, AtomicU64};
