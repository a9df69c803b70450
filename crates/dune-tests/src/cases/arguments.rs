//! What Linux takes of a call's number and structures, and what it refuses: the same in Dune mode.

use crate::both::{Notes, alike, exited};
use crate::case::Case;
use crate::probe::{self, syscall};

pub const CASES: &[Case] = &[Case::new("arguments::the_number_is_in_eax", || alike(numbers))];

/// The status that a child of `fork`'s ends with, which is in the same ring as its parent if all is well.
fn child_of(notes: &Notes, what: &str, fork: impl FnOnce() -> i64) {
    let ring = dune::cpu::in_dune_mode();
    let result = fork();
    if result == 0 {
        // SAFETY: ends the child.
        unsafe { libc::_exit(if dune::cpu::in_dune_mode() == ring { 7 } else { 8 }) };
    }
    if result < 0 {
        return notes.note(what, result);
    }
    let mut status = 0;
    // SAFETY: waits for our own child.
    let ended = unsafe { libc::waitpid(result as i32, &raw mut status, libc::__WALL) };
    notes.note(what, (i64::from(ended) == result, exited(status)));
}

fn numbers(notes: &Notes) {
    for upper in [1, 0x8000_0000, 0xffff_ffff] {
        let wide = |number: libc::c_long| upper << 32 | number as u64;
        let parent = syscall(libc::SYS_getppid as u64, [0; 6]);
        notes.note("getppid", syscall(wide(libc::SYS_getppid), [0; 6]) == parent && parent > 0);
        notes.note("unknown", syscall(upper << 32 | 600, [0; 6]));
        child_of(notes, "fork", || syscall(wide(libc::SYS_fork), [0; 6]));

        let mut action = [7u64; 4];
        let old = (&raw mut action).expose_provenance() as u64;
        let result = syscall(wide(libc::SYS_rt_sigaction), [libc::SIGUSR1 as u64, 0, old, 8, 0, 0]);
        notes.note("rt_sigaction", (result, std::hint::black_box(action)));

        let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let arguments = [0, 4096, rights as u64, flags as u64, u64::MAX, 0];
        let page = syscall(wide(libc::SYS_mmap), arguments);
        assert!(page > 0, "mmap: {page}");
        // SAFETY: a page that nobody else has.
        notes.note("mmap", unsafe { std::ptr::replace(page as *mut u64, 5) });
        notes.note("munmap", syscall(wide(libc::SYS_munmap), [page as u64, 4096, 0, 0, 0, 0]));
        notes.note("close", syscall(wide(libc::SYS_close), [1 << 20, 0, 0, 0, 0, 0]));
    }
    assert!(probe::getpid() > 0);
}
