//! Memory that Linux has moved to swap comes back as it was, whoever asks for it.

use std::ffi::c_void;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::both::{self, Notes, forked};
use crate::case::{Case, CaseResult, Skip};
use crate::cgroup::Cgroup;
use crate::probe;

pub const CASES: &[Case] = &[
    Case::new("swapping::pages_come_back", || same(pages_come_back)),
    Case::new("swapping::forked_pages_come_back", || same(forked_pages)),
    Case::new("swapping::protected_pages_come_back", || same(protected_pages)),
    Case::new("swapping::under_pressure", under_pressure).on_svm(),
];

const MIB: u64 = 1 << 20;
const BYTES: u64 = 4 * MIB;

/// Runs the scenario in both modes with a swap device.
fn same(scenario: fn(&Notes)) -> CaseResult {
    let _swap = Swap::on()?;
    let [host, dune] = both::same(scenario)?;
    if host.status == 0 && host.notes.contains("mostly in swap: true") {
        Ok(())
    } else {
        Err(format!("{host:?}\n{dune:?}").into())
    }
}

/// A compressed swap device in memory, zram, for as long as this lives.
#[derive(Debug)]
struct Swap;

impl Swap {
    /// Where `xtask` has put the modules.
    const MODULES: &str = "/dune/modules/swap";
    const DEVICE: &std::ffi::CStr = c"/dev/zram0";

    fn on() -> Result<Swap, Box<dyn std::error::Error>> {
        if !Path::new("/dev/zram0").exists() {
            Self::load()?;
        }
        // What a killed run may have left.
        drop(Swap);
        std::fs::write("/sys/block/zram0/disksize", (192 * MIB).to_string())?;
        let made = Command::new("mkswap").arg("/dev/zram0").output()?;
        // SAFETY: the call reads its string.
        if !made.status.success() || unsafe { libc::swapon(Self::DEVICE.as_ptr(), 0) } != 0 {
            return Err(format!("no swap: {made:?}, {}", std::io::Error::last_os_error()).into());
        }
        Ok(Swap)
    }

    fn load() -> CaseResult {
        let Ok(folder) = std::fs::read_dir(Self::MODULES) else {
            return Err(Skip(format!("no module zram in {}", Self::MODULES)).into());
        };
        let mut files: Vec<_> = folder.flatten().map(|file| file.path()).collect();
        files.sort();
        for file in files {
            let module = std::fs::File::open(&file)?;
            // SAFETY: the call reads its string.
            let loaded =
                unsafe { libc::syscall(libc::SYS_finit_module, module.as_raw_fd(), c"".as_ptr(), 0) };
            if loaded != 0 && both::errno() != libc::EEXIST {
                return Err(format!("{}: {}", file.display(), std::io::Error::last_os_error()).into());
            }
        }
        Ok(())
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        // SAFETY: the call reads its string.
        unsafe { libc::swapoff(Self::DEVICE.as_ptr()) };
        let _ = std::fs::write("/sys/block/zram0/reset", "1");
    }
}

/// The word at `index` of memory that is filled with `seed`. It does not compress to nothing.
fn word(seed: u64, index: u64) -> u64 {
    (index ^ seed << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Fresh memory on pages of 4 KiB, which swap one by one.
fn small_pages(bytes: u64) -> u64 {
    let start = probe::map(0, bytes, libc::PROT_READ | libc::PROT_WRITE, 0);
    // SAFETY: our own memory.
    unsafe { libc::madvise(start as *mut c_void, bytes as usize, libc::MADV_NOHUGEPAGE) };
    start
}

fn fill(start: u64, bytes: u64, seed: u64) {
    for index in 0..bytes / 8 {
        // SAFETY: callers pass memory of their own.
        unsafe { ((start + index * 8) as *mut u64).write(word(seed, index)) };
    }
}

/// How many words are not those of `seed`.
fn wrong(start: u64, bytes: u64, seed: u64) -> u64 {
    let differs = |index: &u64| {
        // SAFETY: callers pass memory of their own.
        unsafe { ((start + index * 8) as *const u64).read() != word(seed, *index) }
    };
    (0..bytes / 8).filter(differs).count() as u64
}

/// Moves the range to swap; how many bytes of it Linux says are there.
///
/// Before Linux 6.10 the call leaves pages that have just been used, also by KVM, and counts them as used no more (mm/madvise.c).
fn push_out(start: u64, bytes: u64) -> u64 {
    const TRIES: u32 = 4;
    let mut there = 0;
    for _ in 0..TRIES {
        // SAFETY: what the pages hold stays.
        let result = unsafe { libc::madvise(start as *mut c_void, bytes as usize, libc::MADV_PAGEOUT) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        there = swapped(start, bytes);
        if is_mostly_swapped(there, bytes) {
            break;
        }
    }
    there
}

/// What /proc/self/smaps says is swapped of the mappings that begin in the range.
fn swapped(start: u64, bytes: u64) -> u64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("readable");
    let (mut here, mut sum) = (false, 0);
    for line in smaps.lines() {
        let first = line.split(['-', ' ']).next().unwrap_or_default();
        if let (Ok(address), true) = (u64::from_str_radix(first, 16), line.contains('-')) {
            // A mapping may have grown together with one before it.
            let end = line.split(['-', ' ']).nth(1).and_then(|end| u64::from_str_radix(end, 16).ok());
            here = address < start + bytes && end.is_some_and(|end| end > start);
        } else if let (true, Some(size)) = (here, line.strip_prefix("Swap:")) {
            sum += size.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024;
        }
    }
    sum
}

/// A page here and there may be in use by the kernel.
fn is_mostly_swapped(there: u64, bytes: u64) -> bool {
    there >= bytes / 10 * 9 && there <= bytes
}

/// Pushes the range out and notes whether that did it.
fn note_pushed(notes: &Notes, start: u64, bytes: u64) {
    let there = push_out(start, bytes);
    eprintln!("{there:#x} of {bytes:#x} bytes swapped");
    notes.note("mostly in swap", is_mostly_swapped(there, bytes));
}

/// Read by this thread, by several, and by the kernel; then written to.
fn pages_come_back(notes: &Notes) {
    const THREADS: u64 = 4;
    let start = small_pages(BYTES);
    fill(start, BYTES, 1);
    note_pushed(notes, start, BYTES);
    notes.note("wrong after reading", wrong(start, BYTES, 1));
    note_pushed(notes, start, BYTES);
    let part = BYTES / THREADS;
    let threads: Vec<_> = (0..THREADS)
        .map(|number| {
            thread::spawn(move || {
                // All read all, each from another place on.
                let parts = (0..THREADS).map(|next| (number + next) % THREADS);
                parts
                    .map(|number| {
                        let first = number * part / 8;
                        let differs = |index: &u64| {
                            // SAFETY: nobody writes to it.
                            unsafe { ((start + index * 8) as *const u64).read() != word(1, *index) }
                        };
                        (first..first + part / 8).filter(differs).count()
                    })
                    .sum::<usize>()
            })
        })
        .collect();
    for thread in threads {
        notes.note("wrong in a thread", thread.join().ok());
    }
    note_pushed(notes, start, BYTES);
    // The kernel reads it: through a file in memory.
    // SAFETY: makes a descriptor; reads our own memory.
    let written = unsafe {
        let file = libc::memfd_create(c"copy".as_ptr(), 0);
        let written = libc::write(file, start as *const c_void, BYTES as usize);
        let copy =
            libc::mmap(std::ptr::null_mut(), BYTES as usize, libc::PROT_READ, libc::MAP_SHARED, file, 0);
        notes.note("wrong in the kernel's copy", wrong(copy as u64, BYTES, 1));
        libc::munmap(copy, BYTES as usize);
        libc::close(file);
        written
    };
    notes.note("written", written);
    note_pushed(notes, start, BYTES);
    // One word of each page written to, before anything is read.
    for page in 0..BYTES / 4096 {
        // SAFETY: our own memory.
        unsafe { ((start + page * 4096) as *mut u64).write_volatile(!word(1, page * 512)) };
    }
    let bad = (0..BYTES / 8).filter(|&index| {
        // SAFETY: as above.
        let value = unsafe { ((start + index * 8) as *const u64).read() };
        value != if index % 512 == 0 { !word(1, index) } else { word(1, index) }
    });
    notes.note("wrong after writing", bad.count());
}

/// Pages in swap that parent and child share, and write to.
fn forked_pages(notes: &Notes) {
    let start = small_pages(BYTES);
    fill(start, BYTES, 2);
    note_pushed(notes, start, BYTES);
    let child = forked(|| {
        let mut bad = wrong(start, BYTES, 2);
        fill(start, BYTES / 2, 3);
        push_out(start, BYTES);
        bad += wrong(start, BYTES / 2, 3);
        bad += (BYTES / 16..BYTES / 8)
            // SAFETY: our own memory.
            .filter(|&index| unsafe { ((start + index * 8) as *const u64).read() } != word(2, index))
            .count() as u64;
        bad.min(99) as i32
    });
    notes.note("wrong in the child", child);
    notes.note("wrong in the parent", wrong(start, BYTES, 2));
    // The other way round: the parent writes while the child holds the swapped pages.
    note_pushed(notes, start, BYTES);
    let mut gate = [0; 2];
    // SAFETY: the call writes two descriptors.
    assert_eq!(unsafe { libc::pipe(gate.as_mut_ptr()) }, 0);
    // SAFETY: the child checks and exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let mut byte = 0u8;
        // SAFETY: reads one byte; ends the child.
        unsafe {
            libc::read(gate[0], (&raw mut byte).cast(), 1);
            libc::_exit(wrong(start, BYTES, 2).min(99) as i32)
        }
    }
    fill(start, BYTES, 4);
    // SAFETY: writes one byte.
    assert_eq!(unsafe { libc::write(gate[1], b"x".as_ptr().cast(), 1) }, 1);
    notes.note("wrong in the second child", both::wait(child, std::time::Duration::from_secs(60)));
    notes.note("wrong in the parent after writing", wrong(start, BYTES, 4));
}

/// Rights that change while the pages are in swap hold when they come back.
fn protected_pages(notes: &Notes) {
    static CAUGHT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    extern "C" fn handler(_: i32, info: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
        CAUGHT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // SAFETY: a fault has an address, of a page that this case has protected.
        unsafe {
            let page = info.si_addr() as usize & !4095;
            libc::mprotect(page as *mut c_void, 4096, libc::PROT_READ | libc::PROT_WRITE);
        }
    }
    // So few pages: those that the kernel keeps in another CPU's list of new ones would be missed in swap.
    // SAFETY: getcpu touches no memory; sched_setaffinity reads the set; a zeroed sigaction is valid; the handler is a function for
    // signals.
    unsafe {
        let mut here: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu() as usize, &mut here);
        libc::sched_setaffinity(0, size_of_val(&here), &raw const here);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut()), 0);
    }
    let bytes = BYTES / 8;
    let start = small_pages(bytes);
    for (name, rights) in [("read-only", libc::PROT_READ), ("none", libc::PROT_NONE)] {
        fill(start, bytes, 5);
        note_pushed(notes, start, bytes);
        // SAFETY: our own memory.
        assert_eq!(unsafe { libc::mprotect(start as *mut c_void, bytes as usize, rights) }, 0);
        if rights == libc::PROT_READ {
            notes.note("wrong while protected", wrong(start, bytes, 5));
            push_out(start, bytes);
        }
        for page in 0..bytes / 4096 {
            // SAFETY: the handler makes the page writable.
            unsafe { ((start + page * 4096) as *mut u64).write_volatile(word(5, page * 512)) };
        }
        notes.note(name, CAUGHT.swap(0, std::sync::atomic::Ordering::Relaxed));
        notes.note("wrong afterwards", wrong(start, bytes, 5));
    }
}

/// How many pages Linux has written to swap since it was booted.
fn pages_swapped_out() -> u64 {
    let counts = std::fs::read_to_string("/proc/vmstat").expect("readable");
    let count = counts.lines().find_map(|line| line.strip_prefix("pswpout "));
    count.and_then(|count| count.parse().ok()).expect("there is swap")
}

/// More memory than the group may have, used over and over by two threads and a child: Linux chooses what goes.
fn under_pressure() -> CaseResult {
    let _swap = Swap::on()?;
    let [host, dune] = both::same(|notes| {
        let group = Cgroup::with_memory("swapping", 12 * MIB).expect("a group");
        group.join().expect("the group is there");
        let (bytes, before) = (8 * MIB, pages_swapped_out());
        let [one, two] = [6, 7].map(|seed| (small_pages(bytes), seed));
        for round in 0..2 {
            let threads: Vec<_> = [one, two]
                .into_iter()
                .map(|(start, seed)| {
                    thread::spawn(move || {
                        fill(start, bytes, seed + round);
                        wrong(start, bytes, seed + round)
                    })
                })
                .collect();
            for thread in threads {
                notes.note("wrong in a thread", thread.join().ok());
            }
            notes.note("wrong in a child", forked(|| wrong(one.0, bytes, one.1 + round).min(99) as i32));
            notes.note("wrong", (wrong(one.0, bytes, one.1 + round), wrong(two.0, bytes, two.1 + round)));
        }
        // Not the group's memory.swap.peak, which is of Linux 6.5.
        let swapped = (pages_swapped_out() - before) * 4096;
        eprintln!("{} MiB to swap", swapped / MIB);
        notes.note("a third was swapped", swapped >= bytes / 3);
        group.leave().expect("root's group takes all");
    })?;
    if host.status == 0 && host.notes.contains("swapped: true") {
        Ok(())
    } else {
        Err(format!("{host:?}\n{dune:?}").into())
    }
}
