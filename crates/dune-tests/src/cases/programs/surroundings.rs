//! What a process passes on to the programs that it executes and that has a say in where and how they can be mapped.

use std::os::unix::process::CommandExt;
use std::process::Command;

use super::{WAYS, compare, example};
use crate::case::CaseResult;

/// In all ways a program has its heap, prepared by the call, which returns a negative number if it fails.
fn have_a_heap(prepare: fn() -> i32) -> CaseResult {
    let prepare = |command: &mut Command| {
        let before = move || if prepare() < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) };
        // SAFETY: one system call between fork and exec.
        unsafe { command.pre_exec(before) };
    };
    WAYS.iter().try_for_each(|way| {
        compare(&example(way)?, &["heap"], "break grows: true\nzeros: true\n", prepare)?;
        compare(&example(way)?, &["fork"], "child in my ring: true\n", prepare)
    })
}

/// Under ADDR_NO_RANDOMIZE (setarch -R) the launcher is where Linux would put the program.
pub fn nothing_is_random() -> CaseResult {
    // SAFETY: changes where later mappings of the process are.
    have_a_heap(|| unsafe { libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong) })
}
