//! Records of the program's threads, in the order in which they were written, for the launcher.
//!
//! A ring of slots in memory that all share. A writer takes the next place by one compare-and-swap, fills the slot, and gives it free by
//! its *turn*; a record that is longer than a slot is several, which the reader puts together by their thread. A writer that is killed in
//! between leaves a place whose turn does not come: the reader passes over it after a while, and counts it as lost. A writer waits while
//! the ring is full, but not for ever: the launcher may have been stopped.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::raw::atomics;

const SLOTS: usize = 4096;
const WORDS: usize = 62;
const PAYLOAD: usize = 8 * WORDS;
/// What is longer is cut.
const LONGEST: usize = 64 << 10;
/// How long a writer waits for room, and a reader for a writer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A call has begun: as a trace shows it.
    Begun,
    /// It is over: the same, with its result.
    Ended,
    /// It is over: what follows the text with which it has begun.
    EndedAsBegun,
    /// Something else for the trace.
    Line,
    /// A call was not made: the reason.
    Denied,
    /// The program has been ended for a call: the call as it is shown, a line's end, the reason.
    Fatal,
    /// The program was not started: the exit status, a line's end, the reason.
    NotStarted,
    /// A part of the wall: its name, and if it is missing a line's end and the reason.
    Wall,
    /// A path was used: how (a byte), and the path.
    Used,
    /// A call was made: its number and its arguments.
    Called,
    /// A policy asks about a call.
    Asked,
}

const KINDS: [Kind; 11] = [
    Kind::Begun,
    Kind::Ended,
    Kind::EndedAsBegun,
    Kind::Line,
    Kind::Denied,
    Kind::Fatal,
    Kind::NotStarted,
    Kind::Wall,
    Kind::Used,
    Kind::Called,
    Kind::Asked,
];

/// A slot: whose turn it is, what it is about, and the bytes.
#[repr(C, align(64))]
struct Slot {
    /// One more than the place in the order that the slot is filled for.
    turn: AtomicU64,
    /// The thread (32 bits), how many bytes there are (16), the kind (8), whether it is the first and the last part of a record.
    about: AtomicU64,
    words: [AtomicU64; WORDS],
}

const FIRST: u64 = 1 << 56;
const LAST: u64 = 1 << 57;

#[repr(C)]
pub(crate) struct Journal {
    /// The first place that is not read yet.
    head: AtomicU64,
    /// The first place that nobody has.
    tail: AtomicU64,
    /// Changes when there is something to read for a reader that sleeps.
    bell: AtomicU32,
    is_asleep: AtomicU32,
    /// Records that found no room.
    lost: AtomicU64,
    slots: [Slot; SLOTS],
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("head", &self.head).field("tail", &self.tail).finish_non_exhaustive()
    }
}

impl Journal {
    /// An empty one, which the children of this process will have, too.
    pub(crate) fn new() -> io::Result<&'static Journal> {
        atomics::zeros()
    }

    /// Writes a record.
    pub(crate) fn write(&self, thread: i32, kind: Kind, record: &[u8]) {
        let record = &record[..record.len().min(LONGEST)];
        let parts = record.chunks(PAYLOAD).count().max(1);
        for index in 0..parts {
            let part = &record[(index * PAYLOAD).min(record.len())..];
            let part = &part[..part.len().min(PAYLOAD)];
            let Some(place) = self.take_place() else {
                self.lost.fetch_add(1, Ordering::Relaxed);
                return;
            };
            let slot = &self.slots[place as usize % SLOTS];
            for (word, bytes) in slot.words.iter().zip(part.chunks(8)) {
                let mut eight = [0; 8];
                eight[..bytes.len()].copy_from_slice(bytes);
                word.store(u64::from_le_bytes(eight), Ordering::Relaxed);
            }
            let (first, last) = (index == 0, index + 1 == parts);
            let about = u64::from(thread as u32)
                | (part.len() as u64) << 32
                | (kind as u64) << 48
                | if first { FIRST } else { 0 }
                | if last { LAST } else { 0 };
            slot.about.store(about, Ordering::Relaxed);
            slot.turn.store(place + 1, Ordering::Release);
        }
        if self.is_asleep.swap(0, Ordering::SeqCst) != 0 {
            self.bell.fetch_add(1, Ordering::SeqCst);
            atomics::wake(&self.bell);
        }
    }

    /// Writes that a part of the wall is in force, or why not.
    pub(crate) fn tell_of_wall(&self, part: &str, why: Option<&str>) {
        let why = why.map_or_else(String::new, |why| why.replace('\n', " "));
        self.write(std::process::id() as i32, Kind::Wall, format!("{part}\n{why}").as_bytes());
    }

    /// Writes for which call, or what else, the program is ended.
    pub(crate) fn tell_of_end(&self, what: &str, why: &str) {
        let text = [what, why].map(|text| text.replace('\n', " ")).join("\n");
        self.write(std::process::id() as i32, Kind::Fatal, text.as_bytes());
    }

    /// Writes a question.
    pub(crate) fn ask(&self, thread: i32, question: &[u8]) {
        self.write(thread, Kind::Asked, question);
    }

    /// A place in the order for the caller. `None` if there is no room.
    fn take_place(&self) -> Option<u64> {
        let mut since = None;
        loop {
            let place = self.tail.load(Ordering::Relaxed);
            let head = self.head.load(Ordering::Acquire);
            if place.wrapping_sub(head) < SLOTS as u64 {
                let (weak, fail) = (Ordering::Relaxed, Ordering::Relaxed);
                if self.tail.compare_exchange_weak(place, place + 1, weak, fail).is_ok() {
                    return Some(place);
                }
                continue;
            }
            let (since, of) = since.get_or_insert_with(|| (Instant::now(), head));
            // Whoever has waited in vain once does not do so again while nothing is read.
            if since.elapsed() > PATIENCE || self.lost.load(Ordering::Relaxed) > 0 && *of == head {
                return None;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A record.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) thread: i32,
    pub(crate) kind: Kind,
    pub(crate) bytes: Vec<u8>,
}

/// The one who reads a journal.
#[derive(Debug)]
pub(crate) struct Reader {
    journal: &'static Journal,
    parts: HashMap<i32, Vec<u8>>,
    /// Since when a writer has been waited for.
    waits_since: Option<Instant>,
    passed: u64,
}

impl Reader {
    pub(crate) fn new(journal: &'static Journal) -> Reader {
        Reader { journal, parts: HashMap::new(), waits_since: None, passed: 0 }
    }

    /// Records that are not there.
    pub(crate) fn lost(&self) -> u64 {
        self.journal.lost.load(Ordering::Relaxed) + self.passed
    }

    /// Waits for a record, or so long.
    pub(crate) fn wait(&self, most: Duration) {
        let journal = self.journal;
        let bell = journal.bell.load(Ordering::SeqCst);
        journal.is_asleep.store(1, Ordering::SeqCst);
        if !self.is_there() {
            atomics::wait(&journal.bell, bell, most);
        }
        journal.is_asleep.store(0, Ordering::SeqCst);
    }

    fn is_there(&self) -> bool {
        let head = self.journal.head.load(Ordering::Relaxed);
        self.journal.slots[head as usize % SLOTS].turn.load(Ordering::SeqCst) == head + 1
    }

    /// The next record, if there is one. A writer `is_waited_for` unless nobody is there to write.
    pub(crate) fn next(&mut self, is_waited_for: bool) -> Option<Record> {
        loop {
            let head = self.journal.head.load(Ordering::Relaxed);
            let slot = &self.journal.slots[head as usize % SLOTS];
            if slot.turn.load(Ordering::Acquire) != head + 1 {
                if self.journal.tail.load(Ordering::Relaxed) == head {
                    return None;
                }
                let since = *self.waits_since.get_or_insert_with(Instant::now);
                if is_waited_for && since.elapsed() < PATIENCE {
                    return None;
                }
                self.passed += 1;
                self.go_on(head);
                continue;
            }
            let about = slot.about.load(Ordering::Relaxed);
            let thread = about as u32 as i32;
            let length = (about >> 32) as u16 as usize;
            let part = self.parts.entry(thread).or_default();
            if about & FIRST != 0 {
                part.clear();
            }
            let words = slot.words.iter().map(|word| word.load(Ordering::Relaxed).to_le_bytes());
            part.extend(words.flatten().take(length));
            let kind = KINDS.get((about >> 48) as u8 as usize);
            let bytes = (about & LAST != 0).then(|| std::mem::take(part));
            self.go_on(head);
            if let (Some(bytes), Some(&kind)) = (bytes, kind) {
                return Some(Record { thread, kind, bytes });
            }
        }
    }

    fn go_on(&mut self, head: u64) {
        self.waits_since = None;
        self.journal.head.store(head + 1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_whole_and_in_order() {
        let journal = Journal::new().expect("memory");
        let mut reader = Reader::new(journal);
        let long = vec![7; 3 * PAYLOAD + 5];
        let records: [&[u8]; 4] = [b"one", b"", &long, &[1; PAYLOAD]];
        for record in records {
            journal.write(5, Kind::Line, record);
        }
        for record in records {
            let read = reader.next(true).expect("a record");
            assert_eq!((read.thread, read.kind, &read.bytes[..]), (5, Kind::Line, record));
        }
        assert!(reader.next(true).is_none() && reader.lost() == 0);
    }

    #[test]
    fn many_writers_lose_nothing() {
        const EACH: usize = 5000;
        let journal = Journal::new().expect("memory");
        let mut reader = Reader::new(journal);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    for number in 0..EACH {
                        let text = format!("{number}").repeat(1 + number % 200);
                        journal.write(thread, Kind::Line, text.as_bytes());
                    }
                });
            }
            let mut next = [0; 4];
            while next.iter().sum::<usize>() < 4 * EACH {
                let Some(record) = reader.next(true) else {
                    reader.wait(Duration::from_millis(100));
                    continue;
                };
                let number = &mut next[record.thread as usize];
                assert_eq!(record.bytes, format!("{number}").repeat(1 + *number % 200).into_bytes());
                *number += 1;
            }
        });
        assert_eq!(reader.lost(), 0);
    }

    #[test]
    fn a_writer_that_was_killed_is_passed_over() {
        let journal = Journal::new().expect("memory");
        let mut reader = Reader::new(journal);
        journal.take_place().expect("room");
        journal.write(1, Kind::Line, b"after");
        assert!(reader.next(true).is_none(), "it may still come");
        assert_eq!(reader.next(false).map(|record| record.bytes), Some(b"after".to_vec()));
        assert_eq!(reader.lost(), 1);
    }
}
