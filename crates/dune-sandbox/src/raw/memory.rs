//! The program's pages: mapping them, and letting ring 3 in.
//!
//! # Safety
//!
//! What makes these functions safe to call is [`Span`]: a range in the program's part, where nothing of Rust's ever lies. Whatever is
//! mapped, unmapped or written there, by Linux or by ring 3, no reference of Rust's leads to it; the supervisor looks at it by checked
//! copies only.

use std::ops::Range;

use dune::Dune;
use dune::memory::{EditError, PagePermissions, PageRange, VirtAddr};

use super::{result, system_call};
use crate::areas::Rights;
use crate::part::{PAGE, Span};

/// Lets ring 3 use the process's own stack.
#[cfg(feature = "_weakened")]
pub(crate) fn expose_stack(dune: Dune) {
    let maps = std::fs::read_to_string("/proc/thread-self/maps").expect("procfs");
    let line = maps.lines().find(|line| line.ends_with("[stack]")).expect("a stack");
    let bounds: Vec<u64> = line
        .split(['-', ' '])
        .take(2)
        .map(|bound| u64::from_str_radix(bound, 16).expect("an address"))
        .collect();
    let permissions = PagePermissions::READ | PagePermissions::WRITE | PagePermissions::USER;
    let range = PageRange::covering(VirtAddr::new(bounds[1] - 4096), 4096).expect("a page");
    // SAFETY: there is none to give: what ring 3 does there is the attack.
    unsafe { dune.page_tables().expect("free").protect_for_user(range, permissions) }
        .expect("granted")
        .now(dune);
}

/// Has the runtime map memory of its own where the program has just unmapped some, as an allocator does where both have one part.
#[cfg(feature = "_weakened")]
pub(crate) fn take_place(span: Span) {
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
    let rights = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    // SAFETY: nothing is there, and no reference of Rust's leads to it.
    let made =
        unsafe { system_call(libc::SYS_mmap, [span.start(), span.length(), rights, flags, u64::MAX, 0]) };
    if made == span.start() as i64 {
        // SAFETY: has just been mapped.
        unsafe { std::ptr::write_bytes(made as *mut u8, b'R', span.length() as usize) };
    }
}

/// What is mapped: anonymous memory, or a file from an offset on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backing {
    /// Flags of mmap(2), but for those that say where.
    pub(crate) flags: u64,
    pub(crate) descriptor: u64,
    pub(crate) offset: u64,
}

/// Maps `span` (mmap(2)), in the place of what is there if `replaces`.
pub(crate) fn map(span: Span, rights: Rights, backing: Backing, replaces: bool) -> Result<(), i64> {
    let place = (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE) as u64;
    let how = if replaces { libc::MAP_FIXED } else { libc::MAP_FIXED_NOREPLACE } as u64;
    let flags = backing.flags & !place | how;
    let arguments = [span.start(), span.length(), rights.into(), flags, backing.descriptor, backing.offset];
    // SAFETY: see above.
    result(unsafe { system_call(libc::SYS_mmap, arguments) }).map(drop)
}

/// munmap(2).
pub(crate) fn unmap(span: Span) -> Result<(), i64> {
    // SAFETY: see above.
    result(unsafe { system_call(libc::SYS_munmap, [span.start(), span.length(), 0, 0, 0, 0]) }).map(drop)
}

/// mprotect(2).
pub(crate) fn protect(span: Span, rights: Rights) -> Result<(), i64> {
    let arguments = [span.start(), span.length(), rights.into(), 0, 0, 0];
    // SAFETY: see above.
    result(unsafe { system_call(libc::SYS_mprotect, arguments) }).map(drop)
}

/// mremap(2) from `old` to exactly `new`, which may start where `old` does. `flags` are those that do not say where.
pub(crate) fn remap(old: Span, old_length: u64, new: Span, flags: u64) -> Result<(), i64> {
    let place = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
    let how = if old.start() == new.start() { 0 } else { place };
    let arguments = [old.start(), old_length, new.length(), flags & !place | how, new.start(), 0];
    // SAFETY: see above; without MREMAP_MAYMOVE the mapping stays where it is.
    result(unsafe { system_call(libc::SYS_mremap, arguments) }).map(drop)
}

/// The length of the System V segment `segment` in bytes.
pub(crate) fn segment_length(segment: i32) -> Result<u64, i64> {
    // SAFETY: all zero bytes are a `struct shmid_ds`.
    let mut about: libc::shmid_ds = unsafe { std::mem::zeroed() };
    let address = (&raw mut about).expose_provenance() as u64;
    // SAFETY: the call writes the structure.
    let result =
        unsafe { system_call(libc::SYS_shmctl, [segment as u64, libc::IPC_STAT as u64, address, 0, 0, 0]) };
    super::result(result).map(|_| about.shm_segsz as u64)
}

/// Attaches the System V segment `segment` at `span` (shmat(2)), where nothing is. An error, too, if it does not end there.
pub(crate) fn attach(span: Span, segment: i32, rights: Rights) -> Result<(), i64> {
    let has = |right: i32| rights & right as Rights != 0;
    let read_only = if has(libc::PROT_WRITE) { 0 } else { libc::SHM_RDONLY };
    let flags = if has(libc::PROT_EXEC) { libc::SHM_EXEC } else { 0 } | read_only;
    // SAFETY: see above. Without SHM_REMAP Linux maps only where nothing is, also if another segment has got the number meanwhile.
    result(unsafe { system_call(libc::SYS_shmat, [segment as u64, span.start(), flags as u64, 0, 0, 0]) })?;
    // The number is this segment's as long as it is attached.
    let length = segment_length(segment);
    if length.is_ok_and(|length| length.checked_next_multiple_of(PAGE) == Some(span.length())) {
        return Ok(());
    }
    // SAFETY: what has just been mapped.
    unsafe { system_call(libc::SYS_shmdt, [span.start(), 0, 0, 0, 0, 0]) };
    Err(length.err().unwrap_or(-i64::from(libc::EIDRM)))
}

/// Whether all of `span` is mapped: with MS_ASYNC msync(2) does no more than look (since Linux 2.6.19).
pub(crate) fn is_mapped(span: Span) -> bool {
    let arguments = [span.start(), span.length(), libc::MS_ASYNC as u64, 0, 0, 0];
    // SAFETY: see above.
    result(unsafe { system_call(libc::SYS_msync, arguments) }).is_ok()
}

/// madvise(2), with an advice that is about the program's own pages only.
pub(crate) fn advise(span: Span, advice: u64) -> Result<(), i64> {
    let arguments = [span.start(), span.length(), advice, 0, 0, 0];
    // SAFETY: see above.
    result(unsafe { system_call(libc::SYS_madvise, arguments) }).map(drop)
}

/// Gives ring 3 exactly `rights` for the pages of `span`, which are mapped with these rights.
pub(crate) fn grant(dune: Dune, span: Span, rights: Rights) -> Result<(), EditError> {
    if rights & (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as Rights == 0 {
        // They are not present for anybody.
        return Ok(());
    }
    let mut permissions = PagePermissions::READ | PagePermissions::USER;
    permissions.set(PagePermissions::WRITE, rights & libc::PROT_WRITE as Rights != 0);
    permissions.set(PagePermissions::EXECUTE, rights & libc::PROT_EXEC as Rights != 0);
    let range = PageRange::covering(VirtAddr::new(span.start()), span.length()).expect("below 2^47");
    dune.memory().with_page_tables(|tables| {
        // SAFETY: 1. and 2. see above; 3. when they are unmapped, which a call through this module does, Dune keeps ring 3 out first.
        unsafe { tables.protect_for_user(range, permissions) }.map(|flush| flush.now(dune))
    })
}

/// Has the page tables show what Linux has mapped at `address`: where, around it.
pub(crate) fn reach(dune: Dune, address: u64) -> Option<Range<u64>> {
    let range = dune.reach(VirtAddr::try_new(address).ok()?)?;
    let start = range.start().as_u64();
    Some(start..start + range.bytes())
}
