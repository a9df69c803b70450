//! Runs one command in one boot of an emulated machine.

use super::clock::Clock;
use super::limits::{Limits, Output, pace};
use super::{Machine, svm, vtx};
use crate::artifacts::Artifact;
use crate::console::{Console, End};
use crate::error::{Error, Result};
use crate::image::{self, Contents};
use crate::packages::{self, Kernel};
use crate::process::{Running, TICK, interrupted};
use crate::progress::Step;
use crate::workspace;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// What to run, and in which machine.
#[derive(Debug, Clone)]
pub struct Run<'a> {
    /// The machine.
    pub machine: Machine,
    /// Processors, if not as usual.
    pub processors: Option<u32>,
    /// Memory in MiB, if not as usual.
    pub memory: Option<u32>,
    /// A kernel in place of Debian's.
    pub kernel: Option<Kernel>,
    /// More words for the kernel's command line.
    pub append: Option<&'a str>,
    /// Programs for the PATH.
    pub artifacts: &'a [Artifact],
    /// More files, by their path inside.
    pub files: &'a [(String, PathBuf)],
    /// A directory to lay over the root.
    pub overlay: Option<&'a Path>,
    /// A disk image, /dev/vda inside; what is written there is forgotten. Only svm has a controller for it.
    pub disk: Option<&'a Path>,
    /// The command.
    pub command: &'a [OsString],
    /// When to give up.
    pub limits: Limits,
}

/// How a run went.
#[derive(Debug)]
pub struct Outcome {
    /// The command's exit status.
    pub status: u8,
    /// How long it took until the command was started.
    pub boot: Duration,
    /// What the machine's kernel complained about while the command ran.
    pub complaints: String,
}

/// What an emulator is started with.
#[derive(Debug)]
pub struct Parts<'a> {
    /// A folder for this run.
    pub folder: &'a Path,
    /// The kernel.
    pub kernel: &'a Path,
    /// The packed root file system.
    pub initramfs: &'a Path,
    /// The kernel's command line.
    pub kernel_arguments: &'a str,
    /// A disk image to read from.
    pub disk: Option<&'a Path>,
    /// Processors.
    pub processors: u32,
    /// Memory in MiB.
    pub memory: u32,
    /// The file that gets what is written to the serial line.
    pub console: &'a Path,
    /// The file for what the emulator itself says.
    pub log: &'a Path,
}

impl Parts<'_> {
    /// The emulator's log, to be its standard output or error.
    pub fn log(&self) -> Result<Stdio> {
        let file = File::options().create(true).append(true).open(self.log);
        file.map(Stdio::from).map_err(Error::file("open", self.log))
    }
}

/// An emulator at work.
#[derive(Debug)]
pub struct Started {
    emulator: Running,
}

impl Started {
    /// Takes charge of the emulator's process.
    pub fn new(emulator: Running) -> Self {
        Self { emulator }
    }
}

/// Boots the machine, runs the command, writes its output to `out` as it comes, and ends the machine.
pub fn run(run: &Run<'_>, out: &mut dyn Output) -> Result<Outcome> {
    let kernel = run.kernel.clone().map_or_else(packages::kernel, Ok)?;
    let folder = RunFolder::new(run.machine)?;
    let initramfs = folder.0.join("initramfs");
    pack(run, &kernel, &folder.0, &initramfs)?;
    let extra = run.append.map(|words| format!(" {words}")).unwrap_or_default();
    let (console, log) = (folder.0.join("console"), folder.0.join("emulator.log"));
    let parts = Parts {
        folder: &folder.0,
        kernel: &kernel.image,
        initramfs: &initramfs,
        kernel_arguments: &format!("{} rdinit=/dune/init{extra}", run.machine.kernel_arguments()),
        disk: run.disk,
        processors: run.processors.unwrap_or(run.machine.default_processors()),
        memory: run.memory.unwrap_or(run.machine.default_memory()),
        console: &console,
        log: &log,
    };
    match boot(run, &parts, out) {
        // An emulator that does not get as far as the command says nothing about it.
        Err(error @ Error::MachineDied { booting: true, .. }) => {
            eprintln!("xtask: {error}\nxtask: once more");
            boot(run, &parts, out)
        }
        end => end,
    }
}

/// Starts the emulator with an empty console, and follows it to the end.
fn boot(run: &Run<'_>, parts: &Parts<'_>, out: &mut dyn Output) -> Result<Outcome> {
    File::create(parts.console).map_err(Error::file("create", parts.console))?;
    let start = Instant::now();
    let started = match run.machine {
        Machine::Svm => svm::start(parts),
        Machine::Vtx => vtx::start(parts),
    }?;
    watch(run, started, start, parts, out)
}

/// Gathers the root file system and writes it to `initramfs`.
fn pack(run: &Run<'_>, kernel: &Kernel, folder: &Path, initramfs: &Path) -> Result<()> {
    let contents = Contents {
        machine: run.machine,
        kernel,
        artifacts: run.artifacts,
        files: run.files,
        overlay: run.overlay,
        disk: run.disk.is_some(),
        command: run.command,
    };
    let root = image::root(&contents, folder)?;
    let file = File::create(initramfs).map_err(Error::file("create", initramfs))?;
    // Not compressed: to unpack what gzip has made takes vtx half a minute, and to load more by its firmware a second.
    let packed = || -> std::io::Result<()> {
        use std::io::Write;
        let mut out = std::io::BufWriter::new(file);
        root.write(&mut out)?;
        out.flush()
    };
    packed().map_err(Error::file("write", initramfs))
}

/// Follows the console until the command has ended, or something else has.
fn watch(
    run: &Run<'_>,
    mut started: Started,
    start: Instant,
    parts: &Parts<'_>,
    out: &mut dyn Output,
) -> Result<Outcome> {
    let name = run.machine.name();
    let mut file = File::open(parts.console).map_err(Error::file("open", parts.console))?;
    let mut console = Console::default();
    let mut step = Some(Step::waiting(&format!(
        "booting {name} ({} CPU, {} MiB, {})",
        parts.processors,
        parts.memory,
        parts.kernel.file_name().unwrap_or_default().to_string_lossy()
    )));
    let mut boot = None;
    let mut bytes = Vec::new();
    let mut clock = Clock::new(started.emulator.id());
    // When something last came in, and how many times longer than usual the machine takes, both by the clock.
    let (mut heard, mut slowness) = (Duration::ZERO, 1.0);
    loop {
        // Looked at before reading: what was written before the emulator's end is read in any case.
        let gone = started.emulator.ended();
        bytes.clear();
        file.read_to_end(&mut bytes).map_err(Error::file("read", parts.console))?;
        let now = clock.now();
        let output = console.feed(&bytes);
        if console.begun() && boot.is_none() {
            drop(step.take());
            boot = Some(start.elapsed());
            (heard, slowness) = (now, pace(run.machine, now));
        }
        if out.take(&output).map_err(Error::file("write to", "standard output"))? {
            heard = now;
        }

        match console.ended() {
            Some(End::Status(status)) => {
                let boot = boot.unwrap_or_default();
                return Ok(Outcome { status: *status, boot, complaints: console.complaints() });
            }
            Some(End::Failure(reason)) => return Err(died(name, reason.clone(), &console, parts)),
            None => (),
        }
        if let Some(status) = gone {
            return Err(died(name, format!("the emulator ended with {status}"), &console, parts));
        }
        if console.panicked() && bytes.is_empty() {
            return Err(died(name, "its kernel panicked".to_owned(), &console, parts));
        }
        if interrupted() {
            return Err(Error::Interrupted { console: console.text() });
        }
        if let Some(limit) = run.limits.whole.filter(|limit| start.elapsed() >= *limit) {
            return Err(Error::TimedOut { limit, console: console.text() });
        }
        if let Some(limit) = run.limits.stalled(now.saturating_sub(heard), slowness) {
            return Err(Error::Stalled { limit, console: console.text() });
        }
        std::thread::sleep(TICK);
    }
}

/// The error of a machine that is gone, with what it and its emulator said last.
fn died(machine: &'static str, reason: String, console: &Console, parts: &Parts<'_>) -> Error {
    let log = fs::read(parts.log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    // Bochs tells its whole configuration there: only its end is of interest.
    let lines: Vec<&str> = log.lines().collect();
    let log = lines[lines.len().saturating_sub(8)..].join("\n");
    // Where init has given up, another boot would do no better.
    let booting = !console.begun() && console.ended().is_none();
    Error::MachineDied { machine, reason, console: format!("{}\n{log}", console.text()), booting }
}

/// A folder below `target/machines` for the files of one run, gone when the run is.
#[derive(Debug)]
struct RunFolder(PathBuf);

impl RunFolder {
    /// Makes one, and removes those of runs that were killed.
    fn new(machine: Machine) -> Result<Self> {
        let all = workspace::machines().join("runs");
        fs::create_dir_all(&all).map_err(Error::file("create", &all))?;
        for old in fs::read_dir(&all).map_err(Error::file("list", &all))?.flatten() {
            let name = old.file_name().to_string_lossy().into_owned();
            let process = name.split('-').next().unwrap_or_default();
            if !Path::new("/proc").join(process).exists() {
                // Another xtask may do the same just now.
                let _ = fs::remove_dir_all(old.path());
            }
        }
        let path = all.join(format!("{}-{}", std::process::id(), machine.name()));
        fs::create_dir_all(&path).map_err(Error::file("create", &path))?;
        Ok(Self(path))
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
