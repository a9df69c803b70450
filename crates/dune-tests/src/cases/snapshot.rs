//! Snapshots: what memory was at one moment, whoever writes to it afterwards.

use std::sync::Arc;
mod store;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use dune::memory::{EditError, PageRange, SpaceKind};
use dune::snapshot::{Snapshot, SnapshotError, SnapshotMemory};
use dune::{Config, Dune, Threads};

use crate::case::{Case, CaseResult, Ending};
use crate::probe::{self, peek, poke, syscall};

pub const CASES: &[Case] = &[
    Case::new("snapshot::shows_what_was", shows_what_was),
    Case::new("snapshot::of_what_linux_writes", what_linux_writes),
    Case::new("snapshot::of_a_call_under_way", under_way),
    Case::new("snapshot::of_mappings_that_change", mappings_that_change),
    Case::new("snapshot::is_of_one_moment", one_moment),
    Case::new("snapshot::read_while_it_is_written", read_while_it_is_written),
    Case::new("snapshot::of_a_child", of_a_child),
    Case::new("snapshot::between_signals", between_signals),
    Case::new("snapshot::of_memory_that_linux_protects", protected_by_linux)
        .ends(Ending::Signal(libc::SIGSEGV, &[])),
    Case::new("snapshot::refuses", refuses),
    Case::new("snapshot::gives_all_back", gives_all_back),
    Case::new("snapshot::of_eight_gib", of_eight_gib).on_svm(),
    Case::new("snapshot::store", store::by_snapshot),
    Case::new("snapshot::store_of_many_keys", store::of_many_keys).on_svm(),
    Case::new("snapshot::store_by_fork", store::by_fork).on_svm(),
];

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const PAGE: u64 = 4096;

fn address(memory: &SnapshotMemory, offset: u64) -> x86_64::VirtAddr {
    memory.range().start() + offset
}

fn word(memory: &SnapshotMemory, offset: u64) -> u64 {
    peek(address(memory, offset))
}

fn set(memory: &SnapshotMemory, offset: u64, value: u64) {
    poke(address(memory, offset), value);
}

fn was(snapshot: &Snapshot, offset: u64) -> std::result::Result<u64, SnapshotError> {
    let mut word = [0; 8];
    snapshot.read(offset, &mut word)?;
    Ok(u64::from_le_bytes(word))
}

fn shows_what_was() -> CaseResult {
    let dune = dune::enter()?;
    let memory = SnapshotMemory::new(dune, 5 << 20)?;
    assert_eq!(memory.range().bytes(), 6 << 20);
    let offsets: Vec<u64> = (0..40).map(|index| index * 37 * PAGE + index * 8).collect();
    let mut all = Vec::new();
    for round in 0..5u64 {
        for (index, &offset) in offsets.iter().enumerate() {
            if (index as u64 + round).is_multiple_of(3) {
                set(&memory, offset, round * 1000 + offset);
            }
        }
        let model: Vec<u64> = offsets.iter().map(|&offset| word(&memory, offset)).collect();
        all.push((memory.snapshot(dune)?, model));
        if round == 3 {
            all.remove(1);
        }
        for (snapshot, model) in &all {
            let seen = offsets
                .iter()
                .map(|&offset| was(snapshot, offset))
                .collect::<std::result::Result<Vec<_>, _>>();
            assert_eq!(seen.as_ref(), Ok(model));
        }
    }
    assert_eq!(all.last().map(|(snapshot, _)| snapshot.bytes_kept()), Some(0));
    // Bytes across pages, some kept and some not; by threads, in host mode or not.
    memory.write(PAGE - 3, b"before")?;
    let snapshot = memory.snapshot(dune)?;
    memory.write(PAGE, b"after")?;
    let reader = thread::spawn(move || {
        let mut bytes = [0; 6];
        snapshot.read(PAGE - 3, &mut bytes).map(|()| bytes)
    });
    assert_eq!(reader.join().expect("the reader does not panic")?, *b"before");
    let mut now = [0; 8];
    memory.read(PAGE - 3, &mut now)?;
    assert_eq!(&now, b"befafter");
    // Dirty marks and accesses of a kind that only reads are as ever.
    assert_eq!(word(&memory, 5 << 20), 0);
    Ok(())
}

/// What system calls write is in the memory, and not in the snapshot.
fn what_linux_writes() -> CaseResult {
    let dune = dune::enter()?;
    let memory = SnapshotMemory::new(dune, 2 << 20)?;
    let at = |page: u64| memory.range().start().as_u64() + page * PAGE;
    (0..64).for_each(|page| set(&memory, page * PAGE, page));
    let snapshot = memory.snapshot(dune)?;
    let mut ends = [0; 2];
    // SAFETY: writes two numbers, and reads bytes.
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        assert_eq!(libc::write(ends[1], [7u8; 600].as_ptr().cast(), 600), 600);
    }
    let [read_end, _] = ends.map(|end| end as u64);
    let call = |number: i64, arguments| syscall(number as u64, arguments);
    assert_eq!(call(libc::SYS_read, [read_end, at(1), 100, 0, 0, 0]), 100);
    assert_eq!(call(libc::SYS_read, [read_end, at(3) - 8, 16, 0, 0, 0]), 16);
    let vectors = [[at(4), 8], [at(40), 8], [at(6), 8]];
    assert_eq!(call(libc::SYS_readv, [read_end, vectors.as_ptr() as u64, 3, 0, 0, 0]), 24);
    // The vector itself lies there, and so is read, not written.
    set(&memory, 8 * PAGE + 8, at(9));
    set(&memory, 8 * PAGE + 16, 8);
    assert_eq!(call(libc::SYS_readv, [read_end, at(8) + 8, 1, 0, 0, 0]), 8);
    assert_eq!(call(libc::SYS_getrandom, [at(10), 2 * PAGE, 0, 0, 0, 0]), 2 * PAGE as i64);
    assert_eq!(call(libc::SYS_clock_gettime, [0, at(13), 0, 0, 0, 0]), 0);
    assert_eq!(call(libc::SYS_uname, [at(14), 0, 0, 0, 0, 0]), 0);
    assert_eq!(call(libc::SYS_getrlimit, [0, at(15), 0, 0, 0, 0]), 0);
    let remote = [at(16), 8];
    let arguments =
        [u64::from(std::process::id()), vectors.as_ptr() as u64, 1, (&raw const remote) as u64, 1, 0];
    assert_eq!(call(libc::SYS_process_vm_writev, arguments), 8);
    for page in 0..64 {
        assert_eq!(was(&snapshot, page * PAGE), Ok(page), "page {page}");
    }
    for page in [1, 3, 4, 40, 6, 9, 10, 11, 13, 14, 15, 16] {
        assert_ne!(word(&memory, page * PAGE), page, "page {page} has been written to");
    }
    assert_eq!(was(&snapshot, 2 * PAGE + 4088), Ok(0));
    Ok(())
}

/// A call that was under way when the snapshot was taken writes later.
fn under_way() -> CaseResult {
    let dune = dune::enter()?;
    let memory = SnapshotMemory::new(dune, 2 << 20)?;
    set(&memory, PAGE, 11);
    let mut ends = [0; 2];
    // SAFETY: writes two numbers.
    unsafe { assert_eq!(libc::pipe(ends.as_mut_ptr()), 0) };
    let to = address(&memory, PAGE).as_u64();
    let task = Arc::new(AtomicU64::new(0));
    let theirs = Arc::clone(&task);
    let reader = thread::spawn(move || {
        // SAFETY: a number.
        theirs.store(unsafe { libc::gettid() } as u64, Ordering::SeqCst);
        syscall(libc::SYS_read as u64, [ends[0] as u64, to, 100, 0, 0, 0])
    });
    // Until it waits in the call.
    let waits = || {
        let task = task.load(Ordering::SeqCst);
        std::fs::read_to_string(format!("/proc/self/task/{task}/wchan"))
            .is_ok_and(|place| place.contains("pipe"))
    };
    let mut rounds = 0;
    while !waits() && rounds < 500 {
        thread::sleep(Duration::from_millis(2));
        rounds += 1;
    }
    let snapshot = memory.snapshot(dune)?;
    let second = memory.snapshot(dune)?;
    // SAFETY: reads bytes.
    unsafe { assert_eq!(libc::write(ends[1], [9u8; 8].as_ptr().cast(), 8), 8) };
    assert_eq!(reader.join().expect("the reader does not panic"), 8);
    assert_eq!(word(&memory, PAGE), u64::from_ne_bytes([9; 8]));
    assert_eq!([was(&snapshot, PAGE), was(&second, PAGE)], [Ok(11), Ok(11)]);
    set(&memory, PAGE, 12);
    assert_eq!(was(&memory.snapshot(dune)?, PAGE), Ok(12));
    assert_eq!(was(&snapshot, PAGE), Ok(11));
    Ok(())
}

/// Calls that put other memory there, or take rights away, are writes like others.
fn mappings_that_change() -> CaseResult {
    let dune = dune::enter()?;
    let memory = SnapshotMemory::new(dune, 4 << 20)?;
    let at = |page: u64| memory.range().start().as_u64() + page * PAGE;
    (0..1024).for_each(|page| set(&memory, page * PAGE, page + 1));
    let snapshot = memory.snapshot(dune)?;
    // SAFETY: memory of this case's, which it accesses by volatile accesses alone.
    unsafe {
        assert_eq!(libc::madvise(at(2) as *mut _, 8192, libc::MADV_DONTNEED), 0);
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        assert_ne!(
            libc::mmap(at(10) as *mut _, 8192, protection, flags | libc::MAP_FIXED, -1, 0),
            libc::MAP_FAILED
        );
        assert_eq!(libc::mprotect(at(20) as *mut _, 4096, libc::PROT_READ), 0);
        assert_eq!(libc::mprotect(at(20) as *mut _, 4096, protection), 0);
    }
    for page in [2, 3, 10, 11] {
        assert_eq!(word(&memory, page * PAGE), 0, "page {page} is another by now");
    }
    for page in [2, 3, 10, 11, 20, 21, 700] {
        set(&memory, page * PAGE, 5000);
        assert_eq!(was(&snapshot, page * PAGE), Ok(page + 1), "page {page}");
    }
    Ok(())
}

/// Threads count up in one page, then in another. Whenever a snapshot is taken, the second is what the first is, or one less.
fn one_moment() -> CaseResult {
    let dune = dune::enter()?;
    // What counts up second is in the same memory, or in another.
    let memory = SnapshotMemory::new(dune, 8 << 20)?;
    let other = SnapshotMemory::new(dune, 2 << 20)?;
    let done = Arc::new(AtomicBool::new(false));
    const WRITERS: u64 = 4;
    // On a slow computer it takes the threads a while to begin.
    let begun = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (memory, other, done) = (memory.clone(), other.clone(), Arc::clone(&done));
            let begun = Arc::clone(&begun);
            thread::spawn(move || {
                let (first, second) = (writer * PAGE, (4 << 20) + writer * 3 * PAGE);
                let mut count = 0;
                while !done.load(Ordering::Relaxed) {
                    count += 1;
                    set(&memory, first, count);
                    set(&memory, second, count);
                    set(&other, first, count);
                    if count == 1 {
                        begun.fetch_add(1, Ordering::Relaxed);
                    }
                    // Some are in Linux now and then.
                    if writer == 3 && count.is_multiple_of(64) {
                        thread::yield_now();
                    }
                }
                count
            })
        })
        .collect();
    while begun.load(Ordering::Relaxed) < WRITERS {
        thread::yield_now();
    }
    let mut snapshots = Vec::new();
    for round in 0..60 {
        thread::sleep(Duration::from_micros(300));
        let both = Snapshot::of_all(dune, &[&memory, &other])?;
        snapshots.push(<[Snapshot; 2]>::try_from(both).expect("two"));
        if round % 3 != 0 {
            snapshots.remove(0);
        }
        for [snapshot, other] in &snapshots {
            for writer in 0..WRITERS {
                let first = was(snapshot, writer * PAGE)?;
                let second = was(snapshot, (4 << 20) + writer * 3 * PAGE)?;
                let third = was(other, writer * PAGE)?;
                let all = [first, second, third];
                assert!(first >= second && second >= third && first <= third + 1, "writer {writer}: {all:?}");
                assert_eq!(was(snapshot, writer * PAGE)?, first, "it does not change");
            }
        }
    }
    done.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().expect("no panic");
    }
    Ok(())
}

/// What is read while its first write comes is what is read afterwards.
fn read_while_it_is_written() -> CaseResult {
    let dune = dune::enter()?;
    let memory = SnapshotMemory::new(dune, 2 << 20)?;
    const PAGES: u64 = 32;
    let done = Arc::new(AtomicBool::new(false));
    let writer = {
        let (memory, done) = (memory.clone(), Arc::clone(&done));
        thread::spawn(move || {
            let mut count = 0u64;
            while !done.load(Ordering::Relaxed) {
                count += 1;
                (0..PAGES * PAGE).step_by(8).for_each(|offset| set(&memory, offset, count));
            }
        })
    };
    let (mut rounds, mut kept) = (0, 0);
    // On a slow computer it takes the writer a while to begin.
    while rounds < 100 || kept == 0 {
        rounds += 1;
        let snapshot = memory.snapshot(dune)?;
        let read = |page: u64| {
            let mut bytes = vec![0; PAGE as usize];
            snapshot.read(page * PAGE, &mut bytes).map(|()| bytes)
        };
        let first = (0..PAGES).map(read).collect::<std::result::Result<Vec<_>, _>>()?;
        let second = (0..PAGES).map(read).collect::<std::result::Result<Vec<_>, _>>()?;
        assert!(first == second);
        kept += snapshot.bytes_kept();
    }
    done.store(true, Ordering::Relaxed);
    writer.join().expect("the writer does not panic");
    Ok(())
}

/// A child has the memory and the snapshots as they were, and neither sees what the other writes.
fn of_a_child() -> CaseResult {
    let dune = dune::enter()?;
    let memory = SnapshotMemory::new(dune, 2 << 20)?;
    set(&memory, 0, 1);
    set(&memory, PAGE, 2);
    let snapshot = memory.snapshot(dune)?;
    set(&memory, 0, 3);
    // SAFETY: the child makes no use of what other threads had.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    set(&memory, PAGE, if child == 0 { 4 } else { 5 });
    let second = memory.snapshot(dune)?;
    set(&memory, PAGE, 6);
    let seen = [was(&snapshot, 0), was(&snapshot, PAGE), was(&second, 0), was(&second, PAGE)];
    let expected = [Ok(1), Ok(2), Ok(3), Ok(if child == 0 { 4 } else { 5 })];
    if child == 0 {
        drop(snapshot);
        let is_right = seen == expected && was(&second, PAGE) == Ok(4);
        // SAFETY: ends the child.
        unsafe { libc::_exit(if is_right { 0 } else { 1 }) };
    }
    assert_eq!(seen, expected);
    let mut status = 0;
    // SAFETY: writes a number.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    Ok(())
}

static TICKS: AtomicU64 = AtomicU64::new(0);
static PLACE: AtomicU64 = AtomicU64::new(0);

extern "C" fn tick(_: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
    let tick = TICKS.fetch_add(1, Ordering::Relaxed);
    // Pages all over, the one that the interrupted code is about among them.
    poke(x86_64::VirtAddr::new(PLACE.load(Ordering::Relaxed) + tick % 512 * PAGE), tick);
}

/// Signal handlers write while their thread takes and drops snapshots, and edits page tables.
fn between_signals() -> CaseResult {
    let dune = dune::enter()?;
    let memory = SnapshotMemory::new(dune, 4 << 20)?;
    PLACE.store(memory.range().start().as_u64(), Ordering::Relaxed);
    probe::set_action(libc::SIGALRM, tick, libc::SA_RESTART, &[]);
    let interval = libc::timeval { tv_sec: 0, tv_usec: 500 };
    let timer = |it_value| {
        let timer = libc::itimerval { it_interval: interval, it_value };
        // SAFETY: reads the structure.
        unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) }
    };
    let other = probe::small_pages(dune, 64)?;
    assert_eq!(timer(interval), 0);
    let mut round = 0;
    while TICKS.load(Ordering::Relaxed) < 100 && round < 20_000 {
        round += 1;
        set(&memory, (2 << 20) + round % 512 * PAGE, round);
        let snapshot = memory.snapshot(dune)?;
        set(&memory, (2 << 20) + round % 512 * PAGE, round + 1);
        dune.page_tables()?.harvest_dirty(other, |_, _| ()).now(dune);
        // The lock of the page tables is held, and the page guarded.
        let mut first = 0;
        dune.page_tables()?
            .harvest_dirty(memory.range(), |page, _| {
                if first == 0 {
                    first = page.as_u64();
                    set(&memory, (2 << 20) + (round + 1) % 512 * PAGE, 0);
                }
            })
            .now(dune);
        assert_eq!(was(&snapshot, (2 << 20) + round % 512 * PAGE), Ok(round));
    }
    let stop = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let none = libc::itimerval { it_interval: stop, it_value: stop };
    // SAFETY: reads the structure.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &none, std::ptr::null_mut()) };
    assert!(TICKS.load(Ordering::Relaxed) >= 100, "{round} rounds");
    Ok(())
}

/// A thread in host mode takes rights away, of which the page tables know nothing: the write ends as on Linux, and does not go on for ever.
fn protected_by_linux() -> CaseResult {
    let dune = Config::new().threads(Threads::HostMode).enter()?;
    let memory = SnapshotMemory::new(dune, 2 << 20)?;
    let start = memory.range().start().as_u64();
    let protect = move || {
        // SAFETY: memory of this case's.
        assert_eq!(unsafe { libc::mprotect(start as *mut _, 8192, libc::PROT_READ) }, 0);
    };
    let snapshot = memory.snapshot(dune)?;
    set(&memory, 4096, 1);
    thread::spawn(protect).join().expect("the thread does not panic");
    assert_eq!((was(&snapshot, 4096), word(&memory, 4096)), (Ok(0), 1));
    set(&memory, 4096, 2);
    probe::fail("the write went through".into())
}

fn refuses() -> CaseResult {
    let dune = dune::enter()?;
    let memory = SnapshotMemory::new(dune, 2 << 20)?;
    let length = 2 << 20;
    let outside = |offset, bytes| Err(SnapshotError::Outside { offset, bytes, length });
    assert_eq!(memory.write(length - 1, b"xy"), outside(length - 1, 2));
    assert_eq!(memory.read(u64::MAX, &mut [0]), outside(u64::MAX, 1));
    let snapshot = memory.snapshot(dune)?;
    assert_eq!(snapshot.read(length, &mut [0]), outside(length, 1));
    let page = PageRange::page(memory.range().start());
    let refused = EditError::SnapshotMemory { address: memory.range().start() };
    assert_eq!(dune.page_tables()?.unmap(page).err(), Some(refused));
    let permissions = dune::memory::PagePermissions::READ;
    assert_eq!(dune.memory().protect_now(dune, page, permissions).err(), Some(refused));
    set(&memory, 0, 1);
    assert_eq!(
        dune.memory().protect_now(dune, page, permissions).err(),
        Some(refused),
        "a page of its own table"
    );
    assert!(dune.memory().new_space(SpaceKind::Copied).is_err());
    let many: std::result::Result<Vec<_>, _> = (0..32).map(|_| memory.snapshot(dune)).collect();
    assert_eq!(many.err(), Some(SnapshotError::TooManySnapshots { most: 32 }));
    let too_large = SnapshotMemory::new(dune, 1 << 60).err();
    assert!(
        matches!(too_large, Some(SnapshotError::Refused { .. } | SnapshotError::TooLarge { .. })),
        "{too_large:?}"
    );
    let memories: std::result::Result<Vec<_>, _> = (0..16).map(|_| SnapshotMemory::new(dune, 1)).collect();
    assert_eq!(memories.err(), Some(SnapshotError::TooManyMemories { most: 16 }));
    assert_eq!(was(&snapshot, 0), Ok(0));
    drop((snapshot, memory));
    dune.memory().new_space(SpaceKind::Copied)?;
    Ok(())
}

fn frames_in_use(dune: Dune) -> Result<u64> {
    Ok(dune.memory().frames().stats()?.in_use)
}

fn gives_all_back() -> CaseResult {
    let dune = dune::enter()?;
    let round = || -> CaseResult {
        let memory = SnapshotMemory::new(dune, 16 << 20)?;
        let mut snapshots = Vec::new();
        for round in 0..6u64 {
            (0..100).for_each(|index| set(&memory, index * (round + 1) * 5 * PAGE, round));
            snapshots.push(memory.snapshot(dune)?);
        }
        // The snapshots outlive the name of their memory.
        drop(memory);
        assert_eq!(was(&snapshots[2], 0), Ok(2));
        while !snapshots.is_empty() {
            snapshots.remove(snapshots.len() / 2);
        }
        Ok(())
    };
    // The case's own heap may need a table, once.
    round()?;
    let before = frames_in_use(dune)?;
    for _ in 0..5 {
        round()?;
    }
    assert_eq!(frames_in_use(dune)?, before);
    Ok(())
}

/// What is not there costs nothing: a GiB more takes a few entries.
fn of_eight_gib() -> CaseResult {
    let dune = dune::enter()?;
    let memory = SnapshotMemory::new(dune, 8 << 30)?;
    let offsets: Vec<u64> = (0..64).map(|index| index * 127 * (1 << 20)).collect();
    offsets.iter().for_each(|&offset| set(&memory, offset, offset + 1));
    let snapshot = memory.snapshot(dune)?;
    offsets.iter().step_by(2).for_each(|&offset| set(&memory, offset, 0));
    assert_eq!(snapshot.bytes_kept(), 32 * PAGE);
    for &offset in &offsets {
        assert_eq!(was(&snapshot, offset), Ok(offset + 1));
    }
    Ok(())
}
