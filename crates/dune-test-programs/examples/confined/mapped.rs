//! Faults that are Linux's, and mappings that are replaced while they are used.

use std::mem::zeroed;
use std::ptr::{null_mut, without_provenance_mut};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

const PAGE: usize = 4096;

static DONE: AtomicBool = AtomicBool::new(false);

/// Says what it is told, and puts a page of memory where the access was.
extern "C" fn mend(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::ucontext_t) {
    // SAFETY: Linux hands over the structure; the page is that of `end_of_file`.
    unsafe {
        let address = (*info).si_addr() as usize;
        println!("signal {signal}, code {}, at {:#x}", (*info).si_code, address % (4 * PAGE));
        map(address & !(PAGE - 1), -1);
    }
}

/// Maps a page at `address`, in the place of what is there: the file's first, or an anonymous one.
///
/// # Safety
///
/// Nobody refers to what is there.
unsafe fn map(address: usize, file: i32) {
    let kind = if file < 0 { libc::MAP_PRIVATE | libc::MAP_ANONYMOUS } else { libc::MAP_SHARED };
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the caller's.
    let made =
        unsafe { libc::mmap(without_provenance_mut(address), PAGE, rights, kind | libc::MAP_FIXED, file, 0) };
    assert_eq!(made.addr(), address);
}

/// Four pages of memory, at a multiple of their length.
fn pages() -> usize {
    // SAFETY: new memory.
    let at = unsafe {
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        libc::mmap(null_mut(), 8 * PAGE, libc::PROT_READ | libc::PROT_WRITE, kind, -1, 0)
    };
    assert_ne!(at, libc::MAP_FAILED);
    at.addr().next_multiple_of(4 * PAGE)
}

/// Accesses behind the end of a file that has become shorter.
pub fn end_of_file() {
    let at = pages();
    // SAFETY: the pages are ours, and accessed as atomics; the handler mends them.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_flags = libc::SA_SIGINFO;
        action.sa_sigaction = mend as extern "C" fn(_, _, _) as *const () as usize;
        for signal in [libc::SIGBUS, libc::SIGSEGV] {
            assert_eq!(libc::sigaction(signal, &raw const action, null_mut()), 0);
        }
        let file = libc::memfd_create(c"short".as_ptr(), 0);
        assert_eq!(libc::ftruncate(file, 4 * PAGE as i64), 0);
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_SHARED | libc::MAP_FIXED;
        libc::mmap(without_provenance_mut(at), 4 * PAGE, rights, kind, file, 0);
        let byte = |page: usize| &*std::ptr::with_exposed_provenance::<AtomicU8>(at + page * PAGE + 8);
        for page in 0..4 {
            byte(page).store(1, Ordering::Relaxed);
        }
        assert_eq!(libc::ftruncate(file, PAGE as i64), 0);
        println!("read {} {}", byte(0).load(Ordering::Relaxed), byte(2).load(Ordering::Relaxed));
        byte(3).store(7, Ordering::Relaxed);
        println!("written {}", byte(3).load(Ordering::Relaxed));
    }
}

/// A thread stores to pages, always in the same instruction and without a call, while another one maps others there, one after the other.
pub fn replaced(turns: u32) {
    let at = pages();
    let writer = std::thread::spawn(move || {
        // SAFETY: the page is there at any time, and accessed as an atomic.
        let byte = unsafe { &*std::ptr::with_exposed_provenance::<AtomicU8>(at) };
        while !DONE.load(Ordering::Relaxed) {
            byte.store(1, Ordering::Relaxed);
        }
    });
    for _ in 0..turns {
        // SAFETY: only the writer's atomic is there.
        unsafe { map(at, -1) };
    }
    DONE.store(true, Ordering::Relaxed);
    println!("the writer has ended: {}", writer.join().is_ok());
}

/// Mappings at addresses of the program's choice, far from all others, each longer than what lies there alone. Linux writes there before
/// the program has touched it, and is given what it has written as a path.
pub fn far() {
    const GIB: usize = 1 << 30;
    let (mut sum, mut paths) = (0, 0);
    let mut ends = [0; 2];
    // SAFETY: two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    for (start, length) in (0..24)
        .map(|index| (0x1000_0000_0000 + index * (GIB << 6) - (1 << 18), 1 << 19))
        .chain([(0x3000_0000_0000, 12 * GIB)])
    {
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: new memory, accessed as atomics.
        unsafe {
            let at = libc::mmap(without_provenance_mut(start), length, rights, kind, -1, 0).addr();
            assert_eq!(at, start);
            let half = length / 2;
            // The path lies on two pages, and on both sides of a multiple of 64 MiB.
            for offset in (half..length).step_by(half.min(GIB)) {
                let path = start + offset - 1;
                assert_eq!(libc::write(ends[1], c"/".as_ptr().cast(), 2), 2);
                assert_eq!(libc::read(ends[0], without_provenance_mut(path), 2), 2);
                paths += usize::from(libc::access(without_provenance_mut(path), libc::R_OK) == 0);
            }
            for offset in (half..length).step_by(half.min(GIB)) {
                let byte = &*std::ptr::with_exposed_provenance::<AtomicU8>(start + offset);
                byte.store(1, Ordering::Relaxed);
                sum += usize::from(byte.load(Ordering::Relaxed));
            }
        }
    }
    println!("stored {sum}, paths {paths}");
}
