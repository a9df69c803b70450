//! One walk over a range, made twice: the first time it counts the tables that an edit will need, and may refuse; the second
//! time it edits. Both ask the same [`Rule`] at each entry, so that they can not disagree.

use super::entry::{Entry, Table};
use super::error::EditError;
use super::flush::Flush;
use super::table::{PageTables, part_end};
use super::work::Work;
use crate::arch::page::{Level, PAGE_BYTES};

/// An entry, and the part of its span that is meant.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    pub level: Level,
    pub at: u64,
    pub end: u64,
    pub entry: Entry,
    /// It leads to a table of another root, or will when the table that it stands in has been copied.
    pub is_shared: bool,
}

impl Slot {
    /// Whether all of the entry's span is meant.
    pub fn is_whole(&self) -> bool {
        self.end - self.at == self.level.span()
    }

    /// Whether it maps a page, or is a hole.
    pub fn is_leaf(&self) -> bool {
        self.entry.is_leaf(self.level)
    }

    pub fn index(&self) -> usize {
        self.level.index(self.at)
    }
}

/// What to do with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Keep,
    /// [`Rule::set`] it.
    Set,
    /// Go on in the table below, made, split or copied if need be.
    Descend,
}

/// What an edit does at each entry.
pub(super) trait Rule<'m> {
    /// Whether ring 3 is to get through the tables on the way.
    #[inline]
    fn user(&self) -> bool {
        false
    }

    /// What to do with an entry. At the lowest level never to descend; refused in the first walk only.
    fn step(&self, tables: &PageTables<'m>, slot: &Slot) -> Result<Step, EditError>;

    /// Puts what is wanted in place of entry `index`, of which all is meant.
    fn set(&self, tables: &PageTables<'m>, table: &Table, slot: &Slot, flush: &mut Flush<'m>);

    /// Looks at the lowest entries in the first walk.
    #[inline]
    fn check_lowest(&self, _: &PageTables<'m>, _: &Table, _: (u64, u64)) -> Result<(), EditError> {
        Ok(())
    }

    /// Edits the lowest entries.
    #[inline]
    fn set_lowest(
        &self,
        tables: &PageTables<'m>,
        table: &Table,
        (start, end): (u64, u64),
        flush: &mut Flush<'m>,
    ) {
        let level = Level(1);
        for at in (start..end).step_by(PAGE_BYTES as usize) {
            let entry = table.get(level.index(at));
            let slot = Slot { level, at, end: at + PAGE_BYTES, entry, is_shared: false };
            if self.step(tables, &slot) == Ok(Step::Set) {
                self.set(tables, table, &slot, flush);
            }
        }
    }

    /// When the table `below` the entry of `slot` has been edited.
    #[inline]
    fn leave(&self, _: &PageTables<'m>, _table: &Table, _slot: &Slot, _below: &Table, _: &mut Flush<'m>) {}
}

/// A table, or what one will hold that the edit is going to make.
#[derive(Clone, Copy)]
enum Node<'t> {
    There(&'t Table),
    /// Of a page that is split, or of nothing: its first entry, and its level.
    ToBe(Entry, Level),
}

impl Node<'_> {
    fn get(self, index: usize) -> Entry {
        match self {
            Node::There(table) => table.get(index),
            Node::ToBe(first, _) if first.is_empty() => first,
            Node::ToBe(first, level) => first.step(level, index),
        }
    }
}

impl<'m> PageTables<'m> {
    /// The tables that [`Self::apply`] will need for `span` by `rule`, or why it is refused.
    pub(super) fn count(&self, rule: &impl Rule<'m>, span: (u64, u64)) -> Result<usize, EditError> {
        self.count_below(rule, Node::There(self.root_table()), Level::ROOT, span, false)
    }

    fn count_below(
        &self,
        rule: &impl Rule<'m>,
        node: Node<'_>,
        level: Level,
        (mut at, end): (u64, u64),
        is_shared: bool,
    ) -> Result<usize, EditError> {
        if level.0 == 1 {
            if let Node::There(table) = node {
                rule.check_lowest(self, table, (at, end))?;
            }
            return Ok(0);
        }
        let mut count = 0;
        while at < end {
            let part = part_end(level, at, end);
            let entry = node.get(level.index(at));
            let has_table = entry != Entry::EMPTY && !entry.is_leaf(level);
            let shared = has_table && (is_shared || entry.is_shared());
            let slot = Slot { level, at, end: part, entry, is_shared: shared };
            if rule.step(self, &slot)? == Step::Descend {
                let child = if has_table { Node::There(self.child(entry)) } else { to_be(entry, level) };
                count += usize::from(shared || !has_table);
                count += self.count_below(rule, child, level.below(), (at, part), shared)?;
            }
            at = part;
        }
        Ok(count)
    }

    /// Edits `span` by `rule`, with the tables that have been [counted](Self::count).
    pub(super) fn apply(&self, rule: &impl Rule<'m>, span: (u64, u64), work: &mut Work<'m>) {
        self.apply_below(rule, self.root_table(), Level::ROOT, span, work);
    }

    fn apply_below(
        &self,
        rule: &impl Rule<'m>,
        table: &Table,
        level: Level,
        (mut at, end): (u64, u64),
        work: &mut Work<'m>,
    ) {
        if level.0 == 1 {
            rule.set_lowest(self, table, (at, end), &mut work.flush);
            return;
        }
        while at < end {
            let part = part_end(level, at, end);
            let index = level.index(at);
            let entry = table.get(index);
            let slot =
                Slot { level, at, end: part, entry, is_shared: !entry.is_leaf(level) && entry.is_shared() };
            match rule.step(self, &slot) {
                Ok(Step::Set) => rule.set(self, table, &slot, &mut work.flush),
                Ok(Step::Descend) => {
                    if entry == Entry::EMPTY {
                        table.set(index, Entry::table(work.stock.pop(), rule.user()));
                        self.count_change_of(level);
                    }
                    let child = self.enter(table, index, level, rule.user(), work, at);
                    self.apply_below(rule, child, level.below(), (at, part), work);
                    rule.leave(self, table, &slot, child, &mut work.flush);
                }
                // The first walk has been refused nothing.
                Ok(Step::Keep) | Err(_) => (),
            }
            at = part;
        }
    }
}

/// The table that [`PageTables::enter`] makes of `entry`, a page, a hole, or nothing.
fn to_be(entry: Entry, level: Level) -> Node<'static> {
    let below = level.below();
    if entry == Entry::EMPTY {
        Node::ToBe(entry, below)
    } else if entry.is_empty() {
        Node::ToBe(Entry::hole(below), below)
    } else {
        Node::ToBe(entry.disarmed().shrunk(level), below)
    }
}
