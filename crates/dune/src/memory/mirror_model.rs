//! Random edits of the mirror and of the program against a model: per page its rights and whose it is.

use std::collections::BTreeMap;

use proptest::prelude::*;
use x86_64::VirtAddr;

use super::mirror::Ownership;
use super::model::{Machine, STEP};
use super::window::GIB;
use super::*;
use crate::arch::page::PAGE_BYTES;

/// Where the edits happen: inside of the machine's window, across a 1 GiB boundary.
const BASE: u64 = 11 * GIB - 3 * (2 << 20);
const PAGES: u64 = 6 * 512 + 1;

#[derive(Clone, Debug)]
pub(crate) enum Edit {
    Mirror { first: u64, pages: u64, permissions: PagePermissions, respect: bool },
    Protect { first: u64, pages: u64, permissions: PagePermissions },
    Unmap { first: u64, pages: u64 },
    MapOwn { first: u64, pages: u64 },
}

/// What the model knows of a page; pages that are neither mapped nor the program's are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Page {
    permissions: Option<PagePermissions>,
    owned: bool,
}

fn range(first: u64, pages: u64) -> PageRange {
    PageRange::known(BASE + first * PAGE_BYTES, BASE + (first + pages) * PAGE_BYTES)
}

fn span() -> impl Strategy<Value = (u64, u64)> {
    let blocks = (0u64..6, 1u64..7).prop_map(|(first, blocks)| (first * 512, blocks.min(6 - first) * 512));
    let any = (0..PAGES, 1u64..1500).prop_map(|(first, pages)| (first, pages.min(PAGES - first)));
    let few = (0..PAGES, 1u64..5).prop_map(|(first, pages)| (first, pages.min(PAGES - first)));
    prop_oneof![blocks, any, few]
}

fn linux() -> impl Strategy<Value = PagePermissions> {
    (0u8..8).prop_map(PagePermissions::from_bits_truncate)
}

pub(crate) fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        5 => (span(), linux(), any::<bool>()).prop_map(|((first, pages), permissions, respect)| {
            Edit::Mirror { first, pages, permissions, respect }
        }),
        2 => (span(), (0u8..16).prop_map(PagePermissions::from_bits_truncate))
            .prop_map(|((first, pages), permissions)| Edit::Protect { first, pages, permissions }),
        2 => span().prop_map(|(first, pages)| Edit::Unmap { first, pages }),
        1 => span().prop_map(|(first, pages)| Edit::MapOwn { first, pages }),
    ]
}

fn seen(permissions: PagePermissions) -> PagePermissions {
    if permissions.intersects(PagePermissions::ALL) {
        permissions | PagePermissions::READ
    } else {
        permissions
    }
}

/// Applies `edit` to both.
fn apply(machine: &Machine, model: &mut BTreeMap<u64, Page>, edit: &Edit) {
    let mut tables = machine.mirror_tables();
    match *edit {
        Edit::Mirror { first, pages, permissions, respect } => {
            let ownership = if respect { Ownership::Respect } else { Ownership::TakeBack };
            tables.mirror(range(first, pages), permissions, ownership).unwrap().unused();
            for page in first..first + pages {
                if respect && model.get(&page).is_some_and(|page| page.owned) {
                } else if permissions.is_empty() {
                    model.remove(&page);
                } else {
                    model.insert(page, Page { permissions: Some(seen(permissions)), owned: false });
                }
            }
        }
        Edit::Protect { first, pages, permissions } => {
            let mapped = |page| model.get(&page).is_some_and(|page: &Page| page.permissions.is_some());
            let all = (first..first + pages).all(mapped);
            // SAFETY: these tables are never loaded.
            match unsafe { tables.protect_for_user(range(first, pages), permissions) } {
                Ok(flush) => {
                    assert!(all);
                    flush.unused();
                    let page = Page { permissions: Some(seen(permissions)), owned: true };
                    model.extend((first..first + pages).map(|number| (number, page)));
                }
                Err(error) => assert!(!all && matches!(error, EditError::NotMapped { .. }), "{error}"),
            }
        }
        Edit::Unmap { first, pages } => {
            if let Ok(flush) = tables.unmap(range(first, pages)) {
                flush.unused();
            }
            for (_, page) in model.range_mut(first..first + pages) {
                *page = Page { permissions: None, owned: true };
            }
        }
        Edit::MapOwn { first, pages } => {
            let free = (first..first + pages)
                .all(|page| model.get(&page).is_none_or(|page| page.permissions.is_none()));
            match tables.map_identically(range(first, pages), PagePermissions::READ) {
                Ok(flush) => {
                    assert!(free);
                    flush.unused();
                    let page = Page { permissions: Some(PagePermissions::READ), owned: true };
                    model.extend((first..first + pages).map(|number| (number, page)));
                }
                Err(error) => assert!(!free, "{error}"),
            }
        }
    }
}

/// Compares each page in so many.
fn compare(machine: &Machine, model: &BTreeMap<u64, Page>, step: usize) {
    let tables = machine.mirror_tables();
    for number in (0..PAGES).step_by(step) {
        let address = VirtAddr::new(BASE + number * PAGE_BYTES);
        let page = model.get(&number);
        let leaf = tables.lookup(address);
        assert_eq!(
            leaf.map(|leaf| leaf.permissions),
            page.and_then(|page| page.permissions),
            "page {number}"
        );
        assert_eq!(tables.is_owned(address), page.is_some_and(|page| page.owned), "page {number}");
        if leaf.is_some() {
            assert_eq!(tables.translate(address), machine.windows.to_physical(address));
        }
    }
}

/// Does all edits to tables and model; panics where they disagree, or a frame is lost.
pub(crate) fn agree(edits: &[Edit]) {
    let machine = Machine::new();
    let mut model = BTreeMap::new();
    for edit in edits {
        apply(&machine, &mut model, edit);
        compare(&machine, &model, STEP);
    }
    compare(&machine, &model, 1);
    let none = PagePermissions::empty();
    machine.mirror_tables().mirror(range(0, PAGES), none, Ownership::TakeBack).unwrap().unused();
    assert_eq!(machine.in_use(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn mirror_and_program_agree_with_the_model(edits in proptest::collection::vec(edit(), 1..24)) {
        agree(&edits);
    }
}

#[test]
fn large_mappings_cost_few_tables_and_reservations_none() {
    let machine = Machine::new();
    let mut tables = machine.mirror_tables();
    let range = |start, bytes| PageRange::known(start, start + bytes);
    let edit = |tables: &mut PageTables<'_>, range, permissions| {
        tables.mirror(range, permissions, Ownership::TakeBack).unwrap().unused()
    };
    edit(&mut tables, range(1 << 40, 16 << 40), PagePermissions::empty());
    assert_eq!(machine.in_use(), 1);
    edit(&mut tables, range(1 << 40, 16 << 40), PagePermissions::ALL);
    assert_eq!(machine.in_use(), 1, "nothing is mapped outside of the windows");
    edit(&mut tables, range(8 * GIB, 8 * GIB), PagePermissions::READ_WRITE);
    assert_eq!(machine.in_use(), 2);
    assert_eq!(tables.lookup(VirtAddr::new(9 * GIB)).unwrap().size, PageSize::Size1GiB);
    edit(&mut tables, range(8 * GIB + PAGE_BYTES, PAGE_BYTES), PagePermissions::READ);
    assert_eq!(machine.in_use(), 4);
    edit(&mut tables, range(7 * GIB, 32 * GIB), PagePermissions::empty());
    assert_eq!(machine.in_use(), 1);
    assert_eq!(window::FIRST_GPA.as_u64() % GIB, 0);
}

#[test]
fn flushes_are_owed_only_for_rights_taken() {
    let machine = Machine::new();
    let mut tables = machine.mirror_tables();
    let page = PageRange::known(9 * GIB, 9 * GIB + PAGE_BYTES);
    let mut owes = |permissions| {
        let flush = tables.mirror(page, permissions, Ownership::TakeBack).unwrap();
        let owes = flush.pages() != Some(0);
        flush.unused();
        owes
    };
    assert!(!owes(PagePermissions::READ));
    assert!(!owes(PagePermissions::READ_WRITE));
    assert!(owes(PagePermissions::READ), "writing was taken");
    assert!(!owes(PagePermissions::ALL));
    assert!(owes(PagePermissions::READ_WRITE), "executing was taken");
    assert!(owes(PagePermissions::empty()));
    assert!(!owes(PagePermissions::ALL));
}

/// Whatever the mirror is told, and on whatever page size it lies.
#[test]
fn pinned_pages_stay() {
    let machine = Machine::new();
    let mut tables = machine.mirror_tables();
    let around = PageRange::known(9 * GIB, 10 * GIB);
    let pinned = PageRange::known(9 * GIB + 3 * PAGE_BYTES, 9 * GIB + 5 * PAGE_BYTES);
    let lookup =
        |tables: &PageTables<'_>, address| tables.lookup(VirtAddr::new(address)).map(|leaf| leaf.permissions);
    tables.mirror(around, PagePermissions::ALL, Ownership::TakeBack).unwrap().unused();
    tables.pin(pinned).unwrap().unused();
    for permissions in [PagePermissions::empty(), PagePermissions::READ, PagePermissions::ALL] {
        for range in [around, pinned, PageRange::known(9 * GIB, pinned.first() + PAGE_BYTES)] {
            tables.mirror(range, permissions, Ownership::TakeBack).unwrap().unused();
            for page in [pinned.first(), pinned.end() - PAGE_BYTES] {
                assert_eq!(lookup(&tables, page), Some(PagePermissions::READ_WRITE), "after {permissions:?}");
            }
        }
        let expected = (!permissions.is_empty()).then_some(permissions);
        assert_eq!(lookup(&tables, pinned.first() - PAGE_BYTES), expected);
        assert_eq!(lookup(&tables, pinned.end()), expected);
    }
}

#[test]
fn this_process_is_mirrored() {
    let features = PagingFeatures { giant_pages: true, ..PagingFeatures::default() };
    let options = MemoryOptions { arena_bytes: 64 << 20, ..MemoryOptions::new(TEST_PHYSICAL_BITS, features) };
    assert_eq!(options.mapping, mirror::MirrorMode::Precise);
    let memory = Memory::build(&options).unwrap();
    let permissions = |address: u64| {
        memory.page_tables().unwrap().lookup(VirtAddr::new(address)).map(|leaf| leaf.permissions)
    };
    static mut WRITABLE: u64 = 7;
    let code = this_process_is_mirrored as fn() as usize as u64;
    assert_eq!(permissions(code), Some(PagePermissions::READ | PagePermissions::EXECUTE));
    assert_eq!(permissions(&raw const WRITABLE as u64), Some(PagePermissions::READ_WRITE));
    assert_eq!(permissions(&raw const options as u64), Some(PagePermissions::READ_WRITE));
    assert_eq!(permissions(memory.frames().range().first()), Some(PagePermissions::READ_WRITE));
    assert_eq!(permissions(0), None);
    let used = memory.frames().stats().unwrap().in_use;
    assert!(used < 4 << 20, "{used} bytes of tables");
}
