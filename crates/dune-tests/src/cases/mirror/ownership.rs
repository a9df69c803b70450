//! Which pages are the program's, in which address space, and the tables without a mirror.

use std::hint::black_box;

use dune::memory::{PagePermissions, PageRange, SpaceKind};
use dune::{MirrorMode, Vector};
use libc::{MAP_FIXED, MAP_PRIVATE, PROT_READ};
use x86_64::VirtAddr;

use super::touch::{
    PAGE, PRESENT, READ_WRITE, WRITE, enter, execute, handler, load, mmap, mprotect, munmap, peek, poke,
    store,
};
use crate::case::CaseResult;
use crate::probe;

pub fn ownership() -> CaseResult {
    let dune = enter()?;
    let at = mmap(0, 8 * PAGE, READ_WRITE, MAP_PRIVATE);
    let range = PageRange::new(VirtAddr::new(at), 8 * PAGE)?;
    poke(at, 1);
    dune.page_tables()?.protect(range, PagePermissions::READ)?.now(dune);
    assert_eq!(store(at), Some(WRITE | PRESENT));
    // Nobody handles this fault but Dune, which must leave it alone: see the next case. The call takes it back.
    assert_eq!(mprotect(at, 8 * PAGE, READ_WRITE), 0);
    assert_eq!(store(at), None);
    dune.page_tables()?.unmap(range)?.now(dune);
    assert_eq!(load(at), Some(0));
    // A neighbour's change leaves the hole alone.
    mmap(at + 4 * PAGE, 4 * PAGE, READ_WRITE, MAP_PRIVATE | MAP_FIXED);
    assert_eq!((load(at), store(at + 4 * PAGE)), (Some(0), None));
    // So does a call that fails.
    let arguments = [at, PAGE, READ_WRITE as u64, (MAP_PRIVATE | MAP_FIXED) as u64, u64::MAX, 0];
    assert_eq!(probe::syscall(libc::SYS_mmap as u64, arguments), -i64::from(libc::EBADF));
    assert_eq!(load(at), Some(0));
    assert_eq!(mprotect(at, 4 * PAGE, READ_WRITE), 0);
    assert_eq!((store(at), peek(at)), (None, 1));
    let page = PageRange::new(VirtAddr::new(at), PAGE)?;
    dune.memory().protect_now(dune, page, PagePermissions::empty())?;
    assert_eq!(load(at), Some(0));
    dune.memory().protect_now(dune, page, PagePermissions::READ_WRITE)?;
    assert_eq!((store(at), peek(at)), (None, 1));
    Ok(())
}

pub fn owned_hole() -> CaseResult {
    let dune = dune::enter()?;
    let at = mmap(0, 8 * PAGE, READ_WRITE, MAP_PRIVATE);
    poke(at, 1);
    dune.page_tables()?.unmap(PageRange::new(VirtAddr::new(at), PAGE)?)?.now(dune);
    poke(at, 2);
    Ok(())
}

/// What is mapped, protected and unmapped while another root is loaded is so in both.
pub fn another_space() -> CaseResult {
    let dune = enter()?;
    for kind in [SpaceKind::Copied, SpaceKind::Shared] {
        let old = mmap(0, 3 * PAGE, READ_WRITE, MAP_PRIVATE);
        let space = dune.memory().new_space(kind)?;
        let later = mmap(0x2c00_0000_0000, 3 * PAGE, READ_WRITE, MAP_PRIVATE | MAP_FIXED);
        // SAFETY: the space maps the process as it is.
        let active = unsafe { space.enter(dune) };
        let new = mmap(0, 700 * PAGE, READ_WRITE, MAP_PRIVATE);
        assert_eq!((store(new), store(new + 699 * PAGE)), (None, None));
        let many = black_box(vec![7u8; 3 << 20]);
        assert_eq!(mprotect(old, PAGE, PROT_READ), 0);
        assert_eq!((store(old), store(old + PAGE)), (Some(WRITE | PRESENT), None));
        munmap(new, PAGE);
        assert_eq!(load(new), Some(0));
        // Mapped after the space was made, while it was not in use: a fault finds it.
        dune.clear_handler(Vector::PAGE_FAULT);
        poke(later, 5);
        probe::handle(dune, Vector::PAGE_FAULT, handler);
        drop(many);
        drop(active);
        assert_eq!((store(old), load(new), peek(later)), (Some(WRITE | PRESENT), Some(0), 5));
        assert_eq!((store(new + PAGE), store(later + PAGE)), (None, None));
        drop(space);
        munmap(new, 700 * PAGE);
        munmap(later, 3 * PAGE);
    }
    Ok(())
}

pub fn full() -> CaseResult {
    let dune = dune::Config::new().mapping(MirrorMode::Full).enter()?;
    let page = mmap(0, PAGE, READ_WRITE, MAP_PRIVATE);
    poke(page, 0xc3);
    assert_eq!(execute(page), None);
    let leaf = dune.page_tables()?.lookup(VirtAddr::new(page)).ok_or("no page")?;
    assert_eq!(leaf.permissions, PagePermissions::ALL);
    munmap(page, PAGE);
    assert!(dune.page_tables()?.lookup(VirtAddr::new(page)).is_some());
    Ok(())
}
