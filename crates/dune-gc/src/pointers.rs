//! Where in a value its pointers are, for types of which that is always the same.
//!
//! The collector reads such values without a call of [`Trace::trace`](crate::Trace::trace), which is most of what marking would cost otherwise.

/// Bytes of a word, which is what a pointer takes.
const WORD: usize = size_of::<usize>();

/// Which words of a value are pointers to objects, of its first 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PointerMap {
    /// Null, or the address of a value that may lead to others.
    pub(crate) followed: u64,
    /// Null, or the address of a value that leads nowhere: there is nothing to be read in it.
    pub(crate) leaves: u64,
}

impl PointerMap {
    /// No word is.
    pub const NONE: PointerMap = PointerMap { followed: 0, leaves: 0 };

    /// The first word is, to a value that has edges itself or not.
    pub(crate) const fn first(has_edges: bool) -> PointerMap {
        if has_edges { PointerMap { followed: 1, leaves: 0 } } else { PointerMap { followed: 0, leaves: 1 } }
    }

    /// That of a value with these parts: at which offset in bytes each is, and its map. None if a part has none, or one beyond 64 words.
    pub const fn of_parts(parts: &[(usize, Option<PointerMap>)]) -> Option<PointerMap> {
        let (mut all, mut index) = (PointerMap::NONE, 0);
        while index < parts.len() {
            let (offset, map) = parts[index];
            all = match map {
                Some(map) => match all.with(offset, map) {
                    Some(all) => all,
                    None => return None,
                },
                None => return None,
            };
            index += 1;
        }
        Some(all)
    }

    /// That of `count` values of `stride` bytes with this map.
    pub(crate) const fn repeated(self, count: usize, stride: usize) -> Option<PointerMap> {
        if self.is_empty() {
            return Some(self);
        }
        let (mut all, mut index) = (PointerMap::NONE, 0);
        while index < count {
            all = match all.with(index * stride, self) {
                Some(all) => all,
                None => return None,
            };
            index += 1;
        }
        Some(all)
    }

    /// This and a part at `offset`.
    const fn with(self, offset: usize, part: PointerMap) -> Option<PointerMap> {
        if part.is_empty() {
            return Some(self);
        }
        let last = 63 - (part.followed | part.leaves).leading_zeros() as usize;
        let shift = offset / WORD;
        if !offset.is_multiple_of(WORD) || shift + last >= 64 {
            return None;
        }
        Some(PointerMap {
            followed: self.followed | part.followed << shift,
            leaves: self.leaves | part.leaves << shift,
        })
    }

    const fn is_empty(self) -> bool {
        self.followed | self.leaves == 0
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use std::mem::offset_of;

    use crate::{Gc, Trace, Weak};

    #[derive(Trace)]
    struct Node<'h> {
        number: u32,
        next: Cell<Option<Gc<'h, Node<'h>>>>,
        name: Gc<'h, [u8]>,
        rest: ([Option<Gc<'h, Node<'h>>>; 2], u8, Weak<'h, u8>),
    }

    #[expect(dead_code, reason = "only its type is looked at")]
    #[derive(Trace)]
    enum Either<'h> {
        One(Gc<'h, u8>),
        Other(u64),
    }

    #[derive(Trace)]
    struct Generic<T>(u8, T);

    #[derive(Trace)]
    struct Plain(u8, String, [u8; 4000]);

    #[derive(Trace)]
    struct Long<'h>([u64; 60], Gc<'h, [Plain]>, Gc<'h, Plain>);

    /// How many words lead to what has edges, and to what has none.
    fn words<T: Trace>() -> Option<(u32, u32)> {
        T::POINTERS.map(|map| (map.followed.count_ones(), map.leaves.count_ones()))
    }

    #[test]
    fn a_map_names_each_pointer() {
        assert_eq!(words::<Node<'_>>(), Some((3, 2)));
        let map = Node::POINTERS.unwrap();
        let word = |offset: usize| 1u64 << (offset / 8);
        assert_ne!(map.followed & word(offset_of!(Node<'_>, next)), 0);
        assert_ne!(map.leaves & word(offset_of!(Node<'_>, name)), 0);
        assert_eq!(map.followed & map.leaves, 0);
        assert_eq!(words::<Generic<Generic<Gc<'_, Node<'_>>>>>(), Some((1, 0)));
        assert_eq!(words::<Plain>(), Some((0, 0)));
        assert_eq!(words::<[Plain; 1000]>(), Some((0, 0)));
    }

    #[test]
    fn what_has_no_map_is_asked() {
        assert_eq!(words::<Either<'_>>(), None);
        assert_eq!(words::<Generic<Either<'_>>>(), None);
        // Here the niche of another part may say that there is none, and the pointer is anything then.
        assert_eq!(words::<Option<(Gc<'_, u8>, bool)>>(), None);
        assert_eq!(words::<Option<Option<Gc<'_, u8>>>>(), None);
        assert_eq!(words::<Option<(u8, u64)>>(), Some((0, 0)));
    }

    #[test]
    fn sixty_four_words_are_known() {
        assert_eq!(words::<Long<'_>>(), Some((0, 2)));
        assert_eq!(words::<[Gc<'_, Node<'_>>; 64]>(), Some((64, 0)));
        assert_eq!(words::<[Gc<'_, Node<'_>>; 65]>(), None);
        assert_eq!(words::<[(u64, Gc<'_, u8>); 33]>(), None);
    }
}
