//! Child processes that never outlive this one: own process group, killed when dropped, killed by the kernel when
//! xtask itself is killed, and Ctrl-C noticed while waiting.

use crate::error::{Error, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// How often a waiting task looks around.
pub const TICK: Duration = Duration::from_millis(20);

/// Set by SIGINT, SIGTERM and SIGHUP.
static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Makes Ctrl-C end the tasks in an orderly way, with what they started.
pub fn watch_for_interrupts() {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(flag)).expect("these signals can be caught");
    }
}

/// Whether someone wants this program to end.
pub fn interrupted() -> bool {
    INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Whether two things at a time take less time than one after the other.
pub fn several_processors() -> bool {
    std::thread::available_parallelism().is_ok_and(|count| count.get() > 1)
}

/// Has this thread, and what it starts from now on, give way to what is waited for longest. Linux keeps that per thread
/// (setpriority(2), "C library/kernel differences").
pub fn yield_processors() {
    const NICE: i32 = 5;
    // Who may not is as quick as the others.
    let _ = rustix::process::nice(NICE);
}

/// The program of that name on PATH or in the folders of system programs.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// A command that the kernel kills when its starter goes away for whatever reason (through setpriv, where there is
/// one: the system call itself would need unsafe code).
pub fn mortal_command(program: impl AsRef<OsStr>) -> Command {
    match find_program("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// A running child process and whatever it starts.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Running {
    /// Starts `command` in a process group of its own, with nothing to read.
    pub fn start(command: &mut Command) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Spawn { program: describe(command), source })?;
        Ok(Self { child })
    }

    /// Like [`Running::start`], but leaves the command's standard input as it was set.
    pub fn start_with_input(command: &mut Command) -> Result<Self> {
        let child = command
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Spawn { program: describe(command), source })?;
        Ok(Self { child })
    }

    /// Its process ID.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for the end, for at most `limit`.
    pub fn wait(&mut self, limit: Option<Duration>) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if interrupted() {
                return Err(Error::Interrupted { console: String::new() });
            }
            if let Some(limit) = limit.filter(|limit| start.elapsed() >= *limit) {
                return Err(Error::TimedOut { limit, console: String::new() });
            }
            std::thread::sleep(TICK);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // Nobody is left in the group if all went well; ESRCH says so.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// Runs `command` to its end; its output is kept for the error message.
pub fn run(command: &mut Command) -> Result<String> {
    run_with(command, |_| ())
}

/// Like [`run`], and shows each line of standard output to `on_line` as it comes.
pub fn run_with(command: &mut Command, on_line: impl FnMut(&str)) -> Result<String> {
    let (status, output, errors) = run_to_end(command.stderr(Stdio::piped()), on_line)?;
    if status.success() {
        Ok(output)
    } else {
        let why = if errors.trim().is_empty() { output } else { errors };
        Err(failed(command, status, why))
    }
}

/// Runs `command`, collecting its standard output; its standard error is collected too if it was piped.
pub fn run_to_end(
    command: &mut Command,
    mut on_line: impl FnMut(&str),
) -> Result<(ExitStatus, String, String)> {
    let mut running = Running::start(command.stdout(Stdio::piped()))?;
    let stdout = running.child.stdout.take();
    let stderr = running.child.stderr.take();
    std::thread::scope(|scope| {
        let (sender, receiver) = std::sync::mpsc::channel::<Vec<u8>>();
        let errors = scope.spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.map(|mut stream| stream.read_to_end(&mut text));
            text
        });
        scope.spawn(move || {
            let mut buffer = [0; 8192];
            let Some(mut stream) = stdout else { return };
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                let _ = sender.send(buffer[..count].to_vec());
            }
        });
        let (mut all, mut shown) = (Vec::new(), 0);
        loop {
            match receiver.recv_timeout(TICK * 5) {
                Ok(bytes) => all.extend(bytes),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => (),
            }
            while let Some(length) = all[shown..].iter().position(|&byte| byte == b'\n') {
                on_line(&String::from_utf8_lossy(&all[shown..shown + length]));
                shown += length + 1;
            }
            if interrupted() {
                drop(running);
                return Err(Error::Interrupted { console: String::new() });
            }
        }
        let status = running.wait(None)?;
        let errors = errors.join().unwrap_or_default();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((status, text(all), text(errors)))
    })
}

/// The error of a command that did not succeed.
pub fn failed(command: &Command, status: ExitStatus, output: String) -> Error {
    Error::Failed { command: describe(command), status, output }
}

/// The command as one would type it, without the wrapper of [`mortal_command`].
fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    match words.iter().position(|word| word == "--").filter(|_| words[0] == "setpriv") {
        Some(end) => words[end + 1..].join(" "),
        None => words.join(" "),
    }
}
