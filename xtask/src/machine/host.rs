//! `host`: this computer, where it has virtualization hardware.

use super::{Limits, Output};
use crate::artifacts::{self, Artifact};
use crate::error::{Error, Result};
use crate::process::{Running, TICK, interrupted, mortal_command};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Whether this computer has virtualization hardware that this user may use; if not, why.
pub fn virtualization() -> std::result::Result<(), String> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !has_flag(&cpu) {
        return Err("the CPU flags have neither vmx nor svm".to_owned());
    }
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("/dev/kvm does not open: {error}")),
    }
}

/// Whether /proc/cpuinfo tells of VT-x or SVM.
fn has_flag(cpu: &str) -> bool {
    let mut flags = cpu.lines().filter(|line| line.starts_with("flags")).flat_map(str::split_whitespace);
    flags.any(|flag| flag == "vmx" || flag == "svm")
}

/// Runs `command` here with the artifacts on PATH; gives its exit status.
pub fn run(artifacts: &[Artifact], command: &[OsString], limit: Duration) -> Result<u8> {
    Ok(exit_status(Running::start(&mut command_here(artifacts, command))?.wait(Some(limit))?))
}

/// Like [`run`], with standard output and error written to `out` as they come. This computer's own clock counts.
pub fn run_into(
    artifacts: &[Artifact],
    command: &[OsString],
    limits: Limits,
    out: &mut dyn Output,
) -> Result<u8> {
    let (mut reader, writer) = std::io::pipe().map_err(Error::file("open", "a pipe"))?;
    let mut command = command_here(artifacts, command);
    let errors = writer.try_clone().map_err(Error::file("open", "a pipe"))?;
    let mut running = Running::start(command.stdout(writer).stderr(errors))?;
    // Its copies of the pipe's writing end would keep the reader waiting.
    drop(command);
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(count @ 1..) = reader.read(&mut buffer) {
            let _ = sender.send(buffer[..count].to_vec());
        }
    });
    let start = Instant::now();
    let mut heard = start;
    loop {
        match receiver.recv_timeout(TICK) {
            Ok(bytes) => {
                if out.take(&bytes).map_err(Error::file("write to", "standard output"))? {
                    heard = Instant::now();
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => (),
        }
        if interrupted() {
            return Err(Error::Interrupted { console: String::new() });
        }
        if let Some(limit) = limits.whole.filter(|limit| start.elapsed() >= *limit) {
            return Err(Error::TimedOut { limit, console: String::new() });
        }
        if let Some(limit) = limits.stalled(heard.elapsed(), 1.0) {
            return Err(Error::Stalled { limit, console: String::new() });
        }
    }
    Ok(exit_status(running.wait(limits.stall)?))
}

/// The command with the artifacts on its PATH.
fn command_here(artifacts: &[Artifact], command: &[OsString]) -> Command {
    let old = std::env::var_os("PATH").unwrap_or_default();
    let folders = artifacts::folders(artifacts).into_iter().chain(std::env::split_paths(&old));
    let path = std::env::join_paths(folders).unwrap_or(old);
    // Through env, so that the program is looked for on the new PATH.
    let mut real = mortal_command("env");
    real.args(command).env("PATH", path).env("DUNE_MACHINE", "host");
    real
}

/// The status as a shell gives it.
fn exit_status(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(125)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_flags_count() {
        assert!(has_flag("processor : 0\nflags\t\t: fpu vmx sse\n"));
        assert!(!has_flag("processor : 0\nflags\t\t: fpu svm_lock\nvmx flags : vnmi\n"));
    }
}
