//! Interrupt vectors by their names in the manuals.

use core::fmt;

/// An interrupt vector, 0 to 255 (Intel SDM vol. 3 §6.3, table 6-1; AMD APM vol. 2 §8.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vector(pub(crate) u8);

macro_rules! vectors {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $mnemonic:literal;)*) => {
        impl Vector {
            $($(#[$doc])* pub const $name: Vector = Vector($number);)*

            /// The manuals' mnemonic, as `"#PF"`; `None` for vectors that the architecture leaves to software.
            pub const fn mnemonic(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some($mnemonic),)*
                    _ => None,
                }
            }
        }
    };
}

vectors! {
    /// Division by zero or overflow of DIV and IDIV.
    DIVIDE_ERROR = 0, "#DE";
    /// Single step, hardware breakpoint, task switch.
    DEBUG = 1, "#DB";
    /// Non-maskable interrupt.
    NON_MASKABLE_INTERRUPT = 2, "NMI";
    /// The INT3 instruction.
    BREAKPOINT = 3, "#BP";
    /// The INTO instruction, which 64-bit code does not have.
    OVERFLOW = 4, "#OF";
    /// The BOUND instruction, which 64-bit code does not have.
    BOUND_RANGE = 5, "#BR";
    /// An instruction that does not exist or is not enabled.
    INVALID_OPCODE = 6, "#UD";
    /// An x87, SSE or AVX instruction while CR0.TS is set.
    DEVICE_NOT_AVAILABLE = 7, "#NM";
    /// An exception while another was being delivered.
    DOUBLE_FAULT = 8, "#DF";
    /// A task-state segment that can not be used.
    INVALID_TSS = 10, "#TS";
    /// A segment that is not present.
    SEGMENT_NOT_PRESENT = 11, "#NP";
    /// A stack access outside the segment or through a non-canonical address.
    STACK_SEGMENT = 12, "#SS";
    /// Anything protected that has no vector of its own, also non-canonical addresses.
    GENERAL_PROTECTION = 13, "#GP";
    /// A page that is not present or forbids the access; CR2 holds the address.
    PAGE_FAULT = 14, "#PF";
    /// An unmasked x87 floating-point exception.
    X87_FLOATING_POINT = 16, "#MF";
    /// An unaligned access with alignment checks on.
    ALIGNMENT_CHECK = 17, "#AC";
    /// An error of the machine.
    MACHINE_CHECK = 18, "#MC";
    /// An unmasked SIMD floating-point exception.
    SIMD_FLOATING_POINT = 19, "#XM";
    /// A violation reported by the hypervisor's tables (Intel).
    VIRTUALIZATION = 20, "#VE";
    /// A violation of control-flow protection.
    CONTROL_PROTECTION = 21, "#CP";
    /// Injected by a hypervisor (AMD).
    HYPERVISOR_INJECTION = 28, "#HV";
    /// An intercepted operation of an encrypted guest (AMD).
    VMM_COMMUNICATION = 29, "#VC";
    /// A security event of an encrypted guest (AMD).
    SECURITY = 30, "#SX";
}

impl Vector {
    /// The first vector that the architecture leaves to software.
    pub const FIRST_FREE: u8 = 32;

    /// The interrupt by which the host loop says that a signal waits. Reserved by the manuals, so that no program's
    /// handler or device is in its way.
    pub(crate) const SIGNAL: Vector = Vector(31);

    /// The vector `number`, where it is one: a number above 255 is `None`.
    pub const fn new(number: u16) -> Option<Vector> {
        if number < 256 { Some(Vector(number as u8)) } else { None }
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Whether the CPU pushes an error code for it (Intel SDM vol. 3 §6.13, AMD APM vol. 2 §8.2).
    pub const fn has_error_code(self) -> bool {
        matches!(self.0, 8 | 10..=14 | 17 | 21 | 29 | 30)
    }

    /// The signal that Linux sends to a program whose exception nobody handles (signal(7)).
    pub(crate) const fn signal(self) -> u32 {
        use linux_raw_sys::general::{SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP};
        match self {
            Vector::DIVIDE_ERROR | Vector::X87_FLOATING_POINT | Vector::SIMD_FLOATING_POINT => SIGFPE,
            Vector::DEBUG | Vector::BREAKPOINT => SIGTRAP,
            Vector::INVALID_OPCODE => SIGILL,
            Vector::ALIGNMENT_CHECK | Vector::MACHINE_CHECK => SIGBUS,
            _ => SIGSEGV,
        }
    }
}

impl fmt::Debug for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vector({self})")
    }
}

impl fmt::Display for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mnemonic() {
            Some(mnemonic) => write!(f, "{} {mnemonic}", self.0),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_beyond_255_are_no_vectors() {
        assert_eq!(Vector::new(255).map(Vector::number), Some(255));
        assert_eq!(Vector::new(256), None);
    }

    #[test]
    fn names_follow_the_manual() {
        assert_eq!(Vector::PAGE_FAULT.to_string(), "14 #PF");
        assert_eq!(Vector(77).to_string(), "77");
    }
}
