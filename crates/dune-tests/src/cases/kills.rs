//! SIGKILL at any moment: nothing of a process in Dune mode is left behind.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::both::{self, errno, forked};
use crate::case::{Case, CaseResult};
use crate::probe;
use crate::random::generator::Generator;

pub const CASES: &[Case] = &[
    Case::new("kills::at_any_moment", || at_any_moment(1)),
    Case::new("kills::at_any_moment_with_children", || at_any_moment(2)),
    Case::new("kills::one_by_another_thread", one_by_another_thread),
];

/// How many processes are killed.
const ROUNDS: u64 = 30;
/// How long the last descendant may take to end, and KVM to forget its machines.
const LIMIT: Duration = Duration::from_secs(20);

/// Kills a busy process after a random time, alone (its children then end by themselves) or, in turns, with its whole
/// process group. `DUNE_SEED` repeats a run.
fn at_any_moment(stream: u64) -> CaseResult {
    let seed = match std::env::var("DUNE_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64,
    };
    eprintln!("DUNE_SEED={seed}");
    let mut random = Generator::new(seed, stream);
    // SAFETY: orphans become children of this process.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }, 0);
    let machines = Machines::find()?;
    let before = machines.count()?;
    let mut entered = 0;
    for round in 0..ROUNDS {
        let context = |what: String| format!("DUNE_SEED={seed} round {round}: {what}");
        entered += u64::from(kill_one(&mut random, stream == 2).map_err(|error| context(error.to_string()))?);
        let left = machines.settle(before)?;
        if left != before {
            return Err(context(format!("{before} machines of KVM's became {left}")).into());
        }
    }
    eprintln!("{entered} of {ROUNDS} were in Dune mode when they were killed");
    assert!(entered >= ROUNDS / 3, "only {entered} of {ROUNDS} came as far as Dune mode");
    // And the next one works.
    let status = forked(|| {
        let entered = dune::enter().is_ok();
        let thread = thread::spawn(dune::cpu::in_dune_mode).join().unwrap_or(false);
        let child = forked(|| i32::from(!dune::cpu::in_dune_mode()));
        i32::from(!entered) | i32::from(!thread) << 1 | i32::from(child != Ok(0)) << 2
    });
    assert_eq!(status, Ok(0));
    assert_eq!(machines.settle(before)?, before);
    Ok(())
}

/// Starts one, kills it, and waits until all that came from it is gone. Whether it had come as far as Dune mode.
fn kill_one(random: &mut Generator, with_children: bool) -> Result<bool, Box<dyn std::error::Error>> {
    let (mut reader, writer) = std::io::pipe()?;
    let seed = random.next();
    // SAFETY: the child never returns.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(reader);
        busy(seed, writer, with_children);
    }
    drop(writer);
    let mut entered = false;
    if random.once_in(3) {
        // Entering takes some milliseconds of that.
        sleep(random.below(20_000));
    } else {
        let mut byte = [0];
        entered = reader.read(&mut byte)? == 1;
        sleep(random.below(30_000));
    }
    // SAFETY: signals to our own child and to its group.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        if random.once_in(2) {
            libc::kill(-child, libc::SIGKILL);
        }
    }
    let status = both::wait(child, LIMIT).ok_or("SIGKILL did not end the process")?;
    if !libc::WIFSIGNALED(status) || libc::WTERMSIG(status) != libc::SIGKILL {
        return Err(format!("wait status {status:#x}").into());
    }
    // The pipe ends when nobody has it any more: no thread, no child.
    let ended = Instant::now() + LIMIT;
    let mut poll = libc::pollfd { fd: reader.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    loop {
        let left = ended.saturating_duration_since(Instant::now()).as_millis() as i32;
        // SAFETY: the call writes to `poll`.
        let polled = unsafe { libc::poll(&mut poll, 1, left) };
        if polled != 1 {
            return Err(format!("something of it lives on: poll {polled}").into());
        }
        match reader.read(&mut [0; 64])? {
            0 => break,
            _ => entered = true,
        }
    }
    // Its children were orphans, and are ours now. Each ended well, or was killed with its group.
    loop {
        let mut status = 0;
        // SAFETY: waits for any child.
        let waited = unsafe { libc::waitpid(-1, &mut status, 0) };
        if waited < 0 && errno() == libc::ECHILD {
            return Ok(entered);
        }
        let killed = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL;
        if status != 0 && !killed {
            return Err(format!("an orphan ended with wait status {status:#x}").into());
        }
    }
}

fn sleep(microseconds: u64) {
    thread::sleep(Duration::from_micros(microseconds));
}

/// Enters, says so, and does everything at once, until it is killed.
fn busy(seed: u64, writer: std::io::PipeWriter, with_children: bool) -> ! {
    // SAFETY: a group of its own, whose number is its id.
    unsafe { libc::setpgid(0, 0) };
    if dune::enter().is_err() {
        std::process::exit(1);
    }
    let _ = std::io::Write::write_all(&mut &writer, b"e");
    let others: Vec<_> = (1..3)
        .map(|stream| thread::spawn(move || work(Generator::new(seed, stream), with_children, u64::MAX)))
        .collect();
    work(Generator::new(seed, 0), with_children, u64::MAX);
    drop(others);
    std::process::exit(2)
}

/// Maps, faults, computes, starts threads, and forks children that do the same for a while.
fn work(mut random: Generator, with_children: bool, turns: u64) {
    for _ in 0..turns {
        match random.below(if with_children { 5 } else { 4 }) {
            0 => {
                let bytes = (1 + random.below(64)) * 4096;
                let address = probe::map(0, bytes, libc::PROT_READ | libc::PROT_WRITE, 0);
                // SAFETY: the pages are this function's own.
                unsafe {
                    (address as *mut u8).write_bytes(1, bytes as usize);
                    libc::mprotect(address as *mut _, 4096, libc::PROT_READ);
                    libc::munmap(address as *mut _, bytes as usize);
                }
            }
            1 => _ = std::hint::black_box((0..2000).map(|n| f64::from(n).sqrt()).sum::<f64>()),
            2 => _ = probe::getpid(),
            3 => _ = thread::spawn(probe::getpid).join(),
            _ => {
                let inner = random.clone();
                _ = forked(|| {
                    work(inner, false, 5);
                    0
                });
            }
        }
    }
}

/// A thread kills its process while others are in the middle of everything.
fn one_by_another_thread() -> CaseResult {
    static GO: AtomicBool = AtomicBool::new(false);
    let machines = Machines::find()?;
    let before = machines.count()?;
    for round in 0..5 {
        let outcome = both::run(both::Mode::Dune, |_| {
            let killer = thread::spawn(|| {
                while !GO.load(Ordering::Relaxed) {
                    thread::yield_now();
                }
                // SAFETY: ends this process.
                unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            });
            let others: Vec<_> = (0..2)
                .map(|stream| thread::spawn(move || work(Generator::new(round, stream), false, u64::MAX)))
                .collect();
            GO.store(true, Ordering::Relaxed);
            let _ = killer.join();
            drop(others);
        })?;
        assert_eq!(outcome.status, libc::SIGKILL, "{outcome:?}");
        assert_eq!(machines.settle(before)?, before);
    }
    Ok(())
}

/// KVM's own list of machines, which has a folder `PROCESS-DESCRIPTOR` each, in debugfs.
#[derive(Debug)]
struct Machines(&'static str);

impl Machines {
    fn find() -> Result<Machines, Box<dyn std::error::Error>> {
        const DEBUGFS: &std::ffi::CStr = c"/sys/kernel/debug";
        const FOLDER: &str = "/sys/kernel/debug/kvm";
        if std::fs::read_dir(FOLDER).is_err() {
            // SAFETY: the call reads its strings.
            let mounted = unsafe {
                libc::mount(c"debugfs".as_ptr(), DEBUGFS.as_ptr(), c"debugfs".as_ptr(), 0, std::ptr::null())
            };
            if mounted != 0 {
                return Err(crate::case::Skip(format!(
                    "debugfs, which tells of KVM's machines, can not be mounted: {}",
                    std::io::Error::last_os_error()
                ))
                .into());
            }
        }
        Ok(Machines(FOLDER))
    }

    fn count(&self) -> Result<usize, std::io::Error> {
        let is_machine = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().contains('-');
        Ok(std::fs::read_dir(self.0)?.flatten().filter(is_machine).count())
    }

    /// How many there are when there are `wanted`, or after a while.
    fn settle(&self, wanted: usize) -> Result<usize, std::io::Error> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let count = self.count()?;
            if count == wanted || Instant::now() > deadline {
                return Ok(count);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}
