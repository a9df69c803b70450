//! Three ways to save while the store serves.

use std::fs::File;
use std::io::{self, BufWriter, Error};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use dune::Dune;
use dune::snapshot::{Snapshot, SnapshotError, SnapshotMemory};

use super::memory::{Image, Memory};
use super::table;

/// A way to save what is in the memory.
pub trait Saves<M: Memory> {
    /// Begins to write to `file` what is there now.
    fn begin(&mut self, memory: &M, file: &Path) -> io::Result<()>;

    /// How what was begun has ended, if it has since the last time.
    fn ended(&mut self) -> Option<io::Result<()>>;
}

/// Writes what `image` shows to `file`, which is as it was before until all is written.
pub fn save(image: &(impl Image + ?Sized), file: &Path) -> io::Result<()> {
    let new = file.with_added_extension("new");
    table::save(image, &mut BufWriter::with_capacity(64 << 10, File::create(&new)?))?;
    std::fs::rename(&new, file)
}

/// A snapshot, read by another thread. It was started before the process entered Dune mode, so it is in host mode, where its system calls
/// take no exit.
pub struct BySnapshot {
    dune: Dune,
    jobs: Sender<(Snapshot, PathBuf)>,
    results: Receiver<io::Result<()>>,
}

impl BySnapshot {
    /// Starts the thread, and enters Dune mode.
    pub fn enter() -> Result<BySnapshot, Box<dyn std::error::Error>> {
        let (jobs, todo) = mpsc::channel::<(Snapshot, PathBuf)>();
        let (done, results) = mpsc::channel();
        thread::Builder::new().spawn(move || {
            for (snapshot, file) in todo {
                // Nobody waits for it any more where the store has ended.
                let _ = done.send(save(&snapshot, &file));
            }
        })?;
        Ok(BySnapshot { dune: dune::enter()?, jobs, results })
    }

    /// Memory of which snapshots can be taken.
    pub fn memory(&self, bytes: u64) -> Result<SnapshotMemory, SnapshotError> {
        SnapshotMemory::new(self.dune, bytes)
    }
}

impl Saves<SnapshotMemory> for BySnapshot {
    fn begin(&mut self, memory: &SnapshotMemory, file: &Path) -> io::Result<()> {
        let snapshot = memory.snapshot(self.dune).map_err(Error::other)?;
        self.jobs.send((snapshot, file.to_owned())).map_err(Error::other)
    }

    fn ended(&mut self) -> Option<io::Result<()>> {
        self.results.try_recv().ok()
    }
}

/// A child, which has the memory as it was.
#[derive(Default)]
pub struct ByFork {
    child: libc::pid_t,
}

impl<M: Memory> Saves<M> for ByFork {
    fn begin(&mut self, memory: &M, file: &Path) -> io::Result<()> {
        // SAFETY: the process has one thread.
        match unsafe { libc::fork() } {
            -1 => Err(Error::last_os_error()),
            0 => std::process::exit(i32::from(save(memory, file).is_err())),
            child => {
                self.child = child;
                Ok(())
            }
        }
    }

    fn ended(&mut self) -> Option<io::Result<()>> {
        let mut status = 0;
        // SAFETY: writes a number.
        if self.child == 0 || unsafe { libc::waitpid(self.child, &mut status, libc::WNOHANG) } != self.child {
            return None;
        }
        self.child = 0;
        let failed = || Error::other(format!("the child that saves has ended with status {status:#x}"));
        Some(if status == 0 { Ok(()) } else { Err(failed()) })
    }
}

/// No request is served meanwhile.
pub struct StandingStill;

impl<M: Memory> Saves<M> for StandingStill {
    fn begin(&mut self, memory: &M, file: &Path) -> io::Result<()> {
        save(memory, file)
    }

    fn ended(&mut self) -> Option<io::Result<()>> {
        Some(Ok(()))
    }
}
