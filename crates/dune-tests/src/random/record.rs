//! What a lane saw, step by step, where the other mode can read it.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};

use super::step::Step;

/// How many words a step leaves.
pub const WORDS: usize = 8;

/// What one step left: its result first, then what accesses saw.
pub type Record = [u64; WORDS];

/// A hash of many words.
#[derive(Debug, Default)]
pub struct Digest(u64);

impl Digest {
    /// Adds a word.
    pub fn add(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x2545_f491_4f6c_dd1d).rotate_left(29);
    }

    /// All of them so far.
    pub fn value(&self) -> u64 {
        self.0
    }
}

/// Steps and records in memory that children share.
#[derive(Debug, Clone, Copy)]
pub struct Log {
    /// How many steps have begun.
    begun: *const AtomicU64,
    entries: *mut (Step, Record),
    steps: usize,
}

// SAFETY: each lane has a log of its own.
unsafe impl Send for Log {}

/// What was not seen.
const NOTHING: Record = [0; WORDS];

impl Log {
    /// Room for `steps` steps, never unmapped.
    pub fn new(steps: usize) -> Log {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let map = |bytes| {
            // SAFETY: a new mapping.
            let start = unsafe { libc::mmap(null_mut(), bytes, rights, flags, -1, 0) };
            assert_ne!(start, libc::MAP_FAILED);
            start
        };
        Log { begun: map(8).cast(), entries: map(steps * size_of::<(Step, Record)>()).cast(), steps }
    }

    /// How many steps there are.
    pub fn steps(self) -> usize {
        self.steps
    }

    /// Whether all of them have begun.
    pub fn is_complete(self) -> bool {
        self.begun() == self.steps
    }

    fn begun(self) -> usize {
        // SAFETY: a mapping that lives for ever, zero at first.
        unsafe { (*self.begun).load(Ordering::Acquire) as usize }
    }

    /// The step `number` and its record.
    pub fn get(self, number: usize) -> (Step, Record) {
        assert!(number < self.begun());
        // SAFETY: inside of the mapping, and written.
        unsafe { self.entries.add(number).read() }
    }

    /// Writes step `number` down as one that has begun.
    pub fn begin(self, number: usize, step: Step) {
        assert!(number < self.steps);
        // SAFETY: inside of the mapping, which is the lane's own; the count lives for ever.
        unsafe {
            self.entries.add(number).write((step, NOTHING));
            (*self.begun).store(number as u64 + 1, Ordering::Release);
        }
    }

    /// Writes down what the step `number`, which has begun, saw.
    pub fn end(self, number: usize, record: Record) {
        assert!(number < self.begun());
        // SAFETY: inside of the mapping, which is the lane's own.
        unsafe { (*self.entries.add(number)).1 = record };
    }

    /// The first difference from `host`, a full log of host mode, with the steps before it; an unfinished step is one.
    pub fn difference(self, host: Log) -> Option<String> {
        const SHOWN: usize = 16;
        let number =
            (0..self.steps).find(|&number| number >= self.begun() || self.get(number) != host.get(number))?;
        let unfinished = number >= self.begun() || self.get(number).1 == NOTHING;
        let mut text = format!("step {number} {}\n", if unfinished { "did not end" } else { "differs" });
        for earlier in number.saturating_sub(SHOWN)..number {
            text += &format!("    {:x?}\n", host.get(earlier));
        }
        text += &format!("  host mode {:x?}\n", host.get(number));
        if number < self.begun() {
            text += &format!("  Dune mode {:x?}", self.get(number));
        }
        Some(text)
    }
}
