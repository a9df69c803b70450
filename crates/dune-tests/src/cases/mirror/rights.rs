//! What may be done with memory, as a fault's error code tells.

use std::hint::black_box;

use dune::memory::{PagePermissions, maps};
use libc::{MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, PROT_EXEC, PROT_NONE, PROT_READ, PROT_WRITE};

use super::touch::{
    FETCH, PAGE, PRESENT, READ_WRITE, WRITE, enter, execute, load, mmap, mprotect, munmap, peek, poke, store,
};
use crate::case::CaseResult;
use crate::pace;
use crate::probe;

pub fn data_is_not_executable() -> CaseResult {
    enter()?;
    let page = mmap(0, PAGE, READ_WRITE, MAP_PRIVATE);
    poke(page, 0xc3);
    assert_eq!(execute(page), Some(FETCH | PRESENT));
    assert_eq!(mprotect(page, PAGE, PROT_READ | PROT_EXEC), 0);
    assert_eq!(execute(page), None);
    assert_eq!(store(page), Some(WRITE | PRESENT));
    assert_eq!(mprotect(page, PAGE, PROT_READ), 0);
    assert_eq!(execute(page), Some(FETCH | PRESENT));
    static mut DATA: u8 = 0xc3;
    assert_eq!(execute(&raw const DATA as u64), Some(FETCH | PRESENT));
    let stack = black_box(0xc3u8);
    assert_eq!(execute(&raw const stack as u64), Some(FETCH | PRESENT));
    Ok(())
}

pub fn executing_data() -> CaseResult {
    dune::enter()?;
    let page = mmap(0, PAGE, READ_WRITE, MAP_PRIVATE);
    poke(page, 0xc3);
    execute(page);
    Ok(())
}

pub fn writing_to_constants() -> CaseResult {
    static CONSTANT: [u64; 4] = [1, 2, 3, 4];
    dune::enter()?;
    poke(&raw const CONSTANT as u64, 5);
    Ok(())
}

pub fn null() -> CaseResult {
    dune::enter()?;
    load(0x10);
    Ok(())
}

pub fn use_after_munmap() -> CaseResult {
    dune::enter()?;
    let at = mmap(0x2a00_0000_0000, 4 * PAGE, READ_WRITE, MAP_PRIVATE | MAP_FIXED);
    poke(at + 8, 1);
    munmap(at, 4 * PAGE);
    load(at + 8);
    Ok(())
}

pub fn stack_overflow() -> CaseResult {
    #[expect(unconditional_recursion, reason = "the case is about that")]
    fn deeper(depth: u64) -> u64 {
        let room = black_box([depth; 64]);
        deeper(depth + 1) + room[depth as usize % 64]
    }
    dune::enter()?;
    println!("{}", deeper(black_box(0)));
    Ok(())
}

pub fn mprotect_is_seen() -> CaseResult {
    enter()?;
    let at = mmap(0, 600 * PAGE, READ_WRITE, MAP_PRIVATE);
    for (first, pages) in [(0, 1), (7, 3), (0, 600), (100, 450)] {
        let (start, bytes) = (at + first * PAGE, pages * PAGE);
        for page in [start, start + bytes - PAGE] {
            poke(page, page);
            assert_eq!(mprotect(start, bytes, PROT_READ), 0);
            assert_eq!((load(page), store(page)), (None, Some(WRITE | PRESENT)));
            assert_eq!(mprotect(start, bytes, PROT_NONE), 0);
            assert_eq!((load(page), store(page)), (Some(0), Some(WRITE)));
            assert_eq!(mprotect(start, bytes, READ_WRITE), 0);
            assert_eq!((load(page), store(page)), (None, None));
            assert_eq!(peek(page), page);
        }
    }
    let key_less = u64::MAX;
    assert_eq!(
        probe::syscall(libc::SYS_pkey_mprotect as u64, [at, PAGE, PROT_READ as u64, key_less, 0, 0]),
        0
    );
    assert_eq!(store(at), Some(WRITE | PRESENT));
    Ok(())
}

pub fn mprotect_half_way() -> CaseResult {
    enter()?;
    let at = mmap(0, 8 * PAGE, READ_WRITE, MAP_PRIVATE);
    munmap(at + 4 * PAGE, PAGE);
    assert_eq!(mprotect(at, 8 * PAGE, PROT_READ), -i64::from(libc::ENOMEM));
    // Linux has done the part before the hole.
    assert_eq!(store(at), Some(WRITE | PRESENT));
    assert_eq!(load(at + 4 * PAGE), Some(0));
    assert_eq!(store(at + 5 * PAGE), None);
    Ok(())
}

/// A call that fails at the second of two mappings has taken the first one's right to execute, for which nobody asks the
/// second level. Here the second is sealed, or behind the end of all addresses.
pub fn mprotect_half_way_of_code() -> CaseResult {
    const SYS_MSEAL: u64 = 462;
    const END: u64 = (1 << 47) - PAGE;
    enter()?;
    let code = |at: u64, bytes: u64| {
        let at = mmap(at, bytes, READ_WRITE, MAP_PRIVATE);
        poke(at, 0xc3);
        assert_eq!(mprotect(at, bytes, PROT_READ | PROT_EXEC), 0);
        assert_eq!(execute(at), None);
        at
    };
    let sealed = code(0, 2 * PAGE) + PAGE;
    let is_sealed = probe::syscall(SYS_MSEAL, [sealed, PAGE, 0, 0, 0, 0]) == 0;
    let last = code(END - PAGE, PAGE);
    assert_eq!(last, END - PAGE);
    for (start, bytes, errno) in [(sealed - PAGE, 2 * PAGE, libc::EPERM), (last, 3 * PAGE, libc::ENOMEM)] {
        if errno == libc::EPERM && !is_sealed {
            continue; // mseal(2) is of Linux 6.10
        }
        assert_eq!(mprotect(start, bytes, READ_WRITE), -i64::from(errno));
        let linux = maps::find(start, |mapping| mapping.permissions)?.ok_or("it is still mapped")?;
        if !linux.contains(PagePermissions::EXECUTE) {
            assert_eq!(execute(start), Some(FETCH | PRESENT), "{start:#x}");
        } else if errno == libc::ENOMEM {
            return probe::fail("Linux has changed nothing".to_owned());
        }
    }
    Ok(())
}

/// The CPU reads and runs what can be executed. So KVM has to get at it, which Linux permits only where it can be read.
pub fn execute_only() -> CaseResult {
    enter()?;
    let page = mmap(0, PAGE, READ_WRITE, MAP_PRIVATE);
    poke(page, 0xc3);
    assert_eq!(mprotect(page, PAGE, PROT_EXEC), 0);
    assert_eq!((execute(page), load(page), store(page)), (None, None, Some(WRITE | PRESENT)));
    // Nobody has touched this one, which Linux has to fetch for an instruction.
    let file = c"/proc/self/exe";
    // SAFETY: the calls read the name and map a file's first page.
    let start = unsafe {
        let file = libc::open(file.as_ptr(), libc::O_RDONLY);
        libc::mmap(std::ptr::null_mut(), PAGE as usize, PROT_EXEC, MAP_PRIVATE, file, 0)
    } as u64;
    assert_eq!(load(start), None);
    Ok(())
}

/// The CPU reads what can be written, whether Linux has provided it yet or not, and after it was taken away.
pub fn write_only() -> CaseResult {
    const PAGES: u64 = 8;
    dune::enter()?;
    for flags in [0, libc::MAP_POPULATE] {
        let pages = probe::map(0, PAGES * 4096, PROT_WRITE, flags);
        for page in (0..PAGES).map(|page| pages + page * 4096) {
            assert_eq!(peek(page + 8), 0);
            poke(page, 7);
            assert_eq!(peek(page), 7);
            // SAFETY: the page is this case's own.
            assert_eq!(unsafe { libc::madvise(page as *mut libc::c_void, 4096, libc::MADV_DONTNEED) }, 0);
            assert_eq!(peek(page), 0);
        }
    }
    Ok(())
}

/// Each access to each page of a range faults or not as a model of the rights says, after any of many calls.
pub fn random_calls() -> CaseResult {
    const PAGES: u64 = 1400;
    const NONE: u64 = 0;
    let dune = enter()?;
    let at = mmap(0, PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE);
    let mut model = vec![NONE; PAGES as usize];
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |limit: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 16) % limit
    };
    for step in 0..if pace::is_vtx() { 500 } else { 1500 } {
        let first = random(PAGES);
        let limit = [1, 4, 64, PAGES][random(4) as usize].min(PAGES - first);
        let pages = 1 + random(limit);
        let (start, bytes) = (at + first * PAGE, pages * PAGE);
        let rights = [0, 1, 3, 5, 7][random(5) as usize];
        let part = &mut model[first as usize..(first + pages) as usize];
        match random(4) {
            0 => {
                munmap(start, bytes);
                part.fill(NONE);
            }
            1 => {
                mmap(start, bytes, rights as i32, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE);
                part.fill(rights);
            }
            _ => {
                if mprotect(start, bytes, rights as i32) == 0 {
                    part.fill(rights);
                } else {
                    let mut known = vec![NONE; part.len()];
                    maps::for_each(|mapping| {
                        let from = mapping.start.max(start);
                        for page in (from..mapping.end.min(start + bytes)).step_by(PAGE as usize) {
                            known[((page - start) / PAGE) as usize] = u64::from(mapping.permissions.bits());
                        }
                        std::ops::ControlFlow::Continue(())
                    })?;
                    part.copy_from_slice(&known);
                }
            }
        }
        for _ in 0..20 {
            let page = random(PAGES);
            let address = at + page * PAGE;
            let rights = model[page as usize];
            assert_eq!(load(address).is_none(), rights != NONE, "step {step}: load of page {page}: {rights}");
            assert_eq!(
                store(address).is_none(),
                rights & 2 != 0,
                "step {step}: store to page {page}: {rights}"
            );
            let executable = probe::permissions(dune, address)?.contains(PagePermissions::EXECUTE);
            assert_eq!(executable, rights & 4 != 0, "step {step}: page {page}: {rights}");
        }
    }
    Ok(())
}
