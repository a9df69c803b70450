//! No memory, address space or descriptor left. Calls fail in Dune mode as in host mode, and whoever takes too much dies alike.

use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use crate::both::{self, Mode, Notes, alike, forked, outcome};
use crate::case::{Case, CaseResult};
use crate::cgroup::Cgroup;
use crate::pace;
use crate::probe;

pub const CASES: &[Case] = &[
    Case::new("shortage::out_of_memory", out_of_memory),
    Case::new("shortage::out_of_memory_in_a_child", out_of_memory_in_a_child),
    Case::new("shortage::of_address_space", || alike(|notes| address_space(notes, libc::RLIMIT_AS))),
    Case::new("shortage::of_data", || alike(|notes| address_space(notes, libc::RLIMIT_DATA))),
    Case::new("shortage::fork_without_address_space", || alike(fork_without_address_space)),
    Case::new("shortage::of_descriptors", || alike(of_descriptors)),
    Case::new("shortage::faults_without_descriptors", || alike(faults_without_descriptors)),
    Case::new("shortage::fork_without_descriptors", || alike(fork_without_descriptors)),
    Case::new("shortage::fork_with_lost_descriptors", fork_with_lost_descriptors),
    Case::new("shortage::descriptors_where_both_limits_are_one", || {
        alike(|notes| up_to_the_limit(notes, true))
    }),
    Case::new("shortage::descriptors_where_no_limit_can_be_raised", || {
        alike(|notes| up_to_the_limit(notes, false))
    }),
    Case::new("shortage::descriptors_of_who_enters_with_one_limit", entered_with_one_limit),
];

const MIB: u64 = 1 << 20;

/// What a group has.
fn group_bytes() -> u64 {
    MIB * if pace::is_vtx() { 24 } else { 48 }
}

/// Joins `group` as the one to be killed first.
fn join(group: &Cgroup) {
    std::fs::write("/proc/self/oom_score_adj", "1000").expect("everyone may raise it");
    group.join().expect("the group is there");
}

/// Takes more than the group has, in one of several ways.
fn devour(way: usize) {
    let bytes = 2 * group_bytes();
    let all = libc::PROT_READ | libc::PROT_WRITE;
    match way {
        // By the program's own stores.
        0 => {
            let start = probe::map(0, bytes, all, 0);
            for page in 0..bytes / 4096 {
                // SAFETY: fresh memory of this function's own.
                unsafe { ((start + page * 4096) as *mut u64).write_volatile(page) };
            }
        }
        // By a system call that writes to it.
        1 => {
            let start = probe::map(0, bytes, all, 0);
            let zeros = std::fs::File::open("/dev/zero").expect("/dev/zero");
            // SAFETY: as above.
            let to = unsafe { std::slice::from_raw_parts_mut(start as *mut u8, bytes as usize) };
            let _ = std::io::Read::read_exact(&mut &zeros, to);
        }
        // At once.
        2 => _ = probe::map(0, bytes, all, libc::MAP_POPULATE),
        // In a thread, by the allocator.
        _ => {
            let thread = thread::spawn(move || std::hint::black_box(vec![1u8; bytes as usize]).len());
            let _ = thread.join();
        }
    }
}

/// The process is killed, whatever took the last page; who started it is not.
fn out_of_memory() -> CaseResult {
    for way in 0..4 {
        let group = Cgroup::with_memory("memory", group_bytes())?;
        let _ = group.set("memory.swap.max", 0);
        let mut kills = 0;
        for mode in [Mode::Host, Mode::Dune] {
            let outcome = both::run(mode, |notes| {
                join(&group);
                notes.note("joined", way);
                devour(way);
                notes.note("survived", way);
            })?;
            kills += 1;
            assert_eq!(
                (outcome.status, outcome.notes.lines().count()),
                (libc::SIGKILL, 1),
                "{mode:?} {outcome:?}"
            );
            assert_eq!(group.get("memory.events", "oom_kill "), Some(kills), "{mode:?} {outcome:?}");
        }
    }
    Ok(())
}

/// The child takes too much and is killed; its parent in Dune mode, in the same group, is told and goes on.
fn out_of_memory_in_a_child() -> CaseResult {
    let group = Cgroup::with_memory("family", group_bytes())?;
    let _ = group.set("memory.swap.max", 0);
    alike(|notes| {
        group.join().expect("the group is there");
        for way in 0..2 {
            let status = forked(|| {
                join(&group);
                devour(way);
                0
            });
            assert_eq!(status, Ok(libc::SIGKILL));
            notes.note("child", status);
        }
        notes.note("thread", thread::spawn(|| 7).join().ok());
        notes.note("next child", forked(|| 3));
    })
}

/// Limits `resource` to `room` bytes more than are in use.
fn limit_to(resource: u32, room: u64) {
    let used = probe::kib_of(if resource == libc::RLIMIT_AS { "VmSize" } else { "VmData" });
    let limit = libc::rlimit { rlim_cur: used * 1024 + room, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the call reads the limit.
    assert_eq!(unsafe { libc::setrlimit(resource, &limit) }, 0);
}

fn try_map(bytes: u64, protection: i32, flags: i32) -> i64 {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    probe::syscall(libc::SYS_mmap as u64, [0, bytes, protection as u64, flags as u64, u64::MAX, 0])
}

/// ENOMEM where Linux says so, and only there.
fn address_space(notes: &Notes, resource: u32) {
    let all = libc::PROT_READ | libc::PROT_WRITE;
    limit_to(resource, 32 * MIB);
    let sign = |result: i64| result.min(0);
    notes.note("too much", sign(try_map(64 * MIB, all, 0)));
    notes.note("too much at once", sign(try_map(64 * MIB, all, libc::MAP_POPULATE)));
    notes.note("too much without memory behind", sign(try_map(64 * MIB, all, libc::MAP_NORESERVE)));
    notes.note("rights do not matter for all", sign(try_map(64 * MIB, libc::PROT_NONE, 0)));
    let fits = try_map(16 * MIB, all, libc::MAP_POPULATE);
    notes.note("what fits", sign(fits));
    // SAFETY: fresh memory of this function's own.
    unsafe { std::slice::from_raw_parts_mut(fits as *mut u8, 16 << 20).fill(7) };
    let grown = [fits as u64, 16 * MIB, 128 * MIB, libc::MREMAP_MAYMOVE as u64, 0, 0];
    notes.note("mremap", probe::syscall(libc::SYS_mremap as u64, grown));
    // SAFETY: the calls change the break only.
    let end = unsafe { libc::sbrk(0) } as u64;
    let moved = probe::syscall(libc::SYS_brk as u64, [end + 64 * MIB, 0, 0, 0, 0, 0]);
    notes.note("brk", moved as u64 == end);
    // SAFETY: what malloc gives is looked at only.
    notes.note("malloc", unsafe { libc::malloc(256 << 20) }.is_null());
    let large = thread::Builder::new().stack_size(256 << 20).spawn(|| ());
    notes.note("a thread too large", large.err().and_then(|error| error.raw_os_error()));
    let small = thread::Builder::new().stack_size(128 << 10).spawn(|| 5);
    notes.note("a thread that fits", small.map(|thread| thread.join().ok()).ok());
    notes.note("a child", forked(|| i32::from(try_map(64 * MIB, all, 0) != -i64::from(libc::ENOMEM))));
    // SAFETY: as above.
    let intact =
        unsafe { std::slice::from_raw_parts(fits as *const u8, 16 << 20) }.iter().all(|&byte| byte == 7);
    notes.note("intact", intact);
    let freed = probe::syscall(libc::SYS_munmap as u64, [fits as u64, 16 * MIB, 0, 0, 0, 0]);
    notes.note("munmap", freed);
    notes.note("again", sign(try_map(16 * MIB, all, 0)));
    limit_to(resource, 1024 * MIB);
    notes.note("with more", sign(try_map(64 * MIB, all, 0)));
}

/// fork needs no address space of its parent, and the child as much as its parent has.
fn fork_without_address_space(notes: &Notes) {
    // Whatever the library does the first time.
    notes.note("before", forked(|| 3));
    limit_to(libc::RLIMIT_AS, 0);
    notes.note("no page", try_map(4096, libc::PROT_READ, 0));
    for _ in 0..3 {
        notes.note("child", forked(|| forked(|| 4).map_or(1, |status| libc::WEXITSTATUS(status))));
    }
}

/// Threads and children need none of the program's descriptors.
fn of_descriptors(notes: &Notes) {
    let limit = libc::rlimit { rlim_cur: 32, rlim_max: 4096 };
    // SAFETY: the call reads the limit; the descriptors are copies of one.
    let copies: Vec<i32> = unsafe {
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
        (0..).map(|_| libc::dup(2)).take_while(|&copy| copy >= 0).collect()
    };
    notes.note("the last", copies.last());
    // SAFETY: makes no descriptor.
    notes.note("no more", outcome(unsafe { libc::dup(2) }.into()));
    let threads: Vec<_> = (0..6).map(|n| thread::Builder::new().spawn(move || n)).collect();
    for spawned in threads {
        notes.note("thread", spawned.map(|thread| thread.join().ok()).map_err(|error| error.raw_os_error()));
    }
    notes.note("child", forked(|| forked(|| 4).map_or(1, |status| libc::WEXITSTATUS(status))));
    // SAFETY: as above.
    notes.note("no more afterwards", outcome(unsafe { libc::dup(2) }.into()));
    copies.iter().for_each(|&copy| {
        // SAFETY: our own descriptor.
        unsafe { libc::close(copy) };
    });
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call writes the limit.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut now) };
    notes.note("the limit is as it was", (now.rlim_cur, now.rlim_max));
}

/// Sets both limits of RLIMIT_NOFILE, which nothing can raise again, and takes all numbers that are left.
fn take_all_descriptors(limit: u64) -> Vec<i32> {
    let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    // SAFETY: the call reads the limit; the descriptors are copies of one.
    unsafe {
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
        (0..).map(|_| libc::dup(2)).take_while(|&copy| copy >= 0).collect()
    }
}

/// What a fault is about is found out without a number that the program could have.
fn faults_without_descriptors(notes: &Notes) {
    static CODE: AtomicI32 = AtomicI32::new(0);
    extern "C" fn repair(_: i32, info: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        CODE.store(info.si_code, Ordering::Relaxed);
        // SAFETY: SIGSEGV has an address, which is the page's.
        unsafe { libc::mprotect(info.si_addr(), 4096, libc::PROT_READ | libc::PROT_WRITE) };
    }
    probe::set_action(libc::SIGSEGV, repair, 0, &[]);
    // SAFETY: the page is this scenario's own, and its handler makes it writable.
    unsafe {
        let page = probe::map(0, 4096, libc::PROT_NONE, 0);
        notes.note("all taken", take_all_descriptors(4096).len() > 4000);
        (page as *mut u64).write_volatile(1);
        notes.note("code", CODE.load(Ordering::Relaxed));
    }
}

/// A child has the numbers that the library's descriptors had in its parent, and needs no others.
fn fork_without_descriptors(notes: &Notes) {
    let copies = take_all_descriptors(4096);
    notes.note("all taken", copies.len() > 4000);
    for _ in 0..2 {
        notes.note("child", forked(|| forked(|| 4).map_or(1, |status| libc::WEXITSTATUS(status))));
    }
}

/// If they stand above a hard limit that the program has lowered since, and nothing is free below, there is no child.
fn fork_with_lost_descriptors() -> CaseResult {
    dune::enter()?;
    probe::use_capability(probe::MAY_RAISE_LIMITS, false);
    let copies = take_all_descriptors(32);
    for _ in 0..3 {
        // SAFETY: there is no child; if there is, it says so.
        let child = unsafe { libc::fork() };
        assert_eq!(child, -1, "the child lives, or has died of it");
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EAGAIN));
    }
    // Its machine and its vCPU.
    for &copy in &copies[..2] {
        // SAFETY: our own descriptor.
        unsafe { libc::close(copy) };
    }
    assert_eq!(forked(|| 5).map(|status| libc::WEXITSTATUS(status)), Ok(5));
    Ok(())
}

/// Sets both limits of RLIMIT_NOFILE.
fn limit_descriptors(number: u64) {
    let limit = libc::rlimit { rlim_cur: number, rlim_max: number };
    // SAFETY: the call reads the limit.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
}

/// The numbers that a program gets where the soft limit of RLIMIT_NOFILE is the hard one: all up to it for who could raise that, and
/// for others in order at least, from the lowest. Children have other descriptors of Dune's than their parents.
fn up_to_the_limit(notes: &Notes, may_raise: bool) {
    for number in [64, 100, 400, 501, 900, 1024] {
        let status = forked(|| {
            probe::use_capability(probe::MAY_RAISE_LIMITS, may_raise);
            limit_descriptors(number);
            notes.note("child", forked(|| count_descriptors(notes, number as usize, may_raise)));
            5
        });
        notes.note("status", status);
    }
}

/// Who enters with such limits.
fn entered_with_one_limit() -> CaseResult {
    const NUMBER: u64 = 3000;
    limit_descriptors(NUMBER);
    alike(|notes| notes.note("status", count_descriptors(notes, NUMBER as usize, true)))
}

fn count_descriptors(notes: &Notes, most: usize, all: bool) -> i32 {
    // SAFETY: makes descriptors, copies of one.
    let copy = || unsafe { libc::dup(2) };
    let copies: Vec<i32> = std::iter::repeat_with(copy).take_while(|&copy| copy >= 0).collect();
    let lower = &copies[..copies.len().min(most / 2 - 8)];
    notes.note("in order", (lower.first(), lower.is_sorted_by(|a, b| a + 1 == *b)));
    if all {
        notes.note("all", (copies.len(), copies.last(), outcome(copy().into())));
        notes.note("child", forked(|| 6));
        notes.note("thread", thread::Builder::new().spawn(|| 8).map(|thread| thread.join().ok()).ok());
    }
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call writes the limit.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut now) };
    notes.note("limits", (now.rlim_cur, now.rlim_max));
    4
}
