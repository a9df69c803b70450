//! What the program has mapped, by address: the supervisor's own account of the program's part.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::part::{END, PAGE, START};

/// Rights of an area: PROT_READ, PROT_WRITE, PROT_EXEC of mmap(2).
pub(crate) type Rights = u8;

/// What a mapping is for a limit of memory: once its pages can be the program's own they are counted, to the mapping's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Account {
    /// They are a file's.
    Never,
    /// A file's until they are written to.
    OnceWritable,
    /// The program's own.
    OnceAccessible,
    Counted,
}

impl Account {
    /// With these rights from now on.
    pub(crate) fn with(self, rights: Rights) -> Account {
        match self {
            Account::OnceWritable if rights & libc::PROT_WRITE as Rights != 0 => Account::Counted,
            Account::OnceAccessible if rights != 0 => Account::Counted,
            account => account,
        }
    }
}

/// Among the rights of an area: it stays as it is, as what mseal(2) seals.
pub(crate) const SEALED: Rights = 1 << 7;

/// Among the rights of an area: it is of a System V segment, which shmdt(2) unmaps.
pub(crate) const ATTACHED: Rights = 1 << 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Area {
    pub(crate) end: u64,
    pub(crate) rights: Rights,
    pub(crate) account: Account,
}

/// The areas; they do not overlap.
#[derive(Clone, Debug, Default)]
pub(crate) struct Areas {
    by_start: BTreeMap<u64, Area>,
    /// Bytes that are counted.
    counted: u64,
}

impl Areas {
    /// The area at `address`, with its start.
    pub(crate) fn at(&self, address: u64) -> Option<(u64, Area)> {
        let (start, area) = self.by_start.range(..=address).next_back()?;
        (address < area.end).then_some((*start, *area))
    }

    /// The areas that have pages in `range`.
    pub(crate) fn within(&self, range: Range<u64>) -> impl Iterator<Item = (u64, Area)> {
        let first = self.at(range.start).map_or(range.start, |(start, _)| start);
        self.by_start.range(first..range.end.max(first)).map(|(start, area)| (*start, *area))
    }

    /// Whether nothing is in `range`.
    pub(crate) fn is_free(&self, range: Range<u64>) -> bool {
        self.within(range).next().is_none()
    }

    /// Whether something in `range` stays as it is.
    pub(crate) fn is_sealed(&self, range: Range<u64>) -> bool {
        self.within(range).any(|(_, area)| area.rights & SEALED != 0)
    }

    /// Whether every page of `range` is in an area.
    pub(crate) fn covers(&self, range: Range<u64>) -> bool {
        let mut at = range.start;
        for (start, area) in self.within(range.clone()) {
            if start > at {
                break;
            }
            at = area.end;
        }
        at >= range.end
    }

    /// There is nothing in `range` any more.
    pub(crate) fn remove(&mut self, range: Range<u64>) {
        self.cut(range.start);
        self.cut(range.end);
        let starts: Vec<u64> = self.by_start.range(range).map(|(start, _)| *start).collect();
        for start in starts {
            if let Some(area) = self.by_start.remove(&start).filter(|area| area.account == Account::Counted) {
                self.counted -= area.end - start;
            }
        }
    }

    /// There is an area with `rights` in `range`, in the place of what was there.
    pub(crate) fn insert(&mut self, range: Range<u64>, rights: Rights, account: Account) {
        self.remove(range.clone());
        let account = account.with(rights);
        if account == Account::Counted {
            self.counted += range.end - range.start;
        }
        let mut area = (range.start, Area { end: range.end, rights, account });
        let is_same = |other: &Area| (other.rights, other.account) == (rights, account);
        // Neighbours that are the same become one: programs grow heaps page by page.
        if let Some((start, before)) = range.start.checked_sub(1).and_then(|address| self.at(address))
            && is_same(&before)
        {
            area.0 = start;
        }
        if let Some((start, after)) = self.at(range.end)
            && is_same(&after)
        {
            self.by_start.remove(&start);
            area.1.end = after.end;
        }
        self.by_start.insert(area.0, area.1);
    }

    /// What is in `range` has `rights` from now on.
    pub(crate) fn protect(&mut self, range: Range<u64>, rights: Rights) {
        let parts: Vec<_> = self
            .within(range.clone())
            .map(|(start, area)| (start.max(range.start)..area.end.min(range.end), area))
            .collect();
        for (part, area) in parts {
            self.insert(part, rights | area.rights & ATTACHED, area.account);
        }
    }

    /// Bytes that are counted.
    pub(crate) fn counted(&self) -> u64 {
        self.counted
    }

    /// Bytes that are counted in `range` once it has `rights`, and were not.
    pub(crate) fn counted_by(&self, range: Range<u64>, rights: Rights) -> u64 {
        let is_new =
            |area: &Area| area.account != Account::Counted && area.account.with(rights) == Account::Counted;
        let parts = self.within(range.clone()).filter(|(_, area)| is_new(area));
        parts.map(|(start, area)| area.end.min(range.end) - start.max(range.start)).sum()
    }

    /// The highest place of `length` bytes that is free and ends at `limit` or below, with a multiple of `alignment` as its start.
    pub(crate) fn find(&self, length: u64, limit: u64, alignment: u64) -> Option<u64> {
        let mut end = limit.min(END);
        for (start, area) in self.by_start.range(..end).rev() {
            if let Some(found) = place(area.end, end, length, alignment) {
                return Some(found);
            }
            end = end.min(*start);
        }
        place(START, end, length, alignment)
    }

    /// All areas go: where they were.
    pub(crate) fn clear(&mut self) -> Vec<Range<u64>> {
        self.counted = 0;
        std::mem::take(&mut self.by_start).into_iter().map(|(start, area)| start..area.end).collect()
    }

    /// Splits the area that `address` is in the middle of.
    fn cut(&mut self, address: u64) {
        if let Some((start, area)) = self.at(address).filter(|(start, _)| *start < address) {
            self.by_start.insert(start, Area { end: address, ..area });
            self.by_start.insert(address, area);
        }
    }
}

/// The highest place between `low` and `high`.
fn place(low: u64, high: u64, length: u64, alignment: u64) -> Option<u64> {
    let start = high.checked_sub(length)? & !(alignment.max(PAGE) - 1);
    (start >= low).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x10_0000;

    fn page(number: u64) -> u64 {
        BASE + number * PAGE
    }

    fn pages(range: Range<u64>) -> Range<u64> {
        page(range.start)..page(range.end)
    }

    const ACCOUNTS: [Account; 3] = [Account::Never, Account::OnceWritable, Account::OnceAccessible];

    /// The rights of each page, and whether it counts, by the slow way.
    fn seen(areas: &Areas) -> Vec<Option<(Rights, Account)>> {
        (0..32).map(|number| areas.at(page(number)).map(|(_, area)| (area.rights, area.account))).collect()
    }

    #[test]
    fn it_agrees_with_a_list_of_pages() {
        let (mut areas, mut model) = (Areas::default(), vec![None; 32]);
        let mut state = 7u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for step in 0..20_000 {
            let start = random(31);
            let range = start..start + 1 + random(32 - start);
            let rights = random(4) as Rights;
            let slots = range.start as usize..range.end as usize;
            match random(3) {
                0 => {
                    let account = ACCOUNTS[random(3) as usize];
                    areas.insert(pages(range.clone()), rights, account);
                    model[slots].fill(Some((rights, account.with(rights))));
                }
                1 => {
                    areas.remove(pages(range.clone()));
                    model[slots].fill(None);
                }
                _ => {
                    let expected = areas.counted_by(pages(range.clone()), rights);
                    areas.protect(pages(range.clone()), rights);
                    let new = model[slots.clone()].iter().flatten().filter(|(_, account)| {
                        *account != Account::Counted && account.with(rights) == Account::Counted
                    });
                    assert_eq!(expected, new.count() as u64 * PAGE, "step {step}");
                    let change = |old: &mut (Rights, Account)| *old = (rights, old.1.with(rights));
                    model[slots].iter_mut().flatten().for_each(change);
                }
            }
            let counted = model.iter().flatten().filter(|(_, account)| *account == Account::Counted);
            assert_eq!(areas.counted(), counted.count() as u64 * PAGE, "step {step}");
            assert_eq!(seen(&areas), model, "step {step}");
            let slots = range.start as usize..range.end as usize;
            assert_eq!(areas.covers(pages(range.clone())), model[slots.clone()].iter().all(Option::is_some));
            assert_eq!(areas.is_free(pages(range)), model[slots].iter().all(Option::is_none));
            let length = 1 + random(4);
            let found = areas.find(length * PAGE, page(32), PAGE).filter(|start| *start >= BASE);
            let fits = |start: &u64| (*start..start + length).all(|at| model[at as usize].is_none());
            assert_eq!(found, (0..=32 - length).rev().find(fits).map(page), "step {step}");
        }
    }

    #[test]
    fn neighbours_become_one() {
        let mut areas = Areas::default();
        for number in [0, 2, 1, 3] {
            areas.insert(pages(number..number + 1), 3, Account::OnceAccessible);
        }
        assert_eq!(areas.by_start.len(), 1);
    }
}
