//! Huge pages that the administrator has set aside (hugetlbfs): in both modes the same, also when there are none left.

use std::fs;

use libc::{
    MAP_ANONYMOUS, MAP_FIXED, MAP_HUGETLB, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, MREMAP_MAYMOVE, PROT_NONE,
    PROT_READ, PROT_WRITE,
};

use crate::both::{Notes, alike, forked};
use crate::case::{Case, CaseResult, Skip};
use crate::probe;
use crate::random::access::{catch_faults, load, store};

pub const CASES: &[Case] = &[
    Case::new("huge::calls", || with_pool(8, || alike(calls))),
    Case::new("huge::files", || with_pool(4, || alike(files))),
    Case::new("huge::copies_of_children", || with_pool(4, || alike(copies))),
    Case::new("huge::none_left", || with_pool(2, || alike(none_left))),
];

const HUGE: u64 = 2 << 20;
const PAGE: u64 = 4096;
const PLACE: u64 = 0x2b00_0000_0000;
const READ_WRITE: i32 = PROT_READ | PROT_WRITE;
const POOL: &str = "/proc/sys/vm/nr_hugepages";

/// Runs `case` with `pages` huge pages in the computer's pool, which has none else.
fn with_pool(pages: u64, case: impl Fn() -> CaseResult) -> CaseResult {
    let had: u64 = fs::read_to_string(POOL)?.trim().parse()?;
    if had != 0 {
        return Err(Skip(format!("{POOL} is {had}, so that huge pages would not run out")).into());
    }
    /// Empties the pool.
    struct Emptied;
    impl Drop for Emptied {
        fn drop(&mut self) {
            let _ = fs::write(POOL, "0");
        }
    }
    let _emptied = Emptied;
    let mut got = 0;
    for _ in 0..10 {
        // Gathers free memory in one piece, and what each CPU still has in its lists.
        let _ = fs::write("/proc/sys/vm/compact_memory", "1");
        match fs::write(POOL, pages.to_string()) {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(Skip(format!("only root may write to {POOL}")).into());
            }
            written => written?,
        }
        got = fs::read_to_string(POOL)?.trim().parse()?;
        if got == pages {
            return case();
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    Err(format!("{got} huge pages of {pages}").into())
}

fn call(number: i64, arguments: [u64; 6]) -> i64 {
    probe::syscall(number as u64, arguments)
}

/// `pages` huge pages at [`PLACE`].
fn map(pages: u64, flags: i32, file: i32) -> i64 {
    let flags = flags | MAP_FIXED | if file < 0 { MAP_ANONYMOUS | MAP_HUGETLB } else { 0 };
    call(libc::SYS_mmap, [PLACE, pages * HUGE, READ_WRITE as u64, flags as u64, file as u64, 0])
}

/// Notes what there is at the beginning, in the middle and at the end of each of `pages` huge pages.
fn note_words(notes: &Notes, what: &str, pages: u64) {
    let words: Vec<u64> = (0..pages)
        .flat_map(|page| [0, HUGE / 2 - 8, HUGE - 8].map(|offset| load(PLACE + page * HUGE + offset).0))
        .collect();
    notes.note(what, words);
}

fn calls(notes: &Notes) {
    catch_faults();
    let note = |what: &str, number: i64, arguments: [u64; 6]| notes.note(what, call(number, arguments));
    notes.note("map", map(4, MAP_PRIVATE, -1));
    (0..4 * HUGE / PAGE).for_each(|page| assert_eq!(store(PLACE + page * PAGE, page + 1).0, 0));
    note_words(notes, "written", 4);
    note("protect", libc::SYS_mprotect, [PLACE + HUGE, HUGE, PROT_READ as u64, 0, 0, 0]);
    notes.note("write to it", store(PLACE + HUGE + 24, 5));
    note("protect a part", libc::SYS_mprotect, [PLACE + PAGE, PAGE, PROT_NONE as u64, 0, 0, 0]);
    note("unmap a part", libc::SYS_munmap, [PLACE, PAGE, 0, 0, 0, 0]);
    note_words(notes, "refused", 4);
    note("discard", libc::SYS_madvise, [PLACE, HUGE, libc::MADV_DONTNEED as u64, 0, 0, 0]);
    note("unmap", libc::SYS_munmap, [PLACE + 2 * HUGE, HUGE, 0, 0, 0, 0]);
    note_words(notes, "one less", 5);
    note("shrink", libc::SYS_mremap, [PLACE, 2 * HUGE, HUGE, 0, 0, 0]);
    note("grow", libc::SYS_mremap, [PLACE, HUGE, 2 * HUGE, MREMAP_MAYMOVE as u64, 0, 0]);
    note_words(notes, "remapped", 4);
    // Linux rounds this up to a whole page.
    let flags = (MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB) as u64;
    let rounded = call(libc::SYS_mmap, [0, PAGE, READ_WRITE as u64, flags, u64::MAX, 0]) as u64;
    notes.note("rounded up", (store(rounded + HUGE - 8, 6), load(rounded + HUGE - 8)));
    note("unmap it", libc::SYS_munmap, [rounded, HUGE, 0, 0, 0, 0]);
    notes.note("gone", load(rounded).is_fault());
}

fn files(notes: &Notes) {
    catch_faults();
    // SAFETY: a new file of our own.
    let file = unsafe { libc::memfd_create(c"huge".as_ptr(), libc::MFD_HUGETLB) };
    let set_length = |pages: u64| call(libc::SYS_ftruncate, [file as u64, pages * HUGE, 0, 0, 0, 0]);
    notes.note("length", set_length(2));
    notes.note("map", map(2, MAP_SHARED, file));
    notes.note("write", (store(PLACE + 8, 1), store(PLACE + HUGE + 8, 2)));
    let child = forked(|| i32::from(store(PLACE + 8, 3).0 == 0 && load(PLACE + HUGE + 8).0 == 2));
    notes.note("child", (child, load(PLACE + 8)));
    notes.note("cut", set_length(1));
    notes.note("behind the end", (load(PLACE + HUGE + 8), store(PLACE + HUGE + 16, 4)));
    notes.note("grown", (set_length(2), load(PLACE + HUGE + 8)));
    note_words(notes, "in the end", 2);
}

fn copies(notes: &Notes) {
    catch_faults();
    notes.note("map", map(1, MAP_PRIVATE, -1));
    notes.note("write", (store(PLACE, 1), store(PLACE + HUGE - 8, 2)));
    let child = forked(|| {
        let before = (load(PLACE).0, load(PLACE + HUGE - 8).0);
        i32::from(before == (1, 2) && store(PLACE, 3).0 == 0 && load(PLACE).0 == 3)
    });
    notes.note("child", child);
    note_words(notes, "parent", 1);
}

/// There are two huge pages: one is the file's, one the copy's.
fn none_left(notes: &Notes) {
    catch_faults();
    // SAFETY: a new file of our own.
    let file = unsafe { libc::memfd_create(c"huge".as_ptr(), libc::MFD_HUGETLB) };
    assert_eq!(call(libc::SYS_ftruncate, [file as u64, 2 * HUGE, 0, 0, 0, 0]), 0);
    notes.note("map", map(2, MAP_SHARED | MAP_NORESERVE, file));
    notes.note("write", (store(PLACE, 1), store(PLACE + HUGE, 2)));
    // What can be read, and written to by its rights, but there is no page for the copy.
    notes.note("private", map(2, MAP_PRIVATE | MAP_NORESERVE, file));
    notes.note("read", (load(PLACE), load(PLACE + HUGE)));
    notes.note("copy", (store(PLACE + 24, 3), store(PLACE + HUGE - 8, 4), store(PLACE + HUGE - 4, 5)));
    note_words(notes, "private words", 2);
    // What there is no page for at all.
    let flags = MAP_PRIVATE | MAP_NORESERVE;
    notes.note("anonymous", map(1, flags, -1));
    notes.note("none", (load(PLACE + 32), store(PLACE + 40, 6)));
    notes.note("reserved", map(1, MAP_PRIVATE, -1));
}
