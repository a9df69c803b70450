//! The frame allocator: exhaustion is typed, and memory goes back to Linux.

use dune::Dune;
use dune::memory::{Contents, EditError, FrameError, PageSize, SpaceError, SpaceKind};
use x86_64::PhysAddr;

use crate::case::{Case, CaseResult};
use crate::probe::{self, peek, poke};

pub const CASES: &[Case] = &[
    Case::new("frames::come_and_go", come_and_go),
    Case::new("frames::zeroed_after_use", zeroed_after_use),
    Case::new("frames::exhaustion_is_typed", exhaustion_is_typed),
    Case::new("frames::memory_goes_back_to_linux", memory_goes_back_to_linux),
    Case::new("frames::misuse_is_typed", misuse_is_typed),
];

fn come_and_go() -> CaseResult {
    let dune = dune::enter()?;
    // For the memory that the first round takes from the heap there may be new page tables, which are frames, too.
    take_and_free(dune, false)?;
    take_and_free(dune, true)
}

fn take_and_free(dune: Dune, counts: bool) -> CaseResult {
    let frames = dune.memory().frames();
    let before = frames.stats()?.in_use;
    let mut taken = Vec::new();
    for index in 0..600u64 {
        let frame = frames.allocate(PageSize::Size4KiB, Contents::Any)?;
        poke(frame.virtual_address(), index);
        taken.push(frame);
    }
    let large = frames.allocate(PageSize::Size2MiB, Contents::Any)?;
    assert!(large.address().as_u64().is_multiple_of(2 << 20));
    let with_all = frames.stats()?.in_use;
    for (index, frame) in taken.iter().enumerate() {
        assert_eq!(peek(frame.virtual_address()), index as u64);
        assert_eq!(dune.memory().windows().to_virtual(frame.address()), Some(frame.virtual_address()));
    }
    for frame in taken {
        probe::free(dune, frame)?;
    }
    probe::free(dune, large)?;
    if counts {
        assert_eq!(with_all, before + 600 * 4096 + (2 << 20));
        assert_eq!(frames.stats()?.in_use, before);
    }
    Ok(())
}

fn zeroed_after_use() -> CaseResult {
    let dune = dune::enter()?;
    let frames = dune.memory().frames();
    for round in 0..50 {
        let frame = frames.allocate(PageSize::Size4KiB, Contents::Zeroed)?;
        for word in 0..512u64 {
            assert_eq!(peek(frame.virtual_address() + word * 8), 0, "round {round}");
            poke(frame.virtual_address() + word * 8, u64::MAX);
        }
        probe::free(dune, frame)?;
    }
    Ok(())
}

fn exhaustion_is_typed() -> CaseResult {
    const ARENA: u64 = 8 << 20;
    let dune = dune::Config::new().frame_arena(ARENA).enter()?;
    let frames = dune.memory().frames();
    let exhausted = FrameError::Exhausted { capacity: ARENA };
    let mut taken = Vec::new();
    loop {
        match frames.allocate(PageSize::Size4KiB, Contents::Any) {
            Ok(frame) => taken.push(frame),
            Err(error) => break assert_eq!(error, exhausted),
        }
    }
    assert_eq!(frames.stats()?.free, 0);
    assert!(exhausted.to_string().contains("8388608"), "{exhausted}");
    assert_eq!(frames.allocate(PageSize::Size2MiB, Contents::Any), Err(exhausted));
    // What needs tables says the same, and changes nothing.
    let space = dune.memory().new_space(SpaceKind::Copied).err();
    assert_eq!(space, Some(SpaceError::Tables(EditError::Frames(exhausted))));
    println!("{} frames, printed with none left", taken.len());
    for frame in taken {
        probe::free(dune, frame)?;
    }
    assert!(dune.memory().new_space(SpaceKind::Copied).is_ok());
    Ok(())
}

/// Resident memory in bytes, as Linux counts it.
fn resident() -> Result<u64, Box<dyn std::error::Error>> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    Ok(statm.split(' ').nth(1).ok_or("a second word")?.parse::<u64>()? * 4096)
}

fn memory_goes_back_to_linux() -> CaseResult {
    const FRAMES: usize = 20;
    const LARGE: u64 = 2 << 20;
    let dune = dune::enter()?;
    let frames = dune.memory().frames();
    let before = resident()?;
    let mut taken = Vec::new();
    for _ in 0..FRAMES {
        let frame = frames.allocate(PageSize::Size2MiB, Contents::Any)?;
        for page in 0..512u64 {
            poke(frame.virtual_address() + page * 4096, 1);
        }
        taken.push(frame);
    }
    let used = resident()?;
    assert!(used - before >= FRAMES as u64 * LARGE * 9 / 10, "{before} {used}");
    for frame in taken {
        probe::free(dune, frame)?;
    }
    assert!(frames.trim()? >= FRAMES as u64 * LARGE - LARGE);
    let after = resident()?;
    assert!(used - after >= FRAMES as u64 * LARGE * 9 / 10, "{used} {after}");
    assert_eq!(frames.stats()?.resident_free, 0);
    Ok(())
}

fn misuse_is_typed() -> CaseResult {
    let dune = dune::enter()?;
    let frames = dune.memory().frames();
    let size = PageSize::Size1GiB;
    assert_eq!(frames.allocate(size, Contents::Any), Err(FrameError::Unsupported { size }));
    let frame = frames.allocate(PageSize::Size4KiB, Contents::Any)?;
    let address = frame.address();
    // SAFETY: a second name for the frame, which is then given back twice: that is the case.
    let again = unsafe { frames.from_raw(address, PageSize::Size4KiB) };
    probe::free(dune, frame)?;
    assert_eq!(probe::free(dune, again), Err(FrameError::DoubleFree { frame: address }));
    let foreign = PhysAddr::new(0x1000);
    // SAFETY: refused.
    let foreign_frame = unsafe { frames.from_raw(foreign, PageSize::Size4KiB) };
    assert_eq!(probe::free(dune, foreign_frame), Err(FrameError::NotFromArena { frame: foreign }));
    Ok(())
}
