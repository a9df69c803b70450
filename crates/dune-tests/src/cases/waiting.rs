//! Calls and faults that wait for another thread, which needs what Dune may hold meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use libc::{MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE};

use crate::both::{self, Notes, forked};
use crate::case::Case;
use crate::probe;
use crate::userfault::{self, Userfault};

pub const CASES: &[Case] = &[
    Case::new("waiting::unmapping_is_told", || both::alike(|notes| told(notes, unmap))),
    Case::new("waiting::moving_is_told", || both::alike(|notes| told(notes, move_away))),
    Case::new("waiting::removing_is_told", || both::alike(|notes| told(notes, remove))),
    Case::new("waiting::replacing_is_told", || both::alike(|notes| told(notes, replace))),
    Case::new("waiting::forking_is_told", || both::alike(|notes| told(notes, fork))),
    Case::new("waiting::an_action_that_is_fetched", || both::alike(action_that_is_fetched)),
    Case::new("waiting::faults_in_user_mode", || {
        both::alike(|notes| faults(notes, userfault::USER_MODE_ONLY))
    }),
    Case::new("waiting::faults_in_any_mode", || both::alike(|notes| faults(notes, 0))),
    Case::new("waiting::signals_while_a_fault_is_served", || both::alike(signals_meanwhile)),
    Case::new("waiting::a_signal_in_place_of_an_event", || both::alike(signal_in_place)),
];

const PAGE: u64 = 4096;
const PAGES: u64 = 16;
const READ_WRITE: i32 = PROT_READ | PROT_WRITE;
/// Dune's locks are waited for longer, and nothing here takes as long.
const AT_ONCE: Duration = Duration::from_millis(2500);

/// What a thread does that waits for nobody.
fn everything() -> bool {
    extern "C" fn handler(_: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {}
    // SAFETY: the pages are this function's own.
    let is_mapped = unsafe {
        let length = (PAGES * PAGE) as usize;
        let flags = MAP_PRIVATE | MAP_ANONYMOUS;
        let start = libc::mmap(std::ptr::null_mut(), length, READ_WRITE, flags, -1, 0);
        start.cast::<u8>().write_bytes(1, length);
        libc::mprotect(start, 4096, PROT_READ) == 0
            && libc::mremap(start, length, 2 * length, libc::MREMAP_MAYMOVE) != libc::MAP_FAILED
    };
    probe::set_action(libc::SIGUSR2, handler, 0, &[]);
    is_mapped && thread::spawn(|| 7).join().is_ok_and(|seven| seven == 7)
}

/// `call` changes memory that a monitor is told of, which does everything else before it listens.
fn told(notes: &Notes, call: fn(u64) -> bool) {
    let events = userfault::FEATURE_EVENT_FORK
        | userfault::FEATURE_EVENT_REMAP
        | userfault::FEATURE_EVENT_REMOVE
        | userfault::FEATURE_EVENT_UNMAP;
    let userfault = Arc::new(Userfault::new(0, events).expect("userfaultfd"));
    let start = probe::map(0, PAGES * PAGE, READ_WRITE, 0);
    userfault.register(start, PAGES * PAGE, userfault::MISSING).expect("register");
    let listener = Arc::clone(&userfault);
    let done = Arc::new(AtomicU64::new(0));
    let (seen, is_ready) = (Arc::clone(&done), Arc::new(AtomicI32::new(0)));
    let ready = Arc::clone(&is_ready);
    thread::spawn(move || {
        ready.store(1, Ordering::SeqCst);
        while listener.wait() {
            let is_done = everything();
            seen.fetch_add(is_done.into(), Ordering::SeqCst);
            if let Some(message) = listener.next()
                && message.event == userfault::EVENT_FORK
            {
                // SAFETY: the message has brought the descriptor.
                unsafe { libc::close(message.first as i32) };
            }
        }
    });
    while is_ready.load(Ordering::SeqCst) == 0 {
        thread::yield_now();
    }
    let before = Instant::now();
    notes.note("it can be done", call(start));
    let took = before.elapsed();
    eprintln!("took {took:?}");
    notes.note("at once", took < AT_ONCE);
    notes.note("the monitor was told", done.load(Ordering::SeqCst) > 0);
}

fn unmap(start: u64) -> bool {
    // SAFETY: nobody uses the pages.
    unsafe { libc::munmap(start as *mut _, PAGE as usize) == 0 }
}

fn move_away(start: u64) -> bool {
    // SAFETY: nobody uses the pages.
    unsafe {
        libc::mremap(start as *mut _, PAGE as usize, 64 * PAGE as usize, libc::MREMAP_MAYMOVE)
            != libc::MAP_FAILED
    }
}

fn remove(start: u64) -> bool {
    // SAFETY: nobody uses the pages.
    unsafe { libc::madvise(start as *mut _, PAGE as usize, libc::MADV_DONTNEED) == 0 }
}

fn replace(start: u64) -> bool {
    probe::map(start, PAGE, PROT_READ, libc::MAP_FIXED) == start
}

fn fork(_: u64) -> bool {
    forked(|| if everything() { 7 } else { 1 }).is_ok_and(|status| both::exited(status) == Some(7))
}

/// Linux fetches what rt_sigaction(2) reads from a page that the monitor brings, after it has set an action of its own.
fn action_that_is_fetched(notes: &Notes) {
    let userfault = Arc::new(Userfault::new(0, 0).expect("userfaultfd"));
    let [start, content] = [0, 0].map(|_| probe::map(0, PAGE, READ_WRITE, 0));
    userfault.register(start, PAGE, userfault::MISSING).expect("register");
    let listener = Arc::clone(&userfault);
    thread::spawn(move || {
        while listener.wait() {
            everything();
            if let Some(message) = listener.next() {
                let _ = listener.copy(message.second & !(PAGE - 1), content);
            }
        }
    });
    let before = Instant::now();
    let arguments = [libc::SIGUSR1 as u64, start, 0, 8, 0, 0];
    notes.note("rt_sigaction", probe::syscall(libc::SYS_rt_sigaction as u64, arguments));
    let took = before.elapsed();
    eprintln!("took {took:?}");
    notes.note("at once", took < AT_ONCE);
}

/// A page of a file in memory, and of another mapping of the same file.
fn shared_pages() -> [u64; 2] {
    // SAFETY: makes a descriptor, and mappings of it where nothing was.
    unsafe {
        let file = libc::memfd_create(c"shared".as_ptr(), libc::MFD_CLOEXEC);
        assert_eq!(libc::ftruncate(file, PAGE as i64), 0);
        [0, 0].map(|_| {
            libc::mmap(std::ptr::null_mut(), PAGE as usize, READ_WRITE, libc::MAP_SHARED, file, 0) as u64
        })
    }
}

/// Reads, writes, and reads in one instruction of two pages, each page brought by the monitor: missing ones, ones that are
/// protected, ones that the file has and the mapping not.
fn faults(notes: &Notes, flags: i32) {
    let features = userfault::FEATURE_PAGEFAULT_FLAG_WP | userfault::FEATURE_MINOR_SHMEM;
    let userfault = Arc::new(Userfault::new(flags, features).expect("userfaultfd"));
    let missing = probe::map(0, 4 * PAGE, READ_WRITE, 0);
    userfault.register(missing, 4 * PAGE, userfault::MISSING).expect("missing");
    let protected = probe::map(0, PAGE, READ_WRITE, 0);
    // SAFETY: the page is this function's own.
    unsafe { (protected as *mut u8).write_bytes(0x21, PAGE as usize) };
    userfault.register(protected, PAGE, userfault::WRITE_PROTECT).expect("protected");
    userfault.protect(protected, true).expect("protect");
    let [minor, other] = shared_pages();
    // SAFETY: the page is this function's own.
    unsafe { (other as *mut u8).write_bytes(0x43, PAGE as usize) };
    userfault.register(minor, PAGE, userfault::MINOR).expect("minor");
    let content = probe::map(0, PAGE, READ_WRITE, 0);
    // SAFETY: the page is this function's own.
    unsafe { (content as *mut u8).write_bytes(0x65, PAGE as usize) };
    let listener = Arc::clone(&userfault);
    let served = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&served);
    thread::spawn(move || {
        while listener.wait() {
            // Longer than any number of tries.
            thread::sleep(Duration::from_millis(20));
            let Some(message) = listener.next() else { continue };
            let page = message.second & !(PAGE - 1);
            let answer = if page == protected {
                listener.protect(page, false)
            } else if page == minor {
                listener.go_on(page)
            } else {
                listener.copy(page, content)
            };
            count.fetch_add(answer.is_ok().into(), Ordering::SeqCst);
        }
    });
    let number = |address: u64| {
        // SAFETY: the pages are mapped; who serves their faults is asked.
        unsafe { (address as *const u64).read_unaligned() }
    };
    let write = |address: u64| {
        // SAFETY: as before; nobody else uses the page.
        unsafe { (address as *mut u8).write_volatile(0x77) }
    };
    notes.note("read", number(missing));
    write(missing + PAGE + 5);
    notes.note("written", number(missing + PAGE));
    notes.note("of two pages", number(missing + 3 * PAGE - 4));
    write(protected + 1);
    notes.note("protected", number(protected));
    notes.note("minor", number(minor));
    // The last answer is counted after it is had.
    notes.note("served", served.load(Ordering::SeqCst) >= 5);
}

/// Handlers run while a fault waits for the monitor, which waits for them.
fn signals_meanwhile(notes: &Notes) {
    static HANDLED: AtomicU64 = AtomicU64::new(0);
    extern "C" fn handler(_: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        HANDLED.fetch_add(1, Ordering::SeqCst);
    }
    const SIGNALS: u64 = 40;
    probe::set_action(libc::SIGUSR1, handler, 0, &[]);
    let userfault = Arc::new(Userfault::new(userfault::USER_MODE_ONLY, 0).expect("userfaultfd"));
    let [start, content] = [0, 0].map(|_| probe::map(0, PAGE, READ_WRITE, 0));
    userfault.register(start, PAGE, userfault::MISSING).expect("register");
    // SAFETY: asks only.
    let waiter = unsafe { libc::pthread_self() } as u64;
    let listener = Arc::clone(&userfault);
    thread::spawn(move || {
        while listener.wait() {
            for number in 1..=SIGNALS {
                // SAFETY: the thread lives as long as its process.
                unsafe { libc::pthread_kill(waiter as libc::pthread_t, libc::SIGUSR1) };
                while HANDLED.load(Ordering::SeqCst) < number {
                    thread::yield_now();
                }
            }
            if let Some(message) = listener.next() {
                let _ = listener.copy(message.second & !(PAGE - 1), content);
            }
        }
    });
    // SAFETY: the page is mapped, and its fault served.
    notes.note("read", unsafe { (start as *const u64).read_volatile() });
    // The monitor may find the same fault once more, with all its signals.
    notes.note("handled", HANDLED.load(Ordering::SeqCst) >= SIGNALS);
}

/// UFFD_FEATURE_SIGBUS: who reads is sent a signal, once and again.
fn signal_in_place(notes: &Notes) {
    use crate::random::access;
    access::catch_faults();
    for flags in [userfault::USER_MODE_ONLY, 0] {
        let userfault = Userfault::new(flags, userfault::FEATURE_SIGBUS).expect("userfaultfd");
        let [start, content] = [0, 0].map(|_| probe::map(0, PAGE, READ_WRITE, 0));
        userfault.register(start, PAGE, userfault::MISSING).expect("register");
        let without_address = |outcome: access::Outcome| outcome.0 >> 48;
        for _ in 0..3 {
            notes.note("read", without_address(access::load(start + 8)));
            notes.note("write", without_address(access::store(start + 8, 1)));
        }
        userfault.copy(start, content).expect("copy");
        notes.note("read", access::load(start + 8));
    }
}
