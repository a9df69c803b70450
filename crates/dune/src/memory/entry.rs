//! One entry of a paging structure: 64 bits (Intel SDM Vol. 3A §4.5.4, AMD APM Vol. 2 §5.3.3).
//!
//! Dune uses five of the bits that the CPU ignores: an *owned* mark on leaves that the program edited, which the
//! mirror of Linux's mappings leaves alone (bit 9), a *shared* mark on entries that point to a table of another
//! root (bit 10), an *armed* mark on leaves that are as good as present, but whose first access is to be
//! noticed (bit 11; `streams.rs`), a *pinned* mark on leaves that nothing takes away, since ring 0 can not do
//! without them (bit 52), and a *guarded* mark on leaves that are as good as writable, but whose first write is to be
//! noticed, and on entries that point to tables of such leaves (bit 53; `snapshot/guard.rs`). Each edit of a leaf's
//! rights takes the armed and the guarded mark away. An entry that has an address but
//! is not present is a page without permissions: it keeps its frame. An entry without an address is empty; an
//! empty one with the owned mark is a *hole*: the program unmapped what the mirror had there.
//!
//! The CPU lets nobody write below an entry that is not writable, at any level. Entries that point to tables are, but for those that
//! guard all that is below them.

use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::PhysAddr;
use x86_64::structures::paging::PageTableFlags as Flags;

use crate::arch::page::{Level, PagePermissions, PageSize};

/// An entry's value. Zero is the empty entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry(pub u64);

/// Bits 12 to 51: the address of the frame or of the next table.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// In a 2 MiB or 1 GiB leaf bit 12 is the PAT bit: its address starts at bit 13.
const HUGE_ADDRESS: u64 = ADDRESS & !0x1fff;
/// The bits that permissions decide.
const PERMISSIONS: u64 = Flags::PRESENT.bits()
    | Flags::WRITABLE.bits()
    | Flags::USER_ACCESSIBLE.bits()
    | Flags::GLOBAL.bits()
    | Flags::NO_EXECUTE.bits();
/// Marks a leaf, or a hole, as the program's.
const OWNED: u64 = Flags::BIT_9.bits();
/// Marks an entry whose table belongs to another root.
const SHARED: u64 = Flags::BIT_10.bits();
/// Marks a leaf that is not present only so that its first access faults.
const ARMED: u64 = Flags::BIT_11.bits();
/// Marks a leaf that the mirror never changes.
const PINNED: u64 = Flags::BIT_52.bits();
/// Marks a leaf that is not writable only so that its first write faults, and an entry above such leaves.
const GUARDED: u64 = Flags::BIT_53.bits();

impl Entry {
    pub const EMPTY: Entry = Entry(0);
    pub const ACCESSED: u64 = Flags::ACCESSED.bits();
    pub const DIRTY: u64 = Flags::DIRTY.bits();
    pub const PRESENT: u64 = Flags::PRESENT.bits();
    pub const USER: u64 = Flags::USER_ACCESSIBLE.bits();
    /// See the head of this file.
    pub const OWNED: u64 = OWNED;
    /// See the head of this file.
    pub const PINNED: u64 = PINNED;
    const HUGE: u64 = Flags::HUGE_PAGE.bits();
    const WRITABLE: u64 = Flags::WRITABLE.bits();
    /// The bits that decide whether a walk may simply follow an entry.
    pub const FOLLOW_MASK: u64 = Self::PRESENT | Self::HUGE | SHARED | GUARDED;

    /// A leaf of `size` at `frame`. The frame's alignment is the caller's business.
    #[inline]
    pub const fn leaf(frame: u64, permissions: u64, size: PageSize) -> Entry {
        let huge = if matches!(size, PageSize::Size4KiB) { 0 } else { Self::HUGE };
        Entry(frame | permissions | huge)
    }

    /// An entry that points to `table`. Permissions are the leaves' business, except that ring 3 only gets
    /// through where `user` is given on every level.
    pub const fn table(table: PhysAddr, user: bool) -> Entry {
        let user = if user { Self::USER } else { 0 };
        Entry(table.as_u64() | Self::PRESENT | Flags::WRITABLE.bits() | Self::ACCESSED | user)
    }

    /// The bits of a leaf that stand for `permissions`.
    #[inline]
    pub const fn permission_bits(permissions: PagePermissions) -> u64 {
        use PagePermissions as P;
        let bits = permissions.bits() as u64;
        let read = P::ALL.bits() as u64;
        let present = (bits & read != 0) as u64;
        let write = (bits >> 1 & 1) << 1;
        let user = (bits >> 3 & 1) << 2;
        let global = (bits >> 4 & 1) << 8;
        let no_execute = ((bits >> 2 & 1) ^ 1) << 63;
        present | write | user | global | no_execute
    }

    /// What a page of `level` becomes that the program unmaps: empty, but the program's. Of upper levels it counts
    /// as a leaf, so that it is split where a part of it changes.
    pub const fn hole(level: Level) -> Entry {
        Entry(if level.0 == 1 { OWNED } else { OWNED | Self::HUGE })
    }

    /// Whether nothing is mapped, a hole included: no frame has address 0, and a hole no bit above 11.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 < 1 << 12
    }

    /// Whether this is the program's.
    pub const fn is_owned(self) -> bool {
        self.0 & OWNED != 0
    }

    /// Whether nothing takes this away.
    pub const fn is_pinned(self) -> bool {
        self.0 & PINNED != 0
    }

    /// Whether this entry of `level` maps a page, or is a hole, rather than pointing to a table or to nothing.
    #[inline]
    pub const fn is_leaf(self, level: Level) -> bool {
        level.0 == 1 || self.0 & Self::HUGE != 0
    }

    #[inline]
    pub const fn is_present(self) -> bool {
        self.0 & Self::PRESENT != 0
    }

    /// Whether a CPU may have cached what this says. Arming an entry does not make CPUs forget it.
    #[inline]
    pub const fn may_be_cached(self) -> bool {
        self.0 & (Self::PRESENT | ARMED) != 0
    }

    pub const fn is_writable(self) -> bool {
        self.0 & Self::WRITABLE != 0
    }

    pub const fn is_user(self) -> bool {
        self.0 & Self::USER != 0
    }

    /// Whether the table pointed to belongs to another root.
    pub const fn is_shared(self) -> bool {
        self.0 & SHARED != 0
    }

    pub const fn shared(self) -> Entry {
        Entry(self.0 | SHARED)
    }

    #[inline]
    pub const fn is_global(self) -> bool {
        self.0 & Flags::GLOBAL.bits() != 0
    }

    pub const fn is_accessed(self) -> bool {
        self.0 & Self::ACCESSED != 0
    }

    pub const fn is_dirty(self) -> bool {
        self.0 & Self::DIRTY != 0
    }

    /// Whether the first access is to be noticed.
    pub const fn is_armed(self) -> bool {
        self.0 & ARMED != 0
    }

    /// This present leaf, its first access to be noticed.
    pub const fn armed(self) -> Entry {
        Entry(self.0 & !Self::PRESENT | ARMED)
    }

    /// The leaf as it is once the first access has been noticed, or as it is if nothing is to be noticed.
    pub const fn disarmed(self) -> Entry {
        if self.is_armed() { Entry(self.0 & !ARMED | Self::PRESENT) } else { self }
    }

    /// Whether the first write is to be noticed; above leaves, whether it may be.
    pub const fn is_guarded(self) -> bool {
        self.0 & GUARDED != 0
    }

    /// This entry, of which nothing can be written before it has been noticed.
    pub const fn guarded(self) -> Entry {
        Entry(self.0 & !Self::WRITABLE | GUARDED)
    }

    /// This entry above leaves, with the mark that they may be guarded.
    pub const fn above_guarded(self) -> Entry {
        Entry(self.0 | GUARDED)
    }

    /// This entry above leaves, which guards nothing itself.
    pub const fn lifted(self) -> Entry {
        Entry(self.0 | Self::WRITABLE)
    }

    /// The leaf as it is once the first write has been noticed, or as it is if nothing is to be noticed.
    pub const fn unguarded(self) -> Entry {
        if self.is_guarded() { Entry(self.0 & !GUARDED | Self::WRITABLE) } else { self }
    }

    /// The address of the table that a non-leaf points to.
    #[inline]
    pub const fn table_address(self) -> u64 {
        self.0 & ADDRESS
    }

    /// The frame of a leaf at `level`.
    pub const fn frame(self, level: Level) -> u64 {
        self.0 & if level.0 == 1 { ADDRESS } else { HUGE_ADDRESS }
    }

    /// The permissions of a leaf, armed and guarded or not.
    pub const fn permissions(self) -> PagePermissions {
        use PagePermissions as P;
        let mut permissions = P::empty();
        if self.is_present() || self.is_armed() {
            permissions = permissions.union(P::READ);
            if self.0 & (Self::WRITABLE | GUARDED) != 0 {
                permissions = permissions.union(P::WRITE);
            }
            if self.0 & Flags::NO_EXECUTE.bits() == 0 {
                permissions = permissions.union(P::EXECUTE);
            }
        }
        if self.is_user() {
            permissions = permissions.union(P::USER);
        }
        if self.is_global() {
            permissions = permissions.union(P::GLOBAL);
        }
        permissions
    }

    /// The same leaf with the permission bits `permissions`; accessed, dirty and program bits stay.
    #[inline]
    pub const fn with_permissions(self, permissions: u64) -> Entry {
        Entry(self.0 & !(PERMISSIONS | ARMED | GUARDED) | permissions)
    }

    /// The bits `clear` cleared and `set` set.
    pub const fn edited(self, clear: u64, set: u64) -> Entry {
        Entry(self.0 & !clear | set)
    }

    /// The first of the 512 smaller leaves that map what this leaf of `level` maps (the next one is
    /// [`Self::step`] further). They inherit all bits, accessed and dirty too.
    pub const fn shrunk(self, level: Level) -> Entry {
        let pat = self.0 >> 12 & 1;
        if level.0 == 2 {
            // The PAT bit moves from bit 12 to bit 7, where a 2 MiB leaf has its size bit.
            Entry(self.0 & !(Self::HUGE | 0x1000) | pat << 7)
        } else {
            self
        }
    }

    /// The leaf of `level` for 512 leaves of the level below, of which `self` is the first.
    pub const fn grown(self, level: Level) -> Entry {
        let pat = self.0 >> 7 & 1;
        if level.0 == 2 { Entry(self.0 & !Self::HUGE | pat << 12 | Self::HUGE) } else { self }
    }

    /// The leaf `index` pages of `level` after this one.
    pub const fn step(self, level: Level, index: usize) -> Entry {
        Entry(self.0 + ((index as u64) << level.shift()))
    }
}

/// A paging structure in memory: 512 entries that the CPU reads, and marks accessed and dirty, at any time.
#[repr(C, align(4096))]
#[derive(Debug)]
pub(super) struct Table([AtomicU64; 512]);

impl Table {
    /// The entry `index`; one aligned 64-bit load.
    #[inline]
    pub fn get(&self, index: usize) -> Entry {
        Entry(self.0[index & 511].load(Ordering::Relaxed))
    }

    /// Sets an entry with one aligned 64-bit store. Only for entries that are not present: the CPU's accessed
    /// and dirty marks would be lost.
    #[inline]
    pub fn set(&self, index: usize, entry: Entry) {
        // Release: the table or page pointed to has been written before.
        self.0[index & 511].store(entry.0, Ordering::Release);
    }

    /// Puts `entry` in and returns what was there, with the CPU's last marks.
    pub fn swap(&self, index: usize, entry: Entry) -> Entry {
        Entry(self.0[index & 511].swap(entry.0, Ordering::AcqRel))
    }

    /// Replaces the entry by `edit` of it, without losing accessed and dirty marks that the CPU sets
    /// meanwhile. Returns the entry before.
    #[inline]
    pub fn update(&self, index: usize, edit: impl Fn(Entry) -> Entry) -> Entry {
        let slot = &self.0[index & 511];
        let mut old = slot.load(Ordering::Relaxed);
        loop {
            let new = edit(Entry(old)).0;
            if new == old {
                return Entry(old);
            }
            match slot.compare_exchange_weak(old, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Entry(old),
                Err(seen) => old = seen,
            }
        }
    }

    /// As [`Self::update`], unless the entry is empty.
    #[inline]
    pub fn update_mapped(&self, index: usize, edit: impl Fn(Entry) -> Entry) -> Option<Entry> {
        let slot = &self.0[index & 511];
        let mut old = slot.load(Ordering::Relaxed);
        if Entry(old).is_empty() {
            return None;
        }
        loop {
            match slot.compare_exchange(old, edit(Entry(old)).0, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(Entry(old)),
                Err(seen) => old = seen,
            }
        }
    }

    /// Whether no entry from the first to the last index is empty.
    pub fn all_mapped(&self, (first, last): (usize, usize)) -> bool {
        self.slots(first, last).iter().all(|slot| !Entry(slot.load(Ordering::Relaxed)).is_empty())
    }

    /// Updates the entries from the first to the last index. Returns all bits that any of them had.
    #[inline]
    pub fn update_all(&self, (first, last): (usize, usize), edit: impl Fn(Entry) -> Entry) -> Entry {
        let mut seen = 0;
        for slot in self.slots(first, last) {
            let mut old = slot.load(Ordering::Relaxed);
            while let Err(now) =
                slot.compare_exchange(old, edit(Entry(old)).0, Ordering::AcqRel, Ordering::Relaxed)
            {
                old = now;
            }
            seen |= old;
        }
        Entry(seen)
    }

    /// Visits the entries from the first to the last index that have any of the bits `marks`. Eight at a time are looked at together, for
    /// most have none.
    #[inline]
    pub fn each_marked(&self, (first, last): (usize, usize), marks: u64, mut visit: impl FnMut(usize)) {
        let (eights, rest) = self.slots(first, last).as_chunks::<8>();
        let has = |slot: &AtomicU64| slot.load(Ordering::Relaxed) & marks != 0;
        for (eight, slots) in eights.iter().enumerate() {
            let all = slots.iter().fold(0, |all, slot| all | slot.load(Ordering::Relaxed));
            if all & marks != 0 {
                for index in (0..8).filter(|&index| has(&slots[index])) {
                    visit(first + eight * 8 + index);
                }
            }
        }
        for index in (0..rest.len()).filter(|&index| has(&rest[index])) {
            visit(first + eights.len() * 8 + index);
        }
    }

    #[inline]
    fn slots(&self, first: usize, last: usize) -> &[AtomicU64] {
        let last = last & 511;
        &self.0[first.min(last)..=last]
    }

    /// Replaces the entry by `new` if it is still `old`.
    pub fn exchange(&self, index: usize, old: Entry, new: Entry) -> Result<(), Entry> {
        match self.0[index & 511].compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            Err(seen) => Err(Entry(seen)),
        }
    }

    /// Whether every entry is `entry`.
    pub fn is_full_of(&self, entry: Entry) -> bool {
        self.0.iter().all(|slot| slot.load(Ordering::Relaxed) == entry.0)
    }
}

#[cfg(test)]
mod exhaustive;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_round_trip() {
        use PagePermissions as P;
        for bits in 0..32 {
            let permissions = P::from_bits(bits).unwrap();
            let entry = Entry::leaf(0x1000, Entry::permission_bits(permissions), PageSize::Size4KiB);
            let mut expected = permissions;
            if permissions.intersects(P::ALL) {
                expected |= P::READ;
            } else {
                expected -= P::ALL;
            }
            assert_eq!(entry.permissions(), expected);
            assert!(!entry.is_empty());
        }
    }

    #[test]
    fn shrinking_and_growing_are_inverse() {
        for level in [Level(2), Level(3)] {
            for pat in [0, 0x1000] {
                let bits = Entry::permission_bits(PagePermissions::ALL) | pat | Entry::DIRTY;
                let leaf = Entry::leaf(5 << 30, bits, level.leaf().unwrap());
                let small = leaf.shrunk(level);
                assert_eq!(small.grown(level), leaf);
                let third = small.step(level.below(), 3);
                assert_eq!(third.frame(level.below()), (5 << 30) + 3 * level.below().span());
                assert!(third.is_dirty());
            }
        }
    }

    #[test]
    fn an_armed_leaf_keeps_its_rights_until_an_edit() {
        use PagePermissions as P;
        let leaf = Entry::leaf(0x7000, Entry::permission_bits(P::READ_WRITE), PageSize::Size4KiB);
        let armed = leaf.armed();
        assert!(!armed.is_present() && armed.is_armed() && !armed.is_empty());
        assert_eq!((armed.permissions(), armed.frame(Level(1))), (P::READ_WRITE, 0x7000));
        assert_eq!(armed.disarmed(), leaf);
        assert_eq!(leaf.disarmed(), leaf);
        let read = Entry::permission_bits(P::READ);
        assert_eq!(armed.with_permissions(read), leaf.with_permissions(read));
    }

    #[test]
    fn a_guarded_leaf_keeps_its_rights_until_an_edit() {
        use PagePermissions as P;
        let leaf = Entry::leaf(0x7000, Entry::permission_bits(P::READ_WRITE), PageSize::Size4KiB);
        let guarded = leaf.guarded();
        assert!(guarded.is_guarded() && guarded.is_present() && !guarded.is_writable());
        assert_eq!((guarded.permissions(), guarded.frame(Level(1))), (P::READ_WRITE, 0x7000));
        assert_eq!(guarded.unguarded(), leaf);
        assert_eq!(leaf.unguarded(), leaf);
        let read = Entry::permission_bits(P::READ);
        assert_eq!(guarded.with_permissions(read), leaf.with_permissions(read));
        let table = Entry::table(PhysAddr::new(0x5000), false);
        assert!(!table.guarded().is_writable() && table.guarded().lifted() == table.above_guarded());
    }

    #[test]
    fn update_keeps_foreign_bits() {
        // SAFETY: 1. a Table is 512 integers, for which zero is a value.
        let table: Box<Table> = unsafe { Box::new(core::mem::zeroed()) };
        table.set(7, Entry(0x5000 | Entry::DIRTY | 1));
        let old = table.update(7, |entry| entry.with_permissions(0));
        assert_eq!(old.0, 0x5000 | Entry::DIRTY | 1);
        assert_eq!(table.get(7).0, 0x5000 | Entry::DIRTY);
        assert!(!table.is_full_of(Entry::EMPTY));
    }
}
