//! Reports that end the process, from either side, without allocating.
//!
//! A report is written to standard error in one piece, then the process ends by the signal that Linux would have
//! sent, so that its exit status is the true one.

use core::fmt::{self, Write};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, Ordering};

use linux_raw_sys::general::{
    __NR_exit_group, __NR_rt_sigaction, __NR_rt_sigprocmask, __NR_write, SIG_UNBLOCK,
};

use crate::arch::frame::TrapFrame;
use crate::arch::vector::Vector;
use crate::linux::{symbol, sys};

const STDERR: u64 = 2;

/// Whether addresses are left out.
static WITHHOLDS: AtomicBool = AtomicBool::new(false);

/// Whether reports say no addresses from now on: who reads standard error is not to know them.
pub(crate) fn withhold_addresses(withhold: bool) {
    WITHHOLDS.store(withhold, Ordering::Relaxed);
}

/// Puts question marks in the place of numbers that may be addresses: hexadecimal, and of more than 4 digits.
fn without_addresses(text: &mut [u8]) {
    const SHORT: usize = 4;
    let (mut at, mut is_number) = (0, false);
    while at < text.len() {
        let length = text[at..].iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let digits = &mut text[at..at + length];
        // Not a word of the letters a to f.
        if length > SHORT && (is_number || digits.iter().any(u8::is_ascii_digit)) {
            digits.fill(b'?');
        }
        is_number = text.get(at + length) == Some(&b'x');
        at += length + 1;
    }
}

/// Text on the stack; what does not fit is cut.
struct Text {
    bytes: [MaybeUninit<u8>; 4096],
    length: usize,
}

impl Text {
    fn new() -> Text {
        Text { bytes: [MaybeUninit::uninit(); 4096], length: 0 }
    }

    fn write_to_stderr(&mut self) {
        if WITHHOLDS.load(Ordering::Relaxed) {
            // SAFETY: so many bytes have been filled.
            without_addresses(unsafe { self.bytes[..self.length].assume_init_mut() });
        }
        let (address, length) = (self.bytes.as_ptr() as u64, self.length as u64);
        // SAFETY: write(2) reads the `length` bytes that have been filled.
        let _ = unsafe { sys::raw(__NR_write, [STDERR, address, length, 0, 0, 0]) };
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.bytes[self.length..];
        let length = text.len().min(room.len());
        for (to, from) in room.iter_mut().zip(text.bytes()) {
            to.write(from);
        }
        self.length += length;
        Ok(())
    }
}

/// Writes one line to standard error.
pub(crate) fn message(text: fmt::Arguments<'_>) {
    let mut out = Text::new();
    let _ = writeln!(out, "{text}");
    out.write_to_stderr();
}

/// Ends the process by SIGABRT after writing `text`.
pub(crate) fn fatal(text: fmt::Arguments<'_>) -> ! {
    message(format_args!("dune: {text}"));
    die(linux_raw_sys::general::SIGABRT)
}

/// Reports a trap that nobody handled and ends the process by `signal`.
pub(crate) fn unhandled_trap_with_signal(frame: &TrapFrame, why: &str, signal: u32) -> ! {
    let mut out = Text::new();
    let vector = frame.vector();
    let _ = write!(
        out,
        "dune: unhandled trap {vector} in Dune mode: {why}\n  error code {:#x}",
        frame.words().error_code
    );
    if vector == Vector::PAGE_FAULT {
        let _ = write!(out, " {:?}, address (cr2) {:#x}", frame.page_fault_error(), frame.words().cr2);
    }
    let _ = writeln!(out);
    let _ = symbol::describe(frame.words().rip, &mut out);
    let _ = write!(out, "{frame:?}");
    out.write_to_stderr();
    die(signal)
}

/// Ends the process by `signal` as if nobody had ever caught or blocked it.
pub(crate) fn die(signal: u32) -> ! {
    // struct kernel_sigaction: handler (SIG_DFL), flags, restorer, mask.
    let default = [0u64; 4];
    let only = 1u64 << (signal - 1);
    // SAFETY: the calls read `default` and `only`; the rest ends the process.
    unsafe {
        let _ = sys::raw(__NR_rt_sigaction, [signal.into(), (&raw const default) as u64, 0, 8, 0, 0]);
        let _ = sys::raw(__NR_rt_sigprocmask, [SIG_UNBLOCK.into(), (&raw const only) as u64, 0, 8, 0, 0]);
        let _ = sys::send_signal(sys::thread_id(), signal);
        loop {
            // Not reached where signals work; the shell's convention otherwise.
            let _ = sys::raw(__NR_exit_group, [u64::from(128 + signal), 0, 0, 0, 0, 0]);
        }
    }
}

/// Reports from the host loop that Dune mode can not go on, and ends the process by `signal`.
pub(crate) fn stopped(
    what: fmt::Arguments<'_>,
    registers: Option<&crate::arch::state::RegisterDump>,
    signal: u32,
) -> ! {
    let mut out = Text::new();
    let _ = writeln!(out, "dune: Dune mode stopped: {what}");
    // A processor that KVM has reset, as it does on AMD after a triple fault (AMD APM vol. 2 §14.1.3).
    let reset = registers.is_some_and(|registers| (registers.cs, registers.rip) == (0xf000, 0xfff0));
    if reset {
        let _ = writeln!(out, "  the processor was reset and kept no registers");
    } else if let Some(registers) = registers {
        let _ = symbol::describe(registers.rip, &mut out);
        let _ = writeln!(
            out,
            "  rip {:#018x}  cs {:#06x}  rflags {:#010x}  ss {:#06x}  cr2 {:#018x}  cr3 {:#018x}",
            registers.rip, registers.cs, registers.rflags, registers.ss, registers.cr2, registers.cr3
        );
        const NAMES: [&str; 16] = [
            "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13",
            "r14", "r15",
        ];
        for (names, values) in NAMES.chunks(4).zip(registers.general.chunks(4)) {
            for (name, value) in names.iter().zip(values) {
                let _ = write!(out, "  {name:<3} {value:#018x}");
            }
            let _ = writeln!(out);
        }
    }
    out.write_to_stderr();
    die(signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_withheld() {
        let mut text = *b"rip 0x00007f12deadbeef+0x12, code 0x4, 7f00aa55, signal 11, 0xdeadbeef, a decade";
        without_addresses(&mut text);
        assert_eq!(
            core::str::from_utf8(&text),
            Ok("rip 0x????????????????+0x12, code 0x4, ????????, signal 11, 0x????????, a decade")
        );
    }
}
