//! What Linux writes for the program counts as written, and nothing else does.

mod generated;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use dune::Dune;
use dune::memory::PageRange;

use crate::case::{Case, CaseResult};
use crate::probe::{page, peek, poke, small_pages, syscall};

pub const CASES: &[Case] = &[
    Case::new("linux_writes::pages_that_calls_write_are_dirty", calls_are_seen),
    Case::new("linux_writes::whatever_call_of_the_table", generated::whatever_call),
    Case::new("linux_writes::of_a_call_under_way", under_way),
    Case::new("linux_writes::of_a_call_that_is_under_way_already", under_way_already),
    Case::new("linux_writes::of_threads_and_children_to_come", threads_and_children),
    Case::new("linux_writes::memory_that_is_replaced", replaced),
    Case::new("linux_writes::rings_are_refused", rings_are_refused),
];

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const NONE: [u64; 0] = [];

/// The pages of `range` that are dirty, which are clean then.
fn harvest(dune: Dune, range: PageRange) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    dune.page_tables()?.harvest_dirty(range, |at, _| found.push((at - range.start()) / 4096)).now(dune);
    Ok(found)
}

/// `count` pages that have been touched and are clean.
fn clean_pages(dune: Dune, count: u64) -> Result<PageRange> {
    let range = small_pages(dune, count as usize)?;
    (0..count).for_each(|index| poke(page(range, index).start(), 1));
    harvest(dune, range)?;
    Ok(range)
}

fn at(range: PageRange, offset: u64) -> u64 {
    range.start().as_u64() + offset
}

fn call(number: i64, arguments: [u64; 6]) -> i64 {
    syscall(number as u64, arguments)
}

/// Two ends of a pipe with `bytes` bytes in it.
fn pipe(bytes: usize) -> [i32; 2] {
    let mut ends = [0; 2];
    // SAFETY: writes two numbers, and reads a vector.
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        assert_eq!(libc::write(ends[1], vec![7u8; bytes].as_ptr().cast(), bytes), bytes as isize);
    }
    ends
}

/// The lengths are exact where the result tells them, structures are followed, and what is not written stays clean. Without a
/// [`LinuxWrites`](dune::LinuxWrites) nothing is seen: that is what it is for.
fn calls_are_seen() -> CaseResult {
    let dune = dune::enter()?;
    let range = clean_pages(dune, 16)?;
    let read = |offset, length| call(libc::SYS_read, [pipe(5)[0] as u64, at(range, offset), length, 0, 0, 0]);
    assert_eq!(read(0, 5), 5);
    assert_eq!(harvest(dune, range)?, NONE, "Linux's writes are not the CPU's in Dune mode");

    let counts = dune.watch_linux_writes()?;
    assert_eq!(read(3 * 4096 - 2, 8 * 4096), 5, "there is room for more than there is");
    assert_eq!(harvest(dune, range)?, [2, 3]);
    assert_eq!(read((1 << 47) - range.start().as_u64(), 5), -14, "EFAULT");
    assert_eq!(call(libc::SYS_getrandom, [at(range, 4096), 4096, 0, 0, 0, 0]), 4096);
    assert_eq!(call(libc::SYS_getpid, [0; 6]), i64::from(std::process::id()));
    assert_eq!(harvest(dune, range)?, [1]);
    // More parts than there is room for on the list: then all between counts.
    let vectors: Vec<[u64; 2]> = (0..12).map(|index| [at(range, index * 4096), 1]).collect();
    let list = vectors.as_ptr() as u64;
    assert_eq!(call(libc::SYS_readv, [pipe(4096)[0] as u64, list, 3, 0, 0, 0]), 3);
    assert_eq!(harvest(dune, range)?, [0, 1, 2]);
    assert_eq!(call(libc::SYS_readv, [pipe(4096)[0] as u64, list, 12, 0, 0, 0]), 12);
    assert_eq!(harvest(dune, range)?, (0..12).collect::<Vec<_>>());
    // A message: the buffer, the address of the peer, and the header itself.
    let mut pair = [0; 2];
    // SAFETY: writes two numbers.
    assert_eq!(unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM, 0, pair.as_mut_ptr()) }, 0);
    assert_eq!(call(libc::SYS_write, [pair[1] as u64, list, 9, 0, 0, 0]), 9);
    let (header, vector) = (at(range, 9 * 4096), at(range, 10 * 4096));
    for (place, value) in [(vector, at(range, 11 * 4096)), (vector + 8, 9)] {
        poke(x86_64::VirtAddr::new(place), value);
    }
    for (index, value) in
        [at(range, 12 * 4096), 16, vector, 1, at(range, 13 * 4096), 64, 0].into_iter().enumerate()
    {
        poke(x86_64::VirtAddr::new(header + 8 * index as u64), value);
    }
    harvest(dune, range)?;
    assert_eq!(call(libc::SYS_recvmsg, [pair[0] as u64, header, 0, 0, 0, 0]), 9);
    assert_eq!(harvest(dune, range)?, [9, 11, 12, 13]);
    // The process's own memory by another door.
    let remote = [at(range, 5 * 4096), 8];
    let arguments = [u64::from(std::process::id()), list, 1, (&raw const remote) as u64, 1, 0];
    assert_eq!(call(libc::SYS_process_vm_writev, arguments), 1);
    assert_eq!(harvest(dune, range)?, [5]);
    // Written, whoever wants to know.
    let second = dune.watch_linux_writes()?;
    drop(counts);
    assert_eq!(read(0, 5), 5);
    assert_eq!(harvest(dune, range)?, [0]);
    drop(second);
    assert_eq!(read(0, 5), 5);
    assert_eq!(harvest(dune, range)?, NONE);
    Ok(())
}

/// A page that a call may be writing is found each time, and once more after its end.
fn under_way() -> CaseResult {
    let dune = dune::enter()?;
    let range = clean_pages(dune, 4)?;
    let _counts = dune.watch_linux_writes()?;
    let ends = pipe(0);
    let reader = thread::spawn(move || {
        assert_eq!(call(libc::SYS_read, [ends[0] as u64, at(range, 2 * 4096), 4096, 0, 0, 0]), 1);
    });
    let mut rounds = 0;
    while harvest(dune, range)? != [2] {
        thread::sleep(Duration::from_millis(1));
        rounds += 1;
        assert!(rounds < 100_000, "the reader does not come to its call");
    }
    assert_eq!(harvest(dune, range)?, [2]);
    assert_eq!(call(libc::SYS_write, [ends[1] as u64, at(range, 0), 1, 0, 0, 0]), 1);
    reader.join().map_err(|_| "the reader failed")?;
    assert_eq!(harvest(dune, range)?, [2], "it has written since");
    assert_eq!(harvest(dune, range)?, NONE);
    Ok(())
}

/// A call that has begun before anybody wanted to know.
fn under_way_already() -> CaseResult {
    static GO_ON: AtomicBool = AtomicBool::new(false);
    let dune = dune::enter()?;
    let range = clean_pages(dune, 4)?;
    let ends = pipe(0);
    let reader = thread::spawn(move || {
        assert_eq!(call(libc::SYS_read, [ends[0] as u64, at(range, 4096), 1, 0, 0, 0]), 1);
        while !GO_ON.load(Ordering::Acquire) {
            std::hint::spin_loop();
        }
        assert_eq!(call(libc::SYS_getrandom, [at(range, 0), 1, 0, 0, 0, 0]), 1);
    });
    wait_until_asleep()?;
    let _counts = dune.watch_linux_writes()?;
    harvest(dune, range)?;
    assert_eq!(call(libc::SYS_write, [ends[1] as u64, at(range, 0), 1, 0, 0, 0]), 1);
    while peek(page(range, 1).start()) & 0xff != 1 {
        thread::yield_now();
    }
    assert_eq!(harvest(dune, range)?, [1]);
    GO_ON.store(true, Ordering::Release);
    reader.join().map_err(|_| "the reader failed")?;
    assert_eq!(harvest(dune, range)?, [0], "its next call is another");
    Ok(())
}

/// Waits until a thread sleeps in read(2).
fn wait_until_asleep() -> CaseResult {
    let sleeps = || {
        let tasks = std::fs::read_dir("/proc/self/task")?.filter_map(std::result::Result::ok);
        let in_read = |task: std::fs::DirEntry| {
            let status = std::fs::read_to_string(task.path().join("wchan"))?;
            Ok::<_, std::io::Error>(status.contains("pipe_read") || status.contains("anon_pipe"))
        };
        Ok::<_, std::io::Error>(tasks.filter_map(|task| in_read(task).ok()).any(|is| is))
    };
    for _ in 0..100_000 {
        if sleeps()? {
            thread::sleep(Duration::from_millis(20));
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err("the reader does not come to its call".into())
}

fn threads_and_children() -> CaseResult {
    let dune = dune::enter()?;
    // One whose place the next takes.
    thread::spawn(|| ()).join().map_err(|_| "a thread failed")?;
    let range = clean_pages(dune, 4)?;
    let _counts = dune.watch_linux_writes()?;
    let fill = move |index: u64| call(libc::SYS_getrandom, [at(range, index * 4096), 8, 0, 0, 0, 0]);
    let threads = [1, 2].map(|index| thread::spawn(move || assert_eq!(fill(index), 8)));
    for thread in threads {
        thread.join().map_err(|_| "a thread failed")?;
    }
    assert_eq!(harvest(dune, range)?, [1, 2]);
    // SAFETY: the child makes system calls, and exits.
    match unsafe { libc::fork() } {
        0 => {
            let is_seen = fill(3) == 8 && harvest(dune, range).is_ok_and(|found| found.contains(&3));
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(!is_seen)) }
        }
        child => {
            let mut status = 0;
            // SAFETY: writes a number.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0, "the child has not seen what Linux wrote");
        }
    }
    assert_eq!(harvest(dune, range)?, NONE);
    Ok(())
}

fn replaced() -> CaseResult {
    let dune = dune::enter()?;
    let range = clean_pages(dune, 8)?;
    let _counts = dune.watch_linux_writes()?;
    let place = |index: u64| [at(range, index * 4096), 4096];
    let [start, length] = place(2);
    assert_eq!(call(libc::SYS_madvise, [start, length, libc::MADV_WILLNEED as u64, 0, 0, 0]), 0);
    assert_eq!(harvest(dune, range)?, NONE);
    assert_eq!(call(libc::SYS_madvise, [start, length, libc::MADV_DONTNEED as u64, 0, 0, 0]), 0);
    assert_eq!(harvest(dune, range)?, [2]);
    let (rights, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let [start, length] = place(4);
    let map = [start, length, rights as u64, (kind | libc::MAP_FIXED) as u64, u64::MAX, 0];
    assert_eq!(call(libc::SYS_mmap, map), start as i64);
    assert_eq!(harvest(dune, range)?, [4]);
    // Away, and back by a call that may choose the place.
    let [start, length] = place(5);
    assert_eq!(call(libc::SYS_munmap, [start, length, 0, 0, 0, 0]), 0);
    assert_eq!(harvest(dune, range)?, NONE);
    let map = [start, length, rights as u64, (kind | libc::MAP_FIXED_NOREPLACE) as u64, u64::MAX, 0];
    assert_eq!(call(libc::SYS_mmap, map), start as i64);
    assert_eq!(harvest(dune, range)?, [5]);
    // The fourth page to the place of the seventh.
    let ([from, length], [to, _]) = (place(3), place(6));
    let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
    assert_eq!(call(libc::SYS_mremap, [from, length, length, flags, to, 0]), to as i64);
    assert_eq!(harvest(dune, range)?, [6]);
    Ok(())
}

fn rings_are_refused() -> CaseResult {
    let dune = dune::enter()?;
    let setup = || {
        let mut context = 0u64;
        call(libc::SYS_io_setup, [8, (&raw mut context) as u64, 0, 0, 0, 0])
    };
    let before = setup();
    let counts = dune.watch_linux_writes()?;
    assert_eq!(setup(), -38, "ENOSYS");
    let mut parameters = [0u64; 15];
    let ring = [1, (&raw mut parameters) as u64, 0, 0, 0, 0];
    assert_eq!(call(libc::SYS_io_uring_setup, ring), -38);
    drop(counts);
    assert_eq!(setup(), before);
    Ok(())
}
