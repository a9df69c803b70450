//! What programs see of their process, and others of it: nothing of Dune's.

use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;

use super::{ENTER, command, compare, example, folder, ways};
use crate::case::{CaseResult, Skip};
use crate::probe;

/// Numbers from the limit on are closed, whatever is asked of them.
pub fn descriptors() -> CaseResult {
    compare(&example("dynamic-pie")?, &["descriptors"], "\n0 Some(9) Some(9) Some(9) Some(9) ", |_| ())?;
    // Where the limit can not be raised, they stand below it.
    compare(&example("static-nopie")?, &["descriptors"], "\nlisted [0, 1, 2, 3]\n", |command| {
        let limit = || {
            let limit = libc::rlimit { rlim_cur: 900, rlim_max: 900 };
            // SAFETY: reads `limit`; takes a capability away from what is executed.
            unsafe {
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
                libc::prctl(libc::PR_CAPBSET_DROP, probe::MAY_RAISE_LIMITS);
            }
            Ok(())
        };
        // SAFETY: a system call between fork and exec.
        unsafe { command.pre_exec(limit) };
    })
}

/// A thread's stack grows into a hole, in which nothing of Dune's is.
pub fn growing_stack() -> CaseResult {
    ways().iter().try_for_each(|way| {
        compare(&example(way)?, &["growing-stack"], "grown from 4 pages\ngrown from 16 pages\n", |_| ())
    })
}

/// A core dump is as large as the program's memory: nothing of Dune's is in it, but for what the launcher has written to.
pub fn core_dump() -> CaseResult {
    /// Linux has grown the stack to its limit, and most of that is a hole in the file.
    const MOST: u64 = 16 << 20;
    let folder = folder("core")?;
    let pattern = Path::new("/proc/sys/kernel/core_pattern");
    let usual = fs::read_to_string(pattern)?;
    let core = folder.join("core");
    if fs::write(pattern, format!("{}\n", core.display())).is_err() {
        return Err(Skip("not allowed to say where core dumps go".to_owned()).into());
    }
    let size = |dune: &[&str]| -> Result<u64, Box<dyn std::error::Error>> {
        let mut command = command(&example("dynamic-pie")?, &["abort"], dune);
        let no_limit = || {
            let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
            // SAFETY: reads `limit`.
            unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const limit) };
            Ok(())
        };
        // SAFETY: a system call between fork and exec.
        let output = unsafe { command.pre_exec(no_limit) }.output()?;
        assert!(output.status.core_dumped(), "{output:?}");
        let size = fs::metadata(&core)?.len();
        fs::remove_file(&core)?;
        Ok(size)
    };
    let (native, dune) = (size(&[]), size(ENTER));
    fs::write(pattern, usual)?;
    let (native, dune) = (native?, dune?);
    assert!(dune < native + MOST, "{dune} bytes, natively {native}");
    Ok(fs::remove_dir_all(folder)?)
}
