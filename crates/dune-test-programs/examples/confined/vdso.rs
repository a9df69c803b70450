//! Clocks without system calls.

const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;

fn by_library() -> i128 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes the structure.
    assert_eq!(unsafe { libc::clock_gettime(CLOCK, &raw mut now) }, 0);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}

fn by_linux() -> i128 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes the structure.
    assert_eq!(unsafe { libc::syscall(libc::SYS_clock_gettime, CLOCK, &raw mut now) }, 0);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}

/// Reads a clock in both ways, here and in a child, and tries to change the vDSO.
pub fn all(turns: u32) {
    // SAFETY: no memory is touched.
    let child = unsafe { libc::fork() };
    let before = by_linux();
    let mut last = before;
    let mut in_order = true;
    for _ in 0..turns {
        let now = by_library();
        in_order &= now >= last;
        last = now;
    }
    in_order &= by_linux() >= last;
    if child == 0 {
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(!in_order)) };
    }
    let mut status = -1;
    // SAFETY: the call writes the status.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    println!("in order: {in_order}, in a child: {}", status == 0);
    // SAFETY: no memory is touched.
    println!("on a CPU: {}", unsafe { libc::sched_getcpu() } >= 0);

    // SAFETY: reads the auxiliary vector.
    let code = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
    if code == 0 {
        println!("no vDSO");
        return;
    }
    for (name, address) in [("code", code), ("data", code - 4096)] {
        let at = address as *mut libc::c_void;
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: calls that are to fail. If they do not, the program ends here, which the case sees.
        let tried = unsafe {
            [
                libc::munmap(at, 4096) == 0,
                libc::mprotect(at, 4096, libc::PROT_READ | libc::PROT_WRITE) == 0,
                libc::madvise(at, 4096, libc::MADV_DONTNEED) == 0,
                libc::mmap(at, 4096, libc::PROT_READ, anonymous | libc::MAP_FIXED, -1, 0) != libc::MAP_FAILED,
                libc::mremap(at, 4096, 8192, libc::MREMAP_MAYMOVE) != libc::MAP_FAILED,
            ]
        };
        println!("{name}: changed {tried:?}, written: {}", is_written(at.cast()));
    }
}

/// Whether a child that writes there lives.
fn is_written(at: *mut u8) -> bool {
    // SAFETY: 1. forks and waits; 2. the child writes to its own memory, or is ended.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            at.write_volatile(1);
            libc::_exit(0);
        }
        let mut status = 0;
        libc::waitpid(child, &raw mut status, 0);
        !(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV)
    }
}
