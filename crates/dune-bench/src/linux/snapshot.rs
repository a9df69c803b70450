//! Linux's snapshot: a child of a fork, which has the memory as it was.

use super::Refused;
use super::children::wait;

/// A child that does nothing, with what all memory was when it was made.
#[derive(Debug)]
pub(crate) struct View {
    child: libc::pid_t,
}

impl View {
    /// Makes one.
    #[inline(always)]
    pub(crate) fn take() -> Result<View, Refused> {
        // SAFETY: the child makes system calls only.
        match unsafe { libc::fork() } {
            -1 => Err(Refused::last("fork")),
            0 => loop {
                // SAFETY: waits for the signal that ends it.
                unsafe { libc::pause() };
            },
            child => Ok(View { child }),
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: a child of ours.
        unsafe { libc::kill(self.child, libc::SIGKILL) };
        let _ = wait(self.child, &mut 0);
    }
}

/// Whether `bytes` bytes can be touched with room to spare.
pub(crate) fn has_memory(bytes: u64) -> bool {
    // SAFETY: an array of integers that the call fills.
    let free = unsafe {
        let mut info: libc::sysinfo = std::mem::zeroed();
        libc::sysinfo(&mut info);
        info.freeram * u64::from(info.mem_unit)
    };
    free > bytes + bytes / 4
}
