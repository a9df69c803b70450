//! sigaltstack(2).

use linux_raw_sys::errno::EFAULT;

use crate::contract::alternate_stack::AlternateStack;
use crate::contract::signal_frame::StackDescription;
use crate::guest::copy;
use crate::guest::syscall::error;

impl AlternateStack {
    /// sigaltstack(2) of code with `rsp`.
    pub(super) fn system_call(&mut self, new: u64, old: u64, rsp: u64) -> u64 {
        let before = self.describe(Some(rsp));
        if new != 0 {
            // SAFETY: any bytes make a description.
            let Ok(wanted) = (unsafe { copy::from_program::<StackDescription>(new) }) else {
                return error(EFAULT);
            };
            if let Err(errno) = self.set(&wanted, rsp) {
                return error(errno);
            }
        }
        // SAFETY: the program wants the description there.
        if old != 0 && unsafe { copy::to_program(old, &before) }.is_err() {
            return error(EFAULT);
        }
        0
    }
}
