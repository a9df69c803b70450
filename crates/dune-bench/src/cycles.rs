//! The time-stamp counter: what it counts here, what reading it costs, and the store whose fault is timed.
//!
//! # Safety
//!
//! The assembly reads the counter and runs loops over registers; the one that touches memory, [`store`], takes the
//! page from a mapping of ours.

use std::arch::asm;
use std::fmt;
use std::sync::atomic::AtomicU64;

use serde::Serialize;

use crate::linux::Mapping;

/// What one tick of the time-stamp counter stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// One instruction retired: the emulated Intel machine.
    Instructions,
    /// One cycle of the counter's constant frequency.
    Cycles,
}

impl Unit {
    /// What the counter counts on this computer: found out by a few loops.
    pub fn of_this_computer() -> Unit {
        if counts_instructions() { Unit::Instructions } else { Unit::Cycles }
    }

    /// The word for machines and people.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Instructions => "instructions",
            Unit::Cycles => "cycles",
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Opens a measured stretch: everything before has finished, nothing after has begun.
#[inline(always)]
pub(crate) fn start() -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: reads the counter; no memory, no stack. The clobber of memory keeps the compiler from moving accesses.
    unsafe {
        asm!("lfence", "rdtsc", "lfence", out("rax") low, out("rdx") high, options(nostack, preserves_flags))
    };
    high << 32 | low
}

/// Closes a measured stretch: everything in it has finished.
#[inline(always)]
pub(crate) fn stop() -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: as in `start`.
    unsafe { asm!("lfence", "rdtsc", out("rax") low, out("rdx") high, options(nostack, preserves_flags)) };
    high << 32 | low
}

/// The reading of the latest trap handler that [`store`] got into.
pub(crate) static HANDLED_AT: AtomicU64 = AtomicU64::new(0);

/// The address that [`store`] stores to, so that a handler knows its own faults.
pub(crate) static STORED_TO: AtomicU64 = AtomicU64::new(0);

/// Bytes of the instruction that faults in [`store`]: a handler resumes behind it by adding this to RIP.
pub(crate) const STORE_BYTES: u64 = 3;

/// Reads the counter and, as the next instruction, stores to the first byte of `page`.
///
/// The store is expected to fault. Its handler must give the counter's reading to somebody, and either make the
/// page writable or skip [`STORE_BYTES`].
#[inline(always)]
pub(crate) fn store(page: &Mapping) -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: 1. the page belongs to `page`, whose bytes are only ever touched through raw pointers; 2. handlers
    // keep all registers but RIP; 3. `mov byte ptr [rcx], 1` is C6 01 01, `STORE_BYTES` long.
    unsafe {
        asm!(
            "lfence",
            "rdtsc",
            "lfence",
            "mov byte ptr [rcx], 1",
            in("rcx") page.start(),
            out("rax") low,
            out("rdx") high,
            options(nostack, preserves_flags),
        );
    }
    high << 32 | low
}

/// What reading the counter costs, to be taken off what is measured with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    unit: Unit,
    /// Ticks from [`start`] to [`stop`] with nothing in between.
    bracket: u64,
    /// Ticks from the reading in [`store`] to a [`stop`] in the handler, had the handler followed at once.
    stamp: u64,
}

impl Clock {
    /// Finds out what the counter counts, and what reading it costs.
    pub(crate) fn calibrate() -> Clock {
        let unit = Unit::of_this_computer();
        Clock { unit, bracket: 0, stamp: 0 }.recalibrated()
    }

    /// The same clock where reading it may cost something else.
    pub(crate) fn recalibrated(self) -> Clock {
        let bracket = least(|| {
            let begun = start();
            stop().wrapping_sub(begun)
        });
        // The reading that is kept aside between the two costs instructions that no real stamp has; as cycles
        // they vanish in the fences.
        let kept = if self.unit == Unit::Instructions { BARE_STAMP_MOVES } else { 0 };
        Clock { bracket, stamp: least(bare_stamp).saturating_sub(kept), ..self }
    }

    /// What a tick stands for.
    pub(crate) fn unit(&self) -> Unit {
        self.unit
    }

    /// Ticks of `work`.
    #[inline(always)]
    pub(crate) fn time(&self, work: impl FnOnce()) -> u64 {
        let begun = start();
        work();
        let ended = stop();
        self.bracketed(ended.wrapping_sub(begun))
    }

    /// Ticks of `count` calls of `operation`, per call: the loop behind most rows, of both sides.
    #[inline(always)]
    pub(crate) fn per_call(&self, count: u32, mut operation: impl FnMut()) -> f64 {
        let ticks = self.time(|| {
            for _ in 0..count {
                operation();
            }
        });
        ticks as f64 / f64::from(count)
    }

    /// Ticks between [`start`] and [`stop`], without their own.
    pub(crate) fn bracketed(&self, ticks: u64) -> u64 {
        ticks.saturating_sub(self.bracket)
    }

    /// Ticks between the reading in [`store`] and the one in a handler, without their own.
    #[inline(always)]
    pub(crate) fn stamped(&self, ticks: u64) -> u64 {
        ticks.saturating_sub(self.stamp)
    }
}

/// The least of many tries: interrupts only add.
fn least(mut measure: impl FnMut() -> u64) -> u64 {
    (0..1000).map(|_| measure()).min().unwrap_or(0)
}

/// Instructions in [`bare_stamp`] that keep the first reading.
const BARE_STAMP_MOVES: u64 = 2;

/// Ticks from one reading to the next with the fences of [`store`] and [`stop`] between them, and two moves.
fn bare_stamp() -> u64 {
    let (first, low, high): (u64, u64, u64);
    // SAFETY: reads the counter twice; RCX and R8 hold the first reading.
    unsafe {
        asm!(
            "lfence",
            "rdtsc",
            "lfence",
            "mov r8, rax",
            "mov rcx, rdx",
            "lfence",
            "rdtsc",
            "shl rcx, 32",
            "or r8, rcx",
            out("rax") low,
            out("rdx") high,
            out("rcx") _,
            out("r8") first,
            options(nostack),
        );
    }
    (high << 32 | low).wrapping_sub(first)
}

/// True if the time-stamp counter advances by exactly one per instruction: three loops of known length say so.
///
/// No real processor passes: the loops differ in instructions per cycle. The loops are short and the least of many
/// tries counts, because interrupts only add: on vtx they were seen to come every 600 instructions for a while, so that
/// no stretch of some thousands was left alone.
fn counts_instructions() -> bool {
    const SHORT: u64 = 8;
    const LONG: u64 = 40;
    let exact = |run: fn(u64) -> u64, per_turn: u64| {
        let ticks = |turns| (0..100).map(|_| run(turns)).min().unwrap_or(0);
        ticks(LONG).wrapping_sub(ticks(SHORT)) == (LONG - SHORT) * per_turn
    };
    exact(two_per_turn, 2) && exact(six_per_turn, 6) && exact(ten_per_turn, 10)
}

macro_rules! counted_loop {
    ($(#[$doc:meta])* $name:ident: $($instruction:literal),*) => {
        $(#[$doc])*
        #[inline(never)]
        fn $name(turns: u64) -> u64 {
            let begun = start();
            // SAFETY: runs over registers that are declared; `turns` is at least 1.
            unsafe {
                asm!(
                    "2:",
                    $($instruction,)*
                    "dec rcx",
                    "jnz 2b",
                    inout("rcx") turns => _,
                    out("rax") _,
                    options(nostack, nomem),
                );
            }
            stop().wrapping_sub(begun)
        }
    };
}

counted_loop!(
    /// Two instructions a turn, that processors fuse into one.
    two_per_turn:
);
counted_loop!(
    /// Six a turn, in a chain of multiplications.
    six_per_turn: "imul rax, rax, 3", "nop", "nop", "nop"
);
counted_loop!(
    /// Ten a turn, that do nothing.
    ten_per_turn: "nop", "nop", "nop", "nop", "nop", "nop", "nop", "nop"
);
