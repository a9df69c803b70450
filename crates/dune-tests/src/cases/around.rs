//! Fault-around: fresh memory that is written in order comes 2 MiB at a time, anything else page by page, and nothing
//! that a program can see changes but its speed.

use std::sync::atomic::{AtomicU64, Ordering};

use dune::memory::{PagePermissions, SpaceKind};
use dune::{Config, Dune, FaultAround, TrapFrame, TrapOutcome, Vector};
use libc::{PROT_NONE, PROT_READ, PROT_WRITE};
use x86_64::VirtAddr;

use crate::case::{Case, CaseResult, Ending};
use crate::probe;

pub const CASES: &[Case] = &[
    Case::new("around::writing_in_order_takes_few_faults", in_order),
    Case::new("around::isolated_touches_get_one_page", isolated),
    Case::new("around::reading_populates_nothing", reading),
    Case::new("around::memory_given_back_reads_zero", given_back),
    Case::new("around::fork_copies", fork_copies),
    Case::new("around::a_hole_is_respected", hole),
    Case::new("around::a_hole_dies", hole_dies)
        .ends(Ending::Signal(libc::SIGSEGV, &["#PF", "CAUSED_BY_WRITE"])),
    Case::new("around::replaced_memory_is_left_alone", replaced),
    Case::new("around::refused_huge_pages_come_one_by_one", refused),
    Case::new("around::handlers_see_no_fault_more", handlers),
    Case::new("around::linux_may_touch_first", linux_first),
    Case::new("around::edits_find_what_was_mapped", edits),
    Case::new("around::off_is_off", off),
];

const PAGE: u64 = 4096;
const HUGE: u64 = 2 << 20;
const PAGES_OF_HUGE: u64 = HUGE / PAGE;
/// What has to be written before memory is populated ahead.
const LEAD: u64 = 16;
const READ_WRITE: i32 = PROT_READ | PROT_WRITE;

/// What Linux does by itself about huge pages.
const SETTING: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

fn enter() -> Result<Dune, dune::EnterError> {
    if std::env::var_os("DUNE_MACHINE").is_some() {
        // On a machine of ours Linux leaves it to programs, so that what comes in huge pages is Dune's doing.
        std::fs::write(SETTING, "madvise").expect("the tests are root there");
        // Huge pages are to be had.
        let _ = std::fs::write("/proc/sys/vm/compact_memory", "1");
    }
    Config::new().fault_around(FaultAround::Always).enter()
}

/// `count` times 2 MiB of fresh memory, aligned. What Linux would back by huge pages unasked is told not to be,
/// unless `huge`.
fn fresh(count: u64, huge: bool) -> u64 {
    const PLACE: u64 = 0x2a00_0000_0000;
    let start = probe::map(PLACE, count * HUGE, READ_WRITE, libc::MAP_NORESERVE);
    assert_eq!(start % HUGE, 0);
    let unasked = std::fs::read_to_string(SETTING).is_ok_and(|words| words.contains("[always]"));
    if unasked && !huge {
        advise(start, count * HUGE, libc::MADV_NOHUGEPAGE);
    }
    start
}

fn advise(start: u64, length: u64, advice: i32) {
    let result = probe::syscall(libc::SYS_madvise as u64, [start, length, advice as u64, 0, 0, 0]);
    assert_eq!(result, 0, "madvise {advice}");
}

fn word(start: u64, page: u64) -> VirtAddr {
    VirtAddr::new(start + page * PAGE)
}

fn write_in_order(start: u64, pages: std::ops::Range<u64>) {
    pages.for_each(|page| probe::poke(word(start, page), page + 1));
}

fn page_faults(dune: Dune) -> u64 {
    dune.counters().traps(Vector::PAGE_FAULT)
}

fn in_order() -> CaseResult {
    let dune = enter()?;
    let start = fresh(4, true);
    let pages = 4 * PAGES_OF_HUGE;
    let before = dune.counters();
    write_in_order(start, 0..pages);
    let after = dune.counters();
    let traps = after.traps(Vector::PAGE_FAULT) - before.traps(Vector::PAGE_FAULT);
    assert_eq!((after.populated_ahead - before.populated_ahead, traps), (4, 4));
    let faults = |counters: &dune::Counters| counters.second_level_faults.ok_or("not counted here");
    let second = faults(&after)? - faults(&before)?;
    assert!(second < 3 * LEAD, "{second} second-level faults for {pages} pages");
    for page in 0..pages {
        assert_eq!(probe::peek(word(start, page)), page + 1);
        assert_eq!(probe::peek(word(start, page) + 8), 0);
    }
    Ok(())
}

fn isolated() -> CaseResult {
    let dune = enter()?;
    let start = fresh(8, false);
    let before = dune.counters().populated_ahead;
    // The page that is watched first, and one in each 2 MiB.
    let touched: Vec<u64> =
        (0..8).map(|huge| huge * PAGES_OF_HUGE + if huge == 0 { LEAD } else { huge * 31 }).collect();
    for &page in &touched {
        probe::poke(word(start, page), 1);
    }
    assert_eq!(probe::resident(start, 8 * PAGES_OF_HUGE), touched.len());
    assert_eq!(dune.counters().populated_ahead, before);
    assert!(page_faults(dune) <= 1);
    Ok(())
}

fn reading() -> CaseResult {
    let dune = enter()?;
    let start = fresh(2, false);
    for page in 0..2 * PAGES_OF_HUGE {
        assert_eq!(probe::peek(word(start, page)), 0);
    }
    assert_eq!(dune.counters().populated_ahead, 0);
    Ok(())
}

fn given_back() -> CaseResult {
    let dune = enter()?;
    let start = fresh(2, true);
    write_in_order(start, 0..2 * PAGES_OF_HUGE);
    assert_eq!(dune.counters().populated_ahead, 2);
    advise(start + 100 * PAGE, 600 * PAGE, libc::MADV_DONTNEED);
    for page in 0..2 * PAGES_OF_HUGE {
        let expected = if (100..700).contains(&page) { 0 } else { page + 1 };
        assert_eq!(probe::peek(word(start, page)), expected, "page {page}");
    }
    Ok(())
}

fn fork_copies() -> CaseResult {
    let dune = enter()?;
    let start = fresh(3, true);
    // The third 2 MiB is armed when the child is made: both go on from there.
    write_in_order(start, 0..2 * PAGES_OF_HUGE);
    assert_eq!(dune.counters().populated_ahead, 2);
    // SAFETY: the child checks, writes and exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let kept = (0..2 * PAGES_OF_HUGE).all(|page| probe::peek(word(start, page)) == page + 1);
        (0..3 * PAGES_OF_HUGE).for_each(|page| probe::poke(word(start, page), 7));
        let written = (0..3 * PAGES_OF_HUGE).all(|page| probe::peek(word(start, page)) == 7);
        // SAFETY: ends the child.
        unsafe { libc::_exit(if kept && written { 0 } else { 1 }) }
    }
    let mut status = 0;
    // SAFETY: waits for our own child.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    assert!((0..2 * PAGES_OF_HUGE).all(|page| probe::peek(word(start, page)) == page + 1));
    assert_eq!(probe::peek(word(start, 2 * PAGES_OF_HUGE)), 0);
    Ok(())
}

/// Memory whose second 2 MiB have a page without rights, written in order up to it.
fn with_hole() -> Result<(Dune, u64, u64), Box<dyn std::error::Error>> {
    let dune = enter()?;
    let start = fresh(3, true);
    let hole = PAGES_OF_HUGE + 100;
    let arguments = [word(start, hole).as_u64(), PAGE, PROT_NONE as u64, 0, 0, 0];
    assert_eq!(probe::syscall(libc::SYS_mprotect as u64, arguments), 0);
    write_in_order(start, 0..hole);
    Ok((dune, start, hole))
}

fn hole() -> CaseResult {
    let (dune, start, hole) = with_hole()?;
    assert_eq!(dune.counters().populated_ahead, 1, "the 2 MiB with the hole are left alone");
    write_in_order(start, hole + 1..3 * PAGES_OF_HUGE);
    let leaf = dune.page_tables()?.lookup(word(start, hole));
    assert!(leaf.is_none_or(|leaf| leaf.permissions.is_empty()), "{leaf:?}");
    assert_eq!(probe::resident(word(start, hole).as_u64(), 1), 0);
    let arguments = [word(start, hole).as_u64(), PAGE, PROT_READ as u64, 0, 0, 0];
    assert_eq!(probe::syscall(libc::SYS_mprotect as u64, arguments), 0);
    assert_eq!(probe::peek(word(start, hole)), 0);
    Ok(())
}

fn hole_dies() -> CaseResult {
    let (_, start, hole) = with_hole()?;
    probe::poke(word(start, hole), 1);
    probe::fail("a page without rights was written to".to_string())
}

/// A mapping that takes the place of armed memory is not written to, and nothing is populated there.
fn replaced() -> CaseResult {
    let dune = enter()?;
    let start = fresh(3, false);
    write_in_order(start, 0..PAGES_OF_HUGE / 64);
    let shared = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    let arguments = [start, 3 * HUGE, READ_WRITE as u64, shared as u64, u64::MAX, 0];
    assert_eq!(probe::syscall(libc::SYS_mmap as u64, arguments), start as i64);
    for page in (0..3 * PAGES_OF_HUGE).step_by(8) {
        assert_eq!(probe::peek(word(start, page)), 0);
        probe::poke(word(start, page), 1);
    }
    assert_eq!((page_faults(dune), dune.counters().populated_ahead), (0, 0));
    Ok(())
}

fn refused() -> CaseResult {
    let dune = enter()?;
    let start = fresh(4, true);
    advise(start, 4 * HUGE, libc::MADV_NOHUGEPAGE);
    write_in_order(start, 0..PAGES_OF_HUGE);
    assert_eq!(dune.counters().populated_ahead, 0);
    assert_eq!(
        probe::resident(start, 4 * PAGES_OF_HUGE),
        PAGES_OF_HUGE as usize,
        "no page but those written to"
    );
    write_in_order(start, PAGES_OF_HUGE..4 * PAGES_OF_HUGE);
    assert!((0..4 * PAGES_OF_HUGE).all(|page| probe::peek(word(start, page)) == page + 1));
    assert_eq!(page_faults(dune), 1);
    Ok(())
}

static SEEN: AtomicU64 = AtomicU64::new(0);

fn count(_: Dune, _: &mut TrapFrame) -> TrapOutcome {
    SEEN.fetch_add(1, Ordering::Relaxed);
    TrapOutcome::Unhandled
}

fn handlers() -> CaseResult {
    let dune = enter()?;
    let start = fresh(4, false);
    probe::handle(dune, Vector::PAGE_FAULT, count);
    let later = probe::map(0, 4 * HUGE, READ_WRITE, 0);
    for memory in [start, later] {
        write_in_order(memory, 0..3 * PAGES_OF_HUGE);
    }
    assert_eq!((SEEN.load(Ordering::Relaxed), page_faults(dune)), (0, 0));
    dune.clear_handler(Vector::PAGE_FAULT);
    let start = probe::map(0, 4 * HUGE, READ_WRITE, 0);
    write_in_order(start, 0..4 * PAGES_OF_HUGE);
    assert!(dune.counters().populated_ahead >= 2, "without a handler memory is populated ahead again");
    // A copy of the tables must not have armed entries either.
    let start = probe::map(0, 4 * HUGE, READ_WRITE, 0);
    let _space = dune.memory().new_space(SpaceKind::Copied)?;
    let before = page_faults(dune);
    write_in_order(start, 0..4 * PAGES_OF_HUGE);
    assert_eq!(page_faults(dune), before);
    Ok(())
}

/// System calls write to memory whether it is armed or not.
fn linux_first() -> CaseResult {
    let dune = enter()?;
    let start = fresh(2, false);
    let zero = std::fs::File::open("/dev/zero")?;
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&zero) as u64;
    let result = probe::syscall(libc::SYS_read as u64, [descriptor, start, 2 * HUGE, 0, 0, 0]);
    assert_eq!(result, 2 * HUGE as i64);
    write_in_order(start, 0..2 * PAGES_OF_HUGE);
    assert!((0..2 * PAGES_OF_HUGE).all(|page| probe::peek(word(start, page)) == page + 1));
    assert!(page_faults(dune) <= 2);
    Ok(())
}

/// The page-table API shows armed pages with their rights, and edits them as any others.
fn edits() -> CaseResult {
    let dune = enter()?;
    let start = fresh(2, false);
    let watched = dune::memory::PageRange::page(word(start, LEAD));
    let leaf = dune.page_tables()?.lookup(watched.start()).ok_or("mapped")?;
    assert_eq!(leaf.permissions, PagePermissions::READ_WRITE);
    probe::protect(dune, watched, PagePermissions::READ)?;
    assert_eq!(probe::peek(watched.start()), 0);
    probe::protect(dune, watched, PagePermissions::READ_WRITE)?;
    write_in_order(start, 0..2 * PAGES_OF_HUGE);
    assert_eq!(page_faults(dune), 0, "the edit was the end of the stream");
    Ok(())
}

fn off() -> CaseResult {
    let dune = Config::new().fault_around(FaultAround::Off).enter()?;
    let start = fresh(2, false);
    write_in_order(start, 0..2 * PAGES_OF_HUGE);
    assert_eq!((page_faults(dune), dune.counters().populated_ahead), (0, 0));
    Ok(())
}
