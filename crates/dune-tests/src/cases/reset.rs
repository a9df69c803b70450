//! Back to the clean image: no byte that a run has written is there for the next.

use std::thread;

use dune::memory::PagePermissions;
use dune::user::{UserContext, UserMemory};
use dune::{Config, Dune, Threads};
use dune_snapshot::Checkpoint;

use crate::case::{Case, CaseResult};
use crate::probe::{self, syscall};
use crate::ring3::{self, is_call, ring3_code};

pub const CASES: &[Case] = &[
    Case::new("reset::no_byte_survives", no_byte_survives),
    Case::new("reset::what_linux_wrote_does_not_survive", what_linux_wrote),
    Case::new("reset::of_pages_that_have_become_read_only", read_only_meanwhile),
    Case::new("reset::by_threads_with_memory_of_their_own", by_threads),
    Case::new("reset::of_large_pages", of_large_pages),
];

// Stores RAX at RDI, RCX times, each RSI bytes further.
ring3_code!(scatter, "2:", "mov [rdi], rax", "add rdi, rsi", "dec rcx", "jnz 2b", "syscall", "ud2");

const READ_WRITE: PagePermissions = PagePermissions::READ_WRITE;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A memory of so many pages, each with bytes of its own, and a context for [`scatter`].
fn instance(dune: Dune, pages: u64) -> Result<(UserMemory, UserContext)> {
    let memory = UserMemory::new(dune, pages * 4096, READ_WRITE)?;
    for page in 0..pages {
        memory.write(memory.start() + page * 4096, &[page as u8; 4096])?;
    }
    Ok((memory, ring3::context(dune, scatter)?))
}

fn content(memory: &UserMemory) -> Result<Vec<u8>> {
    let mut all = vec![0; memory.range().bytes() as usize];
    memory.read(memory.start(), &mut all)?;
    Ok(all)
}

fn scattered(dune: Dune, context: &mut UserContext, (at, step, count): (u64, u64, u64)) -> Result<()> {
    (context.registers.rdi, context.registers.rsi, context.registers.rcx) = (at, step, count);
    context.registers.rax = 0x5a5a_5a5a_5a5a_5a5a;
    if is_call(ring3::run(dune, context)?) { Ok(()) } else { probe::fail("no system call".into()) }
}

fn no_byte_survives() -> CaseResult {
    let dune = dune::enter()?;
    const PAGES: u64 = 300;
    let (memory, mut context) = instance(dune, PAGES)?;
    let clean = Checkpoint::take(dune, [&memory], &context)?;
    assert_eq!(clean.bytes(), PAGES * 4096);
    let image = content(&memory)?;
    let start = memory.start().as_u64();
    assert_eq!(clean.reset(dune, &mut context)?, 0, "nothing has been written");
    let mut random = 0x2545_f491_4f6c_dd1du64;
    for round in 0..50 {
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let first = next(PAGES);
        let (step, most) = (1 + next(5), 1 + next(20));
        let count = most.min((PAGES - first).div_ceil(step));
        // Some across two pages.
        let offset =
            if next(2) == 0 || first + (count - 1) * step + 1 == PAGES { 8 * next(511) } else { 4092 };
        scattered(dune, &mut context, (start + first * 4096 + offset, step * 4096, count))?;
        assert!(content(&memory)? != image);
        let forwarded = dune.counters().forwarded_syscalls;
        let pages = clean.reset(dune, &mut context)?;
        assert_eq!(dune.counters().forwarded_syscalls, forwarded, "a system call in round {round}");
        let touched = if offset == 4092 { if step == 1 { count + 1 } else { 2 * count } } else { count };
        assert_eq!(pages, touched, "round {round}: {first} {step} {count} {offset}");
        assert!(content(&memory)? == image, "a byte has survived round {round}");
        assert_eq!(context.registers, clean.context().registers);
    }
    Ok(())
}

fn what_linux_wrote() -> CaseResult {
    let dune = dune::enter()?;
    let (memory, mut context) = instance(dune, 8)?;
    let image = content(&memory)?;
    let clean = Checkpoint::take(dune, [&memory], &context)?;
    let start = memory.start().as_u64();
    let got = syscall(libc::SYS_getrandom as u64, [start + 4090, 10, 0, 0, 0, 0]);
    assert_eq!(got, 10);
    memory.write(memory.start() + 5 * 4096u64, b"by the supervisor")?;
    assert!(content(&memory)? != image);
    assert_eq!(clean.reset(dune, &mut context)?, 3);
    assert!(content(&memory)? == image);
    assert_eq!(clean.reset(dune, &mut context)?, 0);
    Ok(())
}

fn read_only_meanwhile() -> CaseResult {
    let dune = dune::enter()?;
    let (memory, mut context) = instance(dune, 8)?;
    let image = content(&memory)?;
    let clean = Checkpoint::take(dune, [&memory], &context)?;
    scattered(dune, &mut context, (memory.start().as_u64() + 4096, 4096, 2))?;
    memory.protect(dune, probe::page(memory.range(), 1), PagePermissions::READ)?;
    clean.reset(dune, &mut context)?;
    assert!(content(&memory)? == image);
    memory.protect(dune, probe::page(memory.range(), 1), READ_WRITE)?;
    scattered(dune, &mut context, (memory.start().as_u64() + 4096, 4096, 2))?;
    clean.reset(dune, &mut context)?;
    assert!(content(&memory)? == image);
    Ok(())
}

/// Each resets its own: no thread interrupts another, and none loses a mark of another's.
fn by_threads() -> CaseResult {
    let dune = Config::default().threads(Threads::DuneMode).enter()?;
    let before = dune.counters().shootdowns;
    let worker = |seed: u64| {
        move || {
            let dune = dune::current().ok_or("not in Dune mode").unwrap();
            let (memory, mut context) = instance(dune, 32).unwrap();
            let image = content(&memory).unwrap();
            let clean = Checkpoint::take(dune, [&memory], &context).unwrap();
            let ready = dune.counters().shootdowns;
            for round in 0..200u64 {
                let first = (round * 7 + seed) % 28;
                scattered(dune, &mut context, (memory.start().as_u64() + first * 4096, 4096, 4)).unwrap();
                assert_eq!(clean.reset(dune, &mut context).unwrap(), 4);
            }
            assert!(content(&memory).unwrap() == image);
            ready
        }
    };
    let workers: Vec<_> = (0..3).map(|seed| thread::spawn(worker(seed))).collect();
    for worker in workers {
        worker.join().map_err(|_| "a thread failed")?;
    }
    let after = dune.counters().shootdowns;
    assert!(after - before < 300, "{} shoot-downs for 600 resets", after - before);
    Ok(())
}

fn of_large_pages() -> CaseResult {
    let dune = dune::enter()?;
    const PAGES: u64 = 3 * 512;
    let (memory, mut context) = instance(dune, PAGES)?;
    let clean = Checkpoint::take(dune, [&memory], &context)?;
    let image = content(&memory)?;
    scattered(dune, &mut context, (memory.start().as_u64(), 256 * 4096, 6))?;
    assert_eq!(clean.reset(dune, &mut context)?, 6, "of pages of 4 KiB");
    assert!(content(&memory)? == image);
    Ok(())
}
