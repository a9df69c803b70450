//! What runs in a compartment first and last.

use std::arch::asm;

/// The numbers of system calls that are no calls of Linux's, for Linux has none so large: from this one on. The first is the end of a
/// call, the others are gates.
const FIRST: u64 = 0x7fff_0000;

/// How a compartment comes back, by the number of its system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// The function has returned.
    Return,
    /// It asks by this gate.
    Ask(u16),
    /// It makes a system call.
    SystemCall(u64),
}

impl Wish {
    pub(crate) fn of(number: u64) -> Wish {
        match number.checked_sub(FIRST) {
            Some(0) => Wish::Return,
            Some(gate) if gate <= 1 + u64::from(u16::MAX) => Wish::Ask((gate - 1) as u16),
            _ => Wish::SystemCall(number),
        }
    }
}

/// Calls `function` in the compartment: what ring 3 executes first.
///
/// # Safety
///
/// In ring 3, with an argument at `argument` and room for a result at `result`.
#[expect(improper_ctypes_definitions, reason = "only this crate calls it, with three words in registers")]
pub(crate) unsafe extern "C" fn start<A, R>(function: fn(&A) -> R, argument: *const A, result: *mut R) -> ! {
    // SAFETY: as the caller says. Nothing of ring 0's is here to be broken.
    unsafe {
        result.write(function(&*argument));
        asm!("syscall", "ud2", in("rax") FIRST, options(noreturn));
    }
}

/// Calls a constructor of a library's. For the compartment.
pub(crate) fn construct(function: &u64) {
    // SAFETY: constructors have this type (System V ABI: glibc passes what main gets); in a compartment anything else is its own harm.
    let function: extern "C" fn(i32, u64, u64) = unsafe { std::mem::transmute(*function) };
    function(0, 0, 0);
}

/// Asks by gate `number`; whether there was an answer.
#[inline]
pub(crate) fn ask(number: u16, argument: &[u8], answer: &mut [u8]) -> bool {
    let mut rax = FIRST + 1 + u64::from(number);
    // SAFETY: whoever runs the compartment writes to `answer` and to RAX alone. Outside of one Linux has no call of this number, and
    // answers with an error.
    unsafe {
        asm!(
            "syscall",
            inout("rax") rax,
            in("rdi") argument.as_ptr(),
            in("rsi") argument.len(),
            in("rdx") answer.as_mut_ptr(),
            in("r10") answer.len(),
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    rax == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_calls_or_not() {
        assert_eq!(Wish::of(0), Wish::SystemCall(0));
        assert_eq!(Wish::of(FIRST - 1), Wish::SystemCall(FIRST - 1));
        assert_eq!(Wish::of(FIRST), Wish::Return);
        assert_eq!(Wish::of(FIRST + 1), Wish::Ask(0));
        assert_eq!(Wish::of(FIRST + 0x10000), Wish::Ask(u16::MAX));
        assert_eq!(Wish::of(FIRST + 0x10001), Wish::SystemCall(FIRST + 0x10001));
        assert_eq!(Wish::of(u64::MAX), Wish::SystemCall(u64::MAX));
    }

    #[test]
    fn outside_of_compartments_nobody_answers() {
        assert!(!ask(0, &[], &mut []));
        assert!(!ask(u16::MAX, &[1], &mut [2]));
    }
}
