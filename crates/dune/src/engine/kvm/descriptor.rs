//! Where KVM's descriptors stand in the process's table: out of the program's way.
//!
//! Programs count on the lowest free numbers, close a few low descriptors without looking, or all up to their limit
//! (peers.md P38). So KVM's stand above the limit: it bounds the numbers that are handed out, not those in use
//! (getrlimit(2)), and a process may raise it for a moment as far as its hard limit goes.

use std::os::fd::RawFd;

use linux_raw_sys::errno::EMFILE;
use linux_raw_sys::general::{__NR_fcntl, __NR_prlimit64, F_DUPFD_CLOEXEC, RLIMIT_NOFILE, rlimit64};

use super::ioctl::Descriptor;
use crate::error::EngineError;
use crate::sys::{self, Errno};

/// While it lives, the process may have as many descriptors as its hard limit allows.
#[derive(Debug)]
pub(super) struct RaisedLimit {
    /// The program's limit.
    program: rlimit64,
    raised: bool,
}

impl RaisedLimit {
    pub(super) fn new() -> RaisedLimit {
        let mut program = rlimit64 { rlim_cur: 1024, rlim_max: 1024 };
        // SAFETY: the calls write to `program` and read `wanted`.
        unsafe {
            let known = limit(None, Some(&mut program)).is_ok();
            let wanted = rlimit64 { rlim_cur: program.rlim_max, ..program };
            let raised = known && wanted.rlim_cur > program.rlim_cur && limit(Some(&wanted), None).is_ok();
            RaisedLimit { program, raised }
        }
    }
}

impl Drop for RaisedLimit {
    fn drop(&mut self) {
        if self.raised {
            // SAFETY: the call reads the limit.
            let _ = unsafe { limit(Some(&self.program), None) };
        }
    }
}

/// prlimit(2) of this process's RLIMIT_NOFILE.
///
/// # Safety
///
/// None beyond the types; `unsafe` as all raw calls.
unsafe fn limit(new: Option<&rlimit64>, old: Option<&mut rlimit64>) -> Result<u64, Errno> {
    let new = new.map_or(0, |new| core::ptr::from_ref(new) as u64);
    let old = old.map_or(0, |old| core::ptr::from_mut(old) as u64);
    // SAFETY: the call reads one structure and writes the other.
    unsafe { sys::call(__NR_prlimit64, [0, RLIMIT_NOFILE.into(), new, old, 0, 0]) }
}

/// A duplicate of `fd` beyond the program's reach, closed on exec. The caller drops the original.
pub(super) fn duplicate_high(fd: &Descriptor, limit: &RaisedLimit) -> Result<Descriptor, EngineError> {
    /// Linux keeps a table as long as the highest number.
    const HIGHEST: u64 = 1 << 16;
    /// Programs that lower their limit may still look at the numbers that they have used before.
    const LOWEST: u64 = 1000;
    let top = limit.program.rlim_cur.clamp(LOWEST, HIGHEST);
    // Above the limit; in its upper half where it can not be raised; anywhere before giving up.
    let candidates = [top, top / 2, 0];
    let mut errno = Errno::from_raw(EMFILE);
    for lowest in &candidates[if limit.raised { 0 } else { 1 }..] {
        let arguments = [fd.number() as u64, F_DUPFD_CLOEXEC.into(), *lowest, 0, 0, 0];
        // SAFETY: F_DUPFD_CLOEXEC touches no memory and gives a descriptor that is nobody else's.
        match unsafe { sys::call(__NR_fcntl, arguments).map(|fd| Descriptor::new(fd as RawFd)) } {
            Ok(high) => return Ok(high),
            Err(refused) => errno = refused,
        }
    }
    Err(EngineError { operation: "F_DUPFD_CLOEXEC", errno })
}
