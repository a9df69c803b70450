//! What ring 0 and the host side agree on: the thread block, requests, signals on their way, what the program wants, time
//! limits.
//!
//! Both sides are compiled together. Whoever reads the beginning of the block without being so (a module in the kernel, say) finds
//! [`VERSION`] there; what it may read is asserted below.

pub(crate) mod actions;
pub(crate) mod alternate_stack;
pub(crate) mod birth;
pub(crate) mod block;
pub(crate) mod callee_saved;
pub(crate) mod config;
pub(crate) mod file_table;
pub(crate) mod launcher;
pub(crate) mod process;
pub(crate) mod repeated;
pub(crate) mod request;
pub(crate) mod signal_frame;
pub(crate) mod signal_queue;
pub(crate) mod thread;
pub(crate) mod thread_counters;
pub(crate) mod time_limit;
pub(crate) mod trap_table;

use core::mem::offset_of;

use crate::arch::thread_words;
use block::ThreadBlock;
use request::Request;

/// The version of what is asserted here. It goes up with each change of that.
pub(crate) const VERSION: u64 = 3;

const _: () = {
    assert!(offset_of!(ThreadBlock, request) == 0);
    assert!(offset_of!(Request, kind) == 0);
    assert!(offset_of!(Request, number) == 8, "one cache line holds kind, number and arguments");
    assert!(offset_of!(Request, arguments) == 16);
    assert!(offset_of!(Request, result) == 64);
    assert!(offset_of!(Request, block) == thread_words::BLOCK);
    assert!(size_of::<Request>() == 80);
    assert!(offset_of!(ThreadBlock, flush_page) == thread_words::FLUSH_PAGE);
    assert!(offset_of!(ThreadBlock, version) == 88);
    assert!(offset_of!(ThreadBlock, task) == thread_words::TASK);
    assert!(offset_of!(ThreadBlock, lock_ranks) == thread_words::LOCK_RANKS);
    assert!(offset_of!(ThreadBlock, caches) == thread_words::CACHES);
    assert!(align_of::<ThreadBlock>() == 64);
};
