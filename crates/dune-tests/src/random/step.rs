//! What a lane can do, and how often it does what.

use libc::{
    MADV_DOFORK, MADV_DONTFORK, MADV_DONTNEED, MADV_HUGEPAGE, MADV_KEEPONFORK, MADV_NOHUGEPAGE,
    MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_REMOVE, MADV_WIPEONFORK, MAP_ANONYMOUS, MAP_FIXED,
    MAP_FIXED_NOREPLACE, MAP_GROWSDOWN, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, MREMAP_DONTUNMAP,
    MREMAP_FIXED, MREMAP_MAYMOVE, PROT_EXEC, PROT_GROWSDOWN, PROT_NONE, PROT_READ, PROT_WRITE,
};

use super::arena::{Arena, PAGE};
use super::generator::Generator;

/// One step, with all that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// mmap(2), of the lane's file if there is an offset.
    Map {
        at: u64,
        length: u64,
        rights: i32,
        flags: i32,
        offset: Option<u64>,
    },
    /// munmap(2)
    Unmap {
        at: u64,
        length: u64,
    },
    /// mprotect(2)
    Protect {
        at: u64,
        length: u64,
        rights: i32,
    },
    /// mremap(2)
    Remap {
        at: u64,
        length: u64,
        new_length: u64,
        flags: i32,
        target: u64,
    },
    /// mremap(2) to where Linux likes, if there is no room, and back to `target`.
    RemapAnywhere {
        at: u64,
        length: u64,
        new_length: u64,
        target: u64,
    },
    /// madvise(2)
    Advise {
        at: u64,
        length: u64,
        advice: i32,
    },
    /// ftruncate(2) of the lane's file, to so many pages
    Truncate {
        pages: u64,
    },
    /// pread(2) of the lane's file
    Read {
        at: u64,
        length: u64,
        offset: u64,
    },
    /// pwrite(2) to the lane's file
    Write {
        at: u64,
        length: u64,
        offset: u64,
    },
    Load {
        at: u64,
    },
    Store {
        at: u64,
        value: u64,
    },
    Execute {
        at: u64,
    },
    /// brk(2): up by `pages`, down by `back`, and back.
    Break {
        pages: u64,
        back: u64,
    },
    /// All bytes of an arena.
    Digest {
        arena: usize,
    },
    /// fork(2)
    Fork {
        seed: u64,
    },
}

/// So many pages of the file have bytes at first; it goes on as a hole.
pub const FILE_PAGES: u64 = 64;
/// The end of the file at first, in pages: no mapping reaches it.
pub const FILE_END: u64 = 1 << 18;

/// PROT_EXEC alone and PROT_WRITE alone are left out: with them Linux is given PROT_READ, too, in Dune mode
/// (`guest/memory_calls.rs`). It then takes two mappings for one, which shows where mremap(2) does not work on two at once.
const RIGHTS: [i32; 8] = [
    PROT_NONE,
    PROT_READ,
    PROT_READ | PROT_WRITE,
    PROT_READ | PROT_WRITE,
    PROT_READ | PROT_WRITE,
    PROT_READ | PROT_WRITE,
    PROT_READ | PROT_WRITE | PROT_EXEC,
    PROT_READ | PROT_EXEC,
];

/// What madvise(2) is asked for: mostly to forget. What is asked only for a child of a fork is seen there.
const ADVICE: [i32; 12] = [
    MADV_DONTNEED,
    MADV_DONTNEED,
    MADV_DONTNEED,
    MADV_REMOVE,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MADV_DONTFORK,
    MADV_DOFORK,
    MADV_WIPEONFORK,
    MADV_KEEPONFORK,
    MADV_HUGEPAGE,
    MADV_NOHUGEPAGE,
];

impl Step {
    /// The next step. `main` lanes fork and move the break, too.
    pub fn next(random: &mut Generator, arenas: &[Arena; 2], main: bool) -> Step {
        if main && random.once_in(2000) {
            return Step::Fork { seed: random.next() };
        }
        if random.once_in(200) {
            return Step::Digest { arena: usize::from(random.once_in(64)) };
        }
        let arena = &arenas[usize::from(random.once_in(4))];
        let at = arena.address(random);
        match random.below(if main { 102 } else { 100 }) {
            0..20 => Step::Load { at },
            20..40 => Step::Store { at, value: random.next() },
            40..46 => Step::Execute { at: at & !7 },
            46..63 => Step::map(random, arena),
            63..66 => {
                let (at, length) = uneven(random, arena);
                Step::Unmap { at, length }
            }
            66..80 => {
                let (at, length) = uneven(random, arena);
                let beyond = if random.once_in(32) { PROT_GROWSDOWN } else { 0 };
                Step::Protect { at, length, rights: random.choose(&RIGHTS) | beyond }
            }
            80..88 => Step::remap(random, arena),
            88..92 => {
                let (at, length) = uneven(random, arena);
                Step::Advise { at, length, advice: random.choose(&ADVICE) }
            }
            92 => {
                let cut = random.below(2 * FILE_PAGES);
                Step::Truncate { pages: random.choose(&[cut, FILE_END]) }
            }
            93..96 => {
                Step::Read { at, length: transfer(random, arena, at), offset: random.below(FILE_PAGES) * 512 }
            }
            96..100 => Step::Write {
                at,
                length: transfer(random, arena, at),
                offset: random.below(FILE_PAGES) * 512,
            },
            _ => {
                let pages = 1 + random.below(40);
                Step::Break { pages, back: random.below(pages + 1) }
            }
        }
    }

    fn map(random: &mut Generator, arena: &Arena) -> Step {
        let (at, length) = uneven(random, arena);
        let rights = random.choose(&RIGHTS);
        let fixed = if random.once_in(8) { MAP_FIXED_NOREPLACE } else { MAP_FIXED };
        let share = if random.once_in(3) { MAP_SHARED } else { MAP_PRIVATE };
        if random.once_in(3) {
            let offset = Some(random.below(FILE_PAGES) * PAGE);
            return Step::Map { at, length, rights, flags: fixed | share, offset };
        }
        let mut flags = fixed | share | MAP_ANONYMOUS;
        flags |= if random.once_in(4) { MAP_NORESERVE } else { 0 };
        flags |= if share == MAP_PRIVATE && random.once_in(12) { MAP_GROWSDOWN } else { 0 };
        Step::Map { at, length, rights, flags, offset: None }
    }

    fn remap(random: &mut Generator, arena: &Arena) -> Step {
        let (at, length) = arena.part(random);
        // Mappings are small: a whole part seldom lies in one.
        let length = if random.once_in(2) { length } else { PAGE * (1 + random.below(2)).min(length / PAGE) };
        let (target, room) = arena.part(random);
        let growth = random.below(4) * PAGE;
        let new_length = match random.below(4) {
            0 => PAGE * (1 + random.below(length / PAGE)),
            1 => length,
            _ => length + growth,
        };
        let fits = |length: u64| length.min(arena.room(target)).min(arena.room(at));
        let new_length = fits(new_length);
        match random.below(8) {
            0 => Step::RemapAnywhere { at, length, new_length, target },
            1..3 => Step::Remap { at, length, new_length, flags: 0, target: 0 },
            3 => {
                let (length, flags) = (fits(length), MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP);
                Step::Remap { at, length, new_length: length, flags, target }
            }
            // A length of 0 makes a second mapping of shared memory.
            4 => {
                let flags = MREMAP_MAYMOVE | MREMAP_FIXED;
                Step::Remap { at, length: 0, new_length: room.min(4 * PAGE), flags, target }
            }
            _ => Step::Remap { at, length, new_length, flags: MREMAP_MAYMOVE | MREMAP_FIXED, target },
        }
    }
}

/// Now and then a length that is no multiple of pages, or an address that is none, which Linux refuses.
fn uneven(random: &mut Generator, arena: &Arena) -> (u64, u64) {
    let (at, length) = arena.part(random);
    match random.below(16) {
        0 => (at, length - random.below(PAGE)),
        1 if random.once_in(4) => (at + 8, length),
        _ => (at, length),
    }
}

/// How many bytes a system call copies: up to some pages.
fn transfer(random: &mut Generator, arena: &Arena, at: u64) -> u64 {
    let most = random.choose(&[64, PAGE, 5 * PAGE]);
    (1 + random.below(most)).min(arena.room(at))
}
