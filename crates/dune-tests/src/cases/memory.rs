//! Page tables: protection, sizes, aliases, marks, batches, and what is refused.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dune::Dune;
use dune::memory::{
    Contents, EditError, Flush, MapSize, MergeObstacle, PagePermissions, PageRange, PageSize, RangeError,
};
use dune::{Config, FaultAround, TrapFrame, TrapOutcome, Vector};
use x86_64::{PhysAddr, VirtAddr};

use crate::case::{Case, CaseResult, Skip};
use crate::probe::{self, catch, page, peek, poke, protect, small_pages};

pub const CASES: &[Case] = &[
    Case::new("memory::fault_repaired_by_a_handler", fault_repaired_by_a_handler),
    Case::new("memory::unmap_and_map_again", unmap_and_map_again),
    Case::new("memory::read_only_holds_at_ring_0", read_only_holds_at_ring_0),
    Case::new("memory::split_and_merge_2_mib", split_and_merge_2_mib),
    Case::new("memory::split_and_merge_1_gib", split_and_merge_1_gib),
    Case::new("memory::alias_shows_the_same_memory", alias_shows_the_same_memory),
    Case::new("memory::replace_changes_the_frame", replace_changes_the_frame),
    Case::new("memory::huge_frame_is_mapped", huge_frame_is_mapped),
    Case::new("memory::dirty_pages_are_harvested", dirty_pages_are_harvested),
    Case::new("memory::accessed_pages_are_harvested", accessed_pages_are_harvested),
    Case::new("memory::batch_is_one_debt", batch_is_one_debt),
    Case::new("memory::misaligned_huge_page_is_typed", misaligned_huge_page),
    Case::new("memory::edits_outside_every_window_are_typed", edits_outside_windows),
    Case::new("memory::other_refusals_are_typed", other_refusals),
    Case::new("memory::handler_is_told_that_the_tables_are_busy", tables_are_busy),
    Case::new("memory::many_ranges_at_once", many_ranges_at_once),
    Case::new("memory::busy_tables_are_waited_for", busy_tables_are_waited_for),
    Case::new("memory::user_bit_in_upper_levels", user_bit_in_upper_levels),
];

const MIB2: u64 = 2 << 20;
const GIB: u64 = 1 << 30;
const NOWHERE: u64 = 0x1000_0000_0000;

#[unsafe(naked)]
unsafe extern "C" fn store(_: u64) {
    std::arch::naked_asm!("mov byte ptr [rdi], 1", "ret")
}
#[unsafe(naked)]
unsafe extern "C" fn load(_: u64) {
    std::arch::naked_asm!("mov al, [rdi]", "ret")
}

fn repair(dune: Dune, frame: &mut TrapFrame) -> TrapOutcome {
    match dune.memory().protect_now(dune, PageRange::page(frame.fault_address()), PagePermissions::READ_WRITE)
    {
        Ok(()) => TrapOutcome::Resume,
        Err(_) => TrapOutcome::Unhandled,
    }
}

fn fault_repaired_by_a_handler() -> CaseResult {
    const PAGES: u64 = 40;
    let dune = dune::enter()?;
    let range = small_pages(dune, PAGES as usize)?;
    probe::handle(dune, Vector::PAGE_FAULT, repair);
    protect(dune, range, PagePermissions::READ)?;
    for index in 0..PAGES {
        poke(page(range, index).start() + 8, index);
    }
    for index in 0..PAGES {
        assert_eq!(peek(page(range, index).start() + 8), index);
    }
    assert_eq!(dune.counters().traps(Vector::PAGE_FAULT), PAGES);
    Ok(())
}

fn unmap_and_map_again() -> CaseResult {
    let dune = dune::enter()?;
    let range = small_pages(dune, 3)?;
    poke(range.start() + 4096, 17);
    let middle = page(range, 1);
    dune.page_tables()?.unmap(middle)?.now(dune);
    assert_eq!(dune.page_tables()?.lookup(middle.start()), None);
    assert!(catch(dune, load, middle.start().as_u64()).is_some_and(|caught| caught.error_code == 0));
    assert_eq!(catch(dune, store, range.start().as_u64()), None, "its neighbours stay");
    assert_eq!(catch(dune, store, range.start().as_u64() + 8192), None);
    // Linux sees it all the time.
    assert_eq!(probe::syscall(libc::SYS_madvise as u64, [middle.start().as_u64(), 4096, 21, 0, 0, 0]), 0);
    // SAFETY: nothing else was mapped there.
    unsafe { dune.page_tables()?.remap(middle, PagePermissions::READ)? }.now(dune);
    assert_eq!(peek(middle.start()), 17, "its contents stay");
    assert!(catch(dune, store, middle.start().as_u64()).is_some_and(|caught| caught.error_code == 3));
    Ok(())
}

/// CR0.WP: the supervisor's writes are checked, too.
fn read_only_holds_at_ring_0() -> CaseResult {
    let dune = dune::enter()?;
    let range = small_pages(dune, 1)?;
    poke(range.start(), 5);
    for permissions in [
        PagePermissions::READ,
        PagePermissions::READ | PagePermissions::USER,
        PagePermissions::READ | PagePermissions::EXECUTE,
    ] {
        // SAFETY: nobody writes there.
        unsafe { dune.page_tables()?.protect_for_user(range, permissions)? }.now(dune);
        let caught = catch(dune, store, range.start().as_u64());
        assert!(
            caught.is_some_and(|caught| caught.vector == 14 && caught.error_code & !4 == 3),
            "{permissions:?}"
        );
        assert_eq!(peek(range.start()), 5);
    }
    Ok(())
}

/// The size with which `address` is mapped.
fn size_at(dune: Dune, address: VirtAddr) -> Option<PageSize> {
    dune.page_tables().ok()?.lookup(address).map(|leaf| leaf.size)
}

/// Enters where the pages of fresh memory are as large as fits: watching for fault-around divides one.
fn enter_with_large_pages() -> Result<Dune, dune::EnterError> {
    Config::new().fault_around(FaultAround::Off).enter()
}

fn split_and_merge_2_mib() -> CaseResult {
    let dune = enter_with_large_pages()?;
    let start = probe::aligned(MIB2, MIB2);
    dune.page_tables()?.split(start, PageSize::Size2MiB)?.now(dune);
    assert_eq!(size_at(dune, start), Some(PageSize::Size2MiB));
    for index in [0, 1, 511] {
        poke(start + index * 4096, 1000 + index);
    }
    let frame = dune.page_tables()?.translate(start);
    protect(dune, PageRange::page(start + 4096u64), PagePermissions::READ)?;
    assert_eq!(size_at(dune, start), Some(PageSize::Size4KiB));
    assert!(catch(dune, store, start.as_u64() + 4096 + 8).is_some());
    assert_eq!(catch(dune, store, start.as_u64() + 8), None);
    let error = dune.page_tables()?.merge(start, PageSize::Size2MiB).err();
    let expected = EditError::NotMergeable {
        address: start + 4096u64,
        size: PageSize::Size2MiB,
        reason: MergeObstacle::Permissions,
    };
    assert_eq!(error, Some(expected));
    protect(dune, PageRange::page(start + 4096u64), PagePermissions::READ_WRITE)?;
    dune.page_tables()?.merge(start, PageSize::Size2MiB)?.now(dune);
    assert_eq!(size_at(dune, start), Some(PageSize::Size2MiB));
    assert_eq!(dune.page_tables()?.translate(start), frame);
    for index in [1, 511] {
        assert_eq!(peek(start + index * 4096), 1000 + index);
    }
    assert_eq!(catch(dune, store, start.as_u64() + 4096 + 8), None);
    Ok(())
}

fn split_and_merge_1_gib() -> CaseResult {
    let dune = enter_with_large_pages()?;
    let start = probe::aligned(GIB, GIB);
    if !dune.memory().features().has_giant_pages() {
        let error = dune.page_tables()?.merge(start, PageSize::Size1GiB).err();
        assert_eq!(error, Some(EditError::Unsupported { size: PageSize::Size1GiB }));
        return Err(Skip("this CPU has no pages of 1 GiB".into()).into());
    }
    assert_eq!(size_at(dune, start), Some(PageSize::Size1GiB));
    poke(start + MIB2, 7);
    poke(start + (GIB - 8), 8);
    dune.page_tables()?.split(start + MIB2, PageSize::Size4KiB)?.now(dune);
    assert_eq!(size_at(dune, start + MIB2), Some(PageSize::Size4KiB));
    assert_eq!(size_at(dune, start), Some(PageSize::Size2MiB));
    assert_eq!((peek(start + MIB2), peek(start + (GIB - 8))), (7, 8));
    let error = dune.page_tables()?.merge(start, PageSize::Size1GiB).err();
    assert!(
        matches!(error, Some(EditError::NotMergeable { reason: MergeObstacle::Divided, .. })),
        "{error:?}"
    );
    dune.page_tables()?.merge(start + MIB2, PageSize::Size2MiB)?.now(dune);
    dune.page_tables()?.merge(start, PageSize::Size1GiB)?.now(dune);
    assert_eq!(size_at(dune, start), Some(PageSize::Size1GiB));
    assert_eq!((peek(start + MIB2), peek(start + (GIB - 8))), (7, 8));
    Ok(())
}

fn alias_shows_the_same_memory() -> CaseResult {
    let dune = dune::enter()?;
    let range = small_pages(dune, 2)?;
    let new = PageRange::new(VirtAddr::new(NOWHERE), 8192)?;
    // SAFETY: nothing lies there, and the memory is plain numbers.
    unsafe { dune.page_tables()?.alias(new, range, PagePermissions::READ)? }.now(dune);
    poke(range.start() + 4096 + 16, 99);
    assert_eq!(peek(new.start() + 4096 + 16), 99);
    assert!(catch(dune, store, NOWHERE).is_some(), "its permissions are its own");
    dune.page_tables()?.unmap(new)?.now(dune);
    assert!(catch(dune, load, NOWHERE).is_some());
    assert_eq!(peek(range.start() + 4096 + 16), 99);
    Ok(())
}

fn replace_changes_the_frame() -> CaseResult {
    let dune = dune::enter()?;
    let range = small_pages(dune, 1)?;
    poke(range.start(), 1);
    let own = dune.page_tables()?.translate(range.start()).ok_or("it is mapped")?;
    let frame = dune.memory().frames().allocate(PageSize::Size4KiB, Contents::Zeroed)?;
    let (size, rights) = (PageSize::Size4KiB, PagePermissions::READ_WRITE);
    // SAFETY: the page holds plain numbers.
    unsafe { dune.page_tables()?.replace(range, frame.address(), rights, size)? }.now(dune);
    assert_eq!(peek(range.start()), 0);
    poke(range.start(), 2);
    assert_eq!(peek(frame.virtual_address()), 2);
    // SAFETY: as above.
    unsafe { dune.page_tables()?.replace(range, own, rights, size)? }.now(dune);
    assert_eq!(peek(range.start()), 1);
    probe::free(dune, frame)?;
    Ok(())
}

fn huge_frame_is_mapped() -> CaseResult {
    let dune = dune::enter()?;
    let frame = dune.memory().frames().allocate(PageSize::Size2MiB, Contents::Zeroed)?;
    let range = PageRange::new(VirtAddr::new(NOWHERE), MIB2)?;
    let size = MapSize::Exactly(PageSize::Size2MiB);
    // SAFETY: nothing lies there, and the frame is ours.
    unsafe { dune.page_tables()?.map(range, frame.address(), PagePermissions::READ_WRITE, size)? }.now(dune);
    assert_eq!(size_at(dune, range.start()), Some(PageSize::Size2MiB));
    poke(range.start() + (MIB2 - 8), 77);
    assert_eq!(peek(frame.virtual_address() + (MIB2 - 8)), 77);
    dune.page_tables()?.unmap(range)?.now(dune);
    probe::free(dune, frame)?;
    Ok(())
}

fn dirty_pages_are_harvested() -> CaseResult {
    let dune = dune::enter()?;
    let range = small_pages(dune, 16)?;
    for index in 0..16 {
        poke(page(range, index).start(), 1);
    }
    for expected in [&[][..], &[3, 7, 8, 15], &[0]] {
        dune.page_tables()?.harvest_dirty(range, |_, _| ()).now(dune);
        for index in 0..16 {
            peek(page(range, index).start());
        }
        for &index in expected {
            poke(page(range, index).start(), 2);
        }
        let mut found = Vec::new();
        dune.page_tables()?
            .harvest_dirty(range, |at, size| found.push(((at - range.start()) / 4096, size)))
            .now(dune);
        let expected: Vec<_> = expected.iter().map(|&index| (index, PageSize::Size4KiB)).collect();
        assert_eq!(found, expected);
    }
    Ok(())
}

fn accessed_pages_are_harvested() -> CaseResult {
    let dune = dune::enter()?;
    let range = small_pages(dune, 8)?;
    poke(range.start(), 1);
    dune.page_tables()?.harvest_accessed(range, |_, _| ()).now(dune);
    peek(page(range, 2).start());
    poke(page(range, 5).start(), 1);
    let mut found = Vec::new();
    dune.page_tables()?.harvest_accessed(range, |at, _| found.push((at - range.start()) / 4096)).now(dune);
    assert_eq!(found, [2, 5]);
    Ok(())
}

/// Edits first, one flush for all of them after.
fn batch_is_one_debt() -> CaseResult {
    let dune = dune::enter()?;
    let range = small_pages(dune, 64)?;
    for index in 0..64 {
        poke(page(range, index).start(), 1);
    }
    let mut owed = Flush::none();
    assert!(owed.is_empty());
    for index in [1, 2, 3, 10] {
        owed = owed + dune.page_tables()?.protect(page(range, index), PagePermissions::READ)?;
    }
    assert_eq!(owed.pages(), Some(4));
    let before = dune.counters();
    owed.now(dune);
    let after = dune.counters();
    assert_eq!(
        (after.page_flushes - before.page_flushes, after.context_flushes),
        (4, before.context_flushes)
    );
    for index in 0..64 {
        let refused = catch(dune, store, page(range, index).start().as_u64()).is_some();
        assert_eq!(refused, [1, 2, 3, 10].contains(&index), "page {index}");
    }
    let owed = dune.page_tables()?.protect(range, PagePermissions::READ)?;
    assert_eq!(owed.pages(), None, "64 pages are flushed as a whole");
    let before = dune.counters();
    owed.now(dune);
    let after = dune.counters();
    assert_eq!(
        (after.page_flushes, after.context_flushes),
        (before.page_flushes, before.context_flushes + 1)
    );
    assert!(catch(dune, store, range.start().as_u64()).is_some());
    Ok(())
}

fn misaligned_huge_page() -> CaseResult {
    let dune = dune::enter()?;
    let frame = dune.memory().frames().allocate(PageSize::Size2MiB, Contents::Any)?;
    let (physical, size) = (frame.address(), PageSize::Size2MiB);
    let map = |start: u64, bytes, physical: PhysAddr| {
        let range = PageRange::new(VirtAddr::new(start), bytes)?;
        let size = MapSize::Exactly(size);
        // SAFETY: refused.
        let refused = unsafe { dune.page_tables()?.map(range, physical, PagePermissions::READ, size) };
        refused.err().ok_or_else(|| Box::<dyn std::error::Error>::from("it was mapped"))
    };
    assert_eq!(map(NOWHERE + 4096, MIB2, physical)?, EditError::Misaligned { address: NOWHERE + 4096, size });
    assert_eq!(map(NOWHERE, MIB2 - 4096, physical)?, EditError::Misaligned { address: MIB2 - 4096, size });
    let address = physical.as_u64() + 4096;
    let error = map(NOWHERE, MIB2, physical + 4096u64)?;
    assert_eq!(error, EditError::Misaligned { address, size });
    assert!(
        error.to_string().contains(&format!("{address:#x}")) && error.to_string().contains("2097152"),
        "{error}"
    );
    assert_eq!(dune.page_tables()?.lookup(VirtAddr::new(NOWHERE)), None);
    let misaligned = PageRange::new(VirtAddr::new(NOWHERE + 1), 4096);
    assert_eq!(misaligned, Err(RangeError::Misaligned { address: NOWHERE + 1, alignment: 4096 }));
    probe::free(dune, frame)?;
    Ok(())
}

fn edits_outside_windows() -> CaseResult {
    let dune = dune::enter()?;
    let range = PageRange::new(VirtAddr::new(NOWHERE), 4096)?;
    let outside = EditError::OutsideWindows { address: NOWHERE };
    // SAFETY: refused.
    let refused = unsafe { dune.page_tables()?.remap(range, PagePermissions::READ) };
    assert_eq!(refused.err(), Some(outside));
    assert!(outside.to_string().contains("0x100000000000"), "{outside}");
    assert_eq!(dune.page_tables()?.protect(range, PagePermissions::READ).err(), Some(outside));
    assert_eq!(dune.page_tables()?.unmap(range).err(), Some(outside));
    // SAFETY: refused.
    let refused = unsafe { dune.page_tables()?.grant_user(range, PagePermissions::READ) };
    assert_eq!(refused.err(), Some(outside));
    let own = small_pages(dune, 1)?;
    dune.page_tables()?.unmap(own)?.now(dune);
    let not_mapped = EditError::NotMapped { address: own.start() };
    assert_eq!(dune.page_tables()?.protect(own, PagePermissions::READ).err(), Some(not_mapped));
    let nothing = PhysAddr::new(1 << 38);
    assert_eq!(dune.memory().windows().to_virtual(nothing), None, "the case needs an unused address");
    // SAFETY: refused.
    let refused = unsafe { dune.page_tables()?.map(range, nothing, PagePermissions::READ, MapSize::Largest) };
    assert_eq!(refused.err(), Some(EditError::OutsideWindows { address: 1 << 38 }));
    Ok(())
}

fn other_refusals() -> CaseResult {
    let dune = dune::enter()?;
    let range = small_pages(dune, 1)?;
    // SAFETY: refused.
    let refused = unsafe { dune.page_tables()?.remap(range, PagePermissions::READ) }.err();
    assert_eq!(refused, Some(EditError::AlreadyMapped { address: range.start() }));
    let two = PageRange::new(VirtAddr::new(NOWHERE), 8192)?;
    // SAFETY: refused.
    let refused = unsafe { dune.page_tables()?.alias(two, range, PagePermissions::READ) };
    assert_eq!(refused.err(), Some(EditError::LengthMismatch { new: 8192, existing: 4096 }));
    assert!(probe::getpid() > 0);
    Ok(())
}

fn tables_are_busy() -> CaseResult {
    fn handler(dune: Dune, frame: &mut TrapFrame) -> TrapOutcome {
        probe::registers(frame).rax = u64::from(matches!(dune.page_tables().err(), Some(EditError::Busy(_))));
        TrapOutcome::Resume
    }
    let dune = dune::enter()?;
    probe::handle(dune, Vector::BREAKPOINT, handler);
    let trap = || {
        let busy: u64;
        // SAFETY: the handler changes RAX only.
        unsafe { std::arch::asm!("int3", out("rax") busy) };
        busy
    };
    let tables = dune.page_tables()?;
    assert_eq!(trap(), 1);
    drop(tables);
    assert_eq!(trap(), 0);
    Ok(())
}

/// Many pages with one flush, the marks of which are then read one by one.
fn many_ranges_at_once() -> CaseResult {
    let dune = dune::enter()?;
    let range = small_pages(dune, 40)?;
    let every_fifth: Vec<_> = (0..8).map(|index| page(range, index * 5)).collect();
    dune.page_tables()?.harvest_dirty(range, |_, _| ()).now(dune);
    let before = dune.counters();
    let flush =
        dune.memory().with_page_tables(|tables| tables.protect_each(&every_fifth, PagePermissions::READ))?;
    flush.now(dune);
    let after = dune.counters();
    let flushes = |counters: &dune::Counters| counters.context_flushes + counters.full_flushes;
    assert_eq!(flushes(&after) + after.page_flushes - flushes(&before) - before.page_flushes, 1);
    for index in 0..40 {
        let caught = catch(dune, store, page(range, index).start().as_u64());
        assert_eq!(caught.is_some(), index % 5 == 0, "page {index}");
    }
    let tables = dune.page_tables()?;
    let dirty: Vec<_> = tables.dirty_pages(range).map(|leaf| (leaf.start - range.start()) / 4096).collect();
    drop(tables);
    let expected: Vec<_> = (0..40).filter(|index| index % 5 != 0).collect();
    assert_eq!(dirty, expected);
    Ok(())
}

/// Tables that another thread holds for longer than a moment are waited for; in a handler that has interrupted the holder nobody waits.
fn busy_tables_are_waited_for() -> CaseResult {
    fn handler(dune: Dune, frame: &mut TrapFrame) -> TrapOutcome {
        let busy = dune.memory().with_page_tables(|_| Ok(()));
        probe::registers(frame).rax = u64::from(matches!(busy, Err(EditError::Busy(_))));
        TrapOutcome::Resume
    }
    let dune = dune::enter()?;
    let range = small_pages(dune, 1)?;
    let is_held = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let tables = dune::current().expect("in Dune mode").page_tables();
            is_held.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(300));
            drop(tables);
        });
        while !is_held.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let mut calls = 0;
        dune.memory().with_page_tables(|tables| {
            calls += 1;
            tables.protect(range, PagePermissions::READ).map(Flush::defer)
        })?;
        assert_eq!(calls, 1);
        Ok::<(), EditError>(())
    })?;
    probe::handle(dune, Vector::BREAKPOINT, handler);
    let tables = dune.page_tables()?;
    let start = Instant::now();
    let busy: u64;
    // SAFETY: the handler changes RAX only.
    unsafe { std::arch::asm!("int3", out("rax") busy) };
    assert_eq!(busy, 1);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    drop(tables);
    Ok(())
}

/// Granting one page to ring 3 grants no other one of the same large page.
fn user_bit_in_upper_levels() -> CaseResult {
    let dune = dune::enter()?;
    let start = probe::aligned(MIB2, MIB2);
    let page = PageRange::page(start + 4096u64);
    // SAFETY: nobody uses the memory.
    unsafe { dune.page_tables()?.grant_user(page, PagePermissions::READ)? }.now(dune);
    let user =
        |at| dune.page_tables().ok()?.lookup(at).map(|leaf| leaf.permissions.contains(PagePermissions::USER));
    assert_eq!(
        (user(start), user(start + 4096u64), user(start + 8192u64)),
        (Some(false), Some(true), Some(false))
    );
    dune.page_tables()?.revoke_user(page)?.now(dune);
    assert_eq!(user(start + 4096u64), Some(false));
    Ok(())
}
