//! Random edits against a model: a map from page to what is there. In the end all frames are back.

use std::collections::BTreeMap;

use proptest::prelude::*;
use x86_64::{PhysAddr, VirtAddr};

use super::table::Edits;
use super::tree::Copied;
use super::window::{FIRST_GPA, GIB};
use super::*;
use crate::arch::page::PAGE_BYTES;
use crate::lock::{Rank, SpinLock};

/// Where the edits happen: across a 1 GiB boundary, far from the window, so that aliases are tested too.
const BASE: u64 = 0x1234 * GIB - 4 * (2 << 20);
/// The pages of the model: 8 blocks of 2 MiB, 4 on each side of the boundary, and one page more.
const PAGES: u64 = 8 * 512 + 1;

/// After each edit each page in so many is compared, and all after the last. A fuzzer has more of many inputs than of all pages.
pub(super) const STEP: usize = if cfg!(fuzzing) { 61 } else { 1 };

/// Page tables that no CPU uses.
pub(super) struct Machine {
    pub windows: Windows,
    frames: FrameAllocator,
    edits: SpinLock<Edits>,
    version: AtomicU64,
    root_changes: AtomicU64,
    missed: Missed,
    writers: Writers,
    snapshots: Regions,
    root: PhysAddr,
}

impl Machine {
    pub fn new() -> Machine {
        let frames = FrameAllocator::reserve(8 << 20).unwrap();
        let windows = Windows::new().unwrap();
        let range = PageRange::known(8 * GIB, 24 * GIB);
        windows.append(Window { range, gpa: FIRST_GPA }).unwrap();
        let root = frames.allocate(PageSize::Size4KiB, Contents::Zeroed).unwrap().into_raw();
        Machine {
            windows,
            frames,
            edits: SpinLock::new(Rank::Edits, Edits::default()),
            version: AtomicU64::new(0),
            root_changes: AtomicU64::new(0),
            missed: Missed::new(),
            writers: Writers::new(),
            snapshots: Regions::new(),
            root,
        }
    }

    fn tables_of(&self, root: PhysAddr, own: bool) -> PageTables<'_> {
        PageTables {
            frames: &self.frames,
            windows: &self.windows,
            root,
            giant: true,
            version: own.then_some(&self.version),
            root_changes: &self.root_changes,
            mirrors: false,
            missed: &self.missed,
            writers: &self.writers,
            snapshots: &self.snapshots,
            edits: self.edits.lock().unwrap(),
        }
    }

    fn tables(&self) -> PageTables<'_> {
        self.tables_of(self.root, true)
    }

    /// The tables of the root with the program's edits marked.
    pub fn mirror_tables(&self) -> PageTables<'_> {
        let mut tables = self.tables();
        tables.mirrors = true;
        tables
    }

    pub fn in_use(&self) -> u64 {
        self.frames.stats().unwrap().in_use / PAGE_BYTES
    }
}

/// What the model knows of a page: its frame, its permissions, and whether it is dirty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Page {
    frame: u64,
    permissions: PagePermissions,
    dirty: bool,
}

type Model = BTreeMap<u64, Page>;

#[derive(Clone, Debug)]
pub(crate) enum Edit {
    Map { first: u64, pages: u64, frame: u64, permissions: PagePermissions, small: bool },
    Protect { first: u64, pages: u64, permissions: PagePermissions },
    Grant { first: u64, pages: u64 },
    Revoke { first: u64, pages: u64 },
    Unmap { first: u64, pages: u64 },
    Replace { page: u64, frame: u64, large: bool },
    Split { page: u64 },
    Merge { page: u64, giant: bool },
    Alias { first: u64, pages: u64, from: u64 },
    Dirty { first: u64, pages: u64 },
    Harvest { first: u64, pages: u64 },
}

/// What the tables can tell of permissions: present pages can be read.
fn seen(permissions: PagePermissions) -> PagePermissions {
    if permissions.intersects(PagePermissions::ALL) {
        permissions | PagePermissions::READ
    } else {
        permissions
    }
}

fn at(page: u64) -> u64 {
    BASE + page * PAGE_BYTES
}

fn range(first: u64, pages: u64) -> PageRange {
    PageRange::known(at(first), at(first + pages))
}

fn span() -> impl Strategy<Value = (u64, u64)> {
    let blocks = (0u64..8, 1u64..9).prop_map(|(first, blocks)| (first * 512, blocks.min(8 - first) * 512));
    let any = (0..PAGES, 1u64..1500).prop_map(|(first, pages)| (first, pages.min(PAGES - first)));
    let few = (0..PAGES, 1u64..5).prop_map(|(first, pages)| (first, pages.min(PAGES - first)));
    prop_oneof![blocks, any, few]
}

fn permissions() -> impl Strategy<Value = PagePermissions> {
    (0u8..16).prop_map(PagePermissions::from_bits_truncate)
}

fn frame() -> impl Strategy<Value = u64> {
    // In step with BASE modulo 1 GiB, so that large pages come up, or off by a page.
    (0u64..2).prop_map(|off| FIRST_GPA.as_u64() + GIB + (BASE + off * PAGE_BYTES) % GIB)
}

pub(crate) fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        4 => (span(), frame(), permissions(), any::<bool>()).prop_map(|((first, pages), frame, permissions, small)| {
            Edit::Map { first, pages, frame: frame + first * PAGE_BYTES, permissions, small }
        }),
        4 => (span(), permissions())
            .prop_map(|((first, pages), permissions)| Edit::Protect { first, pages, permissions }),
        1 => span().prop_map(|(first, pages)| Edit::Grant { first, pages }),
        1 => span().prop_map(|(first, pages)| Edit::Revoke { first, pages }),
        3 => span().prop_map(|(first, pages)| Edit::Unmap { first, pages }),
        1 => (0..PAGES, frame(), any::<bool>()).prop_map(|(page, frame, large)| Edit::Replace { page, frame, large }),
        1 => (0..PAGES).prop_map(|page| Edit::Split { page }),
        2 => (0..PAGES, any::<bool>()).prop_map(|(page, giant)| Edit::Merge { page, giant }),
        1 => (span(), 0..PAGES).prop_map(|((first, pages), from)| Edit::Alias { first, pages, from }),
        2 => span().prop_map(|(first, pages)| Edit::Dirty { first, pages }),
        2 => span().prop_map(|(first, pages)| Edit::Harvest { first, pages }),
    ]
}

/// The first page of the span that is missing from, or is in, the model.
fn first_with(model: &Model, first: u64, pages: u64, mapped: bool) -> Option<u64> {
    (first..first + pages).find(|page| model.contains_key(page) == mapped)
}

/// The pages that share one entry with `page`.
fn leaf_of(tables: &PageTables<'_>, page: u64) -> Vec<u64> {
    let leaf = tables.lookup(VirtAddr::new(at(page))).unwrap();
    let first = (leaf.start.as_u64() as i64 - BASE as i64) / PAGE_BYTES as i64;
    let pages = (leaf.size.bytes() / PAGE_BYTES) as i64;
    (first.max(0)..(first + pages).min(PAGES as i64)).map(|page| page as u64).collect()
}

/// Does `edit` to both and compares what they say of it.
fn apply(tables: &mut PageTables<'_>, model: &mut Model, edit: Edit) {
    match edit {
        Edit::Map { first, pages, frame, permissions, small } => {
            let size = if small { MapSize::Exactly(PageSize::Size4KiB) } else { MapSize::Largest };
            // SAFETY: 1. and 2. these tables are never loaded.
            let result = unsafe { tables.map(range(first, pages), PhysAddr::new(frame), permissions, size) };
            match (first_with(model, first, pages, true), result) {
                (None, Ok(flush)) => {
                    assert!(flush.pages() == Some(0) || flush.pages().is_none());
                    flush.unused();
                    for page in 0..pages {
                        let frame = frame + page * PAGE_BYTES;
                        model.insert(
                            first + page,
                            Page { frame, permissions: seen(permissions), dirty: false },
                        );
                    }
                }
                (Some(page), Err(error)) => {
                    assert_eq!(error, EditError::AlreadyMapped { address: VirtAddr::new(at(page)) });
                }
                (expected, result) => panic!("{expected:?} {result:?}"),
            }
        }
        Edit::Protect { first, pages, permissions } => {
            // SAFETY: these tables are never loaded.
            let result = unsafe { tables.protect_for_user(range(first, pages), permissions) };
            change(model, first, pages, result, |page| page.permissions = seen(permissions));
        }
        Edit::Grant { first, pages } => {
            let add = PagePermissions::READ | PagePermissions::USER;
            // SAFETY: these tables are never loaded.
            let result = unsafe { tables.grant_user(range(first, pages), PagePermissions::READ) };
            change(model, first, pages, result, |page| page.permissions |= add);
        }
        Edit::Revoke { first, pages } => {
            let result = tables.revoke_user(range(first, pages));
            change(model, first, pages, result, |page| page.permissions -= PagePermissions::USER);
        }
        Edit::Unmap { first, pages } => {
            let any = first_with(model, first, pages, true).is_some();
            match tables.unmap(range(first, pages)) {
                Ok(flush) => {
                    assert!(any);
                    flush.unused();
                    model.retain(|&page, _| page < first || page >= first + pages);
                }
                Err(error) => {
                    assert!(!any);
                    assert_eq!(error, EditError::OutsideWindows { address: at(first) });
                }
            }
        }
        Edit::Replace { page, frame, large } => {
            let size = if large { PageSize::Size2MiB } else { PageSize::Size4KiB };
            let count = size.bytes() / PAGE_BYTES;
            let first = if large { (page / 512).min(7) * 512 } else { page };
            let frame = frame & !(size.bytes() - 1);
            let permissions = PagePermissions::READ_WRITE;
            // SAFETY: 1. and 2. these tables are never loaded.
            let result =
                unsafe { tables.replace(range(first, count), PhysAddr::new(frame), permissions, size) };
            result.unwrap().unused();
            for page in 0..count {
                model.insert(
                    first + page,
                    Page { frame: frame + page * PAGE_BYTES, permissions, dirty: false },
                );
            }
            assert_eq!(tables.lookup(VirtAddr::new(at(first))).unwrap().size, size);
        }
        Edit::Split { page } => {
            let result = tables.split(VirtAddr::new(at(page)), PageSize::Size4KiB);
            assert_eq!(result.is_ok(), model.contains_key(&page));
            let _ = result.map(Flush::unused);
            if let Some(leaf) = tables.lookup(VirtAddr::new(at(page))) {
                assert_eq!(leaf.size, PageSize::Size4KiB);
            }
        }
        Edit::Merge { page, giant } => {
            let size = if giant { PageSize::Size1GiB } else { PageSize::Size2MiB };
            let address = VirtAddr::new(at(page));
            let small = tables.lookup(address).is_some_and(|leaf| leaf.size < size);
            if let Ok(flush) = tables.merge(address, size) {
                flush.unused();
                let leaf = tables.lookup(address).unwrap();
                assert!(leaf.size >= size);
                if small {
                    let dirty = leaf.dirty;
                    leaf_of(tables, page)
                        .into_iter()
                        .for_each(|page| model.get_mut(&page).unwrap().dirty = dirty);
                }
            }
        }
        Edit::Alias { first, pages, from } => {
            let pages = pages.min(PAGES - from);
            // SAFETY: 1. and 2. these tables are never loaded.
            let result =
                unsafe { tables.alias(range(first, pages), range(from, pages), PagePermissions::READ) };
            let (missing, clash) =
                (first_with(model, from, pages, false), first_with(model, first, pages, true));
            match (missing, clash) {
                (Some(page), _) => {
                    assert_eq!(result.unwrap_err(), EditError::OutsideWindows { address: at(page) });
                }
                (None, Some(page)) => {
                    assert_eq!(
                        result.unwrap_err(),
                        EditError::AlreadyMapped { address: VirtAddr::new(at(page)) }
                    );
                }
                (None, None) => {
                    result.unwrap().unused();
                    for page in 0..pages {
                        let frame = model[&(from + page)].frame;
                        let permissions = PagePermissions::READ;
                        model.insert(first + page, Page { frame, permissions, dirty: false });
                    }
                }
            }
        }
        Edit::Dirty { first, pages } => {
            for page in first..first + pages {
                if model.contains_key(&page) {
                    tables.mark_dirty(range(page, 1));
                    leaf_of(tables, page)
                        .into_iter()
                        .for_each(|page| model.get_mut(&page).unwrap().dirty = true);
                }
            }
        }
        Edit::Harvest { first, pages } => {
            let dirty: Vec<_> =
                tables.dirty_pages(range(first, pages)).map(|leaf| (leaf.start, leaf.size)).collect();
            let mut found = Vec::new();
            tables.harvest_dirty(range(first, pages), |start, size| found.push((start, size))).unused();
            assert_eq!(dirty, found);
            assert!(tables.dirty_pages(range(first, pages)).next().is_none());
            let mut clean = first_with(model, first, pages, true).is_none();
            for (start, size) in found {
                let page = (start.as_u64().max(BASE) - BASE) / PAGE_BYTES;
                assert_eq!(tables.lookup(VirtAddr::new(at(page))).unwrap().size, size);
                for page in leaf_of(tables, page) {
                    let page = model.get_mut(&page).unwrap();
                    assert!(page.dirty);
                    page.dirty = false;
                }
            }
            clean |= (first..first + pages).all(|page| model.get(&page).is_none_or(|page| !page.dirty));
            assert!(clean);
        }
    }
}

/// For edits of pages that must all be there.
fn change(
    model: &mut Model,
    first: u64,
    pages: u64,
    result: Result<Flush<'_>, EditError>,
    edit: impl Fn(&mut Page),
) {
    match (first_with(model, first, pages, false), result) {
        (None, Ok(flush)) => {
            flush.unused();
            model.range_mut(first..first + pages).for_each(|(_, page)| edit(page));
        }
        (Some(page), Err(error)) => {
            assert_eq!(error, EditError::OutsideWindows { address: at(page) });
        }
        (expected, result) => panic!("{expected:?} {result:?}"),
    }
}

/// Compares each page in so many.
fn compare(tables: &PageTables<'_>, model: &Model, step: usize) {
    for page in (0..PAGES).step_by(step) {
        let address = VirtAddr::new(at(page));
        let leaf = tables.lookup(address);
        match (leaf, model.get(&page)) {
            (None, None) => (),
            (Some(leaf), Some(page)) => {
                assert_eq!(tables.translate(address).unwrap().as_u64(), page.frame);
                assert_eq!(leaf.permissions, page.permissions);
                assert_eq!(leaf.dirty, page.dirty);
                if page.permissions.contains(PagePermissions::USER) {
                    assert!(tables.user_reaches(address));
                }
            }
            (leaf, page) => panic!("{address:?}: {leaf:?} {page:?}"),
        }
    }
}

/// Does all edits to tables and model; panics where they disagree, or a frame is lost.
pub(crate) fn agree(edits: Vec<Edit>) {
    let machine = Machine::new();
    let mut model = Model::new();
    let before = machine.in_use();
    for edit in edits {
        apply(&mut machine.tables(), &mut model, edit);
        compare(&machine.tables(), &model, STEP);
    }
    compare(&machine.tables(), &model, 1);
    if !model.is_empty() {
        machine.tables().unmap(range(0, PAGES)).unwrap().unused();
    }
    assert_eq!(machine.in_use(), before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn tables_agree_with_the_model(edits in proptest::collection::vec(edit(), 1..40)) {
        agree(edits);
    }

    #[test]
    fn clones_live_their_own_lives(
        before in proptest::collection::vec(edit(), 1..12),
        after in proptest::collection::vec(edit(), 1..12),
        shared: bool,
    ) {
        let machine = Machine::new();
        let mut model = Model::new();
        for edit in before {
            apply(&mut machine.tables(), &mut model, edit);
        }
        let used = machine.in_use();
        let kind = if shared { SpaceKind::Shared } else { SpaceKind::Copied };
        let root = machine.tables().clone_root(kind, &Copied::default()).unwrap();
        let original = model.clone();
        for edit in after {
            // Marks in tables that are shared are shared as well: those edits concern both.
            if !(shared && matches!(edit, Edit::Dirty { .. } | Edit::Harvest { .. })) {
                apply(&mut machine.tables_of(root, false), &mut model, edit);
                compare(&machine.tables_of(root, false), &model, 1);
                compare(&machine.tables(), &original, 1);
            }
        }
        machine.tables_of(root, false).free_root();
        if shared {
            machine.tables().edits.shared -= 1;
        }
        prop_assert_eq!(machine.in_use(), used);
        compare(&machine.tables(), &original, 1);
    }
}

#[test]
fn huge_pages_must_be_aligned() {
    let machine = Machine::new();
    let mut tables = machine.tables();
    let frame = FIRST_GPA + GIB;
    for (size, range, frame, address) in [
        (PageSize::Size2MiB, PageRange::known(0x1000, 0x1000 + (2 << 20)), frame, 0x1000),
        (PageSize::Size2MiB, PageRange::known(2 << 20, 3 << 20), frame, 1 << 20),
        (PageSize::Size1GiB, PageRange::known(GIB, 2 * GIB), frame + 4096u64, frame.as_u64() + 4096),
    ] {
        // SAFETY: 1. and 2. these tables are never loaded.
        let error = unsafe { tables.map(range, frame, PagePermissions::READ, MapSize::Exactly(size)) };
        assert_eq!(error.unwrap_err(), EditError::Misaligned { address, size });
    }
    tables.giant = false;
    let (range, size) = (PageRange::known(GIB, 2 * GIB), PageSize::Size1GiB);
    // SAFETY: 1. and 2. these tables are never loaded.
    let error = unsafe { tables.map(range, frame, PagePermissions::READ, MapSize::Exactly(size)) };
    assert_eq!(error.unwrap_err(), EditError::Unsupported { size });
    drop(tables);
    assert_eq!(machine.in_use(), 1);
}

#[test]
fn memory_outside_every_window_is_refused() {
    let machine = Machine::new();
    let mut tables = machine.tables();
    let address = 100 * GIB;
    let range = PageRange::known(address, address + PAGE_BYTES);
    let outside = EditError::OutsideWindows { address };
    assert_eq!(tables.protect(range, PagePermissions::READ).unwrap_err(), outside);
    assert_eq!(tables.unmap(range).unwrap_err(), outside);
    assert_eq!(tables.map_identically(range, PagePermissions::READ).unwrap_err(), outside);
    assert_eq!(tables.split(range.start(), PageSize::Size4KiB).unwrap_err(), outside);
    let end = FIRST_GPA.as_u64() + 16 * GIB;
    let two = PageRange::known(address, address + 2 * PAGE_BYTES);
    // SAFETY: 1. and 2. these tables are never loaded.
    let error =
        unsafe { tables.map(two, PhysAddr::new(end - PAGE_BYTES), PagePermissions::READ, MapSize::Largest) };
    assert_eq!(error.unwrap_err(), EditError::OutsideWindows { address: end });
    // A range that leaves its window half-way leaves nothing behind.
    let edge = PageRange::known(23 * GIB, 25 * GIB);
    let error = tables.map_identically(edge, PagePermissions::READ).unwrap_err();
    assert_eq!(error, EditError::OutsideWindows { address: 24 * GIB });
    assert_eq!(tables.lookup(VirtAddr::new(23 * GIB)), None);
    let inside = PageRange::known(9 * GIB, 10 * GIB);
    assert_eq!(
        tables.protect(inside, PagePermissions::READ).unwrap_err(),
        EditError::NotMapped { address: VirtAddr::new(9 * GIB) }
    );
}

#[test]
fn many_ranges_are_protected_together_or_not_at_all() {
    let machine = Machine::new();
    let mut tables = machine.tables();
    let used = machine.in_use();
    let window = PageRange::known(8 * GIB, 12 * GIB);
    tables.map_identically(window, PagePermissions::ALL).unwrap().unused();
    let page = |index: u64| {
        let at = 8 * GIB + index * (GIB / 2 + 5 * PAGE_BYTES);
        PageRange::known(at, at + PAGE_BYTES)
    };
    let ranges: Vec<_> = (0..4).map(page).collect();
    let rights =
        |tables: &PageTables<'_>, range: PageRange| tables.lookup(range.start()).unwrap().permissions;
    let beyond = PageRange::known(12 * GIB, 12 * GIB + PAGE_BYTES);
    let refused = tables.protect_each(&[ranges[0], ranges[1], beyond], PagePermissions::READ).unwrap_err();
    assert_eq!(refused, EditError::NotMapped { address: VirtAddr::new(12 * GIB) });
    assert!(ranges.iter().all(|&range| rights(&tables, range) == PagePermissions::ALL));
    let user = PagePermissions::READ | PagePermissions::USER;
    assert!(matches!(tables.protect_each(&ranges, user), Err(EditError::NeedsGrant { .. })));
    tables.protect_each(&[], PagePermissions::READ).unwrap().unused();
    // One twice, and one beside another in the same table.
    let mut ranges = ranges;
    ranges.push(ranges[2]);
    ranges.push(PageRange::known(8 * GIB + PAGE_BYTES, 8 * GIB + 3 * PAGE_BYTES));
    let flush = tables.protect_each(&ranges, PagePermissions::READ).unwrap();
    assert!(!flush.is_empty());
    flush.unused();
    assert!(ranges.iter().all(|&range| rights(&tables, range) == PagePermissions::READ));
    let between = PageRange::known(8 * GIB + 3 * PAGE_BYTES, 8 * GIB + 4 * PAGE_BYTES);
    assert_eq!(rights(&tables, between), PagePermissions::ALL);
    tables.unmap(window).unwrap().unused();
    drop(tables);
    assert_eq!(machine.in_use(), used);
}

#[test]
fn only_the_edges_of_a_range_are_split() {
    let machine = Machine::new();
    let mut tables = machine.tables();
    let window = PageRange::known(8 * GIB, 12 * GIB);
    tables.map_identically(window, PagePermissions::ALL).unwrap().unused();
    let size = |tables: &PageTables<'_>, address| tables.lookup(VirtAddr::new(address)).unwrap().size;
    assert_eq!(size(&tables, 9 * GIB), PageSize::Size1GiB);
    let cut = PageRange::known(9 * GIB + PAGE_BYTES, 11 * GIB);
    tables.protect(cut, PagePermissions::READ).unwrap().unused();
    assert_eq!(size(&tables, 8 * GIB), PageSize::Size1GiB);
    assert_eq!(size(&tables, 9 * GIB), PageSize::Size4KiB);
    assert_eq!(size(&tables, 9 * GIB + (2 << 20)), PageSize::Size2MiB);
    assert_eq!(size(&tables, 10 * GIB), PageSize::Size1GiB);
    // And back: the 4 KiB pages have to be alike before they become a larger one.
    let refused = tables.merge(VirtAddr::new(9 * GIB), PageSize::Size1GiB).unwrap_err();
    assert!(matches!(refused, EditError::NotMergeable { reason: MergeObstacle::Divided, .. }));
    let refused = tables.merge(VirtAddr::new(9 * GIB), PageSize::Size2MiB).unwrap_err();
    assert_eq!(
        refused,
        EditError::NotMergeable {
            address: VirtAddr::new(9 * GIB + PAGE_BYTES),
            size: PageSize::Size2MiB,
            reason: MergeObstacle::Permissions
        }
    );
    tables.protect(window, PagePermissions::ALL).unwrap().unused();
    tables.merge(VirtAddr::new(9 * GIB), PageSize::Size2MiB).unwrap().unused();
    // The merged page counts as accessed and dirty; the others do not yet.
    let refused = tables.merge(VirtAddr::new(9 * GIB), PageSize::Size1GiB);
    refused.unwrap().unused();
    assert_eq!(size(&tables, 9 * GIB), PageSize::Size1GiB);
    assert_eq!(tables.lookup(VirtAddr::new(9 * GIB)).unwrap().frame, FIRST_GPA + GIB);
    tables.unmap(window).unwrap().unused();
    drop(tables);
    assert_eq!(machine.in_use(), 1);
}

#[test]
fn tables_wait_for_the_flush() {
    let machine = Machine::new();
    let mut tables = machine.tables();
    let range = PageRange::known(8 * GIB, 8 * GIB + PAGE_BYTES);
    tables.map_identically(range, PagePermissions::ALL).unwrap().unused();
    assert_eq!(machine.in_use(), 4);
    let flush = tables.unmap(range).unwrap();
    assert_eq!((machine.in_use(), flush.pages()), (4, Some(1)));
    flush.defer();
    assert_eq!(machine.in_use(), 4);
    assert_eq!(machine.frames.release_quarantined(|| ()), 3);
    assert_eq!(machine.in_use(), 1);
    assert!(tables.root_table().is_full_of(Entry::EMPTY));
    assert_eq!(Level::ROOT, Level(4));
}

#[test]
fn accessed_marks_are_harvested_apart_from_dirty_ones() {
    let machine = Machine::new();
    let mut tables = machine.tables();
    let range = PageRange::known(8 * GIB, 8 * GIB + 4 * PAGE_BYTES);
    tables.map_identically(range, PagePermissions::ALL).unwrap().unused();
    tables.mark_dirty(PageRange::known(8 * GIB + PAGE_BYTES, 8 * GIB + 2 * PAGE_BYTES));
    let mut pages = Vec::new();
    let flush = tables.harvest_accessed(range, |page, size| pages.push((page.as_u64(), size)));
    assert_eq!(
        (pages.as_slice(), flush.pages()),
        (&[(8 * GIB + PAGE_BYTES, PageSize::Size4KiB)][..], Some(1))
    );
    flush.unused();
    let mut count = 0;
    tables.harvest_accessed(range, |_, _| count += 1).unused();
    assert_eq!(count, 0);
    tables.harvest_dirty(range, |_, _| count += 1).unused();
    assert_eq!(count, 1);
}
