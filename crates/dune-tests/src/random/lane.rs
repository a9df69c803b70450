//! A lane: one thread's steps, what they do and what they see.

use std::os::fd::RawFd;

use libc::{MADV_NORMAL, MADV_RANDOM, MREMAP_FIXED, MREMAP_MAYMOVE};

use super::access;
use super::arena::{Arena, PAGE};
use super::children::{self, Pipes};
use super::generator::Generator;
use super::record::{Log, Record};
use super::step::{FILE_END, FILE_PAGES, Step};
use super::tables;
use crate::probe;

/// A thread's part of a run.
#[derive(Debug)]
pub struct Lane {
    number: u64,
    random: Generator,
    /// A small one, where steps meet each other, across a multiple of 1 GiB; and a large one, across 2 MiB.
    arenas: [Arena; 2],
    file: RawFd,
    pipes: Pipes,
}

/// After so many steps each the page tables are looked at.
const LOOK: usize = 16;

/// Lane 0 begins here, and each further one 1 TiB above: nothing else is near.
const FIRST: u64 = 0x2b00_0000_0000;

impl Lane {
    /// Lane `number` of the run with `seed`. Lane 0 forks.
    pub fn new(seed: u64, number: u64) -> Lane {
        const GIB: u64 = 1 << 30;
        const LARGE: u64 = 5 << 21;
        let base = FIRST + (number << 40);
        Lane {
            number,
            random: Generator::new(seed, number + 1),
            arenas: [Arena::new(base + GIB - 24 * PAGE, 64), Arena::new(base + LARGE - 100 * PAGE, 700)],
            file: file(seed ^ number),
            pipes: Pipes::new(),
        }
    }

    /// Makes all steps that `log` has room for and writes them down, up to the first that is not as `expected`.
    pub fn run(mut self, log: Log, expected: Option<Log>) {
        for number in 0..log.steps() {
            let step = Step::next(&mut self.random, &self.arenas, self.number == 0);
            log.begin(number, step);
            log.end(number, self.make(step));
            if expected.is_some_and(|expected| expected.get(number) != log.get(number)) {
                return;
            }
            if number.is_multiple_of(LOOK)
                && let Some(page) = tables::beyond_linux(&self.arenas)
            {
                panic!("after step {number} of lane {}, {page}", self.number);
            }
        }
    }

    /// Makes `step`; the result, then what accesses in and around its range see before and after.
    fn make(&mut self, step: Step) -> Record {
        let call = |number: i64, arguments: [u64; 6]| probe::syscall(number as u64, arguments) as u64;
        let file = self.file as u64;
        match step {
            Step::Map { at, length, rights, flags, offset } => {
                let (file, offset) = offset.map_or((u64::MAX, 0), |offset| (file, offset));
                self.around(at, length, || {
                    call(libc::SYS_mmap, [at, length, rights as u64, flags as u64, file, offset])
                })
            }
            Step::Unmap { at, length } => {
                self.around(at, length, || call(libc::SYS_munmap, [at, length, 0, 0, 0, 0]))
            }
            Step::Protect { at, length, rights } => {
                self.around(at, length, || call(libc::SYS_mprotect, [at, length, rights as u64, 0, 0, 0]))
            }
            Step::Advise { at, length, advice } => {
                self.around(at, length, || call(libc::SYS_madvise, [at, length, advice as u64, 0, 0, 0]))
            }
            Step::Truncate { pages } => {
                [call(libc::SYS_ftruncate, [file, pages * PAGE, 0, 0, 0, 0]), 0, 0, 0, 0, 0, 0, 0]
            }
            Step::Remap { at, length, new_length, flags, target } => {
                let mut record = self.around(at, length.max(new_length), || {
                    call(libc::SYS_mremap, [at, length, new_length, flags as u64, target, 0])
                });
                if target != 0 {
                    (record[6], record[7]) =
                        (access::load(target).0, access::load(target + new_length - 8).0);
                }
                record
            }
            Step::RemapAnywhere { at, length, new_length, target } => {
                self.away(at, length, new_length, target)
            }
            Step::Read { at, length, offset } => {
                let result = call(libc::SYS_pread64, [file, at, length, offset, 0, 0]);
                [result, access::load(at).0, access::load(at + length.saturating_sub(8)).0, 0, 0, 0, 0, 0]
            }
            Step::Write { at, length, offset } => {
                let result = call(libc::SYS_pwrite64, [file, at, length, offset, 0, 0]);
                let mut bytes = [0u64; 2];
                let read = call(libc::SYS_pread64, [file, bytes.as_mut_ptr() as u64, 16, offset, 0, 0]);
                [result, read, bytes[0], bytes[1], 0, 0, 0, 0]
            }
            Step::Load { at } => [access::load(at).0, 0, 0, 0, 0, 0, 0, 0],
            Step::Store { at, value } => [access::store(at, value).0, access::load(at).0, 0, 0, 0, 0, 0, 0],
            Step::Execute { at } => [access::execute(at).0, 0, 0, 0, 0, 0, 0, 0],
            Step::Break { pages, back } => self.move_break(pages, back),
            Step::Digest { arena } => [self.arenas[arena].digest(), 0, 0, 0, 0, 0, 0, 0],
            Step::Fork { seed } => children::fork(&self.pipes, &self.arenas[0], seed),
        }
    }

    /// Makes an edit of a range that was touched before, so that its translations are cached, and looks at it and its
    /// neighbours after.
    fn around(&mut self, at: u64, length: u64, edit: impl FnOnce() -> u64) -> Record {
        let inside = (at & !7) + (self.random.below(length.max(1)) & !7);
        let value = self.random.next();
        let before = if self.random.once_in(2) { access::load(inside) } else { access::store(inside, value) };
        let result = edit();
        let after = access::load(inside);
        let changed = if self.random.once_in(2) { access::store(inside, !value).0 } else { 0 };
        [result, before.0, after.0, changed, self.probe(at, length), 0, 0, 0]
    }

    /// Has Linux move a range to where it likes if there is no room, looks at it there, and moves it back to `target`.
    ///
    /// Marked with a flag that nothing else has, it does not become one mapping with a neighbour there. It would come back
    /// with that one's anonymous memory (`vm_pgoff` of Linux's `vm_area_struct`) and be no part of a mapping here ever after,
    /// so that what mremap(2) says of it would depend on the layout of the addresses.
    fn away(&mut self, at: u64, length: u64, new_length: u64, target: u64) -> Record {
        let call = |number: i64, arguments: [u64; 6]| probe::syscall(number as u64, arguments) as u64;
        let mark = |at, length, advice: i32| call(libc::SYS_madvise, [at, length, advice as u64, 0, 0, 0]);
        let remap = |at, length, new_length, flags: i32, target| {
            call(libc::SYS_mremap, [at, length, new_length, flags as u64, target, 0])
        };
        mark(at, length, MADV_RANDOM);
        let before = access::load(at).0;
        let to = remap(at, length, new_length, MREMAP_MAYMOVE, 0);
        if to == at || to > u64::MAX - 4096 {
            mark(at, length.max(new_length), MADV_NORMAL);
            return [to, before, self.probe(at, length), 0, 0, 0, 0, 0];
        }
        // Where it went is Linux's choice.
        let seen = |at: u64| match access::load(at) {
            fault if fault.is_fault() => fault.0 - to,
            value => value.0,
        };
        let there = [seen(to), seen(to + new_length - 8)];
        let back = remap(to, new_length, new_length, MREMAP_MAYMOVE | MREMAP_FIXED, target);
        mark(target, new_length, MADV_NORMAL);
        [1, before, there[0], there[1], back, self.probe(at, length), access::load(target).0, 0]
    }

    /// A page at one of the range's borders, on either side.
    fn probe(&mut self, at: u64, length: u64) -> u64 {
        let page = at & !(PAGE - 1);
        let end = at.saturating_add(length).next_multiple_of(PAGE);
        access::load(self.random.choose(&[page, page - PAGE, end - PAGE, end])).0
    }

    /// Moves the break up and down, as nobody allocates meanwhile. Addresses are counted from where it was.
    fn move_break(&mut self, pages: u64, back: u64) -> Record {
        let set = |address: u64| probe::syscall(libc::SYS_brk as u64, [address, 0, 0, 0, 0, 0]) as u64;
        let old = set(0);
        let page = old.next_multiple_of(PAGE);
        let seen = |outcome: access::Outcome| if outcome.is_fault() { outcome.0 - page } else { outcome.0 };
        let up = set(page + pages * PAGE);
        let fresh = access::load(page + (pages - 1) * PAGE);
        let stored = access::store(page + (pages - 1) * PAGE, self.random.next());
        let down = set(up - back * PAGE);
        let top = access::load(page + (pages - 1) * PAGE);
        let border = access::load(up - back * PAGE);
        let again = set(page + pages * PAGE);
        let cleared = access::load(up - back.max(1) * PAGE);
        set(old);
        [
            up - page,
            seen(fresh),
            seen(stored),
            down - page,
            seen(top),
            seen(border),
            again - page,
            seen(cleared),
        ]
    }
}

/// A file of bytes that only look random.
fn file(seed: u64) -> RawFd {
    let mut random = Generator::new(seed, 99);
    // SAFETY: the calls read a name and the bytes.
    unsafe {
        let file = libc::memfd_create(c"random".as_ptr(), libc::MFD_CLOEXEC);
        assert!(file >= 0);
        assert_eq!(libc::ftruncate(file, (FILE_END * PAGE) as i64), 0);
        for page in 0..FILE_PAGES {
            let words: Vec<u64> = (0..PAGE / 8).map(|_| random.next()).collect();
            let written = libc::pwrite(file, words.as_ptr().cast(), PAGE as usize, (page * PAGE) as i64);
            assert_eq!(written, PAGE as isize);
        }
        file
    }
}
