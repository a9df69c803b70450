//! Traps of the program's: a page that is its own after all, or a signal.

use dune::Vector;
use dune::user::LinuxFault;

use super::Thread;
use super::signals::Details;
use crate::areas::Rights;
use crate::observe::Trap;
use crate::part;
use crate::weakness::{Defence, lacks};

/// So often a page fault at one place is settled in a row: it is not settled by rights then.
const MOST_SETTLED: u32 = 10_000;

/// SI_KERNEL of `<asm-generic/siginfo.h>`.
pub(super) const SI_KERNEL: i32 = 0x80;

/// The signal that Linux sends for an exception, with its code and address (arch/x86/kernel/traps.c).
fn signal_of(vector: Vector, rip: u64) -> (i32, i32, u64) {
    match vector {
        // FPE_INTDIV, ILL_ILLOPN, TRAP_TRACE, BUS_ADRALN.
        Vector::DIVIDE_ERROR => (libc::SIGFPE, 1, rip),
        Vector::X87_FLOATING_POINT | Vector::SIMD_FLOATING_POINT => (libc::SIGFPE, 0, rip),
        Vector::INVALID_OPCODE => (libc::SIGILL, 2, rip),
        Vector::DEBUG => (libc::SIGTRAP, 2, rip),
        Vector::BREAKPOINT => (libc::SIGTRAP, SI_KERNEL, 0),
        Vector::ALIGNMENT_CHECK => (libc::SIGBUS, 1, 0),
        _ => (libc::SIGSEGV, SI_KERNEL, 0),
    }
}

impl Thread {
    /// A trap of the program's: a page that is its own after all, or its end.
    pub(super) fn trap(&mut self, vector: Vector, error_code: u64, address: u64) {
        // Bits of a page fault's error code (Intel SDM vol. 3 §4.7).
        const WRITE: u64 = 1 << 1;
        const FETCH: u64 = 1 << 4;
        let rip = self.context.registers.rip;
        if vector == Vector::PAGE_FAULT {
            if let Some(LinuxFault { signal, code, address, .. }) = self.dune.linux_fault(&self.context) {
                self.tell_of_trap(Some((signal, code, address, rip)));
                let details = Details { error_code, vector: vector.number().into(), address };
                self.fault(signal, code, address, details);
                return;
            }
            let wanted = match error_code {
                code if code & FETCH != 0 => libc::PROT_EXEC,
                code if code & WRITE != 0 => libc::PROT_WRITE,
                _ => libc::PROT_READ,
            };
            // What another thread takes away and gives back meanwhile may fault again and again, but not for ever.
            let here = (rip, address);
            let times = if self.settled.0 == here { self.settled.1 } else { 0 };
            if times < MOST_SETTLED && self.process.space.settle(self.dune, address, wanted as Rights) {
                self.settled = (here, times + 1);
                self.tell_of_trap(None);
                return;
            }
        }
        let (signal, code, about) = match vector {
            Vector::PAGE_FAULT => {
                const MAPERR: i32 = 1;
                const ACCERR: i32 = 2;
                let code = if self.process.space.is_mapped(address) { ACCERR } else { MAPERR };
                (libc::SIGSEGV, code, address)
            }
            vector => signal_of(vector, rip),
        };
        let is_about_memory = vector == Vector::PAGE_FAULT;
        // As Linux does for its own addresses (`sanitize_error_code` of arch/x86/mm/fault.c): whether something is there is not said.
        const PRESENT: u64 = 1;
        let is_hidden = is_about_memory && !part::contains(address, 1) && !lacks(Defence::Codes);
        let details = Details {
            error_code: if is_hidden { error_code | PRESENT } else { error_code },
            vector: vector.number().into(),
            address: if is_about_memory { address } else { 0 },
        };
        self.tell_of_trap(Some((signal, code, about, rip)));
        self.fault(signal, code, about, details);
    }

    fn tell_of_trap(&self, signal: Option<(i32, i32, u64, u64)>) {
        if let Some(watch) = &self.process.watch {
            watch.trapped(&Trap { signal });
        }
    }

    /// A signal for what the program has done itself.
    pub(super) fn fault(&mut self, signal: i32, code: i32, address: u64, details: Details) {
        self.returns_all = true;
        self.deliver_fault(signal, code, address, details);
    }
}
