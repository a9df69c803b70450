//! What compartments stand on: spaces in use on several threads, and what they share with the process.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, mpsc};
use std::thread;

use dune::memory::{MapSize, PageRange, PageSize, SpaceKind, VirtAddr};
use dune::user::{UserContext, UserExit, UserSpaceError, UserSpaces};
use dune_compartment::PagePermissions;

use super::attempts::{read, write};
use super::{new, sum};
use crate::case::CaseResult;
use crate::probe::{peek, poke, small_pages};

/// Where nothing of the process is.
const NOWHERE: u64 = 0x1000_0000_0000;

/// New memory at `place`.
fn memory_at(place: usize, bytes: usize) -> *mut libc::c_void {
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    let at = std::ptr::without_provenance_mut(place);
    // SAFETY: new memory.
    let memory = unsafe { libc::mmap(at, bytes, libc::PROT_READ | libc::PROT_WRITE, kind, -1, 0) };
    assert_eq!(memory.addr(), place);
    memory
}

/// Stacks and registers in memory that came after the compartment, at addresses for which the root had no table.
pub fn later_memory() -> CaseResult {
    let (dune, compartments) = new()?;
    let compartment = compartments.create(dune)?;
    assert_eq!(compartment.call(dune, sum, &[1, 2, 3, 4])?, 10);
    let spaces = UserSpaces::new(dune)?;
    let (space, code) = (spaces.space(dune)?, spaces.memory(dune, 4096)?);
    code.write(0, &[0x0f, 0x05])?; // syscall
    space.grant(dune, &code, PagePermissions::READ | PagePermissions::EXECUTE)?;
    let context = memory_at(0x2400_0000_0000, 4096).cast::<UserContext>();
    // SAFETY: the memory is this function's own, and stays.
    let context = unsafe {
        context.write(UserContext::new(code.start(), code.start()));
        &mut *context
    };
    // SAFETY: nobody takes stacks and heap from ring 0.
    let exit = unsafe { space.run(dune, context)? };
    assert!(matches!(exit, UserExit::SystemCall(_)), "{exit:?}");
    for place in [0x1900_0000_0000usize, 0x2b00_0000_0000] {
        const BYTES: usize = 1 << 20;
        let stack = memory_at(place, BYTES);
        extern "C" fn run(argument: *mut libc::c_void) -> *mut libc::c_void {
            // SAFETY: the compartment outlives the thread, which is joined.
            let compartment = unsafe { &*argument.cast::<dune_compartment::Compartment>() };
            let dune = dune::current().expect("a thread of Dune mode");
            let done = compartment.call(dune, sum, &[1, 2, 3, 4]) == Ok(10);
            std::ptr::without_provenance_mut(usize::from(done))
        }
        // SAFETY: the stack is the thread's alone, and stays.
        let done = unsafe {
            let mut attributes = std::mem::zeroed();
            assert_eq!(libc::pthread_attr_init(&raw mut attributes), 0);
            assert_eq!(libc::pthread_attr_setstack(&raw mut attributes, stack, BYTES), 0);
            let (mut thread, mut done) = (std::mem::zeroed(), std::ptr::null_mut());
            let argument = (&raw const compartment).cast_mut().cast();
            assert_eq!(libc::pthread_create(&raw mut thread, &raw const attributes, run, argument), 0);
            assert_eq!(libc::pthread_join(thread, &raw mut done), 0);
            done.addr()
        };
        assert_eq!(done, 1);
    }
    Ok(())
}

/// A thread that is in an address space can not call, and can afterwards.
pub fn beside() -> CaseResult {
    let (dune, compartments) = new()?;
    let compartment = compartments.create(dune)?;
    let space = dune.memory().new_space(SpaceKind::Shared)?;
    {
        // SAFETY: the space has all that the process has.
        let _active = unsafe { space.enter(dune) };
        let refused = compartment.call(dune, sum, &[1, 2, 3, 4]);
        assert_eq!(refused, Err(dune::UserError::InAnotherSpace.into()));
    }
    assert_eq!(compartment.call(dune, sum, &[1, 2, 3, 4])?, 10);
    let refused = dune::snapshot::SnapshotMemory::new(dune, 4096);
    assert!(refused.is_err(), "{refused:?}");
    Ok(())
}

/// Threads switch among spaces while a page that all share is replaced, and replaced again: none sees what was there before the flush.
pub fn of_many_threads() -> CaseResult {
    const ROUNDS: u64 = 60;
    const THREADS: u64 = 3;
    let dune = dune::enter()?;
    let shared = small_pages(dune, 1)?;
    poke(shared.start(), 0);
    let frames = (0..4)
        .map(|_| dune.memory().frames().allocate(PageSize::Size4KiB, dune::memory::Contents::Zeroed))
        .collect::<Result<Vec<_>, _>>()?;
    let place = PageRange::page(VirtAddr::new(NOWHERE));
    let spaces = frames
        .iter()
        .zip(100..)
        .map(|(frame, value)| {
            poke(frame.virtual_address(), value);
            let space = dune.memory().new_space(SpaceKind::Shared)?;
            let (rights, size) = (PagePermissions::READ_WRITE, MapSize::Exactly(PageSize::Size4KiB));
            // SAFETY: nothing lies there, and the space is not in use.
            unsafe { space.page_tables()?.map(place, frame.address(), rights, size)?.ignore() };
            Ok(space)
        })
        .collect::<Result<Vec<_>, Box<dyn std::error::Error>>>()?;
    let more = (0..8)
        .map(|_| dune.memory().frames().allocate(PageSize::Size4KiB, dune::memory::Contents::Zeroed))
        .collect::<Result<Vec<_>, _>>()?;
    // What the page holds since the last flush.
    let current = AtomicU64::new(0);
    let begun = Barrier::new(1 + THREADS as usize);
    thread::scope(|scope| {
        let (spaces, current, begun) = (&spaces, &current, &begun);
        let work = move |thread: u64| {
            let dune = dune::current().expect("a thread of Dune mode");
            begun.wait();
            for turn in thread.. {
                let index = (turn % 4) as usize;
                // SAFETY: each space has all that the process has, and one page more.
                let active = unsafe { spaces[index].enter(dune) };
                let before = current.load(Ordering::SeqCst);
                assert!(peek(shared.start()) >= before, "in space {index}");
                assert_eq!(peek(VirtAddr::new(NOWHERE)), 100 + index as u64);
                drop(active);
                let before = current.load(Ordering::SeqCst);
                assert!(peek(shared.start()) >= before, "in the process's own space");
                if before == ROUNDS {
                    break;
                }
            }
        };
        let workers: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || work(thread))).collect();
        begun.wait();
        for round in 1..=ROUNDS {
            let frame = &more[round as usize % more.len()];
            poke(frame.virtual_address(), round);
            // This thread is in a space of its own, half of the times.
            // SAFETY: as above.
            let active = (round % 2 == 0).then(|| unsafe { spaces[0].enter(dune) });
            let (rights, size) = (PagePermissions::READ_WRITE, PageSize::Size4KiB);
            // SAFETY: plain numbers lie there.
            let flush = dune
                .page_tables()
                .and_then(|mut tables| unsafe { tables.replace(shared, frame.address(), rights, size) });
            flush.expect("replaced").now(dune);
            current.store(round, Ordering::SeqCst);
            drop(active);
            assert_eq!(peek(shared.start()), round);
            thread::yield_now();
        }
        workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
    });
    Ok(())
}

/// A space is edited between two threads' uses, without a flush: whoever loads it next sees the edit, whose caches know it or not.
pub fn handed_over() -> CaseResult {
    let dune = dune::enter()?;
    let frames = (1..=2u64)
        .map(|value| {
            let frame =
                dune.memory().frames().allocate(PageSize::Size4KiB, dune::memory::Contents::Zeroed)?;
            poke(frame.virtual_address(), value);
            Ok(frame)
        })
        .collect::<Result<Vec<_>, Box<dyn std::error::Error>>>()?;
    let place = PageRange::page(VirtAddr::new(NOWHERE));
    let space = dune.memory().new_space(SpaceKind::Shared)?;
    let (rights, size) = (PagePermissions::READ, MapSize::Exactly(PageSize::Size4KiB));
    // SAFETY: nothing lies there, and the space is not in use.
    unsafe { space.page_tables()?.map(place, frames[0].address(), rights, size)?.ignore() };
    thread::scope(|scope| {
        let space = &space;
        let look = move || {
            let dune = dune::current().expect("a thread of Dune mode");
            // SAFETY: the space has all that the process has.
            let _active = unsafe { space.enter(dune) };
            peek(VirtAddr::new(NOWHERE))
        };
        let (ask, questions) = mpsc::channel::<()>();
        let (answer, answers) = mpsc::channel();
        let other = scope.spawn(move || {
            while questions.recv().is_ok() {
                answer.send(look()).expect("somebody listens");
            }
        });
        for round in 0..40u64 {
            let expected = 1 + round % 2;
            // The other thread, this one, or both, in either order.
            if round % 3 != 0 {
                ask.send(()).expect("it listens");
                assert_eq!(answers.recv(), Ok(expected), "round {round}");
            }
            if round % 3 != 1 {
                assert_eq!(look(), expected, "round {round}");
            }
            let to = frames[1 - round as usize % 2].address();
            // SAFETY: nothing of Rust's lies there, and the space is not in use.
            let flush = space.page_tables().and_then(|mut tables| unsafe {
                tables.replace(place, to, PagePermissions::READ, PageSize::Size4KiB)
            });
            // SAFETY: as above.
            unsafe { flush.expect("replaced").ignore() };
        }
        drop(ask);
        other.join().expect("no panic");
    });
    Ok(())
}

/// Parts of one memory with rights of their own, which are joined, cut, and taken away.
pub fn by_parts() -> CaseResult {
    const PAGE: u64 = 4096;
    const READ: PagePermissions = PagePermissions::READ;
    const BOTH: PagePermissions = PagePermissions::READ_WRITE;
    const NONE: PagePermissions = PagePermissions::empty();
    let (dune, compartments) = new()?;
    let compartment = compartments.create(dune)?;
    // With large pages, where Linux gives such.
    for pages in [8u64, 1024, 9 << 10] {
        let memory = compartments.memory(dune, pages * PAGE)?;
        let mut expected = vec![NONE; pages as usize];
        let steps = [
            (1..3, READ),
            (5..7, BOTH),
            (0..8, READ),
            (2..6, BOTH),
            (3..4, NONE),
            (0..pages, BOTH),
            (pages - 2..pages - 1, READ),
            (1..pages - 1, NONE),
            (0..pages, READ),
            (4..5, BOTH),
            (0..pages, NONE),
        ];
        for (range, permissions) in steps {
            // Any byte of a page stands for it.
            let bytes = range.start * PAGE + 17..range.end * PAGE - 5;
            compartment.grant_part(dune, &memory, bytes, permissions)?;
            expected[range.start as usize..range.end as usize].fill(permissions);
            for page in (0..8).chain([pages - 2, pages - 1]) {
                let address = memory.start().as_u64() + page * PAGE;
                let has = expected[page as usize];
                assert_eq!(
                    compartment.call(dune, read, &address).is_ok(),
                    has.contains(READ),
                    "{page} {has:?}"
                );
                assert_eq!(compartment.call(dune, write, &address).is_ok(), has == BOTH, "{page} {has:?}");
            }
        }
        // What was written to is gone for whoever gets it next.
        let start = memory.start();
        drop(memory);
        let memory = compartments.memory(dune, pages * PAGE)?;
        assert_eq!(memory.start(), start);
        for page in (0..8).chain([pages - 2, pages - 1]) {
            let mut bytes = [1; PAGE as usize];
            memory.read(page * PAGE, &mut bytes)?;
            assert_eq!(bytes, [0; PAGE as usize], "page {page} of {pages}");
        }
        let refused = compartment.grant_part(dune, &memory, 0..pages * PAGE + 1, READ);
        assert!(matches!(refused, Err(UserSpaceError::Outside { .. })), "{refused:?}");
    }
    Ok(())
}
