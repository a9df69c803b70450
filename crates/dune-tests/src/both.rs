//! One scenario in host mode and in Dune mode, each in a process of its own whose end and whose notes are compared.

use std::fmt::{self, Debug, Write};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::case::CaseResult;

/// Where a scenario runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Host,
    Dune,
}

/// What a scenario writes down, line by line. Nothing is lost when its process dies.
#[derive(Debug)]
pub struct Notes(File);

impl Notes {
    /// Notes that `what` has this value.
    pub fn note(&self, what: &str, value: impl Debug) {
        let mut line = String::new();
        let _ = writeln!(line, "{what}: {value:?}");
        let written = std::io::Write::write_all(&mut &self.0, line.as_bytes());
        assert!(written.is_ok(), "the notes take no more");
    }
}

impl AsRawFd for Notes {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// How a scenario ended.
#[derive(Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its wait status, as wait(2) has it.
    pub status: i32,
    /// Its notes.
    pub notes: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wait status {:#x}\n{}--- stderr\n{}", self.status, self.notes, self.stderr)
    }
}

/// No scenario takes longer.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs `scenario` in a child of this process, which must have one thread.
pub fn run(mode: Mode, scenario: impl FnOnce(&Notes)) -> Result<Outcome, Box<dyn std::error::Error>> {
    let (notes, stderr) = (memory_file()?, memory_file()?);
    // SAFETY: the child has its parent's only thread, and ends by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let status = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: the child's own standard error.
            unsafe { libc::dup2(stderr.as_raw_fd(), 2) };
            let notes = Notes(notes);
            if mode == Mode::Dune {
                // SAFETY: scenarios know nothing of Dune, and use no token.
                unsafe { dune::Config::new().unmodified(true) }.enter().expect("Dune mode");
            }
            scenario(&notes);
            assert_eq!(dune::cpu::in_dune_mode(), mode == Mode::Dune);
        }));
        // SAFETY: ends the child.
        unsafe { libc::_exit(if status.is_ok() { 0 } else { 101 }) }
    }
    if child < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    let status = wait(child, LIMIT);
    let text = |mut file: File| -> Result<String, std::io::Error> {
        let mut bytes = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let (notes, stderr) = (text(notes)?, text(stderr)?);
    match status {
        Some(status) => Ok(Outcome { status, notes, stderr }),
        None => Err(format!("{mode:?}: no end within {LIMIT:?}\n{notes}--- stderr\n{stderr}").into()),
    }
}

/// Runs `scenario` in host mode, then in Dune mode; the outcome, which has to be the same but for standard error.
pub fn same(scenario: impl Fn(&Notes)) -> Result<[Outcome; 2], Box<dyn std::error::Error>> {
    let host = run(Mode::Host, &scenario)?;
    let dune = run(Mode::Dune, &scenario)?;
    if (host.status, &host.notes) == (dune.status, &dune.notes) {
        return Ok([host, dune]);
    }
    let lines = host.notes.lines().zip(dune.notes.lines()).filter(|(host, dune)| host != dune);
    let mut different = String::new();
    for (host, dune) in lines.take(10) {
        let _ = writeln!(different, "host mode: {host}\nDune mode: {dune}");
    }
    Err(format!("=== differences\n{different}=== host mode: {host:?}\n=== Dune mode: {dune:?}").into())
}

/// The scenario notes the same in both modes, something at all, and exits with status 0.
pub fn alike(scenario: impl Fn(&Notes)) -> CaseResult {
    let [host, _] = same(scenario)?;
    if host.status == 0 && !host.notes.is_empty() { Ok(()) } else { Err(format!("{host:?}").into()) }
}

/// Waits for `child` at most so long, then kills it; its wait status if it ended by itself.
pub fn wait(child: i32, limit: Duration) -> Option<i32> {
    let deadline = Instant::now() + limit;
    let mut status = 0;
    loop {
        // SAFETY: waits for a child of ours.
        match unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) } {
            0 if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            0 => {
                // SAFETY: ends our own child.
                unsafe {
                    libc::kill(child, libc::SIGKILL);
                    libc::waitpid(child, &mut status, 0);
                }
                return None;
            }
            _ => return Some(status),
        }
    }
}

/// Forks; the child runs `body` and exits with what it returns. Its wait status, or the error number.
pub fn forked(body: impl FnOnce() -> i32) -> Result<i32, i32> {
    // SAFETY: the child runs `body` and exits.
    match unsafe { libc::fork() } {
        -1 => Err(errno()),
        0 => {
            let status = body();
            // SAFETY: ends the child.
            unsafe { libc::_exit(status) }
        }
        child => {
            let mut status = 0;
            // SAFETY: waits for our own child.
            while unsafe { libc::waitpid(child, &mut status, 0) } < 0 && errno() == libc::EINTR {}
            Ok(status)
        }
    }
}

/// The exit status in a wait status, if there is one.
pub fn exited(status: i32) -> Option<i32> {
    libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status))
}

/// The last error number.
pub fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// The result of a libc call: what it returned, or the negative error number.
pub fn outcome(result: i64) -> i64 {
    if result == -1 { -i64::from(errno()) } else { result }
}

/// A file in memory, for what a child writes.
fn memory_file() -> Result<File, std::io::Error> {
    // SAFETY: makes a descriptor.
    let descriptor = unsafe { libc::memfd_create(c"notes".as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it, and nobody else has it.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}
