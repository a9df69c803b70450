//! The stack and the registers of the thread, as words that may be addresses.
//!
//! # Safety
//!
//! Words of the stack below the caller are read, whatever they are; nothing is written.

use std::arch::naked_asm;
use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;

/// Where a thread's stack is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    low: usize,
    high: usize,
}

impl Bounds {
    /// Those of the calling thread.
    pub(crate) fn of_this_thread() -> io::Result<Bounds> {
        let mut attributes = MaybeUninit::uninit();
        let (mut start, mut bytes) = (std::ptr::null_mut(), 0);
        // SAFETY: the calls write to what they are given, and the attributes are there when they are read and destroyed.
        unsafe {
            match libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) {
                0 => (),
                error => return Err(io::Error::from_raw_os_error(error)),
            }
            let got = libc::pthread_attr_getstack(attributes.as_ptr(), &mut start, &mut bytes);
            libc::pthread_attr_destroy(attributes.as_mut_ptr());
            if got != 0 {
                return Err(io::Error::from_raw_os_error(got));
            }
        }
        Ok(Bounds { low: start as usize, high: start as usize + bytes })
    }

    /// Whether the caller is on this stack.
    pub(crate) fn contain_caller(&self) -> bool {
        let here = 0u8;
        (self.low..self.high).contains(&(&raw const here as usize))
    }

    /// Calls `found` with each word of the stack from the caller's frame on, and with the registers that the caller's callers have
    /// values in.
    pub(crate) fn each_word(&self, mut found: impl FnMut(usize)) {
        struct Call<'a, F>(usize, &'a mut F);
        extern "C" fn scan<F: FnMut(usize)>(call: *mut c_void, from: *const usize) {
            // SAFETY: it is the value below, which waits for this to return.
            let Call(high, found) = unsafe { &mut *call.cast::<Call<'_, F>>() };
            let mut at = from;
            while (at as usize) < *high {
                // SAFETY: between the stack pointer and the end of the stack there are pages that can be read, and `from` is aligned.
                found(unsafe { at.read_volatile() });
                at = at.wrapping_add(1);
            }
        }
        fn of<F: FnMut(usize)>(_: &F) -> extern "C" fn(*mut c_void, *const usize) {
            scan::<F>
        }
        let scan = of(&found);
        let mut call = Call(self.high & !7, &mut found);
        // SAFETY: calls `scan` with its own argument, and keeps all registers that a function keeps.
        unsafe { with_registers_on_stack((&raw mut call).cast(), scan) };
    }
}

/// Puts the registers that a function keeps for its caller on the stack, and calls `then` with `argument` and where they are. `then` is not
/// to unwind.
#[unsafe(naked)]
unsafe extern "C" fn with_registers_on_stack(
    argument: *mut c_void,
    then: extern "C" fn(*mut c_void, *const usize),
) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov rax, rsi",
        "mov rsi, rsp",
        // The stack is aligned at a call: the return address and six registers are 56 bytes.
        "sub rsp, 8",
        "call rax",
        "add rsp, 56",
        "ret",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    #[test]
    fn locals_are_found() {
        let bounds = Bounds::of_this_thread().unwrap();
        assert!(bounds.contain_caller());
        let secret = black_box(0x1234_5678_9abc_def0usize);
        let place = black_box(&secret);
        let mut seen = 0;
        bounds.each_word(|word| seen += u32::from(word == *place));
        assert!(seen > 0);
    }

    #[test]
    fn registers_are_found() {
        let bounds = Bounds::of_this_thread().unwrap();
        let mut seen = [false; 4];
        /// Calls `then` with four words in registers that functions keep, and nowhere else.
        #[unsafe(naked)]
        unsafe extern "C" fn with_words_in_registers(
            argument: *mut c_void,
            then: extern "C" fn(*mut c_void),
        ) {
            naked_asm!(
                "push r12",
                "push r13",
                "push r14",
                "push r15",
                "sub rsp, 8",
                "mov r12, 0x5eed0000",
                "lea r13, [r12 + 1]",
                "lea r14, [r12 + 2]",
                "lea r15, [r12 + 3]",
                "call rsi",
                "add rsp, 8",
                "pop r15",
                "pop r14",
                "pop r13",
                "pop r12",
                "ret",
            )
        }
        extern "C" fn look(argument: *mut c_void) {
            // SAFETY: the value below.
            let (bounds, seen) = unsafe { &mut *argument.cast::<(Bounds, &mut [bool; 4])>() };
            bounds.each_word(|word| {
                if let Some(seen) = word.checked_sub(0x5eed_0000).and_then(|index| seen.get_mut(index)) {
                    *seen = true;
                }
            });
        }
        let mut argument = (bounds, &mut seen);
        // SAFETY: `look` gets what it expects.
        unsafe { with_words_in_registers((&raw mut argument).cast(), look) };
        assert_eq!(seen, [true; 4]);
    }
}
