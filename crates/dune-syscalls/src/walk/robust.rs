//! The list of robust futexes that set_robust_list(2) names, and that Linux follows when the thread ends (kernel/futex/core.c,
//! exit_robust_list).

use crate::memory::{Fault, Memory};

/// `ROBUST_LIST_LIMIT`: Linux follows no more.
const LIMIT: usize = 2048;

/// A lock that the thread holds, or is about to take or to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RobustEntry {
    /// Where its futex word is, of which Linux changes the owner.
    pub futex: u64,
    /// Whether it inherits priorities.
    pub inherits_priority: bool,
    /// Whether it is not yet, or not any more, on the list.
    pub is_pending: bool,
}

/// Follows the list whose head is at `head`, reading each word once.
///
/// # Errors
///
/// Where the program itself could not read. Linux stops there without one.
pub fn robust_list<M: Memory + ?Sized>(
    memory: &M,
    head: u64,
    visit: &mut dyn FnMut(RobustEntry),
) -> Result<(), Fault> {
    let word = |address: u64| {
        let mut bytes = [0; 8];
        memory.read(address, &mut bytes).map(|()| u64::from_le_bytes(bytes))
    };
    let after = |address: u64, offset: u64| address.checked_add(offset).ok_or(Fault { address });
    let (first, offset) = (word(head)?, word(after(head, 8)?)?);
    let pending = word(after(head, 16)?)?;
    let entry = |link: u64, is_pending| RobustEntry {
        futex: (link & !1).wrapping_add(offset),
        inherits_priority: link & 1 != 0,
        is_pending,
    };
    let mut link = first;
    for _ in 0..LIMIT {
        if link & !1 == head || link == 0 {
            break;
        }
        let next = word(link & !1)?;
        if link != pending {
            visit(entry(link, false));
        }
        link = next;
    }
    if pending != 0 {
        visit(entry(pending, true));
    }
    Ok(())
}
