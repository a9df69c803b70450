//! What Linux takes of a call's number and structures, and what it refuses: the same in Dune mode.

use crate::both::{Notes, alike, exited};
use crate::case::Case;
use crate::probe::{self, syscall};

pub const CASES: &[Case] = &[
    Case::new("arguments::the_number_is_in_eax", || alike(numbers)),
    Case::new("arguments::the_structure_of_clone3", || alike(clone3)),
    Case::new("arguments::of_rt_sigaction", || alike(rt_sigaction)),
];

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

/// Which of several errors is told.
fn rt_sigaction(notes: &Notes) {
    const NOWHERE: u64 = 8;
    let zeros = [0u64; 4];
    let good = (&raw const zeros) as u64;
    for signal in [0u64, 9, 19, 64, 65, 1 << 32 | 10, u64::MAX] {
        for new in [0, good, NOWHERE] {
            for (old, size) in [(0, 8), (NOWHERE, 8), (0, 4)] {
                let result = syscall(libc::SYS_rt_sigaction as u64, [signal, new, old, size, 0, 0]);
                notes.note("rt_sigaction", (signal, new.min(9), old, size, result));
            }
        }
    }
}

/// As LTP's clone302, and the sizes that copy_struct_from_user of Linux's takes.
fn clone3(notes: &Notes) {
    const STACK: usize = 5;
    const STACK_SIZE: usize = 6;
    const WORDS: usize = 512;
    // Two pages, behind which there is nothing, and a stack.
    let start = probe::map(0, 3 * 4096, libc::PROT_READ | libc::PROT_WRITE, 0);
    assert_eq!(syscall(libc::SYS_munmap as u64, [start + 2 * 4096, 4096, 0, 0, 0, 0]), 0);
    let stack = probe::map(0, 1 << 16, libc::PROT_READ | libc::PROT_WRITE, 0);
    let end = start + 2 * 4096;
    let try_at = |what: &str, address: u64, size: u64| {
        child_of(notes, what, || syscall(libc::SYS_clone3 as u64, [address, size, 0, 0, 0, 0]));
    };
    let try_words = |what: &str, size: u64, set: &[(usize, u64)]| {
        let mut words = [0u64; WORDS];
        words[4] = libc::SIGCHLD as u64;
        set.iter().for_each(|&(index, value)| words[index] = value);
        // SAFETY: a page of this scenario's.
        unsafe { (start as *mut [u64; WORDS]).write_volatile(words) };
        try_at(&format!("{what}, {size} bytes"), start, size);
    };
    for size in [0, 63, 64, 65, 72, 79, 80, 87, 88, 89, 95, 96, 100, 4095, 4096, 4097, 8192, u64::MAX] {
        try_words("zeros", size, &[]);
    }
    for size in [88, 89, 96, 4096, 4097] {
        try_words("more than is known", size, &[(11, 1)]);
    }
    for (size, index) in [(96, 11), (4096, 511), (4088, 511)] {
        try_words("a bit in the last byte", size, &[(index, 1 << 56)]);
        try_words("a bit before", size - 1, &[(index, 1 << 56)]);
    }
    for size in [64, 88] {
        try_words("a stack without a size", size, &[(STACK, stack)]);
        try_words("a size without a stack", size, &[(STACK_SIZE, 4096)]);
        try_words("a stack that wraps", size, &[(STACK, stack), (STACK_SIZE, u64::MAX - 64)]);
        try_words("a stack of the kernel's", size, &[(STACK, 1 << 63), (STACK_SIZE, 4096)]);
        try_words("a stack that reaches the kernel", size, &[(STACK, stack), (STACK_SIZE, 1 << 63)]);
        try_words("an unknown flag", size, &[(0, 1 << 62)]);
        try_words("a signal among the flags", size, &[(0, libc::SIGCHLD as u64)]);
    }
    for (what, address, size) in [
        ("nowhere", 0, 64),
        ("the kernel's", 1 << 63, 88),
        ("beyond all", u64::MAX - 7, 64),
        ("behind the end", end, 88),
        ("half behind the end", end - 64, 88),
        ("the last bytes behind the end", end - 88, 96),
        ("an odd byte behind the end", end - 88, 89),
        ("up to the end", end - 88, 88),
        ("small, up to the end", end - 64, 64),
        ("odd, up to the end", end - 91, 91),
    ] {
        try_at(what, address, size);
    }
    // Unreadable, and what is behind is not zeros: that is looked at first.
    // SAFETY: the scenario's own page.
    unsafe { (start as *mut u64).add(WORDS + 1).write_volatile(3) };
    assert_eq!(syscall(libc::SYS_mprotect as u64, [start, 4096, 0, 0, 0, 0]), 0);
    try_at("zeros behind an unreadable page", start + 4096 - 88, 92);
    try_at("others behind an unreadable page", start + 4096 - 88, 100);
    notes.note("alive", probe::getpid() > 0);
}
