//! What Linux has mapped at an address, without reading about all that lies below it.
//!
//! Since Linux 6.11 an open `/proc/thread-self/maps` answers about one address (ioctl PROCMAP_QUERY, Documentation/filesystems/proc.rst),
//! in time that does not grow with the number of mappings. Elsewhere the file is read from its start. A process that may not open it
//! any more (landlock(7)) asks about a page at a time, by calls that need no file.

use core::ops::ControlFlow;

use linux_raw_sys::errno::{EFAULT, EINTR, ENOENT, ENOMEM};
use linux_raw_sys::general::{
    __NR_ioctl, __NR_madvise, __NR_mincore, MADV_POPULATE_READ, MADV_POPULATE_WRITE, procmap_query,
    procmap_query_flags,
};

use super::maps::{self, Line, MappingKind, MapsError, MapsFile};
use super::sys::{self, Errno};
use crate::arch::page::{PAGE_BYTES, PagePermissions};

/// A mapping, without what it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Area {
    /// The first address.
    pub start: u64,
    /// The address after the last one.
    pub end: u64,
    /// `READ`, `WRITE` and `EXECUTE` as Linux enforces them.
    pub permissions: PagePermissions,
    /// Whether a file lies behind.
    pub is_file: bool,
}

impl Area {
    fn of(line: &Line<'_>) -> Area {
        let Line { start, end, permissions, kind, .. } = *line;
        Area { start, end, permissions, is_file: matches!(kind, MappingKind::File(_)) }
    }

    /// Whether `address` lies inside.
    pub const fn contains(&self, address: u64) -> bool {
        self.start <= address && address < self.end
    }
}

/// The mapping at `address`, if any, given to `found`. Where `/proc` can not be opened, its page alone, and without the right to
/// execute, of which Linux does not tell otherwise.
///
/// # Errors
///
/// As for [`for_each_from`], but for [`MapsError::Open`].
pub fn find<R>(address: u64, found: impl FnOnce(&Area) -> R) -> Result<Option<R>, MapsError> {
    let mut found = Some(found);
    let mut answer = None;
    let asked = for_each_from(address, |area| {
        if area.contains(address) {
            answer = found.take().map(|found| found(area));
        }
        ControlFlow::Break(())
    });
    match asked {
        Err(MapsError::Open { .. }) => Ok(page(address).as_ref().and_then(|area| Some(found.take()?(area)))),
        asked => asked.map(|()| answer),
    }
}

/// The page of a mapping that is at `address`, as mincore(2) and madvise(2) tell (`faultin_page_range`, mm/gup.c). It is fetched, as
/// the accesses do that it permits.
#[cold]
fn page(address: u64) -> Option<Area> {
    let start = address & !(PAGE_BYTES - 1);
    let mut residency = 0u8;
    // SAFETY: the call writes a byte for the page to `residency`.
    let asked = unsafe { sys::call(__NR_mincore, [start, PAGE_BYTES, (&raw mut residency) as u64, 0, 0, 0]) };
    if asked.is_err_and(|errno| errno.raw() == ENOMEM as i32) {
        return None;
    }
    // SAFETY: the call does to the page what an access does.
    let populate = |how: u32| unsafe { sys::call(__NR_madvise, [start, PAGE_BYTES, how.into(), 0, 0, 0]) };
    let (read, write) = (populate(MADV_POPULATE_READ), populate(MADV_POPULATE_WRITE));
    // It would be SIGBUS: the mapping permits it, and has nothing behind it.
    let is_hole = |asked: Result<u64, Errno>| asked.is_err_and(|errno| errno.raw() == EFAULT as i32);
    let mut permissions = PagePermissions::empty();
    permissions.set(PagePermissions::READ, read.is_ok() || is_hole(read));
    permissions.set(PagePermissions::WRITE, write.is_ok() || is_hole(write));
    Some(Area { start, end: start + PAGE_BYTES, permissions, is_file: is_hole(read) })
}

/// Calls `visit` with each mapping that ends above `address`, in ascending order, until it breaks.
///
/// Each is as Linux has it when it is asked for; another thread may change the next meanwhile.
///
/// # Errors
///
/// [`MapsError`] if Linux does not tell.
pub fn for_each_from(address: u64, mut visit: impl FnMut(&Area) -> ControlFlow<()>) -> Result<(), MapsError> {
    let file = MapsFile::to_ask()?;
    let mut at = address;
    loop {
        match query(&file, at) {
            Ok(Some(area)) => {
                if visit(&area).is_break() {
                    return Ok(());
                }
                at = area.end;
            }
            Ok(None) => return Ok(()),
            // A kernel that does not know the question, if it is the first.
            Err(_) if at == address => break,
            Err(errno) => return Err(MapsError::Read { errno }),
        }
    }
    drop(file);
    maps::for_each(|line| {
        if line.end <= address || line.kind == MappingKind::Vsyscall {
            return ControlFlow::Continue(());
        }
        visit(&Area::of(line))
    })
}

/// `_IOWR('f', 17, struct procmap_query)` (include/uapi/linux/fs.h).
const PROCMAP_QUERY: u64 = 3 << 30 | (size_of::<procmap_query>() as u64) << 16 | (b'f' as u64) << 8 | 17;

/// The mapping at `address`, or else the next one above it.
fn query(file: &MapsFile, address: u64) -> Result<Option<Area>, Errno> {
    // SAFETY: numbers, for which any bits are a value; no address among them is one to write to.
    let mut query: procmap_query = unsafe { core::mem::zeroed() };
    query.size = size_of::<procmap_query>() as u64;
    query.query_flags = procmap_query_flags::PROCMAP_QUERY_COVERING_OR_NEXT_VMA as u64;
    query.query_addr = address;
    loop {
        let arguments = [file.argument(), PROCMAP_QUERY, (&raw mut query) as u64, 0, 0, 0];
        // SAFETY: the call reads and writes as many bytes of `query` as that says it has.
        match unsafe { sys::call(__NR_ioctl, arguments) } {
            Ok(_) => break,
            Err(errno) if errno.raw() == EINTR as i32 => (),
            Err(errno) if errno.raw() == ENOENT as i32 => return Ok(None),
            Err(errno) => return Err(errno),
        }
    }
    let has = |flag: procmap_query_flags| query.vma_flags & flag as u64 != 0;
    let mut permissions = PagePermissions::empty();
    permissions.set(PagePermissions::READ, has(procmap_query_flags::PROCMAP_QUERY_VMA_READABLE));
    permissions.set(PagePermissions::WRITE, has(procmap_query_flags::PROCMAP_QUERY_VMA_WRITABLE));
    permissions.set(PagePermissions::EXECUTE, has(procmap_query_flags::PROCMAP_QUERY_VMA_EXECUTABLE));
    let (start, end) = (query.vma_start, query.vma_end);
    Ok(Some(Area { start, end, permissions, is_file: query.inode != 0 }))
}

#[cfg(test)]
mod tests {
    use linux_raw_sys::general::{
        __NR_mmap, __NR_mprotect, __NR_munmap, MAP_ANONYMOUS, MAP_PRIVATE, PROT_EXEC, PROT_NONE, PROT_READ,
        PROT_WRITE,
    };

    use super::*;
    use crate::arch::page::PAGE_BYTES;

    /// The question and the list say the same of mappings that nobody changes meanwhile.
    #[test]
    fn the_question_and_the_list_agree() {
        const PAGES: u64 = 8;
        let flags = (MAP_PRIVATE | MAP_ANONYMOUS).into();
        // SAFETY: a new mapping, which is this test's own.
        let start =
            unsafe { sys::call(__NR_mmap, [0, PAGES * PAGE_BYTES, PROT_NONE.into(), flags, u64::MAX, 0]) };
        let start = start.unwrap();
        let page = |number: u64| start + number * PAGE_BYTES;
        for (number, protection) in [(1, PROT_READ), (3, PROT_READ | PROT_WRITE), (6, PROT_READ | PROT_EXEC)]
        {
            let arguments = [page(number), PAGE_BYTES, protection.into(), 0, 0, 0];
            // SAFETY: a page of the mapping, as before.
            unsafe { sys::call(__NR_mprotect, arguments) }.unwrap();
        }
        let (read, write) = (PagePermissions::READ, PagePermissions::WRITE);
        let area = |first, end, permissions| Area {
            start: page(first),
            end: page(end),
            permissions,
            is_file: false,
        };
        let none = PagePermissions::empty();
        let expected = [
            area(1, 2, read),
            area(2, 3, none),
            area(3, 4, read | write),
            area(4, 6, none),
            area(6, 7, read | PagePermissions::EXECUTE),
        ];
        let mut asked = Vec::new();
        for_each_from(page(1), |area| {
            asked.push(*area);
            if area.end >= page(7) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        assert_eq!(asked, expected);
        let mut listed = Vec::new();
        maps::for_each(|line| {
            if (page(1)..page(7)).contains(&line.start) {
                listed.push(Area::of(line));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(listed, expected);
        assert_eq!(find(page(5), |area| *area).unwrap(), Some(expected[3]));
        let code = own_code();
        assert!(
            find(code, |area| area.is_file && area.permissions.contains(PagePermissions::EXECUTE))
                .unwrap()
                .unwrap()
        );
        // SAFETY: as before.
        unsafe { sys::call(__NR_munmap, [start, PAGES * PAGE_BYTES, 0, 0, 0, 0]) }.unwrap();
    }

    fn own_code() -> u64 {
        own_code as fn() -> u64 as usize as u64
    }

    /// The calls that need no file say the same of a page, but for the right to execute.
    #[test]
    fn the_question_and_the_page_agree() {
        let flags = (MAP_PRIVATE | MAP_ANONYMOUS).into();
        // SAFETY: a new mapping, which is this test's own.
        let map = |protection: u32| unsafe {
            sys::call(__NR_mmap, [0, PAGE_BYTES, protection.into(), flags, u64::MAX, 0]).unwrap()
        };
        for protection in [PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC] {
            let start = map(protection);
            let permissions = find(start + 8, |area| area.permissions).unwrap().unwrap();
            let expected = Area {
                start,
                end: start + PAGE_BYTES,
                permissions: permissions - PagePermissions::EXECUTE,
                is_file: false,
            };
            assert_eq!(page(start + 8), Some(expected), "{protection}");
            // SAFETY: as before.
            unsafe { sys::call(__NR_munmap, [start, PAGE_BYTES, 0, 0, 0, 0]) }.unwrap();
            assert_eq!(page(start + 8), None);
        }
        assert_eq!((page(0x10), page(u64::MAX)), (None, None));
    }

    #[test]
    fn it_begins_with_what_lies_at_the_address() {
        let here = 0u8;
        let address = &raw const here as u64;
        let mut first = None;
        for_each_from(address, |area| {
            first = Some(*area);
            ControlFlow::Break(())
        })
        .unwrap();
        let first = first.unwrap();
        assert!(first.contains(address) && !first.is_file);
        assert!(first.permissions.contains(PagePermissions::WRITE));
        assert_eq!(find(0x10, |_| ()).unwrap(), None);
        assert_eq!(find(u64::MAX, |_| ()).unwrap(), None);
    }
}
