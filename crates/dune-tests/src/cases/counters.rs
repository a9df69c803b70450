//! The counters agree with what was done.

use std::arch::asm;

use dune::memory::{Flush, tlb};
use dune::{Dune, TrapOutcome, Vector};
use x86_64::VirtAddr;

use crate::case::{Case, CaseResult};
use crate::probe;

pub const CASES: &[Case] = &[
    Case::new("counters::forwarded_calls_are_exits", forwarded_calls),
    Case::new("counters::traps_by_vector", traps_by_vector),
    Case::new("counters::flushes", flushes),
    Case::new("counters::interrupts_are_exits", interrupts),
    Case::new("counters::second_level_faults", second_level_faults),
    Case::new("counters::reading_them_counts_nothing", reading),
];

fn forwarded_calls() -> CaseResult {
    let dune = dune::enter()?;
    let before = dune.counters();
    for _ in 0..123 {
        probe::getpid();
    }
    let after = dune.counters();
    assert_eq!(after.forwarded_syscalls - before.forwarded_syscalls, 123);
    assert_eq!(after.exits() - before.exits(), 123);
    assert_eq!(after.intercepted_syscalls, 0);
    Ok(())
}

fn int3() {
    // SAFETY: the cases handle it.
    unsafe { asm!("int3") };
}

fn traps_by_vector() -> CaseResult {
    let dune = dune::enter()?;
    probe::handle(dune, Vector::BREAKPOINT, |_, _| TrapOutcome::Resume);
    probe::handle_number(dune, 77, |_, _| TrapOutcome::Resume)?;
    for _ in 0..10 {
        int3();
    }
    // SAFETY: handled.
    unsafe { asm!("int 77") };
    let counters = dune.counters();
    let vector = |number| Vector::new(number).expect("below 256");
    assert_eq!(
        (counters.traps(vector(3)), counters.traps(vector(77)), counters.traps(vector(78))),
        (10, 1, 0)
    );
    assert_eq!((counters.all_traps(), counters.exits()), (11, 0), "a trap is no exit");
    assert!(format!("{counters:?}").contains("#BP"));
    Ok(())
}

fn flushes() -> CaseResult {
    let dune = dune::enter()?;
    let counts = |dune: Dune| {
        let counters = dune.counters();
        (counters.page_flushes, counters.context_flushes, counters.full_flushes)
    };
    let (page, context, full) = counts(dune);
    tlb::flush_page(dune, VirtAddr::new(0x1000));
    tlb::flush_page(dune, VirtAddr::new(0x2000));
    tlb::flush_current(dune);
    tlb::flush_all(dune);
    Flush::none().now(dune);
    Flush::everything().now(dune);
    assert_eq!(counts(dune), (page + 2, context + 2, full + 1));
    Ok(())
}

fn interrupts() -> CaseResult {
    let dune = dune::enter()?;
    probe::handle_number(dune, 100, |_, _| TrapOutcome::Resume)?;
    let before = dune.counters();
    dune.raise_interrupt(Vector::new(100).ok_or("below 256")?)?;
    let after = dune.counters();
    assert_eq!(
        (after.other_requests - before.other_requests, after.all_traps() - before.all_traps()),
        (1, 1)
    );
    assert!(after.interrupt_windows - before.interrupt_windows <= 1);
    Ok(())
}

fn second_level_faults() -> CaseResult {
    const PAGES: u64 = 64;
    let dune = dune::enter()?;
    let fresh = probe::map(0, PAGES * 4096, libc::PROT_READ | libc::PROT_WRITE, 0);
    assert_eq!(
        probe::syscall(libc::SYS_madvise as u64, [fresh, PAGES * 4096, 15, 0, 0, 0]),
        0,
        "no huge pages"
    );
    let before = dune.counters().second_level_faults.ok_or("this kernel does not count them")?;
    for page in 0..PAGES {
        probe::poke(VirtAddr::new(fresh + page * 4096), 1);
    }
    let after = dune.counters().second_level_faults.ok_or("as before")?;
    assert!((PAGES..2 * PAGES).contains(&(after - before)), "{} faults", after - before);
    Ok(())
}

fn reading() -> CaseResult {
    let dune = dune::enter()?;
    let first = dune.counters();
    for _ in 0..10 {
        dune.counters();
    }
    assert_eq!(dune.counters().exits(), first.exits());
    Ok(())
}
