//! Snapshots against a model that copies everything: whatever is written by whom, and in whatever order snapshots end.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::arch::page::Level;
use crate::linux::sys;
use crate::memory::MemoryOptions;
use crate::memory::frames::FrameStats;
use crate::memory::table::{self, PageTables};
use crate::memory::tests::options;
use linux_raw_sys::general as linux;

/// A mapping of `bytes` bytes on a multiple of `alignment`.
struct Mapping(PageRange);

impl Mapping {
    fn new(bytes: u64, alignment: u64) -> Mapping {
        let flags = u64::from(linux::MAP_PRIVATE | linux::MAP_ANONYMOUS | linux::MAP_NORESERVE);
        let protection = u64::from(linux::PROT_READ | linux::PROT_WRITE);
        // SAFETY: a new mapping where nothing was, of which a part is used.
        let start =
            unsafe { sys::call(linux::__NR_mmap, [0, bytes + alignment, protection, flags, u64::MAX, 0]) };
        let start = start.expect("memory").next_multiple_of(alignment);
        Mapping(PageRange::known(start, start + bytes))
    }

    fn write(&self, offset: u64, value: u64) {
        // SAFETY: a word of the mapping, of which there are no references.
        unsafe {
            ptr::with_exposed_provenance_mut::<u64>((self.0.first() + offset) as usize).write_volatile(value)
        };
    }

    fn read(&self, offset: u64) -> u64 {
        // SAFETY: as for `write`.
        unsafe { ptr::with_exposed_provenance::<u64>((self.0.first() + offset) as usize).read_volatile() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nobody uses the mapping any more.
        let _ = unsafe { sys::raw(linux::__NR_munmap, [self.0.first(), self.0.bytes(), 0, 0, 0, 0]) };
    }
}

/// Whether the tables let the page be written.
fn is_writable(memory: &Memory, address: u64) -> bool {
    let (mut level, mut at) = (Level::ROOT, memory.root.as_u64());
    loop {
        let entry = table::table_at(&memory.frames, memory.frames.offset(), at).get(level.index(address));
        if entry.is_empty() || !entry.is_writable() {
            return false;
        }
        if entry.is_leaf(level) {
            return true;
        }
        (level, at) = (level.below(), entry.table_address());
    }
}

fn read(memory: &Memory, range: PageRange, root: PhysAddr, offset: u64) -> Result<u64, SnapshotError> {
    let mut word = [0; 8];
    memory.read_snapshot((range, root), offset, &mut word)?;
    Ok(u64::from_le_bytes(word))
}

#[derive(Clone, Copy, Debug)]
enum Op {
    /// The program writes.
    Write(usize, u64),
    /// A call writes so many pages.
    Call(usize, u64, u64),
    Snapshot,
    /// The snapshot with this number of those that there are.
    Drop(usize),
}

/// The pages that are written: neighbours, ends of tables, whole tables between.
const PAGES: [u64; 12] = [0, 1, 2, 511, 512, 513, 1023, 1024, 1535, 1536, 2046, 2047];

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let page = 0..PAGES.len();
    let op = prop_oneof![
        4 => (page.clone(), any::<u64>()).prop_map(|(page, value)| Op::Write(page, value)),
        2 => (page, any::<u64>(), 1..3u64).prop_map(|(page, value, pages)| Op::Call(page, value, pages)),
        2 => Just(Op::Snapshot),
        1 => (0..8usize).prop_map(Op::Drop),
    ];
    prop::collection::vec(op, 1..60)
}

fn in_use(memory: &Memory) -> u64 {
    memory.frames.stats().map(|FrameStats { in_use, .. }| in_use).expect("nobody holds the lock")
}

/// Runs `ops` on memory of `bytes` bytes on a multiple of `alignment`, of which the pages are `stride` bytes apart.
fn run(ops: &[Op], (bytes, alignment, stride): (u64, u64, u64), giant: bool) {
    let mapping = Mapping::new(bytes, alignment);
    let memory = Memory::build(&MemoryOptions { arena_bytes: 32 << 20, ..options(giant) }).expect("memory");
    let range = mapping.0;
    memory.add_region(range).expect("memory for snapshots");
    let offsets = PAGES.map(|page| page * stride);
    let mut snapshots: Vec<(PhysAddr, BTreeMap<u64, u64>)> = Vec::new();
    for op in ops {
        match *op {
            Op::Write(page, value) => {
                let region = memory.snapshots.at(range.first()).expect("the memory");
                assert!(memory.open(region, range.first() + offsets[page]));
                assert!(is_writable(&memory, range.first() + offsets[page]));
                mapping.write(offsets[page], value);
            }
            Op::Call(page, value, pages) => {
                let start = range.first() + offsets[page];
                memory.keep([(start, start + pages * PAGE_BYTES)].into_iter());
                mapping.write(offsets[page], value);
                if offsets[page] + pages * PAGE_BYTES <= bytes {
                    mapping.write(offsets[page] + (pages - 1) * PAGE_BYTES, value);
                }
            }
            Op::Snapshot => {
                let root = memory.snapshot_root().expect("a frame");
                memory.take_snapshots(&[(range, root)], Flush::unused).expect("a snapshot");
                let model = |offset: &u64| (*offset, mapping.read(*offset));
                snapshots.push((root, offsets.iter().map(model).collect()));
            }
            Op::Drop(number) if number < snapshots.len() => {
                let (root, _) = snapshots.remove(number);
                memory.end_snapshot(range, root).expect("nobody holds the lock");
            }
            Op::Drop(_) => (),
        }
        for (root, model) in &snapshots {
            for (&offset, &value) in model {
                assert_eq!(read(&memory, range, *root, offset), Ok(value), "{op:?} at {offset:#x}");
                let is_same = Kept { frames: &memory.frames, root: *root }.find(offset) == Old::Same;
                assert!(!is_same || !is_writable(&memory, range.first() + offset), "{op:?} at {offset:#x}");
            }
        }
    }
    let before = in_use(&memory);
    let kept = snapshots.len();
    for (root, _) in snapshots {
        memory.end_snapshot(range, root).expect("nobody holds the lock");
    }
    assert!(kept == 0 || in_use(&memory) < before);
    memory.remove_region(range).expect("nobody holds the lock");
    assert!(offsets.iter().all(|offset| is_writable(&memory, range.first() + offset)));
    let tables = |tables: PageTables<'_>| tables.lookup(range.start()).map(|leaf| leaf.permissions);
    assert!(memory.page_tables().map(tables).is_ok_and(|permissions| permissions.is_some()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn snapshots_show_what_was(ops in ops(), giant: bool) {
        // Four tables of pages, and two whole tables of tables.
        run(&ops, (8 << 20, 2 << 20, PAGE_BYTES), giant);
        run(&ops, (2 << 30, 1 << 30, 1 << 20), giant);
    }
}

/// Nothing is left in use when all is over, whatever snapshots have shared.
#[test]
fn what_was_kept_is_freed() {
    let (mapping, other) = (Mapping::new(4 << 20, 2 << 20), Mapping::new(2 << 20, 2 << 20));
    let range = mapping.0;
    let memory = Memory::build(&options(true)).expect("memory");
    // Tables that this needs stay, too.
    memory.add_region(other.0).expect("memory for snapshots");
    memory.add_region(range).expect("memory for snapshots");
    let region = memory.snapshots.at(range.first()).expect("the memory");
    let take = || {
        let root = memory.snapshot_root().expect("a frame");
        memory.take_snapshots(&[(range, root)], Flush::unused).map(|()| root)
    };
    // What is divided stays so.
    let first = take().expect("a snapshot");
    (0..1024).for_each(|page| assert!(memory.open(region, range.first() + page * PAGE_BYTES)));
    memory.end_snapshot(range, first).expect("nobody holds the lock");
    let before = in_use(&memory);
    let roots: Vec<_> = (0..32).map(|_| take().expect("a snapshot")).collect();
    let extra = memory.snapshot_root().expect("a frame");
    let refused = memory.take_snapshots(&[(range, extra)], Flush::unused);
    assert_eq!(refused, Err(SnapshotError::TooManySnapshots { most: 32 }));
    // Two of which one is refused are none.
    let root = memory.snapshot_root().expect("a frame");
    let refused = memory.take_snapshots(&[(other.0, root), (range, extra)], Flush::unused);
    assert_eq!(refused, Err(SnapshotError::TooManySnapshots { most: 32 }));
    assert!(is_writable(&memory, other.0.first()));
    memory.free_snapshot_root(root);
    memory.frames.free_table(extra);
    (0..100).for_each(|page| assert!(memory.open(region, range.first() + page * 7 * PAGE_BYTES)));
    assert_eq!(memory.bytes_kept(roots[3]), 100 * PAGE_BYTES);
    for index in [5, 0, 31, 16] {
        memory.end_snapshot(range, roots[index]).expect("nobody holds the lock");
        assert_eq!(read(&memory, range, roots[7], 7 * PAGE_BYTES), Ok(0));
    }
    for (index, root) in roots.into_iter().enumerate().filter(|(index, _)| ![5, 0, 31, 16].contains(index)) {
        memory.end_snapshot(range, root).unwrap_or_else(|_| panic!("{index}: nobody holds the lock"));
    }
    assert_eq!(in_use(&memory), before);
}

/// Without frames the program goes on, and the snapshot says what it has lost.
#[test]
fn without_frames_the_snapshot_loses_and_the_program_goes_on() {
    let mapping = Mapping::new(8 << 20, 2 << 20);
    let range = mapping.0;
    let memory = Memory::build(&options(true)).expect("memory");
    memory.add_region(range).expect("memory for snapshots");
    let root = memory.snapshot_root().expect("a frame");
    memory.take_snapshots(&[(range, root)], Flush::unused).expect("a snapshot");
    let region = memory.snapshots.at(range.first()).expect("the memory");
    let mut taken = Vec::new();
    while let Ok(frame) = memory.frames.allocate(PageSize::Size4KiB, Contents::Any) {
        taken.push(frame.into_raw());
    }
    let pages: Vec<u64> = (0..1024).map(|page| page * 2 * PAGE_BYTES).collect();
    for &page in &pages {
        assert!(memory.open(region, range.first() + page) && is_writable(&memory, range.first() + page));
        mapping.write(page, 1);
    }
    let found: Vec<_> = pages.iter().map(|&page| read(&memory, range, root, page)).collect();
    let kept = found.iter().filter(|found| **found == Ok(0)).count();
    assert!((1..=8).contains(&kept), "{kept} pages: there were 8 frames aside, for tables, too");
    assert_eq!(
        found.iter().filter(|found| matches!(found, Err(SnapshotError::Lost { .. }))).count(),
        1024 - kept
    );
    taken.into_iter().for_each(|frame| {
        memory.frames.free_table(frame);
    });
    memory.end_snapshot(range, root).expect("nobody holds the lock");
}

/// The program does not edit such memory, and makes no address space beside it; others' edits are as ever.
#[test]
fn edits_are_refused() {
    use crate::arch::page::PagePermissions as P;
    use crate::memory::{MapSize, SpaceKind};
    let mapping = Mapping::new(4 << 20, 2 << 20);
    let range = mapping.0;
    let memory = Memory::build(&options(true)).expect("memory");
    let space = memory.new_space(SpaceKind::Copied).expect("a space");
    assert_eq!(memory.add_region(range), Err(SnapshotError::AddressSpaces { spaces: 1 }));
    drop(space);
    memory.add_region(range).expect("memory for snapshots");
    let address = range.start();
    let refused = EditError::SnapshotMemory { address };
    let page = PageRange::page(address);
    let mut tables = memory.page_tables().expect("nobody holds the lock");
    assert_eq!(tables.protect(page, P::READ).err(), Some(refused));
    assert_eq!(tables.protect_each(&[page], P::READ).err(), Some(refused));
    assert_eq!(tables.revoke_user(page).err(), Some(refused));
    assert_eq!(tables.unmap(page).err(), Some(refused));
    assert_eq!(tables.split(address, PageSize::Size4KiB).err(), Some(refused));
    assert_eq!(tables.merge(address, PageSize::Size2MiB).err(), Some(refused));
    let wide = PageRange::known(range.first() - PAGE_BYTES, range.first() + PAGE_BYTES);
    assert_eq!(tables.protect(wide, P::READ).err(), Some(refused));
    // SAFETY: refused.
    let unsafe_edits = unsafe {
        [
            tables.protect_for_user(page, P::READ).err(),
            tables.grant_user(page, P::READ).err(),
            tables.replace(page, memory.root, P::READ, PageSize::Size4KiB).err(),
            tables.map(page, memory.root, P::READ, MapSize::Largest).err(),
        ]
    };
    assert_eq!(unsafe_edits[..3], [Some(refused); 3]);
    assert_eq!(unsafe_edits[3], Some(EditError::AlreadyMapped { address }));
    drop(tables);
    assert!(memory.new_space(SpaceKind::Shared).is_err());
    memory.remove_region(range).expect("nobody holds the lock");
    memory.page_tables().expect("no lock is held").protect(page, P::READ).expect("an edit").unused();
}
