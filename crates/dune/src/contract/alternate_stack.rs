//! The alternate signal stack: what sigaltstack(2) has set, for frames that ring 0 builds.

use linux_raw_sys::errno::{EINVAL, ENOMEM, EPERM};
use linux_raw_sys::general::{MINSIGSTKSZ, SS_AUTODISARM, SS_DISABLE, SS_ONSTACK};

use super::signal_frame::StackDescription;

/// The alternate stack of a thread.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct AlternateStack {
    start: u64,
    bytes: u64,
    flags: i32,
}

impl AlternateStack {
    pub(crate) const NONE: AlternateStack = AlternateStack { start: 0, bytes: 0, flags: 0 };

    /// The stack that Linux had when the thread entered.
    pub(crate) fn adopt(description: &StackDescription) -> AlternateStack {
        if description.flags & SS_DISABLE as i32 != 0 {
            return AlternateStack::NONE;
        }
        AlternateStack {
            start: description.start,
            bytes: description.bytes,
            flags: description.flags & SS_AUTODISARM as i32,
        }
    }

    /// As Linux is told when the thread leaves Dune mode.
    pub(crate) fn description(&self) -> StackDescription {
        self.describe(None)
    }

    /// Whether code with `rsp` runs on it. With SS_AUTODISARM nobody ever does.
    pub(crate) fn is_used_at(&self, rsp: u64) -> bool {
        self.flags & SS_AUTODISARM as i32 == 0 && rsp > self.start && rsp - self.start <= self.bytes
    }

    /// Where a frame for a signal at `rsp` starts, if it is to go here.
    pub(crate) fn top_for(&self, rsp: u64) -> Option<u64> {
        (self.bytes != 0 && !self.is_used_at(rsp)).then_some(self.start + self.bytes)
    }

    /// Whether a frame at `frame` of a signal that came here, or starts here, would lie below.
    pub(crate) fn overflows(&self, frame: u64) -> bool {
        frame <= self.start
    }

    /// The description for a signal frame; the stack is given up where the program wants that.
    pub(crate) fn save(&mut self) -> StackDescription {
        let saved = self.describe(None);
        if self.flags & SS_AUTODISARM as i32 != 0 {
            *self = AlternateStack::NONE;
        }
        saved
    }

    /// As sigaltstack(2) tells code with `rsp`, or as it is kept.
    pub(crate) fn describe(&self, rsp: Option<u64>) -> StackDescription {
        let state = match rsp {
            _ if self.bytes == 0 => SS_DISABLE as i32,
            Some(rsp) if self.is_used_at(rsp) => SS_ONSTACK as i32,
            _ => 0,
        };
        StackDescription { start: self.start, flags: self.flags | state, padding: 0, bytes: self.bytes }
    }

    /// Sets the stack for code with `rsp`.
    pub(crate) fn set(&mut self, new: &StackDescription, rsp: u64) -> Result<(), u32> {
        let mode = new.flags & !(SS_AUTODISARM as i32);
        if self.bytes != 0 && self.is_used_at(rsp) {
            return Err(EPERM);
        }
        if ![0, SS_ONSTACK as i32, SS_DISABLE as i32].contains(&mode) {
            return Err(EINVAL);
        }
        if mode == SS_DISABLE as i32 {
            *self = AlternateStack::NONE;
            return Ok(());
        }
        if new.bytes < u64::from(MINSIGSTKSZ) {
            return Err(ENOMEM);
        }
        *self =
            AlternateStack { start: new.start, bytes: new.bytes, flags: new.flags & SS_AUTODISARM as i32 };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: StackDescription = StackDescription { start: 0x10000, flags: 0, padding: 0, bytes: 0x4000 };

    #[test]
    fn frames_start_at_the_top_unless_the_stack_is_in_use() {
        let mut stack = AlternateStack::NONE;
        assert_eq!(stack.top_for(0x5000), None);
        stack.set(&WANTED, 0x5000).unwrap();
        assert_eq!(stack.top_for(0x5000), Some(0x14000));
        assert_eq!(stack.top_for(0x12000), None);
        // The stack pointer of an empty stack is its end, and no stack of another mapping's.
        assert!(stack.is_used_at(0x14000) && !stack.is_used_at(0x10000));
        assert!(stack.overflows(0xffff) && stack.overflows(0x10000) && !stack.overflows(0x10001));
    }

    #[test]
    fn changes_are_refused_as_by_linux() {
        let mut stack = AlternateStack::NONE;
        assert_eq!(stack.set(&StackDescription { bytes: 2047, ..WANTED }, 0), Err(ENOMEM));
        assert_eq!(stack.set(&StackDescription { flags: 8, ..WANTED }, 0), Err(EINVAL));
        stack.set(&WANTED, 0).unwrap();
        assert_eq!(stack.set(&WANTED, 0x12000), Err(EPERM));
        stack.set(&StackDescription { flags: SS_DISABLE as i32, ..WANTED }, 0).unwrap();
        assert_eq!(stack.describe(Some(0)).flags, SS_DISABLE as i32);
    }

    #[test]
    fn a_disarmed_stack_comes_back_with_the_frame() {
        let mut stack = AlternateStack::NONE;
        stack.set(&StackDescription { flags: SS_AUTODISARM as i32, ..WANTED }, 0).unwrap();
        let saved = stack.save();
        assert_eq!(stack.top_for(0), None);
        stack.set(&saved, 0).unwrap();
        assert_eq!(stack.top_for(0), Some(0x14000));
    }
}
