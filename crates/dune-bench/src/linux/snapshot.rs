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

/// Whether `bytes` bytes can be touched with room to spare, as Linux estimates it.
pub(crate) fn has_memory(bytes: u64) -> bool {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|kib| kib.parse::<u64>().ok());
    kib.is_some_and(|kib| kib * 1024 > bytes + bytes / 4)
}
