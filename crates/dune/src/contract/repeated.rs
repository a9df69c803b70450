//! Faults that come again and again.

use core::cell::Cell;

use crate::arch::frame::{GeneralRegisters, TrapFrame};

/// The fault that a thread had last, and how often in a row.
#[derive(Debug, Default)]
pub(crate) struct Repeated {
    /// Tells faults apart: a word of the registers.
    name: Cell<u64>,
    times: Cell<u32>,
}

impl Repeated {
    /// Counts the fault of `frame` so many `times`; how often it has been counted in a row.
    pub(crate) fn count(&self, frame: &TrapFrame, times: u32) -> u32 {
        let name = name(frame);
        if self.name.replace(name) != name {
            self.times.set(0);
        }
        self.times.set(self.times.get().saturating_add(times));
        self.times.get()
    }
}

/// A word that differs where the program has come further since.
fn name(frame: &TrapFrame) -> u64 {
    let GeneralRegisters { rax, rbx, rcx, rdx, rsi, rdi, .. } = frame.words().registers;
    let words = [
        frame.words().cr2,
        frame.words().rip,
        frame.words().error_code,
        frame.words().rsp,
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
    ];
    words.into_iter().fold(0, |name, word| (name ^ word).rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}
