//! What a process passes on to the programs that it executes and that has a say in where and how they can be mapped.

use std::os::unix::process::CommandExt;
use std::process::Command;

use super::{compare, example, ways};
use crate::case::{CaseResult, Skip};

/// In all ways a program has its heap, prepared by the call, which returns a negative number if it fails.
fn have_a_heap(prepare: fn() -> i32) -> CaseResult {
    let prepare = |command: &mut Command| {
        let before = move || if prepare() < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) };
        // SAFETY: one system call between fork and exec.
        unsafe { command.pre_exec(before) };
    };
    ways().iter().try_for_each(|way| {
        compare(&example(way)?, &["heap"], "break grows: true\nzeros: true\n", prepare)?;
        compare(&example(way)?, &["fork"], "child in my ring: true\n", prepare)
    })
}

/// Under ADDR_NO_RANDOMIZE (setarch -R) the launcher is where Linux would put the program.
pub fn nothing_is_random() -> CaseResult {
    // SAFETY: changes where later mappings of the process are.
    have_a_heap(|| unsafe { libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong) })
}

/// PR_SET_MDWE: what is not mapped executable can not become so.
pub fn memory_stays_without_code() -> CaseResult {
    /// Of Linux 6.3 (<linux/prctl.h>).
    const PR_SET_MDWE: i32 = 65;
    const PR_GET_MDWE: i32 = 66;
    const REFUSE_EXEC_GAIN: u64 = 1;
    // SAFETY: asks only.
    if unsafe { libc::prctl(PR_GET_MDWE, 0u64, 0u64, 0u64, 0u64) } < 0 {
        return Err(Skip("Linux has no PR_SET_MDWE".to_owned()).into());
    }
    // SAFETY: takes rights from later mappings of the process.
    have_a_heap(|| unsafe { libc::prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0u64, 0u64, 0u64) })
}
