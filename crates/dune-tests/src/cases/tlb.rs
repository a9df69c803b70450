//! Translation caches and address spaces: what is flushed is forgotten, what need not be is kept.

use dune::Dune;
use dune::memory::tlb::{self, Invpcid};
use dune::memory::{
    AddressSpace, Contents, Flush, Frame, MapSize, PagePermissions, PageRange, PageSize, Pcid, SpaceError,
    SpaceKind, TlbError,
};
use x86_64::{PhysAddr, VirtAddr};

use crate::case::{Case, CaseResult, Skip};
use crate::probe::{peek, poke};

pub const CASES: &[Case] = &[
    Case::new("tlb::invlpg_shows_the_new_frame", invlpg),
    Case::new("tlb::cr3_reload_shows_the_new_frame", cr3_reload),
    Case::new("tlb::flush_all_shows_a_new_global_frame", flush_all),
    Case::new("tlb::invpcid_of_four_kinds", invpcid),
    Case::new("tlb::what_others_owe_is_flushed_too", owed_by_others),
    Case::new("tlb::spaces_differ_behind_one_address", spaces_differ),
    Case::new("tlb::pcid_switch_without_flush", pcid_switch),
    Case::new("tlb::edited_space_is_flushed_by_the_switch", edited_space),
    Case::new("tlb::copied_space_is_apart", copied_space),
    Case::new("tlb::pcids_run_out", pcids_run_out),
    Case::new("tlb::spaces_give_their_frames_back", spaces_give_back),
];

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const NOWHERE: u64 = 0x1000_0000_0000;

fn place() -> PageRange {
    PageRange::page(VirtAddr::new(NOWHERE))
}

fn frame(dune: Dune, value: u64) -> Result<Frame> {
    let frame = dune.memory().frames().allocate(PageSize::Size4KiB, Contents::Zeroed)?;
    poke(frame.virtual_address(), value);
    Ok(frame)
}

/// Maps [`place`] on `to` instead of what it was mapped on, without any flush.
fn remap(dune: Dune, to: PhysAddr, permissions: PagePermissions) -> CaseResult {
    // SAFETY: nothing of Rust's lies there, the frames stay, and the caller flushes.
    unsafe { dune.page_tables()?.replace(place(), to, permissions, PageSize::Size4KiB)?.ignore() };
    Ok(())
}

/// Reads through a cached translation to one frame, changes the entry, and has `flush` make the CPU forget.
fn refreshed(dune: Dune, permissions: PagePermissions, flush: impl Fn() -> CaseResult) -> CaseResult {
    let frames = [frame(dune, 1)?, frame(dune, 2)?];
    for round in 0..20 {
        let [old, new] = [&frames[round % 2], &frames[1 - round % 2]];
        remap(dune, old.address(), permissions)?;
        flush()?;
        assert_eq!(peek(place().start()), 1 + round as u64 % 2);
        remap(dune, new.address(), permissions)?;
        flush()?;
        assert_eq!(
            peek(place().start()),
            2 - round as u64 % 2,
            "round {round}: the old translation is in use"
        );
    }
    Ok(())
}

fn invlpg() -> CaseResult {
    let dune = dune::enter()?;
    refreshed(dune, PagePermissions::READ, || {
        tlb::flush_page(dune, place().start());
        Ok(())
    })?;
    assert_eq!(dune.counters().page_flushes, 40);
    Ok(())
}

fn cr3_reload() -> CaseResult {
    let dune = dune::enter()?;
    refreshed(dune, PagePermissions::READ, || {
        tlb::flush_current(dune);
        Ok(())
    })?;
    assert_eq!(dune.counters().context_flushes, 40);
    Ok(())
}

fn flush_all() -> CaseResult {
    let dune = dune::enter()?;
    refreshed(dune, PagePermissions::READ | PagePermissions::GLOBAL, || {
        tlb::flush_all(dune);
        Ok(())
    })?;
    assert_eq!(dune.counters().full_flushes, 40);
    Ok(())
}

/// Who flushes after an edit of its own may rely on no CPU having what was there before, also if an edit by somebody else has made
/// the page absent, and the obligation of that was dropped, deferred or forgotten.
fn owed_by_others() -> CaseResult {
    let dune = dune::enter()?;
    let (rights, size) = (PagePermissions::READ, MapSize::Exactly(PageSize::Size4KiB));
    let leave_owing: [fn(Flush<'_>); 3] =
        [|flush| drop(flush), |flush| flush.defer(), |flush| core::mem::forget(flush)];
    for (round, leave) in (0..).zip(leave_owing) {
        let (old, new) = (frame(dune, 1)?, frame(dune, 2)?);
        // SAFETY: nothing of Rust's lies there, and the frame stays.
        unsafe { dune.page_tables()?.map(place(), old.address(), rights, size)? }.now(dune);
        assert_eq!(peek(place().start()), 1, "the CPU has the translation");
        leave(dune.page_tables()?.unmap(place())?);
        // SAFETY: as above.
        let flush = unsafe { dune.page_tables()?.map(place(), new.address(), rights, size)? };
        assert!(flush.is_empty(), "an absent page is not cached");
        flush.now(dune);
        assert_eq!(peek(place().start()), 2, "round {round}: the old translation is in use");
        dune.page_tables()?.unmap(place())?.now(dune);
        let full = dune.counters().full_flushes;
        dune.page_tables()?.split(place().start(), PageSize::Size4KiB).err().ok_or("it is unmapped")?;
        Flush::everything().now(dune);
        // What is forgotten is never known to be over.
        assert_eq!(dune.counters().full_flushes - full, u64::from(round == 2));
    }
    Ok(())
}

fn invpcid() -> CaseResult {
    let dune = dune::enter()?;
    let instruction = match Invpcid::new(dune.memory().features()) {
        Ok(instruction) => instruction,
        Err(error @ TlbError::Unsupported { feature: "INVPCID", .. }) => {
            return Err(Skip(error.to_string()).into());
        }
        Err(error) => return Err(error.into()),
    };
    let (_, pcid) = tlb::current_root(dune);
    assert_eq!(pcid, Pcid::FIRST);
    refreshed(dune, PagePermissions::READ, || Ok(instruction.address(dune, pcid, place().start())?))?;
    refreshed(dune, PagePermissions::READ, || Ok(instruction.context(dune, pcid)?))?;
    refreshed(dune, PagePermissions::READ, || {
        instruction.all(dune);
        Ok(())
    })?;
    refreshed(dune, PagePermissions::READ | PagePermissions::GLOBAL, || {
        instruction.all_with_globals(dune);
        Ok(())
    })?;
    let counters = dune.counters();
    assert_eq!((counters.page_flushes, counters.context_flushes, counters.full_flushes), (40, 40, 80));
    if dune.memory().features().has_pcid() {
        // Another space's translations, from here.
        dune.page_tables()?.unmap(place())?.now(dune);
        let space = space_with(dune, SpaceKind::Shared, &frame(dune, 5)?)?;
        instruction.context(dune, space.pcid()?)?;
        instruction.address(dune, space.pcid()?, place().start())?;
    }
    Ok(())
}

/// A space in which [`place`] is `frame`.
fn space_with(dune: Dune, kind: SpaceKind, frame: &Frame) -> Result<AddressSpace<'static>> {
    let space = dune.memory().new_space(kind)?;
    let (rights, size) = (PagePermissions::READ_WRITE, MapSize::Exactly(PageSize::Size4KiB));
    // SAFETY: nothing lies there, and the space is not in use.
    unsafe { space.page_tables()?.map(place(), frame.address(), rights, size)?.ignore() };
    Ok(space)
}

fn spaces_differ() -> CaseResult {
    let dune = dune::enter()?;
    let own = dune.memory().root();
    for kind in [SpaceKind::Shared, SpaceKind::Copied] {
        let frames = (0..8).map(|value| frame(dune, 100 + value)).collect::<Result<Vec<_>>>()?;
        let spaces = frames.iter().map(|frame| space_with(dune, kind, frame)).collect::<Result<Vec<_>>>()?;
        // SAFETY: each space has all that the process has, and one page more.
        let active = unsafe { spaces[0].enter(dune) };
        for round in 0..3 {
            for (index, space) in spaces.iter().enumerate() {
                // SAFETY: as above.
                unsafe { active.switch_to(space) };
                assert_eq!(tlb::current_root(dune).0, space.root());
                assert_eq!(peek(place().start()), 100 + index as u64 + 10 * round);
                poke(place().start(), 110 + index as u64 + 10 * round);
                println!("space {index}: printing and allocating: {:?}", vec![round; 3]);
            }
        }
        drop(active);
        assert_eq!(tlb::current_root(dune).0, own);
        assert_eq!(
            dune.page_tables()?.lookup(place().start()),
            None,
            "the process's own tables are as before"
        );
        assert_eq!(peek(frames[3].virtual_address()), 133);
    }
    Ok(())
}

fn pcid_switch() -> CaseResult {
    const ROUNDS: u64 = 50;
    let dune = dune::enter()?;
    let frames = [frame(dune, 1)?, frame(dune, 2)?];
    let spaces =
        [space_with(dune, SpaceKind::Shared, &frames[0])?, space_with(dune, SpaceKind::Shared, &frames[1])?];
    if let Err(error) = spaces[0].pcid() {
        assert!(matches!(error, TlbError::Unsupported { feature: "PCID", .. }), "{error}");
        // Without tags each switch flushes, and the spaces are right all the same.
        let before = dune.counters().context_flushes;
        // SAFETY: the spaces have all that the process has.
        let active = unsafe { spaces[0].enter(dune) };
        for _ in 0..ROUNDS {
            for (space, expected) in spaces.iter().zip([1, 2]) {
                // SAFETY: as above.
                unsafe { active.switch_to(space) };
                assert_eq!(peek(place().start()), expected);
            }
        }
        drop(active);
        assert_eq!(dune.counters().context_flushes - before, 2 * ROUNDS + 2);
        return Err(Skip(error.to_string()).into());
    }
    assert_ne!(spaces[0].pcid()?, spaces[1].pcid()?);
    let before = dune.counters().context_flushes;
    // SAFETY: the spaces have all that the process has.
    let active = unsafe { spaces[0].enter(dune) };
    for _ in 0..ROUNDS {
        for (space, expected) in spaces.iter().zip([1, 2]) {
            // SAFETY: as above.
            unsafe { active.switch_to(space) };
            assert_eq!(tlb::current_root(dune), (space.root(), space.pcid()?));
            assert_eq!(peek(place().start()), expected);
        }
    }
    drop(active);
    let flushes = dune.counters().context_flushes - before;
    // The first use of each space, and perhaps the way back.
    assert!(flushes <= 3, "{flushes} of {} switches flushed", 2 * ROUNDS + 2);
    Ok(())
}

fn edited_space() -> CaseResult {
    let dune = dune::enter()?;
    let frames = [frame(dune, 1)?, frame(dune, 2)?];
    let space = space_with(dune, SpaceKind::Shared, &frames[0])?;
    for round in 0..10usize {
        {
            // SAFETY: the space has all that the process has.
            let _active = unsafe { space.enter(dune) };
            assert_eq!(peek(place().start()), 1 + round as u64 % 2);
        }
        let (rights, size) = (PagePermissions::READ, PageSize::Size4KiB);
        let to = frames[1 - round % 2].address();
        // SAFETY: nothing of Rust's lies there, and the space is not in use.
        unsafe { space.page_tables()?.replace(place(), to, rights, size)?.ignore() };
    }
    Ok(())
}

fn copied_space() -> CaseResult {
    let dune = dune::enter()?;
    let range = crate::probe::small_pages(dune, 1)?;
    poke(range.start(), 1);
    let space = dune.memory().new_space(SpaceKind::Copied)?;
    let other = frame(dune, 2)?;
    let (rights, size) = (PagePermissions::READ_WRITE, PageSize::Size4KiB);
    // SAFETY: plain numbers lie there, and the space is not in use.
    unsafe { space.page_tables()?.replace(range, other.address(), rights, size)?.ignore() };
    {
        // SAFETY: the space has all that the process has.
        let _active = unsafe { space.enter(dune) };
        assert_eq!(peek(range.start()), 2);
        poke(range.start(), 3);
    }
    assert_eq!((peek(range.start()), peek(other.virtual_address())), (1, 3));
    Ok(())
}

fn pcids_run_out() -> CaseResult {
    let dune = dune::enter()?;
    if !dune.memory().features().has_pcid() {
        return Err(Skip("this CPU has no PCIDs to run out of".into()).into());
    }
    let mut spaces = Vec::new();
    let error = loop {
        match dune.memory().new_space(SpaceKind::Shared) {
            Ok(space) => spaces.push(space),
            Err(error) => break error,
        }
    };
    assert_eq!((spaces.len(), error), (4095, SpaceError::Tlb(TlbError::PcidsExhausted { count: 4096 })));
    spaces.pop();
    assert!(dune.memory().new_space(SpaceKind::Shared).is_ok());
    assert_eq!(Pcid::new(4096), Err(TlbError::PcidOutOfRange { value: 4096 }));
    Ok(())
}

fn spaces_give_back() -> CaseResult {
    let dune = dune::enter()?;
    let page = frame(dune, 1)?;
    // For the memory that the first space takes from the heap there may be new page tables, which are frames, too.
    drop(space_with(dune, SpaceKind::Copied, &page)?);
    dune.memory().collect(dune);
    let before = dune.memory().frames().stats()?.in_use;
    for kind in [SpaceKind::Copied, SpaceKind::Shared] {
        for _ in 0..10 {
            let space = space_with(dune, kind, &page)?;
            // SAFETY: the space has all that the process has.
            drop(unsafe { space.enter(dune) });
        }
        dune.memory().collect(dune);
        assert_eq!(dune.memory().frames().stats()?.in_use, before, "{kind:?}");
    }
    Ok(())
}
