//! A process that may not open `/proc` any more (landlock(7)): what the page tables have not seen is found out all the same.

use std::arch::asm;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::both::{Notes, alike, forked, outcome};
use crate::case::{Case, CaseResult, Skip};
use crate::probe;

pub const CASES: &[Case] = &[
    Case::new("without_proc::memory_that_was_not_seen", || confined(not_seen)),
    Case::new("without_proc::memory_of_a_thread_in_host_mode", || confined(of_a_thread)),
    Case::new("without_proc::signals", || confined(signals)),
];

const PAGE: u64 = 4096;
const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

const CREATE_RULESET: u64 = 444;
const RESTRICT_SELF: u64 = 446;

fn confined(scenario: fn(&Notes)) -> CaseResult {
    const VERSION: u64 = 1;
    if probe::syscall(CREATE_RULESET, [0, 0, VERSION, 0, 0, 0]) < 0 {
        return Err(Skip("Linux has no Landlock, or not for us".to_owned()).into());
    }
    alike(|notes| {
        let status = forked(|| {
            // What the child of a fork finds, too.
            confine();
            notes.note("maps", std::fs::read("/proc/self/maps").map_err(|error| error.raw_os_error()));
            scenario(notes);
            notes.note(
                "child",
                forked(|| {
                    scenario(notes);
                    3
                }),
            );
            4
        });
        notes.note("status", status);
    })
}

/// Takes the right to read files away, for good.
fn confine() {
    const READ_FILE: u64 = 1 << 2;
    let rules = READ_FILE;
    let ruleset = probe::syscall(CREATE_RULESET, [(&raw const rules) as u64, 8, 0, 0, 0, 0]);
    assert!(ruleset >= 0, "{ruleset}");
    // SAFETY: takes no pointer.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    assert_eq!(probe::syscall(RESTRICT_SELF, [ruleset as u64, 0, 0, 0, 0, 0]), 0);
}

/// Signal, code and address of the last fault.
static LAST: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

/// Goes on behind the instruction, of three bytes.
extern "C" fn skip(signal: i32, info: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
    // SAFETY: a fault has an address.
    let values = [signal as u64, info.si_code as u64, unsafe { info.si_addr() } as u64];
    LAST.iter().zip(values).for_each(|(to, value)| to.store(value, Ordering::Relaxed));
    context.uc_mcontext.gregs[libc::REG_RIP as usize] += 3;
}

/// The fault of `access`, whose address is of a mapping that starts at `start`; zeros for none.
fn fault(start: u64, access: impl FnOnce()) -> [u64; 3] {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        probe::set_action(signal, skip, 0, &[]);
    }
    LAST.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    access();
    let [signal, code, address] = LAST.each_ref().map(|word| word.load(Ordering::Relaxed));
    [signal, code, if address == 0 { 0 } else { address.wrapping_sub(start) }]
}

fn load(address: u64) -> u64 {
    let word: u64;
    // SAFETY: reads, or is skipped.
    unsafe { asm!("mov rax, [rsi]", in("rsi") address, inout("rax") u64::MAX => word, options(nostack)) };
    word
}

fn store(address: u64, value: u64) {
    // SAFETY: the cases' own memory, or it is skipped.
    unsafe { asm!("mov [rsi], rax", in("rsi") address, in("rax") value, options(nostack)) };
}

/// Reads and writes all of `pages` pages.
fn touch(start: u64, pages: u64) -> ([u64; 3], u64) {
    let mut sum = 0;
    let fault = fault(start, || {
        for page in 0..pages {
            sum += load(start + page * PAGE);
            store(start + page * PAGE + 8, 7);
            sum += load(start + page * PAGE + 8);
        }
    });
    (fault, sum)
}

fn not_seen(notes: &Notes) {
    let shared = |flags: i32| {
        // SAFETY: a new segment, which is gone with its last user.
        unsafe {
            let id = libc::shmget(libc::IPC_PRIVATE, 3 * PAGE as usize, libc::IPC_CREAT | 0o600);
            let start = libc::shmat(id, std::ptr::null(), flags) as u64;
            libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut());
            start
        }
    };
    let segment = shared(0);
    notes.note("segment", touch(segment, 3));
    // SAFETY: nobody uses it any more.
    notes.note("detached", outcome(unsafe { libc::shmdt(segment as *const _) }.into()));
    notes.note("gone", fault(segment, || _ = load(segment)));
    let segment = shared(libc::SHM_RDONLY);
    notes.note("read", fault(segment, || _ = load(segment)));
    notes.note("not written", fault(segment, || store(segment + PAGE, 1)));
    let grows = probe::map(0, 2 * PAGE, READ_WRITE, libc::MAP_GROWSDOWN);
    notes.note("grows down", touch(grows, 2));
    let moved = probe::map(0, 2 * PAGE, READ_WRITE, 0);
    let arguments = [moved, 2 * PAGE, 600 * PAGE, libc::MREMAP_MAYMOVE as u64, 0, 0];
    let moved = probe::syscall(libc::SYS_mremap as u64, arguments) as u64;
    notes.note("moved", touch(moved, 600));
    let mut context = 0u64;
    notes.note(
        "io_setup",
        probe::syscall(libc::SYS_io_setup as u64, [64, (&raw mut context) as u64, 0, 0, 0, 0]),
    );
    // struct aio_ring: its number of events is the second word.
    notes.note("ring", (fault(context, || _ = load(context)), load(context) >> 32 >= 64));
}

fn signals(notes: &Notes) {
    notes.note("null", fault(0, || _ = load(0x10)));
    let page = probe::map(0, 3 * PAGE, READ_WRITE, 0);
    notes.note("before", touch(page, 3));
    // SAFETY: the case's own pages.
    unsafe {
        libc::mprotect((page + PAGE) as *mut _, PAGE as usize, libc::PROT_READ);
        libc::mprotect((page + 2 * PAGE) as *mut _, PAGE as usize, libc::PROT_NONE);
    }
    notes.note("read-only", (fault(page, || store(page + PAGE, 1)), load(page + PAGE + 8)));
    notes.note("none", fault(page, || _ = load(page + 2 * PAGE)));
    // SAFETY: makes a descriptor, and a mapping of twice its file's size.
    let file = unsafe {
        let file = libc::memfd_create(c"file".as_ptr(), 0);
        assert_eq!(libc::ftruncate(file, PAGE as i64), 0);
        libc::mmap(std::ptr::null_mut(), 2 * PAGE as usize, READ_WRITE, libc::MAP_SHARED, file, 0) as u64
    };
    notes.note("file", touch(file, 1));
    notes.note("behind it", fault(file, || _ = load(file + PAGE)));
    notes.note("written behind it", fault(file, || store(file + PAGE, 1)));
}

/// A thread under a filter is in host mode (`filters.rs`); what it maps is not seen.
fn of_a_thread(notes: &Notes) {
    let thread = std::thread::spawn(|| {
        const ALLOW: u32 = 0x7fff_0000;
        let program = [libc::sock_filter { code: 6, jt: 0, jf: 0, k: ALLOW }];
        let filter = libc::sock_fprog { len: 1, filter: program.as_ptr().cast_mut() };
        let installed = probe::syscall(libc::SYS_seccomp as u64, [1, 0, (&raw const filter) as u64, 0, 0, 0]);
        let read_only = probe::map(0, PAGE, libc::PROT_READ, 0);
        (installed, probe::map(0, 4 * PAGE, READ_WRITE, 0), read_only)
    });
    let (installed, start, read_only) = thread.join().expect("a thread");
    notes.note("installed", installed);
    notes.note("mapped", touch(start, 4));
    notes.note("read", fault(read_only, || _ = load(read_only)));
    notes.note("not written", fault(read_only, || store(read_only, 1)));
}
