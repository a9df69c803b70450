//! System V shared memory (shmat(2)): segments are attached in the program's part, and where is the supervisor's to say.

use dune::Dune;

use super::{EACCES, EINVAL, ENOMEM, EPERM, EXECUTE, PAGE, READ, Space, WRITE};
use crate::areas::{ATTACHED, Account};
use crate::part::Span;
use crate::raw::memory;

impl Space {
    /// shmat(2).
    pub(crate) fn attach(&self, dune: Dune, arguments: &[u64; 6]) -> i64 {
        let [segment, address, flags, ..] = *arguments;
        let (segment, has) = (segment as i32, |flag: i32| flags as i32 & flag != 0);
        let mut rights = if has(libc::SHM_RDONLY) { READ } else { READ | WRITE };
        if has(libc::SHM_EXEC) {
            rights |= EXECUTE;
        }
        let start = match address {
            0 if has(libc::SHM_REMAP) => return EINVAL,
            address if address.is_multiple_of(PAGE) => address,
            // SHMLBA is a page.
            address if has(libc::SHM_RND) => address & !(PAGE - 1),
            _ => return EINVAL,
        };
        if self.is_writable_code(rights) {
            return EACCES;
        }
        let length = match memory::segment_length(segment) {
            Ok(length) => length,
            Err(error) => return error,
        };
        let mut inner = self.lock();
        let span = match start {
            0 => length
                .checked_next_multiple_of(PAGE)
                .and_then(|length| inner.areas.find(length, inner.top, PAGE))
                .and_then(|start| Span::new(start, length))
                .ok_or(ENOMEM),
            start => Span::new(start, length).ok_or(EINVAL),
        };
        let span = match span {
            Ok(span) => span,
            Err(error) => return error,
        };
        if !inner.areas.is_free(span.start()..span.end()) {
            if !has(libc::SHM_REMAP) {
                return EINVAL;
            }
            if inner.is_sealed(span) {
                return EPERM;
            }
            // Linux would put it in the place of what is there in one step, whatever its length is by then.
            if let Err(error) = memory::unmap(span) {
                return error;
            }
            inner.areas.remove(span.start()..span.end());
            inner.balance();
        }
        if let Err(error) = memory::attach(span, segment, rights) {
            return error;
        }
        inner.areas.insert(span.start()..span.end(), rights | ATTACHED, Account::Never);
        inner.attached.insert(span.start(), span.end());
        inner.grant(dune, span, rights);
        span.start() as i64
    }

    /// shmdt(2): unmaps what is left of the segment that has been attached at `address`, as Linux does.
    pub(crate) fn detach(&self, address: u64) -> i64 {
        let mut inner = self.lock();
        let Some(end) = inner.attached.remove(&address) else { return EINVAL };
        let parts: Vec<_> = inner
            .areas
            .within(address..end)
            .filter(|(_, area)| area.rights & ATTACHED != 0)
            .map(|(start, area)| (start.max(address), area.end.min(end)))
            .collect();
        let mut result = EINVAL;
        for (start, end) in parts {
            let Some(span) = Span::new(start, end - start) else { continue };
            match memory::unmap(span) {
                Ok(()) => inner.areas.remove(start..end),
                Err(error) => return error,
            }
            result = 0;
        }
        result
    }
}
