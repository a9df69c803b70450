//! Handlers for the signals of faults at protected pages, before those that were there.
//!
//! # Safety
//!
//! The handlers touch atomics, make system calls, and call the handler that was there before for what is not theirs.

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

use super::TrackerError;

/// A signal, and what was done about it before.
pub(super) struct Signal {
    number: c_int,
    before: OnceLock<libc::sigaction>,
}

impl Signal {
    pub(super) const fn new(number: c_int) -> Signal {
        Signal { number, before: OnceLock::new() }
    }

    /// Sets `handler`, once.
    pub(super) fn set_handler(
        &self,
        tracker: &'static str,
        handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void),
    ) -> Result<(), TrackerError> {
        if self.before.get().is_some() {
            return Ok(());
        }
        let mut before = MaybeUninit::zeroed();
        // SAFETY: zeroes are an action; the calls read and write what they are given. The handler does what the module says.
        let refused = unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = handler as *const () as usize;
            // The alternate stack is for the handler before, which may be of stack overflows.
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            let asked = libc::sigaction(self.number, ptr::null(), before.as_mut_ptr());
            let _ = self.before.set(before.assume_init());
            asked != 0 || libc::sigaction(self.number, &action, ptr::null_mut()) != 0
        };
        if refused {
            let (call, error) = ("sigaction", io::Error::last_os_error());
            return Err(TrackerError::Refused { tracker, call, error, remedy: "take another tracker" });
        }
        Ok(())
    }

    /// Does what was done before about a signal.
    ///
    /// # Safety
    ///
    /// For the handler, with its own arguments.
    pub(super) unsafe fn pass_on(&self, info: *mut libc::siginfo_t, context: *mut c_void) {
        let before = self
            .before
            .get()
            .filter(|before| before.sa_sigaction != libc::SIG_DFL && before.sa_sigaction != libc::SIG_IGN);
        // SAFETY: the handler before was set for this signal with these flags, and gets what Linux gives it; the default action is
        // set for what nobody handles: the instruction then faults again.
        unsafe {
            match before {
                Some(before) if before.sa_flags & libc::SA_SIGINFO != 0 => {
                    type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
                    std::mem::transmute::<usize, Handler>(before.sa_sigaction)(self.number, info, context);
                }
                Some(before) => {
                    std::mem::transmute::<usize, extern "C" fn(c_int)>(before.sa_sigaction)(self.number);
                }
                None => {
                    let action: libc::sigaction = MaybeUninit::zeroed().assume_init();
                    libc::sigaction(self.number, &action, ptr::null_mut());
                }
            }
        }
    }
}
