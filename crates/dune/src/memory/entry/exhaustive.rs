//! The arithmetic of entries, tried on every combination of level, permissions and marks, and on every bit of an address.
//! Bits are written as in the tables of Intel SDM Vol. 3A §4.5.4, not by the names of `entry.rs`.

use x86_64::PhysAddr;

use super::Entry;
use crate::arch::page::{Level, PagePermissions, PageSize};

const P: u64 = 1 << 0;
const RW: u64 = 1 << 1;
const US: u64 = 1 << 2;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const G: u64 = 1 << 8;
const OWNED: u64 = 1 << 9;
const SHARED: u64 = 1 << 10;
const ARMED: u64 = 1 << 11;
const PINNED: u64 = 1 << 52;
const XD: u64 = 1 << 63;

const LEVELS: [Level; 3] = [Level(1), Level(2), Level(3)];

/// Marks that a leaf may have whatever its permissions are, the PAT bit of its level among them.
fn marks(level: Level) -> impl Iterator<Item = u64> {
    let single = [A, D, OWNED, PINNED, if level.0 == 1 { PS } else { 1 << 12 }];
    (0..1_u32 << single.len()).map(move |chosen| {
        let bit = |(index, bit): (usize, &u64)| if chosen >> index & 1 != 0 { *bit } else { 0 };
        single.iter().enumerate().map(bit).sum()
    })
}

/// Each bit that an address of `level` may have alone, all of them, and two neighbours.
fn frames(level: Level) -> impl Iterator<Item = u64> {
    let lowest = 12 + 9 * (u32::from(level.0) - 1);
    let all = (1_u64 << 52) - (1 << lowest);
    (lowest..52).map(|bit| 1 << bit).chain([all, all & !(1 << lowest), 5 << lowest])
}

fn permissions() -> impl Iterator<Item = PagePermissions> {
    (0..32).map(|bits| PagePermissions::from_bits(bits).unwrap())
}

/// What an entry says of `permissions`: whatever can be accessed at all can be read.
fn seen(permissions: PagePermissions) -> PagePermissions {
    if permissions.intersects(PagePermissions::ALL) {
        permissions | PagePermissions::READ
    } else {
        permissions
    }
}

/// The bits of `permissions`.
fn bits(permissions: PagePermissions) -> u64 {
    let has = |right, bit| if permissions.contains(right) { bit } else { 0 };
    let present = if permissions.intersects(PagePermissions::ALL) { P } else { 0 };
    let no_execute = if permissions.contains(PagePermissions::EXECUTE) { 0 } else { XD };
    present
        | has(PagePermissions::WRITE, RW)
        | has(PagePermissions::USER, US)
        | has(PagePermissions::GLOBAL, G)
        | no_execute
}

fn size(level: Level) -> (PageSize, u64) {
    match level.0 {
        1 => (PageSize::Size4KiB, 0),
        2 => (PageSize::Size2MiB, PS),
        _ => (PageSize::Size1GiB, PS),
    }
}

/// Calls `check` with every leaf: its level, frame, permissions and marks.
fn each_leaf(mut check: impl FnMut(Entry, Level, u64, PagePermissions, u64)) {
    for level in LEVELS {
        for frame in frames(level) {
            for permissions in permissions() {
                for marks in marks(level) {
                    let bits = Entry::permission_bits(permissions) | marks;
                    check(Entry::leaf(frame, bits, size(level).0), level, frame, permissions, marks);
                }
            }
        }
    }
}

#[test]
fn a_leaf_says_what_it_was_made_of() {
    each_leaf(|leaf, level, frame, permissions, marks| {
        assert_eq!(leaf.0, frame | bits(permissions) | marks | size(level).1);
        assert_eq!(leaf.frame(level), frame);
        assert_eq!(leaf.permissions(), seen(permissions));
        assert!(leaf.is_leaf(level) && !leaf.is_empty() && !leaf.is_shared() && !leaf.is_armed());
        assert_eq!(leaf.is_present(), permissions.intersects(PagePermissions::ALL));
        assert_eq!(leaf.may_be_cached(), leaf.is_present());
        let has = |bit| marks & bit != 0;
        let told = [leaf.is_accessed(), leaf.is_dirty(), leaf.is_owned(), leaf.is_pinned()];
        assert_eq!(told, [has(A), has(D), has(OWNED), has(PINNED)]);
        let told = [leaf.is_writable(), leaf.is_user(), leaf.is_global()];
        let rights = [PagePermissions::WRITE, PagePermissions::USER, PagePermissions::GLOBAL];
        assert_eq!(told, rights.map(|right| permissions.contains(right)));
    });
}

#[test]
fn new_permissions_leave_all_else() {
    each_leaf(|leaf, level, frame, permissions, marks| {
        for new in self::permissions() {
            let expected = frame | bits(new) | marks | size(level).1;
            assert_eq!(leaf.with_permissions(Entry::permission_bits(new)).0, expected);
            if permissions.intersects(PagePermissions::ALL) {
                let armed = leaf.armed().with_permissions(Entry::permission_bits(new));
                assert_eq!(armed.0, expected, "an edit of the rights disarms");
            }
        }
    });
}

#[test]
fn arming_takes_presence_only() {
    each_leaf(|leaf, level, frame, permissions, _| {
        assert_eq!(leaf.disarmed(), leaf);
        if !permissions.intersects(PagePermissions::ALL) {
            return;
        }
        let armed = leaf.armed();
        assert_eq!(armed.0, leaf.0 & !P | ARMED);
        assert_eq!(armed.disarmed(), leaf);
        assert_eq!((armed.permissions(), armed.frame(level)), (leaf.permissions(), frame));
        assert!(armed.is_armed() && !armed.is_present() && armed.may_be_cached() && !armed.is_empty());
        assert!(armed.is_leaf(level));
    });
}

#[test]
fn smaller_leaves_map_the_same() {
    each_leaf(|leaf, level, frame, permissions, marks| {
        if level.0 == 1 {
            return;
        }
        let below = level.below();
        let pat = marks & 1 << 12 != 0;
        // Where a leaf of 4 KiB has its PAT bit, larger ones have their size bit.
        let kept = marks & !(1 << 12)
            | match (below.0, pat) {
                (1, true) => PS,
                (1, false) => 0,
                (_, true) => PS | 1 << 12,
                (_, false) => PS,
            };
        let first = leaf.shrunk(level);
        assert_eq!(first.grown(level), leaf);
        for index in [0, 1, 2, 255, 256, 510, 511] {
            let small = first.step(below, index);
            let its_frame = frame + ((index as u64) << (12 + 9 * (u32::from(below.0) - 1)));
            assert_eq!(small.0, its_frame | bits(permissions) | kept);
            assert_eq!(small.frame(below), its_frame);
            assert!(small.is_leaf(below));
            assert_eq!((small.permissions(), small.is_owned()), (leaf.permissions(), leaf.is_owned()));
        }
    });
}

#[test]
fn tables_and_holes_are_told_apart() {
    for frame in frames(Level(1)) {
        for user in [false, true] {
            let table = Entry::table(PhysAddr::new(frame), user);
            assert_eq!(table.0, frame | P | RW | A | if user { US } else { 0 });
            assert_eq!(table.shared().0, table.0 | SHARED);
            assert!(table.shared().is_shared() && !table.is_shared());
            for entry in [table, table.shared()] {
                assert_eq!(entry.table_address(), frame);
                assert!(!entry.is_empty() && entry.is_present() && !entry.is_owned() && !entry.is_armed());
                assert!((2..=4).all(|level| !entry.is_leaf(Level(level))));
                assert_eq!(entry.is_user(), user);
            }
            // A walk follows what is present, no leaf, and its own.
            assert_eq!(table.0 & Entry::FOLLOW_MASK, P);
            assert_ne!(table.shared().0 & Entry::FOLLOW_MASK, P);
        }
    }
    for level in LEVELS {
        let hole = Entry::hole(level);
        assert_eq!(hole.0, OWNED | size(level).1);
        assert!(hole.is_empty() && hole.is_owned() && hole.is_leaf(level));
        assert!(!hole.is_present() && !hole.may_be_cached() && !hole.is_shared() && !hole.is_pinned());
        assert_eq!((hole.permissions(), hole.frame(level)), (PagePermissions::empty(), 0));
        assert_ne!(hole.0 & Entry::FOLLOW_MASK, P);
        if level.0 > 1 {
            // 512 smaller holes: an address of 0 must not become one.
            let part = hole.shrunk(level);
            assert_eq!(part, Entry::hole(level.below()));
        }
    }
    assert!(Entry::EMPTY.is_empty() && !Entry::EMPTY.is_owned() && !Entry::EMPTY.is_leaf(Level(2)));
}
